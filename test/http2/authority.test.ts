import { expect, test } from "vitest";
import { isAuthority, isUnixAuthority } from "../../src/http2/unary/authority.ts";

test.each([
  "localhost",
  "localhost:7400",
  "a.test:443",
  "A.B",
  "a.b-c_d.example.",
  "xn--bcher-kva.example",
  "1a.example",
  "127.0.0.1",
  "127.0.0.1:65535",
  "10.0.0.1:9000",
  "[::1]",
  "[::1]:80",
  "[2001:db8::1]:8080",
  "[::ffff:1.2.3.4]",
  "ext_authz_cluster",
  "outbound|9000||authz.ns.svc.cluster.local",
  "a".repeat(255),
])("%j is an authority everywhere", (text) => {
  expect([isAuthority(text), isUnixAuthority(text)]).toEqual([true, true]);
});

test.each([
  "%2Ftmp%2Fx.sock",
  "%2Frun%2Fa%20b%2Fs",
  "%2Ftmp%2Fa+b~c=d.sock",
  "a%41",
  "0x7f.1",
  "0x7f000001",
  "foo.0x",
  "1.2.3",
  "1.2.3.4.5",
  "256.256.256.256",
  "a,b",
])("%j is an authority on a unix socket only", (text) => {
  expect([isAuthority(text), isUnixAuthority(text)]).toEqual([false, true]);
});

test.each([
  "",
  "[::1",
  "::1",
  "[::1]x",
  "[::1]:",
  "[::1%eth0]",
  "[fe80::1%eth0]",
  "[1.2.3.4]",
  "[]",
  "a b",
  "a:99999",
  "a:65536",
  "a:",
  ":80",
  "a:b",
  "a:8a",
  "a:1:2",
  "a%zz",
  "a%",
  "user@host",
  "a/b",
  "/tmp/x.sock",
  "a?b",
  "a#b",
  "a\\b",
  "a\0b",
  "http://a",
  "ü",
  "é",
  "a,b c",
  "a".repeat(256),
])("%j is no authority", (text) => {
  expect([isAuthority(text), isUnixAuthority(text)]).toEqual([false, false]);
});

import { expect, test } from "vitest";
import { isAuthority } from "../../src/http2/unary/authority.ts";

test.each([
  "localhost",
  "a.test:443",
  "10.0.0.1:9000",
  "[::1]",
  "[2001:db8::1]:8080",
  "outbound|9000||authz.ns.svc.cluster.local",
  "ext_authz",
  "%2Frun%2Fa.sock",
  "A.B",
  "a".repeat(255),
])("%j is one", (text) => {
  expect(isAuthority(text)).toBe(true);
});

test.each([
  "",
  "[::1",
  "::1",
  "[::1]x",
  "[::1]:",
  "[fe80::1%eth0]",
  "[]",
  "a b",
  "a:99999",
  "a:65536",
  "a:",
  ":80",
  "a:8a",
  "a:1:2",
  "a%zz",
  "a%",
  "256.256.256.256",
  "1.2.3",
  "user@host",
  "a/b",
  "a?b",
  "a#b",
  "a\\b",
  "é",
  "a,b c",
  "a".repeat(256),
])("%j is none", (text) => {
  expect(isAuthority(text)).toBe(false);
});

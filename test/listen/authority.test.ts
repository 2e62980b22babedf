import { describe, expect, test } from "vitest";
import { isAuthority } from "../../src/listen/authority.ts";

describe("authority", () => {
  test.each([
    "localhost",
    "localhost:7400",
    "127.0.0.1",
    "127.0.0.1:65535",
    "[::1]",
    "[::1]:80",
    "[::ffff:1.2.3.4]",
    "a.b-c_d.example.",
    "xn--bcher-kva.example",
    "ext_authz_cluster",
    "1a.example",
    "a".repeat(255),
  ])("%s is host[:port]", (value) => {
    expect(isAuthority(value)).toBe(true);
  });

  test.each([
    "",
    "[::1",
    "::1",
    "a b",
    "a:99999",
    "a:",
    ":80",
    "a:b",
    "a%zz",
    "a%41",
    "256.256.256.256",
    "1.2.3",
    "1.2.3.4.5",
    "0x7f.1",
    "foo.0x",
    "[::1%eth0]",
    "[1.2.3.4]",
    "user@host",
    "a,b",
    "a/b",
    "a?b",
    "a#b",
    "a\\b",
    "a|b",
    "a\0b",
    "http://a",
    "ü",
    "a".repeat(256),
  ])("%j is refused", (value) => {
    expect(isAuthority(value)).toBe(false);
  });

  test("what is accepted never makes the URL parser throw", () => {
    for (const value of ["a", "127.0.0.1:1", "[::1]:80", "1a.example", "a_b", "a-.b", "-", "a..b", "."]) {
      if (!isAuthority(value)) continue;
      expect(() => new URL("/x", `http://${value}`)).not.toThrow();
    }
  });
});

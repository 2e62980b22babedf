import { expect, test } from "vitest";
import { bearerOf } from "../../src/rpc/bearer.ts";

test.each([
  ["Bearer abc", "abc"],
  ["bearer abc", "abc"],
  ["BEARER   abc", "abc"],
  ["Bearer a.b_c~d+e/f-g=", "a.b_c~d+e/f-g="],
  [`Bearer ${"x".repeat(8192)}`, "x".repeat(8192)],
])("%.20s is a bearer credential (RFC 6750, section 2.1)", (header, token) => {
  expect(bearerOf(header)).toBe(token);
});

test.each([null, undefined, ""])("no header (%s) is no credential", (header) => {
  expect(bearerOf(header)).toBeUndefined();
});

test.each([
  "Bearer",
  "Bearer ",
  " Bearer abc",
  "Bearer abc ",
  "Bearer abc def",
  "Bearer abc, Bearer def",
  "Bearer abc,def",
  "Bearer\tabc",
  "Basic YTpi",
  "abc",
  "Bearerabc",
  "Bearer äbc",
  'Bearer "abc"',
  `Bearer ${"x".repeat(8193)}`,
])("%.24s is refused, and not repeated", (header) => {
  try {
    bearerOf(header);
    expect.unreachable();
  } catch (error) {
    expect(error).toMatchObject({ reason: "CALLER_UNAUTHENTICATED" });
    expect((error as Error).message).not.toContain("abc");
  }
});

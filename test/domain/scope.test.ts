import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { covers, coversAny, isScope, missingScopes } from "../../src/domain/scope.ts";

const scope = fc.stringMatching(/^[a-c]([.:][a-c*]){0,3}$/);

describe("a granted scope", () => {
  test.each([
    ["repo:read", "repo:read", true],
    ["repo:*", "repo:read", true],
    ["repo:*", "repo:", false],
    ["repo:*", "repo:a:b", true],
    ["repo.*", "repo.read", true],
    ["repo:*", "repo", false],
    ["repo:*", "repo.read", false],
    ["repo:*", "repository:read", false],
    ["repo:*", "REPO:read", false],
    ["repo*", "repo:read", false],
    ["*", "repo:read", false],
    ["*:*", "repo:read", false],
    ["repo:r*", "repo:read", false],
    ["repo:read", "repo:*", false],
    ["repo:*", "repo:*", true],
    ["a:*", "a:b:*", true],
    ["a:b:*", "a:*", false],
    ["", "", true],
    ["", "a", false],
  ])("%s covers %s: %s", (granted, required, expected) => {
    expect(covers(granted, required)).toBe(expected);
  });

  test("covers itself, and everything that a covered scope covers", () => {
    fc.assert(
      fc.property(scope, scope, scope, (a, b, c) => {
        expect(covers(a, a)).toBe(true);
        if (covers(a, b) && covers(b, c)) expect(covers(a, c)).toBe(true);
        if (covers(a, b) && covers(b, a)) expect(a).toBe(b);
      }),
      { numRuns: 5000 },
    );
  });

  test("an empty list covers nothing: a missing list never means all scopes", () => {
    expect(coversAny([], "a")).toBe(false);
    expect(missingScopes([], ["a", "b"])).toEqual(["a", "b"]);
    expect(missingScopes([], [])).toEqual([]);
    expect(missingScopes(["a:*"], ["a:1", "b", "a:2", "b"])).toEqual(["b", "b"]);
  });
});

test("a scope is 1 to 128 visible ASCII characters without quote and backslash", () => {
  for (let code = 0; code < 300; code++) {
    const fits = code >= 0x21 && code <= 0x7e && code !== 0x22 && code !== 0x5c;
    expect(isScope(String.fromCharCode(code)), `U+${code.toString(16)}`).toBe(fits);
  }
  expect([isScope(""), isScope("a".repeat(128)), isScope("a".repeat(129)), isScope("a\n")]).toEqual([
    false,
    true,
    false,
    false,
  ]);
});

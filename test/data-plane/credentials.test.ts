import { describe, expect, test } from "vitest";
import { credentialOf } from "../../src/data-plane/credentials.ts";

const one = (tokenString: string) => ({ kind: "one", tokenString });
const none = { kind: "none" };
const malformed = { kind: "malformed", why: expect.any(String) };

describe("one credential is counted over all carriers of the policy", () => {
  test.each([
    ["nothing", [], [], none],
    ["an empty header", [""], [], none],
    ["a bearer", ["Bearer abc"], [], one("abc")],
    ["a scheme in any case", ["bEaReR abc"], [], one("abc")],
    ["any string after Bearer, also one that is no token", ["Bearer ä~€"], [], one("ä~€")],
    ["a scheme that the policy does not take", ["Basic dTpw"], [], none],
    ["a key where the policy takes none", [], ["abc"], none],
    ["Bearer without a credential", ["Bearer"], [], malformed],
    ["two words after Bearer", ["Bearer a b"], [], malformed],
    ["two headers", ["Bearer a", "Bearer b"], [], malformed],
    ["a bearer beside a scheme of the upstream's", ["Basic dTpw", "Bearer a"], [], malformed],
    ["the same in one value", ["Basic dTpw,Bearer a"], [], malformed],
    ["the upstream's scheme alone, of any length, with commas", [`Digest a="${"b".repeat(9_000)}", c="d"`], [], none],
    ["white space around it", [" \tBearer \t abc \t"], [], one("abc")],
    ["white space that no field has in it", ["Bearer a\u00a0b"], [], malformed],
    ["two equal headers", ["Bearer a", "Bearer a"], [], malformed],
    ["two joined by a comma", ["Bearer a,Bearer b"], [], malformed],
    ["more than 8 KiB", [`Bearer ${"a".repeat(8_192)}`], [], malformed],
    ["no scheme at all", ["\u0000"], [], malformed],
  ])("bearer alone: %s", (_, authorization, key, expected) => {
    expect(credentialOf(["bearer"], authorization, key)).toEqual(expected);
  });

  test.each([
    ["a key", [], ["abc"], one("abc")],
    ["a key and a bearer", ["Bearer abc"], ["abc"], malformed],
    ["two keys", [], ["a", "b"], malformed],
    ["two keys joined", [], ["a,b"], malformed],
    ["an empty bearer header beside a key", [""], ["abc"], one("abc")],
    ["a scheme of the upstream's beside a key", ["Basic dTpw"], ["abc"], one("abc")],
    ["a scheme of the upstream's with commas beside a key", ['Digest a="b", c="d"'], ["abc"], one("abc")],
    ["a bearer joined to the upstream's, beside a key", ["Basic dTpw,Bearer b"], ["abc"], malformed],
  ])("bearer and x-api-key: %s", (_, authorization, key, expected) => {
    expect(credentialOf(["bearer", "x-api-key"], authorization, key)).toEqual(expected);
  });

  test.each([
    ["a key beside Basic", ["Basic dTpw"], ["abc"], one("abc")],
    ["a key beside a bearer", ["Bearer b"], ["abc"], one("abc")],
    ["a key beside a broken authorization", ["\u0000"], ["abc"], one("abc")],
    ["a bearer alone", ["Bearer b"], [], none],
  ])("x-api-key alone: %s", (_, authorization, key, expected) => {
    expect(credentialOf(["x-api-key"], authorization, key)).toEqual(expected);
  });

  test.each([
    ["a key", [], ["abc"], one("abc")],
    ["two keys", [], ["a", "b"], malformed],
    ["a key and a bearer", ["Bearer abc"], ["abc"], malformed],
  ])("bearer and a header of the policy's own: %s", (_, authorization, key, expected) => {
    expect(credentialOf(["bearer", "header:private-token"], authorization, key)).toEqual(expected);
  });

  test.each([
    ["the password is the token", [`Basic ${Buffer.from("git:abc").toString("base64")}`], one("abc")],
    ["a password may hold colons", [`Basic ${Buffer.from("git:a:b").toString("base64")}`], one("a:b")],
    ["no colon", [`Basic ${Buffer.from("git").toString("base64")}`], malformed],
    ["no base64", ["Basic ???"], malformed],
    ["a bearer where only basic is taken", ["Bearer abc"], none],
    ["nothing after the scheme", ["Basic"], malformed],
  ])("basic: %s", (_, authorization, expected) => {
    expect(credentialOf(["basic"], authorization, [])).toEqual(expected);
  });
});

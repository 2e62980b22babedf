import { describe, expect, test } from "vitest";
import { refuseDead } from "../../src/domain/dead-token.ts";
import { AppError } from "../../src/domain/errors.ts";
import type { TokenState } from "../../src/domain/token.ts";

const NOW = 1_000;

const refusal = (state: TokenState, rotatedTo = "", expireTime: number | undefined = undefined) => {
  try {
    refuseDead({ state, rotatedTo, expireTime }, NOW);
    return undefined;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { reason: error.reason, metadata: error.metadata };
  }
};

describe("a token that is dead does not change", () => {
  test.each<[TokenState, number | undefined, string | undefined]>([
    ["ACTIVE", undefined, undefined],
    ["ACTIVE", NOW + 1, undefined],
    ["NOT_YET_VALID", NOW + 1, undefined],
    ["DISABLED", undefined, undefined],
    ["DISABLED", NOW + 1, undefined],
    ["DISABLED", NOW, "TOKEN_REVOKED"],
    ["EXPIRED", NOW, "TOKEN_REVOKED"],
    ["REVOKED", undefined, "TOKEN_REVOKED"],
    ["REVOKED", NOW + 1, "TOKEN_REVOKED"],
  ])("%s with the end %s: %s", (state, end, reason) => {
    expect(refusal(state, "", end)?.reason).toBe(reason);
  });

  test.each<TokenState>(["ACTIVE", "DISABLED", "EXPIRED", "REVOKED"])(
    "a rotated token that is %s names the token that replaced it",
    (state) => {
      expect(refusal(state, "tok_new")).toEqual({ reason: "TOKEN_ROTATED", metadata: { rotated_to: "tok_new" } });
    },
  );
});

import { describe, expect, test } from "vitest";
import { refuseDead } from "../../src/domain/dead-token.ts";
import { AppError } from "../../src/domain/errors.ts";
import type { TokenState } from "../../src/domain/token.ts";

const refusal = (state: TokenState, rotatedTo = "") => {
  try {
    refuseDead({ state, rotatedTo });
    return undefined;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { reason: error.reason, metadata: error.metadata };
  }
};

describe("a token that is dead does not change", () => {
  test.each<[TokenState, string | undefined]>([
    ["ACTIVE", undefined],
    ["NOT_YET_VALID", undefined],
    ["DISABLED", undefined],
    ["EXPIRED", "TOKEN_REVOKED"],
    ["REVOKED", "TOKEN_REVOKED"],
  ])("%s: %s", (state, reason) => {
    expect(refusal(state)?.reason).toBe(reason);
  });

  test.each<TokenState>(["ACTIVE", "DISABLED", "EXPIRED", "REVOKED"])(
    "a rotated token that is %s names the token that replaced it",
    (state) => {
      expect(refusal(state, "tok_new")).toEqual({ reason: "TOKEN_ROTATED", metadata: { rotated_to: "tok_new" } });
    },
  );
});

import { AppError } from "./errors.ts";
import type { Token } from "./token.ts";

/**
 * Refuses a change of a token that can no longer change: it was rotated, was revoked or has expired. Its time decides, not
 * its state: a token that has expired and is disabled, or whose principal or tenant is not active, shows as DISABLED.
 */
export function refuseDead(token: Pick<Token, "state" | "rotatedTo" | "expireTime">, now: number): void {
  if (token.rotatedTo !== "") throw alreadyRotated(token);
  if (token.state === "REVOKED") throw new AppError("TOKEN_REVOKED", "the token is revoked: it stays as it is");
  if (token.expireTime !== undefined && token.expireTime <= now)
    throw new AppError("TOKEN_REVOKED", "the token has expired: issue a new one");
}

export function alreadyRotated(token: Pick<Token, "rotatedTo">): AppError {
  return new AppError("TOKEN_ROTATED", "the token was already replaced by a rotation", {
    metadata: { rotated_to: token.rotatedTo },
  });
}

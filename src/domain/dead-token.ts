import { AppError } from "./errors.ts";
import type { Token } from "./token.ts";

/** Refuses a change of a token that can no longer change: it was rotated, was revoked or has expired. */
export function refuseDead(token: Pick<Token, "state" | "rotatedTo">): void {
  if (token.rotatedTo !== "") throw alreadyRotated(token);
  if (token.state === "REVOKED") throw new AppError("TOKEN_REVOKED", "the token is revoked: it stays as it is");
  if (token.state === "EXPIRED") throw new AppError("TOKEN_REVOKED", "the token has expired: issue a new one");
}

export function alreadyRotated(token: Pick<Token, "rotatedTo">): AppError {
  return new AppError("TOKEN_ROTATED", "the token was already replaced by a rotation", {
    metadata: { rotated_to: token.rotatedTo },
  });
}

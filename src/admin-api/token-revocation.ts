import { AppError } from "../domain/errors.ts";
import type { Access } from "../management/access.ts";
import type { TokenManager } from "../management/token-manager.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import { NO_STORE, oauthError, parametersOf } from "../rpc/oauth.ts";

/**
 * Token revocation (RFC 7009), waiting until it is in force everywhere. A string that is no token of the caller's world
 * answers 200 and changes nothing.
 */
export async function revoke(
  tokens: TokenManager,
  access: Access,
  contentType: string | undefined,
  body: Uint8Array,
): Promise<HttpAnswer> {
  const token = parametersOf(contentType, body)?.get("token");
  if (token === undefined) return oauthError(400, "invalid_request", "one parameter token is needed, as form or JSON");
  try {
    await tokens.revoke(access, await tokens.byString(access, token), false, "RFC 7009", false);
  } catch (error) {
    if (!(error instanceof AppError && error.reason === "TOKEN_NOT_FOUND")) throw error;
  }
  return { status: 200, headers: [NO_STORE], body: "" };
}

import { AppError } from "../domain/errors.ts";

/** RFC 6750 §2.1: the scheme in any case, one space or more, then one b64token. */
const BEARER = /^bearer +([A-Za-z0-9._~+/=-]{1,8192})$/i;

/**
 * The bearer credential of an `authorization` header; undefined without the header. CALLER_UNAUTHENTICATED if it is
 * repeated or malformed: a repeated header arrives joined by a comma, which no credential holds.
 */
export function bearerOf(authorization: string | null | undefined): string | undefined {
  if (authorization === null || authorization === undefined || authorization === "") return undefined;
  const match = BEARER.exec(authorization);
  if (match === null)
    throw new AppError("CALLER_UNAUTHENTICATED", "authorization must be one Bearer credential (RFC 6750)");
  return match[1];
}

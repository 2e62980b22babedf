import { AppError, type Reason } from "../domain/errors.ts";
import type { HttpAnswer } from "./http-answer.ts";

export const JSON_TYPE = ["content-type", "application/json"] as const;

export const NO_STORE = ["cache-control", "no-store"] as const;

/** The answer to a request that is no POST. */
export const WRONG_METHOD: HttpAnswer = oauthError(405, "invalid_request", "the method must be POST", "UNIMPLEMENTED", [
  ["allow", "POST"],
]);

const BASIC = /^basic +([A-Za-z0-9+/]{1,12288}={0,2})$/i;

/**
 * The `authorization` of an OAuth client, which sends its secret by Basic (`client_secret_basic`, RFC 6749 §2.3.1). The
 * secret is a token, and so becomes a Bearer credential; the client id is ignored. Other values stay unchanged.
 */
export function bearerOfClient(authorization: string): string {
  const encoded = BASIC.exec(authorization)?.[1];
  if (encoded === undefined) return authorization;
  const text = Buffer.from(encoded, "base64").toString("latin1");
  const secret = text.slice(text.indexOf(":") + 1);
  try {
    return `Bearer ${decodeURIComponent(secret.replaceAll("+", " "))}`;
  } catch {
    return `Bearer ${secret}`;
  }
}

/** The credential for a secret in the body (`client_secret_post`); null if there is none. */
export function clientSecretOf(contentType: string | undefined, body: Uint8Array): string | null {
  const secret = parametersOf(contentType, body)?.get("client_secret");
  return secret === undefined ? null : `Bearer ${secret}`;
}

/**
 * An error of the caller or of ours, in OAuth's form (RFC 6749 §5.2; RFC 6750 §3). `reason` is the reason of the error
 * table.
 */
export function oauthFailure(error: unknown): HttpAnswer {
  const reason = error instanceof AppError ? error.reason : "INTERNAL";
  switch (reason) {
    case "CALLER_UNAUTHENTICATED":
      return oauthError(401, "invalid_client", "the credential is not good", reason, [
        ["www-authenticate", 'Bearer realm="sallyport"'],
      ]);
    case "CALLER_FORBIDDEN":
    case "RIGHTS_EXCEEDED":
      return oauthError(403, "insufficient_scope", "the caller lacks the permission", reason);
    case "INVALID_FIELD":
    case "TENANT_NOT_FOUND":
    case "UNDECODABLE":
      return oauthError(400, "invalid_request", (error as AppError).message, reason);
    case "INTERNAL":
      return oauthError(500, "server_error", "internal error", reason);
    default:
      return unavailable(reason);
  }
}

/** Each parameter once; undefined for a repeated one, another content type, or bytes that are neither form nor JSON. */
export function parametersOf(
  contentType: string | undefined,
  body: Uint8Array,
): ReadonlyMap<string, string> | undefined {
  const text = Buffer.from(body).toString("utf8");
  const type = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  const found = new Map<string, string>();
  try {
    const entries =
      type === "application/x-www-form-urlencoded"
        ? formOf(text)
        : type === "application/json"
          ? Object.entries(JSON.parse(text) as Record<string, unknown>)
          : [];
    for (const [name, value] of entries) {
      if (found.has(name) || typeof value !== "string") return undefined;
      found.set(name, value);
    }
  } catch {
    return undefined;
  }
  return found;
}

/** More parameters than anybody needs. Further ones are ignored. */
const MOST_PARAMETERS = 64;

function formOf(text: string): [string, string][] {
  const few = text.split("&", MOST_PARAMETERS + 1).length <= MOST_PARAMETERS;
  return few ? [...new URLSearchParams(text)] : [];
}

export function oauthError(
  status: number,
  error: string,
  description: string,
  reason: Reason,
  more: readonly (readonly [string, string])[] = [],
): HttpAnswer {
  return {
    status,
    headers: [JSON_TYPE, NO_STORE, ...more],
    body: JSON.stringify({ error, error_description: description, reason }),
  };
}

export function unavailable(reason: Reason): HttpAnswer {
  const text = "the request cannot be answered now; repeat it later";
  return oauthError(503, "temporarily_unavailable", text, reason, [["retry-after", "1"]]);
}

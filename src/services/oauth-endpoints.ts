import type { Access } from "../app/access.ts";
import type { TokenManager } from "../app/token-manager.ts";
import type { Validate } from "../app/validate.ts";
import { NO_REQUIREMENT } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import type { Material } from "../domain/material.ts";
import type { HttpAnswer } from "./http-check.ts";

const JSON_TYPE = ["content-type", "application/json"] as const;
const NO_STORE = ["cache-control", "no-store"] as const;
const INACTIVE: HttpAnswer = { status: 200, headers: [JSON_TYPE, NO_STORE], body: '{"active":false}' };

/** Token introspection (RFC 7662): for gateways that have no sub-request of their own. */
export async function introspect(
  validate: Validate,
  contentType: string | undefined,
  body: Uint8Array,
  deadline: number,
): Promise<HttpAnswer> {
  const parameters = parametersOf(contentType, body);
  const token = parameters?.get("token");
  if (token === undefined) return oauthError(400, "invalid_request", "one parameter token is needed, as form or JSON");
  const answer = await validate(
    token,
    NO_REQUIREMENT,
    { clientAddress: parameters?.get("client_address") ?? "" },
    deadline,
  );
  if (answer.verdict === "UNDETERMINED") return unavailable();
  // An audience is told, and the resource server's to judge; a network is not told, so nobody else could.
  const refused = answer.verdict === "INVALID_TOKEN" || answer.verdict === "ADDRESS_NOT_ALLOWED";
  const material = refused ? undefined : answer.material;
  if (material === undefined) return INACTIVE;
  return { status: 200, headers: [JSON_TYPE, NO_STORE], body: JSON.stringify(claims(material)) };
}

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

const BASIC = /^basic +([A-Za-z0-9+/]{1,12288}={0,2})$/i;

/**
 * The `authorization` of a client of OAuth, which sends its secret by Basic (`client_secret_basic`, RFC 6749, section
 * 2.3.1): the secret is a token, and so a Bearer credential; the client's id is not looked at. Other values stay as they are.
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

/** The same for a secret in the body (`client_secret_post`); null where there is none. */
export function clientSecretOf(contentType: string | undefined, body: Uint8Array): string | null {
  const secret = parametersOf(contentType, body)?.get("client_secret");
  return secret === undefined ? null : `Bearer ${secret}`;
}

/** An error of the caller or of ours, as OAuth says it (RFC 6749, section 5.2; RFC 6750, section 3). */
export function oauthFailure(error: unknown): HttpAnswer {
  const reason = error instanceof AppError ? error.reason : "INTERNAL";
  switch (reason) {
    case "CALLER_UNAUTHENTICATED":
      return oauthError(401, "invalid_client", "the credential is not good", [
        ["www-authenticate", 'Bearer realm="sallyport"'],
      ]);
    case "CALLER_FORBIDDEN":
    case "RIGHTS_EXCEEDED":
      return oauthError(403, "insufficient_scope", "the caller lacks the permission");
    case "INVALID_FIELD":
    case "UNDECODABLE":
      return oauthError(400, "invalid_request", "the request is not well-formed");
    case "INTERNAL":
      return oauthError(500, "server_error", "internal error");
    default:
      return unavailable();
  }
}

function claims(material: Material) {
  const { id, tenant, principal, profile, scopes, audiences, expire, notBefore } = material;
  return {
    active: true,
    ...(scopes.length > 0 && { scope: scopes.join(" ") }),
    sub: principal,
    ...(audiences.length > 0 && { aud: audiences }),
    ...(expire !== undefined && { exp: Math.floor(expire / 1000) }),
    ...(notBefore !== undefined && { nbf: Math.floor(notBefore / 1000) }),
    jti: id,
    token_type: "Bearer",
    tenant,
    profile,
  };
}

/** Each parameter once; undefined for a repeated one, another content type or bytes that are neither form nor JSON. */
function parametersOf(contentType: string | undefined, body: Uint8Array): ReadonlyMap<string, string> | undefined {
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

/** Far fewer parameters than anybody needs; more are none that we read. */
const MOST_PARAMETERS = 64;

function formOf(text: string): [string, string][] {
  const few = text.split("&", MOST_PARAMETERS + 1).length <= MOST_PARAMETERS;
  return few ? [...new URLSearchParams(text)] : [];
}

function oauthError(
  status: number,
  error: string,
  description: string,
  more: readonly (readonly [string, string])[] = [],
): HttpAnswer {
  return {
    status,
    headers: [JSON_TYPE, NO_STORE, ...more],
    body: JSON.stringify({ error, error_description: description }),
  };
}

function unavailable(): HttpAnswer {
  return oauthError(503, "temporarily_unavailable", "the token can not be judged now", [["retry-after", "1"]]);
}

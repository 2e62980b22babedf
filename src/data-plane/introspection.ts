import { liveTenants, NO_REQUIREMENT, type Verdict } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import { JSON_TYPE, NO_STORE, oauthFailure, parametersOf, unavailable } from "../rpc/oauth.ts";
import type { Validate } from "../validation/validate.ts";

const INACTIVE: HttpAnswer = { status: 200, headers: [JSON_TYPE, NO_STORE], body: '{"active":false}' };

const INACTIVE_FOR: ReadonlySet<Verdict> = new Set<Verdict>(["INVALID_TOKEN", "ADDRESS_NOT_ALLOWED", "WRONG_TENANT"]);

/** Token introspection (RFC 7662), for gateways that have no sub-request of their own. */
export async function introspect(
  validate: Validate,
  contentType: string | undefined,
  body: Uint8Array,
  deadline: number,
): Promise<HttpAnswer> {
  const parameters = parametersOf(contentType, body);
  const token = parameters?.get("token");
  if (token === undefined)
    return oauthFailure(new AppError("INVALID_FIELD", "exactly one parameter `token` is required, as form or JSON"));
  const answer = await validate(
    token,
    { ...NO_REQUIREMENT, tenant: parameters?.get("tenant") ?? "" },
    { clientAddress: parameters?.get("client_address") ?? "" },
    deadline,
  );
  if (answer.verdict === "UNDETERMINED") return unavailable("STORE_UNAVAILABLE");
  // The answer shows the audience, so the resource server can judge it. It does not show the networks, so an address is
  // judged here.
  const refused = INACTIVE_FOR.has(answer.verdict);
  const snapshot = refused ? undefined : answer.snapshot;
  if (snapshot === undefined) return INACTIVE;
  return { status: 200, headers: [JSON_TYPE, NO_STORE], body: JSON.stringify(claims(snapshot)) };
}

function claims(snapshot: TokenSnapshot) {
  const { id, tenant, principal, profile, scopes, audiences, expire, notBefore } = snapshot;
  const tenants = liveTenants(snapshot);
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
    ...(tenants.length > 0 && { tenants }),
    profile,
  };
}

import type { AuditActor } from "../domain/audit-event.ts";
import { type Caller, holds, isOperator } from "../domain/caller.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import { checkTenantId } from "../domain/principal.ts";
import { rankOf } from "../domain/rights.ts";
import { endingTenants } from "../domain/session.ts";
import type { CallerGuard } from "../revocation/authority-store.ts";

/** The reach of a caller in one call: everything, its tenant, or only its own principal's tokens. */
export type Reach = "everywhere" | "tenant" | "own";

/** An admitted caller, and how far it reaches. */
export interface Access {
  readonly caller: Caller;
  readonly reach: Reach;
  readonly requestId: string;
  /** The caller's deadline in monotonic time; undefined for none. */
  readonly deadline?: number;
  /** Aborted if the client has disconnected. */
  readonly signal?: AbortSignal;
}

/** The reach that a permission gives, or `own` if the call allows it; CALLER_FORBIDDEN otherwise. */
export function reachOf(caller: Caller, permission: string, own: boolean): Reach {
  if (isOperator(caller)) return "everywhere";
  if (holds(caller, permission)) return "tenant";
  if (own && caller.principal !== "") return "own";
  throw new AppError("CALLER_FORBIDDEN", `the caller lacks the permission ${permission}`, { metadata: { permission } });
}

/** The tenant of a request: the caller's own unless it names one. A foreign tenant is TENANT_NOT_FOUND. */
export function tenantOf(access: Access, tenant: string): string {
  if (tenant === "") return access.caller.tenant || "default";
  checkTenantId("tenant", tenant);
  if (access.reach !== "everywhere" && tenant !== access.caller.tenant) {
    throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  }
  return tenant;
}

/** The tenant of a list; undefined for `-`, every tenant, which is for operators. */
export function listedTenant(access: Access, tenant: string): string | undefined {
  if (tenant !== "-") return tenantOf(access, tenant);
  if (access.reach === "everywhere") return undefined;
  const permission = "sallyport.operator";
  throw new AppError("CALLER_FORBIDDEN", `a list of all tenants needs the permission ${permission}`, {
    metadata: { permission },
  });
}

/** True if the caller may see objects of this tenant and principal. */
export function sees(access: Access, tenant: string, principal: string): boolean {
  const { caller, reach } = access;
  if (reach === "everywhere") return true;
  return tenant === caller.tenant && (reach === "tenant" || principal === caller.principal);
}

/** The guard of a change that may widen rights: the caller must still be good when it commits. */
export function guardOf({ caller }: Access): CallerGuard {
  const { tokenId, scopes, address } = caller;
  return { callerTokenId: tokenId, callerScopes: scopes, callerAddress: address, callerPrincipal: sessionOf(caller) };
}

/** The principal whose state ends the caller's session, with its tenants and roles; undefined for other callers. */
function sessionOf(caller: Caller): CallerGuard["callerPrincipal"] {
  const { kind, tenant, tenants = [tenant], principal, scopes, roles: names = [], roleScopes = [] } = caller;
  if (kind !== "session") return undefined;
  const alsoIn = endingTenants({ tenant, tenants, scopes }).filter((other) => other !== tenant);
  const roles = names.length > 0 ? { names, scopes: roleScopes } : undefined;
  return { tenant, name: principal, tenants, ...(alsoIn.length > 0 && { alsoIn }), ...(roles && { roles }) };
}

export function actorOf(access: Access): AuditActor {
  const { caller, requestId } = access;
  const { tokenId, scopes, provenance, address } = caller;
  const token = tokenId === undefined ? undefined : { id: tokenId, scopes };
  return { actor: provenance, address, requestId, rank: rankOf(caller), token, session: sessionOf(caller) };
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** A request_id in canonical form, or undefined if there is none. INVALID_FIELD unless it is a UUID. */
export function requestIdOf(text: string): string | undefined {
  if (text === "") return undefined;
  if (!UUID.test(text)) throw invalidField("request_id", "must be a UUID");
  return text.toLowerCase();
}

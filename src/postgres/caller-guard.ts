import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import { addressAllowed, LOCAL_ADDRESS } from "../domain/networks.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import { type Asker, effectiveScopes, type Held } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { CallerGuard, ChangeGuard } from "../revocation/authority-store.ts";
import {
  endedSessions,
  furtherPlaces,
  lostTenants,
  namedBy,
  placesOf,
  rolesNamed,
  rolesNotToWiden,
} from "./caller-session.ts";
import { EVIDENCE, type EvidenceRow, HEAD, isProven, PROVEN } from "./evidence.ts";
import type { Tx } from "./pool.ts";
import { HELD_COLUMNS, heldOf, parentOf, readHeld, type TokenRow } from "./rows.ts";

const READ_PROVEN = { name: "sallyport-proven", text: `select ${EVIDENCE}, ${PROVEN} from ${HEAD}` };

/** The object of a change: a principal, a role or a trust rule (by id), or a whole tenant. */
export interface Target {
  readonly tenant: string;
  readonly principal?: string;
  readonly role?: string;
  readonly rule?: string;
}

/**
 * Locks the target for a change. Every change takes the advisory lock before the row lock. A guard trigger takes the
 * same advisory lock after the row lock.
 */
async function lockTarget(tx: Tx, { tenant, principal, role, rule }: Target): Promise<void> {
  await tx.query(
    `select pg_advisory_xact_lock(sallyport.lock_id(coalesce(
       sallyport.principal_key($1, $2), sallyport.role_key($3), sallyport.rule_key($4), sallyport.tenant_key($1))))`,
    [tenant, principal ?? null, role ?? null, rule ?? null],
  );
}

/** Locks the target for a change that only takes rights away, and reads the caller again. */
export async function lockForLowering(tx: Tx, target: Target, actor: AuditActor): Promise<void> {
  await lockTarget(tx, target);
  await rereadActor(tx, actor);
}

/**
 * Locks the target for a change that may widen rights. It also locks the caller's token with its parent, or the session's
 * principal, and their tenant and roles, and reads them again. So the change commits before the caller's end, or is
 * refused with CALLER_UNAUTHENTICATED (docs/protocol.md §3.4).
 */
export async function lockForRaising(tx: Tx, target: Target, guard: CallerGuard): Promise<Asker> {
  const { tenant, principal, role, rule } = target;
  const locked = await tx.query<{ role: string | null }>(
    `select role, case when ours then pg_advisory_xact_lock(sallyport.lock_id(k))
       else pg_advisory_xact_lock_shared(sallyport.lock_id(k)) end
     from (
       select k, max(role) as role, bool_or(ours) as ours from (
         select sallyport.principal_key($1, $2) as k, null as role, true as ours
         union all select sallyport.role_key($4), $4, true
         union all select sallyport.rule_key($9), null, true
         union all select sallyport.tenant_key($1), null, $2::text is null and $4::text is null and $9::text is null
         union all select sallyport.principal_key(tenant, principal), null, false from sallyport.tokens where id = $3
         union all select sallyport.tenant_key(tenant), null, false from sallyport.tokens where id = $3
         union all select sallyport.principal_key(t, $6), null, false from unnest($5::text[]) t
         union all select sallyport.tenant_key(t), null, false from unnest($5::text[]) t
         union all select sallyport.role_key(r), r, false
           from (${rolesOf("array[$3]")} union ${rolesNamed("$7", "$8")}) held (r)
       ) keys where k is not null group by k order by k offset 0
     ) locks`,
    [
      ...[tenant, principal ?? null, guard.callerTokenId ?? "", role ?? null],
      ...[placesOf(guard.callerPrincipal).map((one) => one.tenant), guard.callerPrincipal?.name ?? null],
      ...namedBy(guard.callerPrincipal),
      rule ?? null,
    ],
  );
  await lockTokens(tx, [guard.callerTokenId]);
  // A new statement after the locks. The state in it already includes the expiry, so no time is needed.
  return rereadCaller(tx, guard, 0, new Set(locked.map(({ role }) => role ?? "")));
}

/**
 * Locks the caller and the target of a change that widens a token, then reads the caller again. `roles`: those that the
 * target is given, by id. `tenants`: those that it has and is given, beside its own.
 */
export async function guardWidening(
  tx: Tx,
  target: Token,
  guard: ChangeGuard,
  roles: readonly string[],
  tenants: readonly string[],
): Promise<Asker & { readonly n: number }> {
  const locked = await lockGranting(tx, target, guard, [...roles, ...target.roleIds], tenants);
  await lockTokens(tx, [guard.callerTokenId, target.id]);
  const { now, n } = await rereadOwners(tx, target.tenant, target.principal);
  return { ...(await rereadCaller(tx, guard, now, locked, tenants)), n };
}

/**
 * Takes the shared locks of whoever gives and of whoever is given, in the order of their keys: principals, tenants (with the
 * further ones of the token) and roles. Returns the ids of the locked roles.
 */
export async function lockGranting(
  tx: Tx,
  to: { readonly tenant: string; readonly principal: string },
  guard: CallerGuard,
  roles: readonly string[],
  tenants: readonly string[],
): Promise<ReadonlySet<string>> {
  const places = [...placesOf(guard.callerPrincipal), ...furtherPlaces(guard.callerPrincipal, tenants)];
  const all = [to, ...places.map((one) => ({ tenant: one.tenant, principal: one.name }))];
  const rows = await tx.query<{ roles: string[] }>(
    `with w (tenant, name) as (
       select t, p from unnest($1::text[], $2::text[]) u (t, p)
       union select tenant, principal from sallyport.tokens where id = $3
     ),
     held (r) as (${rolesOf("array[$3]")} union select unnest($4::text[]) union ${rolesNamed("$5", "$6")})
     select array(select r from held) as roles, sallyport.lock_shared(array(
       select k from (
         select sallyport.principal_key(tenant, name) from w union select sallyport.tenant_key(tenant) from w
         union select sallyport.tenant_key(t) from unnest($7::text[]) t
         union select sallyport.role_key(r) from held
       ) keys (k) order by k))`,
    [
      ...[all.map(({ tenant }) => tenant), all.map(({ principal }) => principal), guard.callerTokenId ?? "", roles],
      ...namedBy(guard.callerPrincipal),
      tenants,
    ],
  );
  return new Set(rows[0]?.roles);
}

/** SQL for the roles of these tokens and of their parents. */
function rolesOf(ids: string): string {
  return `select unnest(roles) from sallyport.tokens
    where id = any(${ids}) or id in (select parent_id from sallyport.tokens where id = any(${ids}))`;
}

/** Locks the rows of these tokens and of their parents: revoking a parent ends the rights of its children. */
export async function lockTokens(tx: Tx, ids: readonly (string | undefined)[]): Promise<void> {
  const known = ids.filter((id) => id !== undefined);
  if (known.length === 0) return;
  await tx.query(
    `select id from sallyport.tokens
     where id = any($1) or id in (select parent_id from sallyport.tokens where id = any($1))
     order by id for no key update`,
    [known],
  );
}

/** Reads position and time in a new statement after the locks. Refuses a principal or a tenant that is not active. */
export async function rereadOwners(tx: Tx, tenant: string, principal: string): Promise<{ n: number; now: number }> {
  const rows = await tx.query<{ n: number; now: number; tenant: TenantState | null; principal: PrincipalState | null }>(
    `select h.n, date_trunc('milliseconds', clock_timestamp()) as now, o.state as tenant, p.state as principal
     from sallyport.rev_head h left join sallyport.tenants o on o.id = $1
       left join sallyport.principals p on p.tenant = $1 and p.name = $2`,
    [tenant, principal],
  );
  const row = rows[0];
  if (row === undefined) throw new AppError("INTERNAL", "the head row is missing");
  if (row.tenant === null) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (row.tenant !== "ACTIVE") throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
  if (row.principal === null || row.principal === "DELETED") {
    throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal: create it first");
  }
  if (row.principal === "DISABLED") throw new AppError("PRINCIPAL_DISABLED", "the principal is disabled");
  return row;
}

/**
 * Reads the caller's token, or the session's principal, again for a change that only takes rights away. It takes no lock:
 * such a change waits for no caller. A token may always end itself, so it is not read for a change of itself.
 */
export async function rereadActor(tx: Tx, actor: AuditActor, targets: readonly string[] = []): Promise<void> {
  if (actor.token !== undefined && targets.includes(actor.token.id)) return;
  if ((await endedActors(tx, [actor])).has(actor)) throw gone();
}

/** Those of the actors whose tokens or sessions are not good any more for what they do. It takes no lock. */
export async function endedActors(tx: Tx, actors: readonly AuditActor[]): Promise<ReadonlySet<AuditActor>> {
  const held = await heldTokens(tx, [...new Set(actors.flatMap(({ token }) => token?.id ?? []))]);
  const over = await endedSessions(
    tx,
    actors.flatMap(({ token, session }) => (token === undefined && session) || []),
  );
  const ended = actors.filter(({ token, session, address }) => {
    if (token === undefined) return session !== undefined && over.has(session);
    const own = held.get(token.id);
    const guard = { callerScopes: token.scopes, callerAddress: address };
    return own === undefined || !isGood(own, held.get(own.parent), guard);
  });
  return new Set(ended);
}

/** The rows of these tokens and of their parents, in one statement. */
async function heldTokens(tx: Tx, ids: readonly string[]): Promise<ReadonlyMap<string, Held>> {
  if (ids.length === 0) return new Map();
  const rows = await tx.query<TokenRow>(
    `select ${HELD_COLUMNS} from sallyport.token_view v
     where v.id = any($1) or v.id = any(array(select parent_id from sallyport.tokens where id = any($1)))`,
    [ids],
  );
  return new Map(rows.map((row) => [row.id, heldOf(row)]));
}

/**
 * Reads the caller's own token, or the session's principal, and its roles under their locks. CALLER_UNAUTHENTICATED
 * unless it is still good for the call. `locked`: the roles that this transaction locks. `tenants`: the
 * further ones of the token, under their locks. Every change that may widen
 * rights comes through here, so here the epoch must be proven: what it lacks may have ended the
 * caller, or whoever gets the rights.
 */
export async function rereadCaller(
  tx: Tx,
  guard: CallerGuard,
  now: number,
  locked: ReadonlySet<string>,
  tenants: readonly string[] = [],
): Promise<Asker> {
  if (!guard.byDatabaseOwner) await assertProven(tx);
  const { callerPrincipal: session } = guard;
  // A role that was made meanwhile is not locked.
  if (session && (await endedSessions(tx, [session], (id) => locked.has(id))).size > 0) throw gone();
  if (guard.callerTokenId === undefined) {
    return { now, roles: rolesNotToWiden(guard), lostTenants: await lostTenants(tx, session, tenants) };
  }
  const own = await readHeld(tx, guard.callerTokenId).catch((error: unknown) => {
    throw error instanceof AppError ? gone() : error;
  });
  const ownParent = await parentOf(tx, own);
  // Its roles were changed between the locks: those of now are not locked.
  if (![...own.roleIds, ...(ownParent?.roleIds ?? [])].every((id) => locked.has(id))) {
    throw new AppError("WRITE_CONFLICT", "the caller's roles changed meanwhile; nothing was done", { retryAfterMs: 0 });
  }
  if (!isGood(own, ownParent, guard) || (own.expireTime ?? now + 1) <= now) throw gone();
  return { now, own };
}

async function assertProven(tx: Tx): Promise<void> {
  const [state] = await tx.query<EvidenceRow & { proven: string | null }>(READ_PROVEN);
  if (state !== undefined && isProven(state)) return;
  const text = "the database may lack changes of authority, so nothing that may widen rights is done";
  throw new AppError("STORE_UNAVAILABLE", text, { retryAfterMs: 1000 });
}

/** True if a token is live, still has the scopes with which the call was admitted, and is good from its address. */
function isGood(own: Held, parent: Held | undefined, { callerScopes, callerAddress }: CallerGuard): boolean {
  const scopes = effectiveScopes(own);
  if (own.state !== "ACTIVE" || callerScopes.some((scope) => !scopes.includes(scope))) return false;
  const both = parent === undefined ? [own] : [own, parent];
  // A call of the admin listener is for no audience.
  return both.every(
    ({ audiences, allowedCidrs }) =>
      audiences.length === 0 &&
      (allowedCidrs.length === 0 || addressAllowed(allowedCidrs, callerAddress || LOCAL_ADDRESS)),
  );
}

export function gone(): AppError {
  return new AppError("CALLER_UNAUTHENTICATED", "the credential is no longer good");
}

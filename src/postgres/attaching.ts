import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { TenantState } from "../domain/principal.ts";
import type { Held } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import { rereadActor } from "./caller-guard.ts";
import { type Args, audit, repeated } from "./changes.ts";
import type { Tx } from "./pool.ts";
import { readToken } from "./rows.ts";

/** Refuses tenants that are not there or not active. Runs under their locks, in a statement after the one that locks. */
export async function checkAttachable(tx: Tx, tenants: readonly string[]): Promise<void> {
  if (tenants.length === 0) return;
  const rows = await tx.query<{ state: TenantState }>("select state from sallyport.tenants where id = any($1)", [
    tenants,
  ]);
  if (rows.length < tenants.length) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (rows.some(({ state }) => state !== "ACTIVE")) throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
}

/**
 * The tenants of a row under its lock must be among those whose locks the change took, and in which it asked if the caller's
 * session still lives. Else somebody attached one meanwhile: WRITE_CONFLICT.
 */
export function checkLockedTenants({ tenants }: Held, locked: readonly string[]): void {
  if (tenants.every((tenant) => locked.includes(tenant))) return;
  throw new AppError("WRITE_CONFLICT", "the token's tenants changed meanwhile; nothing was done", { retryAfterMs: 0 });
}

/**
 * The positions of a token's tenants after a change at position `n`. One that it had keeps its own: else a cut that ended it
 * would be undone.
 */
export function positionsOf(
  { tenants, tenantPositions }: Pick<Held, "tenants" | "tenantPositions">,
  after: readonly string[],
  n: number,
): readonly number[] {
  return after.map((tenant) => tenantPositions[tenants.indexOf(tenant)] ?? n);
}

/**
 * Tells each tenant that a change of a token attached or detached, in that tenant's own audit log. The address of the caller
 * and the id of the request are for the token's own tenant.
 */
export async function auditTenants(
  tx: Tx,
  actor: AuditActor,
  token: Pick<Token, "id" | "tenant" | "principal">,
  before: readonly string[],
  after: readonly string[],
): Promise<void> {
  const metadata = { home: token.tenant };
  const say = (tenant: string, action: string) =>
    audit(tx, abroad(actor), tenant, action, `token:${token.id}`, token.principal, metadata);
  for (const tenant of after) if (!before.includes(tenant)) await say(tenant, "token.attach");
  for (const tenant of before) if (!after.includes(tenant)) await say(tenant, "token.detach");
}

/**
 * Takes a token out of a tenant, with all that replaced it by rotation: else a rotation in time would keep the tenant. It
 * needs no right in the token's own tenant, and touches nothing there.
 */
export async function detachTenant(tx: Tx, ...[tenant, id, actor]: Args<"detachTenant">): Promise<void> {
  await rereadActor(tx, actor);
  const [named] = await tx.query<{ family: string }>("select family from sallyport.tokens where id = $1", [id]);
  const detached: string[] = [];
  // Until no row is left: a rotation may have added one while the update waited for its lock.
  for (;;) {
    const held = await tx.query(
      `select from sallyport.tokens where family = $1 and tenants <> '{}' and tenants @> array[$2]
       order by id for no key update`,
      [named?.family ?? "", tenant],
    );
    if (held.length === 0) break;
    const rows = await tx.query<{ id: string }>(
      `update sallyport.tokens t set tenants = array_remove(t.tenants, $2), tenants_n = array(
         select a.n from unnest(t.tenants, t.tenants_n) with ordinality a (id, n, place) where a.id <> $2 order by a.place)
       where t.family = $1 and t.tenants <> '{}' and t.tenants @> array[$2] returning t.id`,
      [named?.family ?? "", tenant],
    );
    detached.push(...rows.map((row) => row.id));
  }
  if (detached.length === 0) return again(tx, tenant, id, actor);
  for (const one of new Set([id, ...detached])) {
    const token = await readToken(tx, one);
    const target = `token:${one}`;
    await audit(tx, actor, tenant, "token.detach", target, token.principal, { home: token.tenant });
    await audit(tx, abroad(actor), token.tenant, "token.detach", target, token.principal, { from: tenant });
  }
}

/** An actor as the audit log of another tenant shows it. */
function abroad(actor: AuditActor): AuditActor {
  return { ...actor, address: "", requestId: "" };
}

/** A repeat finds it detached, and waits as the first call did. A token that was never here is not found. */
async function again(tx: Tx, tenant: string, id: string, actor: AuditActor): Promise<void> {
  const [before] = await tx.query<{ owner: string }>(
    `select owner from sallyport.audit where tenant = $1 and target = $2 and action = 'token.detach' and outcome = 'OK' and metadata ? 'home'
     order by at desc, seq desc limit 1`,
    [tenant, `token:${id}`],
  );
  if (before === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  await repeated(tx, actor, tenant, "token.detach", `token:${id}`, before.owner, {});
}

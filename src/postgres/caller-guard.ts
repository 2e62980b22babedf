import type { CallerGuard } from "../revocation/authority-store.ts";
import { lockTokens, rereadCaller } from "./minting.ts";
import type { Tx } from "./pool.ts";

/** What a change is made to: a principal, or a whole tenant. */
export interface Target {
  readonly tenant: string;
  readonly principal?: string;
}

/**
 * Locks the target for a change of it. Advisory lock before row, as everybody does who changes it: a guard trigger takes
 * the same one, after the row.
 */
export async function lockTarget(tx: Tx, { tenant, principal }: Target): Promise<void> {
  await tx.query(
    `select pg_advisory_xact_lock(sallyport.lock_id(
       coalesce(sallyport.principal_key($1, $2), sallyport.tenant_key($1))))`,
    [tenant, principal ?? null],
  );
}

/**
 * The same for a change that may give somebody more than it has, with the caller's token, its parent, principal and
 * tenant locked as well and read again afterwards: the change commits before the caller's revocation, or is refused with
 * CALLER_UNAUTHENTICATED (docs/protocol.md §3.4).
 */
export async function lockForRaising(tx: Tx, { tenant, principal }: Target, guard: CallerGuard): Promise<void> {
  await tx.query(
    `select case when ours then pg_advisory_xact_lock(sallyport.lock_id(k))
       else pg_advisory_xact_lock_shared(sallyport.lock_id(k)) end
     from (
       select k, bool_or(ours) as ours from (
         select sallyport.principal_key($1, $2) as k, true as ours
         union all select sallyport.tenant_key($1), $2::text is null
         union all select sallyport.principal_key(tenant, principal), false from sallyport.tokens where id = $3
         union all select sallyport.tenant_key(tenant), false from sallyport.tokens where id = $3
       ) keys where k is not null group by k order by k offset 0
     ) locks`,
    [tenant, principal ?? null, guard.callerTokenId ?? ""],
  );
  await lockTokens(tx, [guard.callerTokenId]);
  // A new statement. The state that it reads tells of the expiry, too.
  await rereadCaller(tx, guard, 0);
}

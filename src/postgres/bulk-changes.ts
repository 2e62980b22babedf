import { AppError } from "../domain/errors.ts";
import { mayNotEnd } from "../domain/rights.ts";
import type { AuthorityStore } from "../revocation/authority-store.ts";
import { lockForLowering, rereadActor } from "./caller-guard.ts";
import { type Args, audit, repeated, why } from "./changes.ts";
import { PROOF, type ProofRow, proven } from "./committed.ts";
import { HEAD } from "./evidence.ts";
import { checkHolders, rankText, spares } from "./holders.ts";
import type { Tx } from "./pool.ts";
import { grantedScopesSql } from "./rows.ts";

/** $1 ids, $2 actor, $3 reason, $4 address, $5 request id, $6 rank of the actor. */
const REVOKE_CHUNK = {
  name: "sallyport-revoke-chunk",
  text: `
with mine as materialized (
  select id, scopes, revoke_time, (select ${grantedScopesSql("q")} from sallyport.tokens q where q.id = t.parent_id) as parent_scopes
  from sallyport.tokens t where id = any($1::text[]) order by id for no key update skip locked
),
-- A caller whose token is revoked must not repeat an earlier request and get its answer again.
forgotten as (
  delete from sallyport.requests r using mine where r.caller = mine.id
),
done as (
  update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = $2,
    revoke_reason = $3
  from mine where t.id = mine.id and t.revoke_time is null
    and not ${spares("$6::text", grantedScopesSql("t"), "mine.parent_scopes")}
  returning t.id, t.tenant, t.principal
),
why (why) as (select case when $3::text = '' then '{}'::jsonb else jsonb_build_object('reason', $3::text) end),
audited as (
  insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, metadata, request_id)
  select tenant, $2, $4, 'token.revoke', 'token:' || id, principal, '{"bulk": "true"}'::jsonb || why.why, $5 from done, why
)
select ${PROOF}, array(select id from done) as revoked, array(
  select id from sallyport.tokens t where id = any($1) and not exists (select from mine where mine.id = t.id)
) as busy, exists (
  select from mine where revoke_time is null and not exists (select from done where done.id = mine.id)
) as spared
from ${HEAD}`,
};

export async function revokeChunk(
  tx: Tx,
  ...[tenant, ids, reason, actor]: Args<"revokeChunk">
): ReturnType<AuthorityStore["revokeChunk"]> {
  await rereadActor(tx, actor, ids);
  const [row] = await tx.query<ProofRow & { revoked: string[]; busy: string[]; spared: boolean }>(REVOKE_CHUNK, [
    ids,
    actor.actor,
    reason,
    actor.address,
    actor.requestId,
    rankText(actor.rank),
  ]);
  // A token was locked and live, but not revoked: its scopes, now or when the statement began, exceed the actor's rank.
  if (row?.spared === true) throw mayNotEnd();
  const { revoked = [], busy = [] } = row ?? {};
  if (revoked.length === 0) {
    const metadata = { revoked: "0", ...why(reason) };
    // The busy ones can still fail, all of them. The call leaves a row even then.
    if (busy.length > 0)
      await audit(tx, actor, tenant, "tokens.revoke", "tokens:", "", { busy: String(busy.length), ...metadata });
    else await repeated(tx, actor, tenant, "tokens.revoke", "tokens:", "", metadata);
  }
  return proven({ revoked, busy }, row);
}

export async function cut(tx: Tx, ...[tenant, principal, mustExist, reason, actor]: Args<"cut">): Promise<number> {
  // Before the upsert: the lock waits for a first mint that is not yet committed, so that the cut ends its token too.
  await lockForLowering(tx, { tenant, principal }, actor);
  await checkHolders(tx, actor.rank, tenant, principal);
  if (principal === undefined) {
    // A trigger sets the new position at the commit.
    const [row] = await tx.query<{ cut_n: number }>(
      "update sallyport.tenants set cut_time = clock_timestamp() where id = $1 returning cut_n",
      [tenant],
    );
    if (row === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    await audit(tx, actor, tenant, "tokens.revoke", `tenant:${tenant}`, "", why(reason));
    return row.cut_n;
  }
  if (mustExist) await checkExists(tx, tenant, principal);
  const [row] = await tx.query<{ cut_n: number }>(
    `insert into sallyport.principals (tenant, name, cut_time)
     select id, $2, clock_timestamp() from sallyport.tenants where id = $1
     on conflict (tenant, name) do update set cut_time = clock_timestamp() returning cut_n`,
    [tenant, principal],
  );
  if (row === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  await audit(tx, actor, tenant, "tokens.revoke", `principal:${principal}`, principal, why(reason));
  return row.cut_n;
}

async function checkExists(tx: Tx, tenant: string, name: string): Promise<void> {
  const [row] = await tx.query<{ tenant: boolean; principal: boolean }>(
    `select exists (select from sallyport.tenants where id = $1) as tenant,
       exists (select from sallyport.principals where tenant = $1 and name = $2) as principal`,
    [tenant, name],
  );
  if (row?.tenant !== true) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (!row.principal) throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
}

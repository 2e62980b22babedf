import type { AuditActor } from "../domain/audit-event.ts";
import { alreadyRotated, refuseDead } from "../domain/dead-token.ts";
import { AppError } from "../domain/errors.ts";
import { expiry, type LifetimeRule } from "../domain/lifetime.ts";
import { type Asker, type Held, judgeRotation, type Rights } from "../domain/rights.ts";
import { givenOf, type Token } from "../domain/token.ts";
import type { ChangeGuard, FreshToken, Idempotency, Repeated } from "../revocation/authority-store.ts";
import { auditTenants, checkLockedTenants } from "./attaching.ts";
import { givenTo } from "./audit-facts.ts";
import { appendAudit, appendRepeat } from "./audit-log.ts";
import { lockGranting, lockTokens, rereadActor, rereadCaller, rereadOwners } from "./caller-guard.ts";
import { auditRepeat, claim, countRotation, forget } from "./minting.ts";
import type { Tx } from "./pool.ts";
import { insertToken, parentOf, readHeld, readToken } from "./rows.ts";

/** Replaces a token by a new one with the same rights and the same parent, and sets the end of the old one. */
export async function rotate(
  tx: Tx,
  id: string,
  fresh: FreshToken,
  lifetime: LifetimeRule | undefined,
  overlapMs: number,
  guard: ChangeGuard,
  actor: AuditActor,
  idempotency: Idempotency | undefined,
): Promise<{ kind: "created"; token: Token; previous: Token } | Repeated | AppError> {
  const repeated = await claim(tx, idempotency, fresh.id);
  if (guard.ended) checkRepeat(repeated, guard.callerTokenId);
  if (repeated !== undefined) {
    if (!guard.ended) await rereadActor(tx, actor);
    const previous = await readToken(tx, repeated.token.rotatedFrom);
    await auditRepeat(tx, actor, "token.rotate", previous.id, previous);
    return { ...repeated, previous };
  }
  const before = await readToken(tx, id);
  const locked = await lockGranting(tx, before, guard, before.roleIds, before.tenants);
  await lockTokens(tx, [guard.callerTokenId, id]);
  const { now, n } = await rereadOwners(tx, before.tenant, before.principal);
  const made = await readHeld(tx, id);
  // An earlier run of this call made it, and its commit survived a failover.
  if (made.rotatedTo === fresh.id) {
    // A revocation has deleted the request since. Keep it deleted.
    await forget(tx, idempotency);
    await auditRepeat(tx, actor, "token.rotate", id, made);
    return { kind: "created", token: await readToken(tx, fresh.id), previous: await readToken(tx, id) };
  }
  const asker = await rereadCaller(tx, guard, now, locked, before.tenants);
  checkLockedTenants(made, before.tenants);
  const old = made;
  if (old.rotatedTo !== "") return rotatedBefore(tx, old, actor, idempotency);
  refuseDead(old, now);
  if (old.disabled) throw new AppError("TOKEN_DISABLED", "the token is disabled: enable it first");
  const judged = await judgedRotation(tx, guard.rights, asker, old, lifetime);
  if (judged.counted && guard.rights !== undefined) await countRotation(tx, guard.rights, old, overlapMs, now);
  const row = {
    ...givenOf(old),
    ...fresh,
    roleIds: old.roleIds,
    // The positions, too: what a cut has ended stays ended.
    tenantPositions: old.tenantPositions,
    createTime: now,
    issuedPosition: n,
    notBeforeTime: old.notBeforeTime,
    expireTime: judged.expire,
    parent: old.parent,
    family: old.family,
    familyTime: old.familyTime,
    familyLife: judged.familyLife,
    rotatedFrom: id,
  };
  await insertToken(tx, row, old.roleScopes, idempotency);
  // Without an overlap the old token is also revoked: a clock that is set back would undo an end by time alone.
  await tx.query(
    `update sallyport.tokens set rotated_to = $2,
       expire_time = least(expire_time, to_timestamp(($3::float8 + $4::float8) / 1000)),
       revoke_time = case when $4::float8 = 0 then to_timestamp($3::float8 / 1000) end,
       revoked_by = case when $4::float8 = 0 then $5 else '' end,
       revoke_reason = case when $4::float8 = 0 then 'rotated' else '' end where id = $1`,
    [id, fresh.id, now, overlapMs, actor.actor],
  );
  const bounds = { expire: judged.expire, notBefore: old.notBeforeTime, parent: old.parent };
  const given = givenTo({ ...givenOf(old), ...fresh }, bounds);
  await appendAudit(tx, [
    {
      ...actor,
      tenant: old.tenant,
      action: "token.rotate",
      target: `token:${id}`,
      owner: old.principal,
      outcome: "OK",
      metadata: { new_token: fresh.id, overlap_seconds: String(overlapMs / 1000), ...given },
    },
  ]);
  await auditTenants(tx, actor, { ...old, id: fresh.id }, [], old.tenants);
  return { kind: "created", token: await readToken(tx, fresh.id), previous: await readToken(tx, id) };
}

/** A token that its own rotation ended may repeat that request while the new token is live. */
function checkRepeat(repeated: Repeated | undefined, callerTokenId: string | undefined): void {
  const token = repeated?.token;
  if (
    token === undefined ||
    token.rotatedFrom !== callerTokenId ||
    !["ACTIVE", "NOT_YET_VALID"].includes(token.state)
  ) {
    throw new AppError("CALLER_UNAUTHENTICATED", "the credential is not good");
  }
}

async function judgedRotation(
  tx: Tx,
  rights: Rights | undefined,
  asker: Asker,
  old: Held,
  lifetime: LifetimeRule | undefined,
): Promise<ReturnType<typeof judgeRotation>> {
  const parent = await parentOf(tx, old);
  if (rights !== undefined) return judgeRotation(rights, asker, old, parent, lifetime);
  const rule = { ...(lifetime ?? { never: true, maxTtl: 0 }), notBeforeTime: old.notBeforeTime };
  const expire = expiry(rule, asker.now, parent?.expireTime, lifetime === undefined ? old.expireTime : undefined);
  return { expire, familyLife: old.familyLife, counted: false };
}

/** Refuses a second rotation after a commit, so that the refusal is as durable as the answer to the first. */
async function rotatedBefore(tx: Tx, old: Token, actor: AuditActor, of: Idempotency | undefined): Promise<AppError> {
  const refusal = alreadyRotated(old);
  const metadata = { reason: refusal.reason, ...refusal.metadata };
  const act = { tenant: old.tenant, action: "token.rotate", target: `token:${old.id}`, owner: old.principal };
  await appendRepeat(tx, { ...actor, ...act, outcome: "DENIED", metadata });
  await forget(tx, of);
  return refusal;
}

import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { LifetimeRule } from "../domain/lifetime.ts";
import { expiry } from "../domain/lifetime.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import {
  type Asker,
  checkMayMint,
  type Held,
  judgeMint,
  judgeRotation,
  type Rights,
  withinParent,
} from "../domain/rights.ts";
import { givenOf, type Token } from "../domain/token.ts";
import type {
  CallerGuard,
  ChangeGuard,
  FreshToken,
  Idempotency,
  MintGuard,
  MintLimits,
  NewToken,
  Repeated,
} from "../revocation/authority-store.ts";
import { appendAudit, appendRepeat } from "./audit-log.ts";
import { countMint, countRotation } from "./mint-limits.ts";
import type { Tx } from "./pool.ts";
import { HELD_COLUMNS, heldOf, insertToken, TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

/**
 * Issues a token inside a transaction, so that it commits before any revocation that concerns it, or is refused:
 * shared locks of the principals and tenants first, then the token rows of those involved, then all of it read again in
 * a new statement (docs/protocol.md §3.4).
 */
export async function mint(
  tx: Tx,
  token: NewToken,
  lifetime: LifetimeRule,
  guard: MintGuard,
  limits: MintLimits,
  actor: AuditActor,
  idempotency: Idempotency | undefined,
): Promise<{ kind: "created"; token: Token } | Repeated> {
  const repeated = await claim(tx, idempotency, token.id);
  if (repeated !== undefined) {
    await auditRepeat(tx, actor, "token.create", repeated.token.id, repeated.token);
    return repeated;
  }
  await lockPrincipals(tx, [{ tenant: token.tenant, principal: token.principal }], guard.callerTokenId);
  if (!guard.mustExist) {
    await tx.query(
      `insert into sallyport.principals (tenant, name) select $1, $2 from sallyport.tenants where id = $1
       on conflict do nothing`,
      [token.tenant, token.principal],
    );
  }
  await lockTokens(tx, [guard.callerTokenId]);
  const { now, n } = await reread(tx, token.tenant, token.principal);
  const asker = await rereadCaller(tx, guard, now);
  checkMayMint(asker);
  const judged = guard.rights && judgeMint(guard.rights, asker, token, lifetime);
  const child = judged?.child ?? guard.child;
  const parent = child ? asker.own : undefined;
  const expire = judged === undefined ? expiry(lifetime, now, parent?.expireTime) : judged.expire;
  await countMint(tx, limits, token, now);
  const { scopes, audiences, allowedCidrs } = judged ?? token;
  const given = { ...token, scopes, audiences, allowedCidrs };
  await insert(tx, {
    ...given,
    createTime: now,
    issuedPosition: n,
    notBeforeTime: lifetime.notBeforeTime,
    expireTime: expire,
    parent: parent?.id ?? "",
    family: token.id,
    familyTime: now,
    familyLife: expire === undefined ? undefined : expire - now,
  });
  await appendAudit(tx, [
    {
      ...actor,
      tenant: token.tenant,
      action: "token.create",
      target: `token:${token.id}`,
      owner: token.principal,
      outcome: "OK",
      metadata: toldOf(given, expire, lifetime.notBeforeTime, parent?.id),
    },
  ]);
  return { kind: "created", token: await readToken(tx, token.id) };
}

/** What a token was given, as its audit row tells it; what it was not given is left out. */
function toldOf(of: NewToken, expire: number | undefined, notBefore: number | undefined, parent: string | undefined) {
  const told = {
    profile: of.profile,
    hint: of.hint,
    kid: of.kid,
    display_name: of.displayName,
    scopes: of.scopes.join(" "),
    audiences: of.audiences.join(" "),
    allowed_cidrs: of.allowedCidrs.join(" "),
    not_before_time: isoTime(notBefore),
    expire_time: expire === undefined ? "never" : isoTime(expire),
    parent: parent ?? "",
  };
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value !== ""));
}

function isoTime(time: number | undefined): string {
  return time === undefined ? "" : new Date(time).toISOString();
}

/** Replaces a token by a new one of the same rights and the same parent, and gives the old one its end. */
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
    const previous = await readToken(tx, repeated.token.rotatedFrom);
    await auditRepeat(tx, actor, "token.rotate", previous.id, previous);
    return { ...repeated, previous };
  }
  const before = await readToken(tx, id);
  await lockPrincipals(tx, [{ tenant: before.tenant, principal: before.principal }], guard.callerTokenId);
  await lockTokens(tx, [guard.callerTokenId, id]);
  const { now, n } = await reread(tx, before.tenant, before.principal);
  const made = await readHeld(tx, id);
  // This very call has made it: its commit came through a failover, and it was run again.
  if (made.rotatedTo === fresh.id) {
    // A revocation has made its request forgotten since: it stays so.
    await forget(tx, idempotency);
    await auditRepeat(tx, actor, "token.rotate", id, made);
    return { kind: "created", token: await readToken(tx, fresh.id), previous: await readToken(tx, id) };
  }
  const asker = await rereadCaller(tx, guard, now);
  const old = made;
  if (old.rotatedTo !== "") return rotatedBefore(tx, old, actor, idempotency);
  refuseDead(old);
  if (old.disabled) throw new AppError("TOKEN_DISABLED", "the token is disabled: enable it first");
  const judged = await judgedRotation(tx, guard.rights, asker, old, lifetime);
  if (judged.counted && guard.rights !== undefined) await countRotation(tx, guard.rights, old, overlapMs, now);
  await insert(tx, {
    ...givenOf(old),
    ...fresh,
    createTime: now,
    issuedPosition: n,
    notBeforeTime: old.notBeforeTime,
    expireTime: judged.expire,
    parent: old.parent,
    family: old.family,
    familyTime: old.familyTime,
    familyLife: judged.familyLife,
    rotatedFrom: id,
  });
  // Without an overlap it is revoked as well: an end by time alone would be undone by a clock that is set back.
  await tx.query(
    `update sallyport.tokens set rotated_to = $2,
       expire_time = least(expire_time, to_timestamp(($3::float8 + $4::float8) / 1000)),
       revoke_time = case when $4::float8 = 0 then to_timestamp($3::float8 / 1000) end,
       revoked_by = case when $4::float8 = 0 then $5 else '' end,
       revoke_reason = case when $4::float8 = 0 then 'rotated' else '' end where id = $1`,
    [id, fresh.id, now, overlapMs, actor.actor],
  );
  await appendAudit(tx, [
    {
      ...actor,
      tenant: old.tenant,
      action: "token.rotate",
      target: `token:${id}`,
      owner: old.principal,
      outcome: "OK",
      metadata: { new_token: fresh.id, hint: fresh.hint, overlap_seconds: String(overlapMs / 1000) },
    },
  ]);
  return { kind: "created", token: await readToken(tx, fresh.id), previous: await readToken(tx, id) };
}

/** One who was ended by its own rotation is told its answer again, as long as what it made is live. */
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

/** Locks whoever could be revoked meanwhile, for a change that widens a token: then reads the caller again. */
export async function guardWidening(tx: Tx, target: Token, guard: ChangeGuard): Promise<Asker> {
  await lockPrincipals(tx, [{ tenant: target.tenant, principal: target.principal }], guard.callerTokenId);
  await lockTokens(tx, [guard.callerTokenId, target.id]);
  const { now } = await reread(tx, target.tenant, target.principal);
  return rereadCaller(tx, guard, now);
}

/** A token with what its family was given. */
export async function readHeld(tx: Tx, id: string): Promise<Held> {
  const rows = await tx.query<TokenRow>(`select ${HELD_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return heldOf(rows[0]);
}

/** The row of a token's parent; `lockTokens` has locked it with the token. */
export async function parentOf(tx: Tx, token: Token): Promise<Held | undefined> {
  return token.parent === "" ? undefined : readHeld(tx, token.parent);
}

export async function readToken(tx: Tx, id: string): Promise<Token> {
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return tokenOf(rows[0]);
}

async function auditRepeat(tx: Tx, actor: AuditActor, action: string, id: string, of: Token): Promise<void> {
  const { tenant, principal: owner } = of;
  const metadata = { repeat: "true" };
  await appendRepeat(tx, { ...actor, tenant, action, target: `token:${id}`, owner, outcome: "OK", metadata });
}

/** Whoever repeats a rotation learns that it is done only once that is as certain as the first answer would have been. */
async function rotatedBefore(tx: Tx, old: Token, actor: AuditActor, of: Idempotency | undefined): Promise<AppError> {
  const refusal = rotated(old);
  const metadata = { reason: refusal.reason, ...refusal.metadata };
  const act = { tenant: old.tenant, action: "token.rotate", target: `token:${old.id}`, owner: old.principal };
  await appendRepeat(tx, { ...actor, ...act, outcome: "DENIED", metadata });
  await forget(tx, of);
  return refusal;
}

/** Takes back what `claim` has registered. */
async function forget(tx: Tx, of: Idempotency | undefined): Promise<void> {
  if (of === undefined) return;
  const mine = [of.caller, of.requestId];
  await tx.query("delete from sallyport.requests where caller = $1 and request_id = $2", mine);
}

function rotated(token: Token): AppError {
  return new AppError("TOKEN_ROTATED", "the token was already replaced by a rotation", {
    metadata: { rotated_to: token.rotatedTo },
  });
}

/** Refuses a change of a token that can no longer change. */
export function refuseDead(token: Token): void {
  if (token.rotatedTo !== "") throw rotated(token);
  if (token.state === "REVOKED") throw new AppError("TOKEN_REVOKED", "the token is revoked: it stays as it is");
  if (token.state === "EXPIRED") throw new AppError("TOKEN_REVOKED", "the token has expired: issue a new one");
}

/** Registers the request, or finds what the first one with its id stored. */
async function claim(tx: Tx, of: Idempotency | undefined, tokenId: string): Promise<Repeated | undefined> {
  if (of === undefined) return undefined;
  await tx.query(
    `delete from sallyport.requests where caller = $1 and request_id = $2 and at < clock_timestamp() - interval '10 min'`,
    [of.caller, of.requestId],
  );
  const claimed = await tx.query(
    `insert into sallyport.requests (caller, request_id, method, body, salt, token_id) values ($1, $2, $3, $4, $5, $6)
     on conflict do nothing returning token_id`,
    [of.caller, of.requestId, of.method, Buffer.from(of.body), Buffer.from(of.salt), tokenId],
  );
  if (claimed.length === 1) return undefined;
  const rows = await tx.query<{ method: string; body: Buffer; salt: Buffer; token_id: string }>(
    "select method, body, salt, token_id from sallyport.requests where caller = $1 and request_id = $2",
    [of.caller, of.requestId],
  );
  const row = rows[0];
  if (row === undefined) throw new AppError("WRITE_CONFLICT", "the same request is under way", { retryAfterMs: 200 });
  if (row.method !== of.method || !row.body.equals(of.body)) {
    throw new AppError("REQUEST_ID_REUSED", "request_id was used for another request within the last 10 minutes");
  }
  return { kind: "repeated", salt: row.salt, token: await readToken(tx, row.token_id) };
}

async function lockPrincipals(
  tx: Tx,
  of: readonly { tenant: string; principal: string }[],
  callerTokenId: string | undefined,
): Promise<void> {
  await tx.query(
    `with w (tenant, name) as (
       select t, p from unnest($1::text[], $2::text[]) u (t, p)
       union select tenant, principal from sallyport.tokens where id = $3
     )
     select sallyport.lock_shared(array(
       select k from (
         select sallyport.principal_key(tenant, name) from w union select sallyport.tenant_key(tenant) from w
       ) keys (k) order by k))`,
    [of.map(({ tenant }) => tenant), of.map(({ principal }) => principal), callerTokenId ?? ""],
  );
}

/** Theirs and their parents' rows: a parent's revocation ends its child's right to do anything. */
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

/** A new statement after the locks: position, time, and whether principal and tenant are good. */
async function reread(tx: Tx, tenant: string, principal: string): Promise<{ n: number; now: number }> {
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

/** The caller's own token as it is now, under lock; CALLER_UNAUTHENTICATED where it is no longer what it was. */
export async function rereadCaller(tx: Tx, guard: CallerGuard, now: number): Promise<Asker> {
  if (guard.callerTokenId === undefined) return { now };
  const gone = new AppError("CALLER_UNAUTHENTICATED", "the credential is no longer good");
  const own = await readHeld(tx, guard.callerTokenId).catch((error: unknown) => {
    throw error instanceof AppError ? gone : error;
  });
  const ownParent = await parentOf(tx, own);
  const scopes = withinParent(own.scopes, ownParent?.scopes);
  const narrowed = guard.callerScopes.some((scope) => !scopes.includes(scope));
  if (narrowed || own.state !== "ACTIVE" || (own.expireTime ?? now + 1) <= now) throw gone;
  return { now, own, ownParent };
}

async function insert(tx: Tx, fields: Inserted): Promise<void> {
  const { text, values } = insertToken(fields);
  await tx.query(text, values);
}

/** All that a new row says of itself; the other columns have their defaults. */
interface Inserted extends NewToken, Pick<Held, "createTime" | "notBeforeTime" | "expireTime" | "parent"> {
  readonly issuedPosition: number;
  readonly family: string;
  readonly familyTime: number;
  readonly familyLife: number | undefined;
  readonly rotatedFrom?: string;
}

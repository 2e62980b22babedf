import type { AuditActor } from "../domain/audit-event.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, LifetimeRule, MintGuard, MintLimits, NewToken, Repeated } from "../ports.ts";
import { appendAudit } from "./audit-log.ts";
import type { Tx } from "./pool.ts";
import { TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/**
 * Issues a token inside a transaction, so that it commits before any revocation that concerns it, or is refused:
 * shared locks of the principals and tenants first, then the token rows of those involved, then all of it read again in
 * a new statement (docs/revocation.md, "Minting must not outlive a revocation").
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
  const now = await reread(tx, token.tenant, token.principal);
  const caller = await rereadCaller(tx, guard, now.now);
  if (caller?.parent_id) {
    throw new AppError("RIGHTS_EXCEEDED", "a token that was minted by a token mints none itself");
  }
  const parent = guard.child ? caller : undefined;
  const expire = expiry(lifetime, now.now, parent?.expire_time ?? undefined);
  await count(tx, limits, token, now.now);
  await insert(tx, token, {
    now: now.now,
    n: now.n,
    notBefore: lifetime.notBeforeTime,
    expire,
    parentId: parent?.id ?? null,
    family: token.id,
    rotatedFrom: "",
  });
  await appendAudit(tx, [
    {
      ...actor,
      tenant: token.tenant,
      action: "token.create",
      target: `token:${token.id}`,
      owner: token.principal,
      outcome: "OK",
      metadata: { profile: token.profile, hint: token.hint, kid: token.kid },
    },
  ]);
  return { kind: "created", token: await readToken(tx, token.id) };
}

/** Replaces a token by a new one of the same rights and the same parent, and gives the old one its end. */
export async function rotate(
  tx: Tx,
  id: string,
  fresh: Pick<NewToken, "id" | "digest" | "kid" | "hint" | "createdBy">,
  lifetime: LifetimeRule,
  overlapMs: number,
  guard: Pick<MintGuard, "callerTokenId" | "callerScopes">,
  actor: AuditActor,
  idempotency: Idempotency | undefined,
): Promise<{ kind: "created"; token: Token; previous: Token } | Repeated | AppError> {
  const repeated = await claim(tx, idempotency, fresh.id);
  if (repeated !== undefined) {
    const previous = await readToken(tx, repeated.token.rotatedFrom);
    await auditRepeat(tx, actor, "token.rotate", previous.id, previous);
    return { ...repeated, previous };
  }
  const before = await readToken(tx, id);
  await lockPrincipals(tx, [{ tenant: before.tenant, principal: before.principal }], guard.callerTokenId);
  await lockTokens(tx, [guard.callerTokenId, id]);
  const now = await reread(tx, before.tenant, before.principal);
  await rereadCaller(tx, guard, now.now);
  const old = await readToken(tx, id);
  if (old.rotatedTo !== "") return rotatedBefore(tx, old, actor, idempotency);
  refuseDead(old);
  if (old.disabled) throw new AppError("TOKEN_DISABLED", "the token is disabled: enable it first");
  const parent = old.parent ? await readToken(tx, old.parent) : undefined;
  const token: NewToken = {
    ...fresh,
    tenant: old.tenant,
    profile: old.profile,
    principal: old.principal,
    displayName: old.displayName,
    description: old.description,
    scopes: old.scopes,
    audiences: old.audiences,
    allowedCidrs: old.allowedCidrs,
    annotations: old.annotations,
  };
  await insert(tx, token, {
    now: now.now,
    n: now.n,
    notBefore: undefined,
    expire: expiry(lifetime, now.now, parent?.expireTime),
    parentId: old.parent || null,
    family: await familyOf(tx, id),
    rotatedFrom: id,
  });
  // Without an overlap it is revoked as well: an end by time alone would be undone by a clock that is set back.
  await tx.query(
    `update sallyport.tokens set rotated_to = $2,
       expire_time = least(expire_time, to_timestamp(($3::float8 + $4::float8) / 1000)),
       revoke_time = case when $4::float8 = 0 then to_timestamp($3::float8 / 1000) end,
       revoked_by = case when $4::float8 = 0 then $5 else '' end,
       revoke_reason = case when $4::float8 = 0 then 'rotated' else '' end where id = $1`,
    [id, fresh.id, now.now, overlapMs, actor.actor],
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

/** Locks whoever could be revoked meanwhile, for a change that widens a token: then reads the caller again. */
export async function guardWidening(
  tx: Tx,
  target: Token,
  guard: Pick<MintGuard, "callerTokenId" | "callerScopes">,
): Promise<number> {
  await lockPrincipals(tx, [{ tenant: target.tenant, principal: target.principal }], guard.callerTokenId);
  await lockTokens(tx, [guard.callerTokenId, target.id]);
  const now = await reread(tx, target.tenant, target.principal);
  await rereadCaller(tx, guard, now.now);
  return now.now;
}

export async function readToken(tx: Tx, id: string): Promise<Token> {
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return tokenOf(rows[0]);
}

/** The row without which the commit of a repeat would write nothing, and so wait for no standby. */
async function auditRepeat(tx: Tx, actor: AuditActor, action: string, id: string, of: Token): Promise<void> {
  const { tenant, principal: owner } = of;
  const metadata = { repeat: "true" };
  await appendAudit(tx, [{ ...actor, tenant, action, target: `token:${id}`, owner, outcome: "OK", metadata }]);
}

/** Whoever repeats a rotation learns that it is done only once that is as certain as the first answer would have been. */
async function rotatedBefore(tx: Tx, old: Token, actor: AuditActor, of: Idempotency | undefined): Promise<AppError> {
  const refusal = rotated(old);
  const metadata = { reason: refusal.reason, ...refusal.metadata };
  const act = { tenant: old.tenant, action: "token.rotate", target: `token:${old.id}`, owner: old.principal };
  await appendAudit(tx, [{ ...actor, ...act, outcome: "DENIED", metadata }]);
  if (of !== undefined) {
    const mine = [of.caller, of.requestId];
    await tx.query("delete from sallyport.requests where caller = $1 and request_id = $2", mine);
  }
  return refusal;
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

/**
 * When a token ends, at this moment of the database's clock: the asked time, clamped by scope ceilings and by the
 * parent. INVALID_FIELD where the asked time is not after now, or beyond the profile's longest.
 */
export function expiry(rule: LifetimeRule, now: number, parentExpire: number | undefined): number | undefined {
  let expire: number | undefined;
  if (rule.expireTime !== undefined) {
    if (rule.expireTime <= now) throw invalidField("expire_time", "must be after the present time");
    if (rule.expireTime - now > rule.maxTtl) {
      throw invalidField("expire_time", `must be at most ${rule.maxTtl / 1000}s from now for this profile`);
    }
    expire = rule.expireTime;
  } else if (rule.ttl !== undefined) {
    expire = now + rule.ttl;
  }
  if (rule.ceiling !== undefined) expire = Math.min(expire ?? Number.POSITIVE_INFINITY, now + rule.ceiling);
  if (parentExpire !== undefined) expire = Math.min(expire ?? Number.POSITIVE_INFINITY, parentExpire);
  if (rule.notBeforeTime !== undefined && expire !== undefined && rule.notBeforeTime >= expire) {
    throw invalidField("not_before_time", "must be before the expiry of the token");
  }
  return expire;
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

type CallerRow = {
  readonly id: string;
  readonly parent_id: string | null;
  readonly expire_time: number | null;
  readonly scopes: string[];
};

/** The caller's own token as it is now, under lock; CALLER_UNAUTHENTICATED where it is no longer what it was. */
export async function rereadCaller(
  tx: Tx,
  guard: Pick<MintGuard, "callerTokenId" | "callerScopes">,
  now: number,
): Promise<CallerRow | undefined> {
  if (guard.callerTokenId === undefined) return undefined;
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`, [
    guard.callerTokenId,
  ]);
  const row = rows[0];
  const narrowed = row === undefined || guard.callerScopes.some((scope) => !row.scopes.includes(scope));
  if (row === undefined || narrowed || row.state !== "ACTIVE" || (row.expire_time ?? now + 1) <= now) {
    throw new AppError("CALLER_UNAUTHENTICATED", "the credential is no longer good");
  }
  return row;
}

async function count(tx: Tx, limits: MintLimits, token: NewToken, now: number): Promise<void> {
  if (limits.perAddressPerHour > 0 && limits.address !== "") {
    await take(tx, `a ${limits.address}`, now, HOUR, limits.perAddressPerHour, "mints per client address and hour");
  }
  const key = `p ${token.tenant} ${token.principal}`;
  if (limits.perPrincipalPerDay > 0) {
    await take(tx, key, now, DAY, limits.perPrincipalPerDay, "mints per principal and day");
  }
  if (limits.maxLive > 0) {
    // To the end of the commit: nobody mints for this principal between count and insert.
    await tx.query("select pg_advisory_xact_lock(hashtextextended($1, 0))", [`live ${key}`]);
    const rows = await tx.query<{ live: number }>(
      `select count(*) as live from sallyport.token_view v where v.tenant = $1 and v.principal = $2
         and v.state in ('ACTIVE', 'NOT_YET_VALID', 'DISABLED')`,
      [token.tenant, token.principal],
    );
    if ((rows[0]?.live ?? 0) >= limits.maxLive) {
      throw limitExceeded(`live tokens per principal: at most ${limits.maxLive}; revoke some`, HOUR);
    }
  }
}

async function take(tx: Tx, key: string, now: number, window: number, limit: number, what: string): Promise<void> {
  const start = Math.floor(now / window) * window;
  const rows = await tx.query<{ count: number }>(
    `insert into sallyport.mint_counts as c (key, window_start, count)
     values ($1, to_timestamp($2::float8 / 1000), 1)
     on conflict (key, window_start) do update set count = c.count + 1 returning count`,
    [key, start],
  );
  if ((rows[0]?.count ?? 0) > limit) throw limitExceeded(`${what}: at most ${limit}`, start + window - now);
}

function limitExceeded(message: string, retryAfterMs: number): AppError {
  return new AppError("LIMIT_EXCEEDED", message, { retryAfterMs });
}

async function familyOf(tx: Tx, id: string): Promise<string> {
  const rows = await tx.query<{ family: string }>("select family from sallyport.tokens where id = $1", [id]);
  return rows[0]?.family ?? id;
}

interface Birth {
  readonly now: number;
  readonly n: number;
  readonly notBefore: number | undefined;
  readonly expire: number | undefined;
  readonly parentId: string | null;
  readonly family: string;
  readonly rotatedFrom: string;
}

async function insert(tx: Tx, token: NewToken, birth: Birth): Promise<void> {
  await tx.query(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, display_name, description, scopes,
       audiences, allowed_cidrs, annotations, create_time, created_by, not_before_time, expire_time, parent_id, family,
       rotated_from, issued_n)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, to_timestamp($14::float8 / 1000), $15,
       to_timestamp($16::float8 / 1000), to_timestamp($17::float8 / 1000), $18, $19, $20, $21)`,
    [
      token.id,
      Buffer.from(token.digest, "latin1"),
      token.kid,
      token.hint,
      token.tenant,
      token.profile,
      token.principal,
      token.displayName,
      token.description,
      token.scopes,
      token.audiences,
      token.allowedCidrs,
      JSON.stringify(token.annotations),
      birth.now,
      token.createdBy,
      birth.notBefore ?? null,
      birth.expire ?? null,
      birth.parentId,
      birth.family,
      birth.rotatedFrom,
      birth.n,
    ],
  );
}

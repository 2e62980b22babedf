import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import { expiry, type LifetimeRule } from "../domain/lifetime.ts";
import { checkMayMint, judgeMint, type Rights } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, MintGuard, MintLimits, NewToken, Repeated } from "../revocation/authority-store.ts";
import { auditTenants, checkAttachable } from "./attaching.ts";
import { givenTo } from "./audit-facts.ts";
import { appendAudit, appendRepeat } from "./audit-log.ts";
import { lockGranting, lockTokens, rereadActor, rereadCaller, rereadOwners } from "./caller-guard.ts";
import { admitReaders, KNOWS_TENANTS } from "./mixed-fleet.ts";
import type { Tx } from "./pool.ts";
import { lockedRoles, roleIds } from "./role-rows.ts";
import { insertToken, readToken } from "./rows.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** A window slides in steps. A count stays for up to one step longer, never shorter. */
const STEPS = 60;

/**
 * Issues a token inside a transaction. It commits before any revocation that concerns it, or is refused: it takes shared
 * locks of principals, tenants and roles, then locks of the token rows, then reads all of them again in a new statement
 * (docs/protocol.md §3.4).
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
    await rereadActor(tx, actor);
    await auditRepeat(tx, actor, "token.create", repeated.token.id, repeated.token);
    return repeated;
  }
  const ids = await roleIds(tx, token.tenant, token.roles);
  const locked = await lockGranting(tx, token, guard, ids, token.tenants);
  if (!guard.mustExist) {
    await tx.query(
      `insert into sallyport.principals (tenant, name) select $1, $2 from sallyport.tenants where id = $1
       on conflict do nothing`,
      [token.tenant, token.principal],
    );
  }
  await lockTokens(tx, [guard.callerTokenId]);
  const { now, n } = await rereadOwners(tx, token.tenant, token.principal);
  const asker = await rereadCaller(tx, guard, now, locked, token.tenants);
  const roles = await lockedRoles(tx, ids);
  checkMayMint(asker);
  const judged = guard.rights && judgeMint(guard.rights, asker, token, lifetime, roles);
  await checkAttachable(tx, token.tenants);
  // After the judgement: it holds back what all instances acknowledge.
  if (token.tenants.length > 0) await admitReaders(tx, KNOWS_TENANTS);
  const child = judged?.child ?? guard.child;
  const parent = child ? asker.own : undefined;
  const expire = judged === undefined ? expiry(lifetime, now, parent?.expireTime) : judged.expire;
  await countMint(tx, limits, token, now);
  const { scopes, audiences, allowedCidrs } = judged ?? token;
  const given = { ...token, scopes, audiences, allowedCidrs };
  const row = {
    ...given,
    roleIds: ids,
    tenantPositions: token.tenants.map(() => n),
    createTime: now,
    issuedPosition: n,
    notBeforeTime: lifetime.notBeforeTime,
    expireTime: expire,
    parent: parent?.id ?? "",
    family: token.id,
    familyTime: now,
    familyLife: expire === undefined ? undefined : expire - now,
  };
  const roleScopes = roles.flatMap((role) => role.scopes);
  await insertToken(tx, row, roleScopes, idempotency);
  await appendAudit(tx, [
    {
      ...actor,
      tenant: token.tenant,
      action: "token.create",
      target: `token:${token.id}`,
      owner: token.principal,
      outcome: "OK",
      metadata: givenTo(given, { expire, notBefore: lifetime.notBeforeTime, parent: parent?.id ?? "" }),
    },
  ]);
  await auditTenants(tx, actor, token, [], token.tenants);
  return { kind: "created", token: await readToken(tx, token.id) };
}

// ---------------------------------------------------------------------------------------------------- requests

/** Registers the request, or returns the stored result of the first request with this id. */
export async function claim(tx: Tx, of: Idempotency | undefined, tokenId: string): Promise<Repeated | undefined> {
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
  const rows = await tx.query<{ method: string; body: Buffer; salt: Buffer; token_id: string; signed: string | null }>(
    "select method, body, salt, token_id, signed from sallyport.requests where caller = $1 and request_id = $2",
    [of.caller, of.requestId],
  );
  const row = rows[0];
  if (row === undefined) throw new AppError("WRITE_CONFLICT", "the same request is under way", { retryAfterMs: 200 });
  if (row.method !== of.method || !row.body.equals(of.body)) {
    throw new AppError("REQUEST_ID_REUSED", "request_id was used for another request within the last 10 minutes");
  }
  return { kind: "repeated", salt: row.salt, input: row.signed ?? undefined, token: await readToken(tx, row.token_id) };
}

/** Deletes the registration of `claim`. */
export async function forget(tx: Tx, of: Idempotency | undefined): Promise<void> {
  if (of === undefined) return;
  await tx.query("delete from sallyport.requests where caller = $1 and request_id = $2", [of.caller, of.requestId]);
}

export async function auditRepeat(tx: Tx, actor: AuditActor, action: string, id: string, of: Token): Promise<void> {
  const { tenant, principal: owner } = of;
  const metadata = { repeat: "true" };
  await appendRepeat(tx, { ...actor, tenant, action, target: `token:${id}`, owner, outcome: "OK", metadata });
}

// ---------------------------------------------------------------------------------------------------- limits

type Whose = Pick<Token, "tenant" | "principal">;

/** A limit on calls with the same key in a window. */
interface Limit {
  readonly key: string;
  readonly window: number;
  readonly most: number;
  readonly what: string;
}

/** Counts a mint inside its transaction, so a refused mint does not count. */
export async function countMint(tx: Tx, limits: MintLimits, token: Whose, now: number): Promise<void> {
  const { address, perAddressPerHour, perPrincipalPerDay, maxLive } = limits;
  const what = { address: "mints per client address and hour", principal: "mints per principal and day" };
  const counted: Limit[] = [
    { key: `a ${address}`, window: HOUR, most: address === "" ? 0 : perAddressPerHour, what: what.address },
    { key: keyOf("p", token), window: DAY, most: perPrincipalPerDay, what: what.principal },
  ];
  await count(tx, counted, token, maxLive, now);
}

/**
 * Counts a rotation by a caller that is no administrator. Without an overlap it replaces one token by one, so the limit
 * on live tokens does not apply.
 */
export async function countRotation(tx: Tx, rights: Rights, old: Whose, overlapMs: number, now: number): Promise<void> {
  const what = "rotations per principal and day";
  const counted = [{ key: keyOf("r", old), window: DAY, most: rights.rotationsPerDay, what }];
  await count(tx, counted, old, overlapMs > 0 ? rights.profile.maxLivePerPrincipal : 0, now);
}

/** Counts an exchange by a trust rule. The limits of mints do not apply: continuous integration would soon reach them. */
export async function countExchange(tx: Tx, rule: string, most: number, of: Whose, now: number): Promise<void> {
  const what = "exchanges per trust rule and hour";
  await count(tx, [{ key: `t ${rule}`, window: HOUR, most, what }], of, 0, now);
}

function keyOf(kind: string, { tenant, principal }: Whose): string {
  return `${kind} ${tenant} ${principal}`;
}

async function count(tx: Tx, all: readonly Limit[], of: Whose, maxLive: number, now: number): Promise<void> {
  const limits = all.filter(({ most }) => most > 0);
  const locks = limits.map(({ key }) => `count ${key}`);
  if (maxLive > 0) locks.push(`live ${keyOf("p", of)}`);
  if (locks.length === 0) return;
  // Held until the commit, so no other transaction counts the same key in between. Each count is a new statement.
  const taken = locks.map((_, i) => `pg_advisory_xact_lock(hashtextextended($${i + 1}, 0))`);
  await tx.query(`select ${taken.join(", ")}`, locks);
  for (const limit of limits) await take(tx, limit, now);
  if (maxLive > 0) await checkLive(tx, maxLive, of);
}

async function checkLive(tx: Tx, most: number, of: Whose): Promise<void> {
  const rows = await tx.query<{ live: number }>(
    `select count(*) as live from sallyport.token_view v where v.tenant = $1 and v.principal = $2
       and v.state in ('ACTIVE', 'NOT_YET_VALID', 'DISABLED')`,
    [of.tenant, of.principal],
  );
  if ((rows[0]?.live ?? 0) >= most) throw exceeded(`live tokens per principal: at most ${most}; revoke some`, HOUR);
}

/** Adds one to this key in a window that ends now. The select sees the counts from before the insert. */
async function take(tx: Tx, { key, window, most, what }: Limit, now: number): Promise<void> {
  const step = window / STEPS;
  const counted = await tx.query<{ start: number; count: number }>(
    `with one_more as (
       insert into sallyport.mint_counts as c (key, window_start, count)
       values ($1, to_timestamp($3::float8 / 1000), 1)
       on conflict (key, window_start) do update set count = c.count + 1
     )
     select window_start as start, count from sallyport.mint_counts
     where key = $1 and window_start > to_timestamp($2::float8 / 1000) order by window_start`,
    [key, now - window - step, Math.floor(now / step) * step],
  );
  let over = counted.reduce((sum, row) => sum + row.count, 1) - most;
  if (over <= 0) return;
  const frees = counted.find((row) => (over -= row.count) <= 0);
  throw exceeded(`${what}: at most ${most}`, Math.min(window, (frees?.start ?? now) + window + step - now));
}

function exceeded(message: string, retryAfterMs: number): AppError {
  return new AppError("LIMIT_EXCEEDED", message, { retryAfterMs });
}

import { AppError } from "../domain/errors.ts";
import type { Rights } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { MintLimits } from "../revocation/authority-store.ts";
import type { Tx } from "./pool.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** A window slides in steps. A count stays for up to one step longer, never shorter. */
const STEPS = 60;

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

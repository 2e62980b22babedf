import { AppError } from "../domain/errors.ts";
import type { Rights } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { MintLimits } from "../ports.ts";
import type { Tx } from "./pool.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** A window slides in so many steps: what was counted stays counted for a step more, never for less. */
const STEPS = 60;

type Whose = Pick<Token, "tenant" | "principal">;

/** Counts a mint inside its transaction: a refused one counts for nothing. */
export async function countMint(tx: Tx, limits: MintLimits, token: Whose, now: number): Promise<void> {
  if (limits.perAddressPerHour > 0 && limits.address !== "") {
    await take(tx, `a ${limits.address}`, now, HOUR, limits.perAddressPerHour, "mints per client address and hour");
  }
  if (limits.perPrincipalPerDay > 0) {
    await take(tx, keyOf("p", token), now, DAY, limits.perPrincipalPerDay, "mints per principal and day");
  }
  await checkLive(tx, limits.maxLive, token);
}

/**
 * Counts a rotation by one who is no administrator. Without an overlap it ends one token for the one it makes, and is
 * possible however many there are.
 */
export async function countRotation(tx: Tx, rights: Rights, old: Whose, overlapMs: number, now: number): Promise<void> {
  if (rights.rotationsPerDay > 0) {
    await take(tx, keyOf("r", old), now, DAY, rights.rotationsPerDay, "rotations per principal and day");
  }
  if (overlapMs > 0) await checkLive(tx, rights.profile.maxLivePerPrincipal, old);
}

function keyOf(kind: string, { tenant, principal }: Whose): string {
  return `${kind} ${tenant} ${principal}`;
}

async function checkLive(tx: Tx, most: number, of: Whose): Promise<void> {
  if (most <= 0) return;
  // To the end of the commit: nobody mints for this principal between count and insert.
  await lock(tx, `live ${keyOf("p", of)}`);
  const rows = await tx.query<{ live: number }>(
    `select count(*) as live from sallyport.token_view v where v.tenant = $1 and v.principal = $2
       and v.state in ('ACTIVE', 'NOT_YET_VALID', 'DISABLED')`,
    [of.tenant, of.principal],
  );
  if ((rows[0]?.live ?? 0) >= most) throw exceeded(`live tokens per principal: at most ${most}; revoke some`, HOUR);
}

/** One more of this key in a window that ends now. */
async function take(tx: Tx, key: string, now: number, window: number, limit: number, what: string): Promise<void> {
  const step = window / STEPS;
  await lock(tx, `count ${key}`);
  const counted = await tx.query<{ start: number; count: number }>(
    `select window_start as start, count from sallyport.mint_counts
     where key = $1 and window_start > to_timestamp($2::float8 / 1000) order by window_start`,
    [key, now - window - step],
  );
  let over = counted.reduce((sum, { count }) => sum + count, 1) - limit;
  if (over > 0) {
    const frees = counted.find(({ count }) => (over -= count) <= 0);
    throw exceeded(`${what}: at most ${limit}`, (frees?.start ?? now) + window + step - now);
  }
  await tx.query(
    `insert into sallyport.mint_counts as c (key, window_start, count)
     values ($1, to_timestamp($2::float8 / 1000), 1)
     on conflict (key, window_start) do update set count = c.count + 1`,
    [key, Math.floor(now / step) * step],
  );
}

async function lock(tx: Tx, name: string): Promise<void> {
  await tx.query("select pg_advisory_xact_lock(hashtextextended($1, 0))", [name]);
}

function exceeded(message: string, retryAfterMs: number): AppError {
  return new AppError("LIMIT_EXCEEDED", message, { retryAfterMs });
}

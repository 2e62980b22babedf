import { invalidField } from "./errors.ts";

/** How long a new token lives, in terms of the database's clock at the insert. All that are given hold: the least wins. */
export interface LifetimeRule {
  readonly ttl?: number;
  readonly expireTime?: number;
  /** No expiry, unless a ceiling or a bound gives one. */
  readonly never?: boolean;
  /** The longest the profile allows; `expireTime` beyond it is refused. Undefined where `never` is allowed and asked. */
  readonly maxTtl: number;
  /** Of scopes: clamps whatever was asked. */
  readonly ceiling?: number;
  readonly notBeforeTime?: number;
}

/**
 * When a token ends, at this moment of the database's clock: the asked time, clamped by the ceiling and by the bounds (a
 * parent's end, an old token's). INVALID_FIELD where the asked time is not after now, or beyond the profile's longest.
 */
export function expiry(
  rule: LifetimeRule,
  now: number,
  ...bounds: readonly (number | undefined)[]
): number | undefined {
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
  if (rule.ceiling !== undefined) expire = earlier(expire, now + rule.ceiling);
  for (const bound of bounds) expire = earlier(expire, bound);
  if (rule.notBeforeTime !== undefined && expire !== undefined && rule.notBeforeTime >= expire) {
    throw invalidField("not_before_time", "must be before the expiry of the token");
  }
  return expire;
}

/** The earlier of two ends; undefined is no end. */
export function earlier(a: number | undefined, b: number | undefined): number | undefined {
  if (a === undefined) return b;
  return b === undefined ? a : Math.min(a, b);
}

/** Whether one end comes after another; undefined is no end. */
export function isLater(a: number | undefined, b: number | undefined): boolean {
  return b !== undefined && (a === undefined || a > b);
}

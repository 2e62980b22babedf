import { invalidField } from "./errors.ts";

/** So long before its end an administrator's token is one to replace. Milliseconds. */
export const ADMIN_ENDS_SOON_MS = 14 * 86_400_000;

/** The lifetime of a new token, by the database's clock at the insert. All given limits apply; the shortest wins. */
export interface LifetimeRule {
  readonly ttl?: number;
  readonly expireTime?: number;
  /** No expiry, unless a ceiling or a bound gives one. */
  readonly never?: boolean;
  /**
   * The longest lifetime that the profile allows; a later `expireTime` is refused. Undefined if `never` is allowed and
   * requested.
   */
  readonly maxTtl: number;
  /** The ceiling of the scopes. It shortens whatever was requested. */
  readonly ceiling?: number;
  readonly notBeforeTime?: number;
}

/**
 * Returns the expiry at this moment of the database's clock: the requested time, shortened by the ceiling and the
 * bounds (a parent's end, an old token's end). INVALID_FIELD if the requested time is not after now or is beyond the
 * profile's longest.
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

/** The earlier of two ends; undefined means no end. */
export function earlier(a: number | undefined, b: number | undefined): number | undefined {
  if (a === undefined) return b;
  return b === undefined ? a : Math.min(a, b);
}

/** True if one end comes after another; undefined means no end. */
export function isLater(a: number | undefined, b: number | undefined): boolean {
  return b !== undefined && (a === undefined || a > b);
}

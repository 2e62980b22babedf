import { onTestFinished } from "vitest";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { RedisConnection, type RedisConnectionOptions } from "../../src/redis/client.ts";
import { RedisTokenCache } from "../../src/redis/token-cache.ts";

export const clock = { mono: () => performance.now(), wall: () => Date.now() };

/** The reported problems, as an operator would read them. */
export class Journal {
  readonly lines: string[] = [];
  readonly alarms: Readonly<Record<string, string | number>>[] = [];
  trouble = (what: string, error: unknown) => void this.lines.push(`${what}: ${error}`);
  alarm = (_what: string, facts: Readonly<Record<string, string | number>>) => void this.alarms.push(facts);
}

export function keyring(): Keyring {
  const { current, keys } = freshKeyring();
  return new Keyring(current, keys);
}

export function connect(url: string, over: Partial<RedisConnectionOptions> = {}) {
  const journal = new Journal();
  const redis = new RedisConnection({ url, clock, events: journal, ...over });
  onTestFinished(() => redis.close());
  return { redis, journal };
}

/** A generous bound for tests that are not about time. */
export const PATIENT = { commandMs: 2000 };

/** A cache on its own connection; `ready` resolves when it is usable. */
export function openCache(url: string, over: Partial<RedisConnectionOptions> = {}, keys = keyring(), ttlMs = 60_000) {
  const { redis, journal } = connect(url, over);
  const cache = new RedisTokenCache({ redis, keyring: keys, clock, ttlMs, events: journal });
  const ready = redis.ready ? Promise.resolve() : new Promise<void>((resolve) => redis.onReady(resolve));
  return { cache, redis, journal, keys, ready };
}

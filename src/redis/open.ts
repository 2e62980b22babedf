import type { Clock } from "../domain/clock.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Events } from "../telemetry/events.ts";
import { RedisConnection } from "./client.ts";
import { RedisTokenCache } from "./token-cache.ts";
import { RedisWakeUps } from "./wakeups.ts";

export interface RedisOptions {
  readonly url: string;
  readonly ttlMs: number;
  readonly keyring: Keyring;
  readonly clock: Clock;
  readonly events: Events;
}

/** The second cache, and wake-ups by the same server. Speed only: answers and waits are right without them. */
export function openRedisCache({ url, ttlMs, keyring, clock, events }: RedisOptions) {
  const redis = new RedisConnection({ url, clock, events });
  const wakeUps = new RedisWakeUps({ redis, url, events });
  return {
    cache: new RedisTokenCache({ redis, keyring, clock, ttlMs, events }),
    wakeUps,
    get ready() {
      return redis.ready;
    },
    close() {
      wakeUps.close();
      redis.close();
    },
  };
}

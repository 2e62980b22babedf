import { createHash } from "node:crypto";
import type { Clock } from "../domain/clock.ts";
import type { Keyring } from "../domain/keyring.ts";
import { entryName, open, seal } from "../domain/sealed-entry.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import type { Events } from "../telemetry/events.ts";
import type { TokenCache } from "../validation/ports.ts";
import { type Commands, type RedisConnection, replyCode } from "./client.ts";

export interface RedisTokenCacheOptions {
  readonly redis: RedisConnection;
  readonly keyring: Keyring;
  readonly clock: Clock;
  /** Counts from the fill, in milliseconds. It must be below the ten minutes that the log is kept. */
  readonly ttlMs: number;
  readonly events: Pick<Events, "alarm" | "trouble">;
}

/** No hash tag, so that entries spread over a cluster. */
export const PREFIX = "sallyport:v1:";
const MOST_FILLS = 256;
const ALARM_EVERY_MS = 1000;

// The position comes first, as 16 decimal digits. A value that is not an entry is replaced.
const FILL = `local old = redis.pcall('GET', KEYS[1])
if type(old) == 'string' then
  local n = tonumber(string.match(old, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d'))
  if n and n > tonumber(string.sub(ARGV[1], 1, 16)) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`;
const FILL_SHA = createHash("sha1").update(FILL).digest("hex");

/**
 * The L2 cache. Names and seals use the keyring's current pepper, whichever pepper the token uses, because a snapshot
 * does not name it. During a rollout of a new pepper, processes with different current peppers miss each other's
 * entries; nothing else changes.
 */
export class RedisTokenCache implements TokenCache {
  readonly #options: RedisTokenCacheOptions;
  #fills = 0;
  #scripts = true;
  #bad = 0;
  #alarmed = Number.NEGATIVE_INFINITY;

  constructor(options: RedisTokenCacheOptions) {
    this.#options = options;
    options.redis.onReady(() => (this.#scripts = true));
  }

  get ready(): boolean {
    return this.#options.redis.ready;
  }

  async get(digest: string, epoch: string): Promise<TokenSnapshot | undefined> {
    const { redis, keyring } = this.#options;
    const name = entryName(keyring.current, epoch, digest);
    const value = await redis.ask((commands) => commands.getBuffer(keyOf(name)));
    if (value === undefined || value === null) return undefined;
    const snapshot = open(value, name, { digest, epoch }, keyring);
    if (snapshot === undefined) this.#badSeal();
    return snapshot;
  }

  fill(snapshot: TokenSnapshot): void {
    const { redis, keyring, clock } = this.#options;
    if (!redis.ready || this.#fills >= MOST_FILLS) return;
    const keys = keyring.current;
    const name = entryName(keys, snapshot.version.epoch, snapshot.digest);
    const value = seal(snapshot, name, keys, clock.wall());
    this.#fills++;
    void redis.ask((commands) => this.#store(commands, keyOf(name), value)).finally(() => this.#fills--);
  }

  async #store(commands: Commands, key: string, value: Buffer): Promise<unknown> {
    const { ttlMs } = this.#options;
    // Without scripts an older fill may overwrite a newer one. Readers check the version, so an old entry is refused or
    // is just as good.
    if (!this.#scripts) return commands.set(key, value, "PX", ttlMs);
    try {
      return await commands.evalsha(FILL_SHA, 1, key, value, ttlMs);
    } catch (error) {
      if (replyCode(error) === "NOSCRIPT") return commands.eval(FILL, 1, key, value, ttlMs);
      if (!isUnavailable(error)) throw error;
      this.#scripts = false;
      return commands.set(key, value, "PX", ttlMs);
    }
  }

  /** A process without the pepper writes into the cache. Bad seals in quick succession raise one alarm. */
  #badSeal(): void {
    const { clock, events } = this.#options;
    this.#bad++;
    if (clock.mono() - this.#alarmed < ALARM_EVERY_MS) return;
    this.#alarmed = clock.mono();
    events.alarm("cache_seal_invalid", { entries: this.#bad });
    this.#bad = 0;
  }
}

/** True if the server does not let us use this command: forbidden, renamed, or an engine without scripts. */
function isUnavailable(error: unknown): boolean {
  return replyCode(error) === "NOPERM" || (replyCode(error) === "ERR" && /unknown command/i.test(String(error)));
}

function keyOf(name: Buffer): string {
  return PREFIX + name.toString("base64url");
}

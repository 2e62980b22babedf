// redis/: speed only. Nothing here is believed, and nothing waits for it.
import { randomInt } from "node:crypto";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import type { Clock } from "../domain/clock.ts";
import type { Events } from "../telemetry/events.ts";
import { Breaker } from "./breaker.ts";
import { parseRedisUrl, type RedisAddress } from "./redis-url.ts";
import { boundReplies } from "./reply-bound.ts";

export interface RedisConnectionOptions {
  /** A form that `parseRedisUrl` knows. */
  readonly url: string;
  readonly clock: Pick<Clock, "mono">;
  readonly events: Pick<Events, "trouble">;
  /** What a command may cost whoever waits for it: 50 ms unless said. */
  readonly commandMs?: number;
}

/** The commands that we use: one key each, so that a cluster can do them; none that an ACL needs to allow besides. */
export type Commands = Pick<Redis, "getBuffer" | "set" | "eval" | "evalsha" | "publish">;

const COMMAND_MS = 50;
/** For how long a Redis that did not answer is left alone. */
const REST_MS = 1000;
/** A connection on which nothing comes for so long, though something was asked, is a dead one. */
const SILENT_MS = 1000;

/** The connection for commands: never waited for longer than 50 ms, and left alone for a second when it hangs. */
export class RedisConnection {
  readonly #client: Redis | Cluster;
  readonly #breaker: Breaker;
  readonly #events: RedisConnectionOptions["events"];
  readonly #commandMs: number;

  constructor({ url, clock, events, commandMs = COMMAND_MS }: RedisConnectionOptions) {
    this.#events = events;
    this.#commandMs = commandMs;
    this.#breaker = new Breaker(clock, REST_MS);
    this.#client = openRedis(url, commandMs, (error) => events.trouble("redis_unreachable", error));
  }

  /** Whether a command would be sent now. */
  get ready(): boolean {
    return this.#client.status === "ready" && this.#breaker.closed;
  }

  /**
   * Does a command, within its bound. Undefined where it failed, did not answer or was not sent; never rejects. A command
   * that was given up may still be executed.
   */
  async ask<T>(command: (redis: Commands) => Promise<T>): Promise<T | undefined> {
    if (this.#client.status !== "ready" || !this.#breaker.admit()) return undefined;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error("timeout")), this.#commandMs);
    try {
      const answer = command(this.#client as Commands);
      answer.catch(() => {});
      const value = await Promise.race([answer, late]);
      this.#breaker.succeeded();
      return value;
    } catch (error) {
      // A refusal is an answer: the server is there.
      if (replyCode(error) === undefined) this.#breaker.failed();
      else this.#breaker.succeeded();
      this.#events.trouble("redis_failed", safeCause(error));
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Called whenever a connection is there, the first one included. */
  onReady(listener: () => void): void {
    this.#client.on("ready", listener);
  }

  close(): void {
    this.#client.disconnect();
  }
}

/** Opens a connection that comes back for ever, at most once a second. Throws StartError. */
export function openRedis(url: string, commandMs: number, onError: (error: Error) => void): Redis | Cluster {
  const address = parseRedisUrl(url);
  const client = address.kind === "cluster" ? openCluster(address, commandMs) : new Redis(settings(address, commandMs));
  client.on("error", (error) => onError(safeCause(error)));
  const onBound = () => onError(safeCause(new RangeError("a reply beyond all measure")));
  if (client instanceof Cluster) client.on("+node", (node: Redis) => boundReplies(node, onBound));
  else boundReplies(client, onBound);
  return client;
}

function settings(address: RedisAddress, commandMs: number): RedisOptions {
  const [first] = address.hosts;
  const sentinel = address.kind === "sentinel";
  return {
    ...(sentinel
      ? {
          sentinels: [...address.hosts],
          name: address.master,
          failoverDetector: true,
          sentinelCommandTimeout: 1000,
          sentinelRetryStrategy: reconnectDelay,
          ...(address.tls && { enableTLSForSentinelMode: true, sentinelTLS: verified(address) }),
        }
      : { host: first!.host, port: first!.port }),
    ...shared(address, commandMs),
    db: address.db,
    retryStrategy: reconnectDelay,
    enableOfflineQueue: false,
    enableAutoPipelining: true,
  };
}

function openCluster(address: RedisAddress, commandMs: number): Cluster {
  const options: ClusterOptions = {
    redisOptions: shared(address, commandMs),
    clusterRetryStrategy: reconnectDelay,
    clusterNodeRetryStrategy: reconnectDelay,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    enableAutoPipelining: true,
    slotsRefreshTimeout: 1000,
    slotsRefreshInterval: 5000,
    // Nobody waits for longer than a command may take.
    maxRedirections: 2,
    retryDelayOnFailover: commandMs,
    retryDelayOnClusterDown: commandMs,
    retryDelayOnTryAgain: commandMs,
    // Left as a name, by which its certificate is verified.
    ...(address.tls && { dnsLookup: (host, done) => done(null, host) }),
  };
  return new Cluster([...address.hosts], options);
}

/**
 * Chain and name of a certificate are verified. Cluster and sentinels tell of nodes by address, while certificates are for
 * names: of a node without a name, a certificate for one of those that the URL names is good.
 */
function verified({ names }: RedisAddress) {
  return {
    checkServerIdentity(host: string, certificate: PeerCertificate): Error | undefined {
      const error = checkServerIdentity(host, certificate);
      if (error === undefined || isIP(host) === 0) return error;
      return names.some((name) => checkServerIdentity(name, certificate) === undefined) ? undefined : error;
    },
  };
}

function shared(address: RedisAddress, commandMs: number) {
  const { username, password, tls } = address;
  return {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls && { tls: verified(address) }),
    protocol: 2,
    connectTimeout: 1000,
    commandTimeout: commandMs,
    socketTimeout: SILENT_MS,
    keepAlive: 10_000,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    // INFO and CLIENT are commands that our user need not have; a server that still loads answers with an error.
    enableReadyCheck: false,
    disableClientInfo: true,
    // A primary that became a replica goes on answering reads: leave it, and ask who is the primary now.
    reconnectOnError: (error: Error) => /\bREADONLY\b/.test(error.message),
  } as const satisfies RedisOptions;
}

/** Many processes lose the same server at the same time. */
function reconnectDelay(): number {
  return randomInt(500, 1000);
}

/** The code of a refusal by the server, such as `NOSCRIPT`; undefined for an error that it did not send. */
export function replyCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.name !== "ReplyError") return undefined;
  return /^[A-Z]{2,20}\b/.exec(error.message)?.[0] ?? "ERR";
}

/** A driver's error by class and code: never its message or its command's arguments. */
export function safeCause(error: unknown): Error {
  const code = replyCode(error) ?? (error as { code?: unknown } | null)?.code ?? "";
  const kind = error instanceof Error ? error.name : typeof error;
  const late = error instanceof Error && /^(timeout$|Command timed out)/.test(error.message) ? "timeout" : "";
  const safe = new Error(`${kind} ${String(code)} ${late}`.trim());
  safe.name = "RedisError";
  return safe;
}

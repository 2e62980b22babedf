// redis/: Redis only makes things faster. Nothing here is trusted, and nothing waits for it beyond a short bound.
import { randomInt } from "node:crypto";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import type { Clock } from "../domain/clock.ts";
import type { Events } from "../telemetry/events.ts";
import { Breaker } from "./breaker.ts";
import { parseRedisUrl, type RedisAddress } from "./redis-url.ts";
import { boundCluster, boundReplies, boundSentinels } from "./reply-bound.ts";

export interface RedisConnectionOptions {
  /** A URL that `parseRedisUrl` accepts. */
  readonly url: string;
  readonly clock: Pick<Clock, "mono">;
  readonly events: Pick<Events, "trouble">;
  /** The longest wait for a command; 50 ms by default. */
  readonly commandMs?: number;
}

/** The commands in use. Each has one key, so that a cluster can execute it. An ACL needs to allow no other command. */
export type Commands = Pick<Redis, "getBuffer" | "set" | "eval" | "evalsha" | "publish">;

const COMMAND_MS = 50;
/** The pause after a failure, before Redis is asked again. */
const REST_MS = 1000;
/** A connection with outstanding commands that stays silent for this long is dead. */
const SILENT_MS = 1000;

/** The connection for commands. A command waits at most 50 ms; after a failure Redis rests for a second. */
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

  /** True if a command would be sent now. */
  get ready(): boolean {
    return this.#client.status === "ready" && this.#breaker.closed;
  }

  /**
   * Executes a command within its time bound. Undefined if the command failed, timed out or was not sent; never
   * rejects. Redis may still execute a command that timed out.
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
      // An error reply is a reply: the server is alive.
      if (replyCode(error) === undefined) this.#breaker.failed();
      else this.#breaker.succeeded();
      this.#events.trouble("redis_failed", safeCause(error));
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Calls `listener` after each connection, including the first. */
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
  const onBound = () => onError(safeCause(new RangeError("a reply above the size limit")));
  const client =
    address.kind === "cluster" ? openCluster(address, commandMs) : new Redis(settings(address, commandMs, onBound));
  client.on("error", (error) => onError(safeCause(error)));
  if (client instanceof Cluster) boundCluster(client, onBound);
  else boundReplies(client, onBound);
  return client;
}

function settings(address: RedisAddress, commandMs: number, onBound: () => void): RedisOptions {
  const [first] = address.hosts;
  const sentinel = address.kind === "sentinel";
  return {
    ...(sentinel
      ? {
          sentinels: [...address.hosts],
          name: address.master,
          failoverDetector: true,
          // Only those that the URL names: each that another announces would cost a connection.
          updateSentinels: false,
          Connector: boundSentinels(onBound),
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
    // More redirections than this would exceed the time bound of a command.
    maxRedirections: 2,
    retryDelayOnFailover: commandMs,
    retryDelayOnClusterDown: commandMs,
    retryDelayOnTryAgain: commandMs,
    // Stays a name, because the certificate is verified against it.
    ...(address.tls && { dnsLookup: (host, done) => done(null, host) }),
  };
  return new Cluster([...address.hosts], options);
}

/**
 * Verifies chain and name of a certificate. Clusters and sentinels announce nodes by address, but certificates name
 * hosts. So the certificate of a node without a name may be for any of the names in the URL.
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
    // The ready check needs INFO and CLIENT, which our user may lack. A server that is still loading answers with an
    // error, which is enough.
    enableReadyCheck: false,
    disableClientInfo: true,
    // A primary that became a replica still answers reads. Reconnect, to find the new primary.
    reconnectOnError: (error: Error) => /\bREADONLY\b/.test(error.message),
  } as const satisfies RedisOptions;
}

/** The delay is random, because many processes lose the same server at the same time. */
function reconnectDelay(): number {
  return randomInt(500, 1000);
}

/** The code of an error reply, such as `NOSCRIPT`; undefined for an error that the server did not send. */
export function replyCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.name !== "ReplyError") return undefined;
  return /^[A-Z]{2,20}\b/.exec(error.message)?.[0] ?? "ERR";
}

/** Reduces a driver's error to its class and code. The message and the command's arguments are dropped. */
export function safeCause(error: unknown): Error {
  const code = replyCode(error) ?? (error as { code?: unknown } | null)?.code ?? "";
  const kind = error instanceof Error ? error.name : typeof error;
  const late = error instanceof Error && /^(timeout$|Command timed out)/.test(error.message) ? "timeout" : "";
  const safe = new Error(`${kind} ${String(code)} ${late}`.trim());
  safe.name = "RedisError";
  return safe;
}

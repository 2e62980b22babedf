import { execFile } from "node:child_process";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { freshSigning } from "../../src/domain/signing-keys.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { type Pooler, startPooler } from "../support/pooler.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { type Cell, type Kind, Mint } from "./cells.ts";
import { end } from "./changes.ts";
import type { ClientProgram } from "./client-program.ts";
import { History } from "./history.ts";
import { Instance, type InstanceOptions } from "./instance.ts";
import { ask, type Target } from "./load.ts";
import { PgLink } from "./pg-link.ts";
import { ALLOW } from "./wire.ts";

export interface WorldOptions {
  readonly instances: number;
  /** The folder of the program's `main.ts`: the program itself, or a mutant. */
  readonly source?: string;
  readonly server?: ThrowawayServer;
  /** `own`: a standalone server with a link for each instance; a URL; or none. */
  readonly redis?: "own" | string;
  /** Statements for the database, before any instance connects. */
  readonly prepare?: readonly string[];
  /** Instances connect through a PgBouncer of their own, except for the direct connections. */
  readonly pooled?: boolean;
  readonly revocation?: { readonly lease: `${number}ms`; readonly poll: string };
  /**
   * Wall clocks can be stepped. The first instance's is days behind; the last one's is ahead, and its monotonic clock
   * is slow.
   */
  readonly badClocks?: boolean;
  readonly historyFile?: string;
  readonly cells?: number;
  /** The mix of the changes, in hundredths. */
  readonly kinds?: Readonly<Partial<Record<Kind, number>>>;
}

export const SOURCE = join(import.meta.dirname, "../../src");
/** The difference of CLOCK_MONOTONIC between two hosts, with a little left of the margin of 20 %. */
const SLOW_AND_AHEAD = { rate: 0.85, wallDays: 3 };
const BEHIND = { rate: 1, wallDays: -3 };
const GOOD = { rate: 1, wallDays: 0 };
let databases = 0;

/** A deployment: real instances on one real PostgreSQL and Redis, tokens, and the history of events. */
export class World implements Target {
  readonly history: History;
  server: ThrowawayServer;
  readonly database: string;
  readonly adminToken: string;
  readonly keyring = freshKeyring();
  readonly signing = freshSigning("https://tokens.example");
  readonly options: WorldOptions;
  redis: RedisServer | undefined;
  /** The pooler, and its own link to the database. */
  pooler: { readonly program: Pooler; readonly upstream: PgLink } | undefined;
  instances: Instance[] = [];
  /** Services that check tokens by a client library. */
  clients: readonly ClientProgram[] = [];
  /** Names of instances that must make no changes now. */
  readonly spared = new Set<string>();
  /** Failed probes of the running fault: the fault did not work, or something else happened. */
  probes: string[] = [];
  #stock: Cell[] = [];
  #sql: Promise<pg.Client | undefined> | undefined;
  #port: number;
  #standby: ThrowawayServer | undefined;
  #held = false;

  private constructor(options: WorldOptions, server: ThrowawayServer, database: string, adminToken: { text: string }) {
    this.options = options;
    this.server = server;
    this.database = database;
    this.#port = server.port;
    this.history = new History(options.historyFile);
    this.adminToken = adminToken.text;
  }

  static async start(options: WorldOptions): Promise<World> {
    const server = options.server ?? (await startServer({ settings: { max_connections: "80" } }));
    const database = `history_${++databases}`;
    await onServer(server.port, "postgres", (sql) => sql.query(`create database ${database}`));
    const url = urlOf(server.port, database);
    await migrate(url);
    const { revocation, prepare = [] } = options;
    for (const text of prepare) await onServer(server.port, database, (sql) => sql.query(text));
    if (revocation !== undefined) {
      const raise = "update sallyport.rev_state set max_bound_ms = $1";
      await onServer(server.port, database, (sql) => sql.query(raise, [Number.parseInt(revocation.lease, 10)]));
    }
    const token = { text: "" };
    const keyring = freshKeyring();
    const keep = (secret: { reveal(): string }) => (token.text = secret.reveal());
    await bootstrap({ url, keyring, ttlMs: 86_400_000, again: false, keep });
    const world = new World(options, server, database, token);
    Object.assign(world, { keyring });
    if (options.redis === "own") world.redis = await startRedis();
    if (options.pooled) {
      const upstream = await PgLink.start(server.port);
      world.pooler = { program: await startPooler(upstream.port), upstream };
    }
    await world.stock(options.cells ?? 1500);
    await Promise.all(Array.from({ length: options.instances }, (_, i) => world.join(i)));
    return world;
  }

  /** Adds an instance. */
  async join(index: number): Promise<Instance> {
    const { source = SOURCE, badClocks, instances, revocation, redis } = this.options;
    const options: InstanceOptions = {
      name: "abcdefghijklmnop"[index]!,
      source,
      database: { port: this.#port, name: this.database },
      pooler: this.pooler?.program.port,
      keyring: this.keyring,
      signing: this.signing,
      adminToken: this.adminToken,
      redis: redis === "own" ? this.redis?.port : redis,
      revocation,
      clock: badClocks ? (index === instances - 1 ? SLOW_AND_AHEAD : index === 0 ? BEHIND : GOOD) : undefined,
    };
    const instance = await Instance.start(options);
    this.instances = [...this.instances, instance].sort((a, b) => a.name.localeCompare(b.name));
    return instance;
  }

  /** Removes an instance, by a signal or, when its time is over, by force. */
  async leave(instance: Instance, signal: "SIGTERM" | "SIGKILL"): Promise<string> {
    const how = await instance.stop(signal);
    this.instances = this.instances.filter((other) => other !== instance);
    return how;
  }

  changers(): readonly Instance[] {
    if (this.#held) return [];
    const able = this.instances.filter(({ name }) => !this.spared.has(name));
    return able.length > 0 ? able : this.instances;
  }

  nextCell(): Cell | undefined {
    return this.#stock.shift();
  }

  get left(): number {
    return this.#stock.length;
  }

  async stock(count: number, kinds = this.options.kinds): Promise<void> {
    this.#stock.push(...(await this.mint((mint) => mint.cells(count, kinds))));
  }

  mint<T>(work: (mint: Mint) => Promise<T>): Promise<T> {
    return onServer(this.#port, this.database, (sql) => work(new Mint(sql, this.keyring, this.signing)));
  }

  /** A connection of the harness, not through a link; reopened after a loss. */
  readonly sql = (): Promise<pg.Client | undefined> => {
    return (this.#sql ??= this.#connect());
  };

  async #connect(): Promise<pg.Client | undefined> {
    const client = new pg.Client({
      connectionString: urlOf(this.#port, this.database),
      connectionTimeoutMillis: 2000,
      query_timeout: 8000,
    });
    client.on("error", () => (this.#sql = undefined));
    return client.connect().then(
      () => client,
      () => (this.#sql = undefined),
    );
  }

  /** Rows of the database, for probes. Rejects while it is unreachable. */
  async rows<R extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<R[]> {
    const sql = await this.sql();
    if (sql === undefined) throw new Error("the database is away");
    return (await sql.query<R>(text, values)).rows;
  }

  /** From now on the primary is at this server. */
  async moveTo(port: number): Promise<void> {
    this.#port = port;
    const old = await this.#sql;
    this.#sql = undefined;
    await old?.end().catch(() => {});
    for (const instance of this.instances) instance.pg.target = port;
    if (this.pooler !== undefined) this.pooler.upstream.target = port;
  }

  /** A standby that follows the primary. The first time, the primary stops for the copy. */
  async standby(): Promise<ThrowawayServer> {
    if (this.#standby === undefined) {
      this.#standby = await this.server.standby();
      await this.moveTo(this.server.port);
    }
    return this.#standby;
  }

  /** The standby is the primary now. */
  async promoted(): Promise<void> {
    const old = this.server;
    this.server = this.#standby!;
    this.#standby = undefined;
    await this.moveTo(this.server.port);
    for (const instance of this.instances) instance.pg.reset();
    await old.remove();
  }

  /**
   * Copies the volume while the server is stopped; the load makes no changes until `release`. Returns a function that
   * stops the server again and puts the copy in place of the present volume.
   */
  async copyOfVolume(): Promise<() => Promise<void>> {
    await this.hold();
    const { server } = this;
    const copy = `${server.dataDir}-copy`;
    const back = async () => {
      await server.restart();
      await this.moveTo(server.port);
    };
    await server.stop();
    // With its owner, which is another user if we are root.
    await promisify(execFile)("cp", ["-a", server.dataDir, copy]);
    await back();
    return async () => {
      await server.stop();
      // The other server that followed is ahead of it.
      await this.#standby?.remove();
      this.#standby = undefined;
      await rm(server.dataDir, { recursive: true });
      await rename(copy, server.dataDir);
      await back();
    };
  }

  /** No change starts until `release`, and none is in progress. */
  async hold(): Promise<void> {
    this.#held = true;
    // A repeat of another change may be about to begin.
    do await delay(200);
    while (this.history.attempts.some(({ returned }) => returned === undefined));
  }

  release(): void {
    this.#held = false;
  }

  /** A condition that must hold, or the fault did not happen. */
  probe(what: string, holds: boolean): void {
    if (!holds) this.probes.push(what);
  }

  /**
   * Waits until every instance says ALLOW about a live token, and all acknowledge a change, so that the deployment is
   * as before. Returns the time that took; undefined if it did not happen in time.
   */
  async calm(withinMs: number): Promise<number | undefined> {
    const began = performance.now();
    const [cell, spare] =
      (await this.#onceThere(() => this.mint((mint) => mint.cells(2, { revoke: 1 })), withinMs)) ?? [];
    while (cell !== undefined && spare !== undefined && performance.now() - began < withinMs) {
      const answers = await Promise.all(this.instances.map((at) => ask(this.history, at, cell.subjects)));
      if (answers.every(([verdict]) => verdict === ALLOW)) break;
      await delay(50);
    }
    const healed = performance.now() - began;
    const [at] = this.changers();
    while (at !== undefined && spare !== undefined && performance.now() - began < withinMs) {
      // Repeated revocations of one token wait like the first one.
      const { detail } = await end(spare, at, this);
      if (detail === "ACKED") return healed;
      await delay(50);
    }
    return undefined;
  }

  /** Waits until the database answers again. */
  async back(withinMs: number): Promise<void> {
    await this.#onceThere(() => this.rows("select"), withinMs);
  }

  async #onceThere<T>(work: () => Promise<T>, withinMs: number): Promise<T | undefined> {
    for (const until = performance.now() + withinMs; performance.now() < until; await delay(100)) {
      const result = await work().catch(() => undefined);
      if (result !== undefined) return result;
    }
    return undefined;
  }

  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<string[]> {
    await Promise.all(this.clients.map((client) => client.stop()));
    const ends = await Promise.all(this.instances.map((instance) => instance.stop(signal)));
    this.instances = [];
    const sql = await this.#sql;
    this.#sql = undefined;
    await sql?.end().catch(() => {});
    await this.redis?.stop();
    await this.pooler?.program.stop();
    await this.pooler?.upstream.stop();
    await this.#standby?.remove();
    this.history.flush();
    if (this.options.server === undefined) await this.server.remove();
    else
      await onServer(this.#port, "postgres", (admin) =>
        admin.query(`drop database ${this.database} with (force)`),
      ).catch(() => {});
    return ends;
  }
}

export function urlOf(port: number, database: string): string {
  return `postgres://sallyport@127.0.0.1:${port}/${database}`;
}

export async function onServer<T>(port: number, database: string, work: (sql: pg.Client) => Promise<T>): Promise<T> {
  const sql = new pg.Client({
    connectionString: urlOf(port, database),
    connectionTimeoutMillis: 5000,
    query_timeout: 30_000,
  });
  sql.on("error", () => {});
  await sql.connect();
  try {
    return await work(sql);
  } finally {
    await sql.end().catch(() => {});
  }
}

import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chown, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { hydrate, packagedInstallation } from "../../src/postgres/embedded-binaries.ts";
import { firstWorking, runners, runToEnd } from "../../src/postgres/embedded-runner.ts";
import { launch } from "../../src/postgres/embedded-server.ts";

/** Set by postgres-global.ts for every worker, or by whoever runs the suites against a server of their own. */
const SERVER = "POSTGRES_TEST_URL";
/** Names what this run makes, so that two runs on one server do not meet. */
const RUN = "POSTGRES_TEST_RUN";

export type Database = Readonly<{ url: string; drop(): Promise<void> }>;

/**
 * An empty database, or a copy of what `template` made in one: it runs once per name and run of the suites, however
 * many test files ask, and must leave no connection open that matters.
 */
export async function freshDatabase(
  options: { template?: (url: string) => Promise<void>; name?: string } = {},
): Promise<Database> {
  const server = serverUrl();
  const { template, name = "template" } = options;
  return asAdmin(server, async (admin) => {
    const source = template ? await ensureTemplate(admin, server, name, template) : "template0";
    const copy = `d_${run()}_${randomBytes(6).toString("hex")}`;
    await admin.query(`create database ${copy} template ${source}`);
    const drop = () => asAdmin(server, (again) => again.query(`drop database if exists ${copy} with (force)`));
    return { url: withDatabase(server, copy), drop: () => drop().then(() => {}) };
  });
}

async function ensureTemplate(
  admin: pg.Client,
  server: string,
  name: string,
  make: (url: string) => Promise<void>,
): Promise<string> {
  const finished = `t_${run()}_${name.replace(/\W/g, "_")}`;
  const building = `${finished}_building`;
  await admin.query("select pg_advisory_lock(hashtext($1))", [finished]);
  try {
    const found = await admin.query("select from pg_database where datname = $1", [finished]);
    if (found.rowCount) return finished;
    await admin.query(`drop database if exists ${building} with (force)`);
    await admin.query(`create database ${building} template template0`);
    await make(withDatabase(server, building));
    await admin.query(`alter database ${building} allow_connections false`);
    await admin.query("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1", [building]);
    await admin.query(`alter database ${building} rename to ${finished}`);
    return finished;
  } finally {
    await admin.query("select pg_advisory_unlock(hashtext($1))", [finished]);
  }
}

/** For vitest's globalSetup: one server for all workers, without fsync; none where POSTGRES_TEST_URL names one. */
export async function setup(): Promise<void> {
  process.env[RUN] = randomBytes(4).toString("hex");
  if (process.env[SERVER]) return;
  shared = await startServer({ fsync: false, settings: { max_connections: "200" } });
  process.env[SERVER] = shared.url;
}

/** Removes what the run made: the server, or on a foreign server the databases. */
export async function teardown(): Promise<void> {
  if (shared) return shared.remove();
  await asAdmin(serverUrl(), async (admin) => {
    const mine = await admin.query("select datname from pg_database where datname ~ $1", [`^[dt]_${run()}_`]);
    for (const { datname } of mine.rows) await admin.query(`drop database ${datname} with (force)`);
  });
}

let shared: ThrowawayServer | undefined;

export type ThrowawayServer = Readonly<{
  /** The same for its whole life, over restarts. */
  url: string;
  port: number;
  dataDir: string;
  /** The folder with initdb, postgres and, for major 15, the client programs. */
  binDir: string;
  /** Of the postmaster that runs now. */
  pid(): number;
  signal(name: "SIGSTOP" | "SIGCONT"): void;
  /** Ends the postmaster as a crash would; its backends notice and follow. */
  kill9(): Promise<void>;
  stop(): Promise<void>;
  /** Starts it again on the same port, after stopping it if it runs. */
  restart(): Promise<void>;
  /** Stops it and deletes its files. */
  remove(): Promise<void>;
}>;

/** Whether this machine has that PostgreSQL: for `test.skipIf`, so that a missing one is seen in the output. */
export function hasPostgres(major: 15 | 18): boolean {
  return major === 18 || existsSync("/usr/lib/postgresql/15/bin/postgres");
}

/** A server of a test's own, to be hurt. Superuser and database `sallyport`, no password. */
export async function startServer(
  options: { major?: 15 | 18; fsync?: boolean; settings?: Record<string, string> } = {},
): Promise<ThrowawayServer> {
  const { major = 18, fsync = true, settings = {} } = options;
  const installation = major === 18 ? await packagedInstallation() : "/usr/lib/postgresql/15";
  await hydrate(installation);
  const binDir = join(installation, "bin");
  const folder = await mkdtemp(join(tmpdir(), "sallyport-pg-"));
  const socketDir = join(folder, "run");
  const dataDir = join(folder, "pg");
  for (const path of [socketDir, dataDir]) await mkdir(path, { mode: 0o700 });
  const way = await firstWorking(await runners(undefined), join(binDir, "postgres"), folder, socketDir);
  if (!("runner" in way)) throw new Error(`PostgreSQL ${major} cannot run here: ${way.reason}`);
  const { runner } = way;
  if (runner.owner) await chown(dataDir, runner.owner.uid, runner.owner.gid);
  const cluster = ["-D", dataDir, "-U", "sallyport", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "--no-sync"];
  await runToEnd(runner, join(binDir, "initdb"), cluster);
  const durability: Record<string, string> = fsync ? {} : { fsync: "off", full_page_writes: "off" };
  const up = (port?: number) =>
    launch({
      runner,
      postgres: join(binDir, "postgres"),
      pgDir: dataDir,
      socketDir,
      port,
      settings: { ...durability, ...settings },
      log: () => {},
    });
  let server = await up();
  let paused = false;
  const stop = () => {
    if (paused) process.kill(server.pid, "SIGCONT");
    paused = false;
    return server.stop();
  };
  const { port } = server;
  const url = `postgres://sallyport@127.0.0.1:${port}/sallyport`;
  await asAdmin(url, (admin) => admin.query("create database sallyport"));
  return {
    url,
    port,
    dataDir,
    binDir,
    pid: () => server.pid,
    signal: (name) => {
      process.kill(server.pid, name);
      paused = name === "SIGSTOP";
    },
    kill9: () => {
      paused = false;
      process.kill(server.pid, "SIGKILL");
      return server.exited;
    },
    stop,
    restart: async () => {
      await stop();
      // After kill9 the last backends may hold the shared memory, or the port, for a moment.
      for (let attempt = 1; ; attempt++) {
        const next = await up(port).catch(async (error) => {
          if (attempt === 50) throw error;
          await delay(100);
        });
        if (next) return void (server = next);
      }
    },
    remove: async () => {
      await stop();
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function asAdmin<T>(server: string, work: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client(withDatabase(server, "postgres"));
  admin.on("error", () => {});
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end();
  }
}

function serverUrl(): string {
  const url = process.env[SERVER];
  if (!url) throw new Error(`${SERVER} is not set: run the tests by vitest, whose globalSetup starts a server`);
  return url;
}

function run(): string {
  return process.env[RUN] ?? "alone";
}

function withDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}

import { randomBytes } from "node:crypto";
import pg from "pg";
import { startServer, type ThrowawayServer } from "./postgres-server.ts";

export { hasPostgres, startServer, type ThrowawayServer } from "./postgres-server.ts";

/** Set by postgres-global.ts for every worker, or by a person who runs the suites against another server. */
const SERVER = "POSTGRES_TEST_URL";
/** A prefix for everything that this run creates, so that two runs on one server do not collide. */
const RUN = "POSTGRES_TEST_RUN";

export type Database = Readonly<{ url: string; drop(): Promise<void> }>;

/**
 * An empty database, or a copy of the one that `template` prepared. `template` runs once per name and run of the
 * suites, however many test files ask, and must leave no connection open.
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

/** For vitest's globalSetup: one server for all workers, without fsync; none if POSTGRES_TEST_URL names one. */
export async function setup(): Promise<void> {
  process.env[RUN] = randomBytes(4).toString("hex");
  if (process.env[SERVER]) return;
  shared = await startServer({ fsync: false, settings: { max_connections: "200" } });
  process.env[SERVER] = shared.url;
}

/** Removes everything that the run created: the server or, on a foreign server, the databases. */
export async function teardown(): Promise<void> {
  if (shared) return shared.remove();
  await asAdmin(serverUrl(), async (admin) => {
    const mine = await admin.query("select datname from pg_database where datname ~ $1", [`^[dt]_${run()}_`]);
    for (const { datname } of mine.rows) await admin.query(`drop database ${datname} with (force)`);
  });
}

let shared: ThrowawayServer | undefined;

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

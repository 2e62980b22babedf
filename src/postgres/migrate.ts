import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { databaseError } from "./connect-errors.ts";
import { connectionSettings } from "./pool.ts";
import { SQLSTATE, safeCause, sqlstate } from "./sqlstate.ts";

/** The version of the data that this program reads and writes. A database with a higher `min_reader` refuses it. */
export const READER_VERSION = 3;

const FOLDER = new URL("./migrations/", import.meta.url);
/** One lock for all programs that start on one database. Any number that nothing else uses. */
const LOCK = 7_400_740_174;

/** The wait for one lock. A read or a poll that queues behind it still ends within its own bound. Milliseconds. */
const LOCK_MS = 200;
const LOCK_PAUSE_MS = 500;

interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

/**
 * Migrates the database to the newest version: plain SQL files, forward only, checksummed, each in one transaction
 * (unless it says `-- no-transaction`), one program at a time. Returns the names of the files applied now.
 */
export async function migrate(url: string, waitMs = 60_000): Promise<string[]> {
  const client = new pg.Client({ ...connectionSettings(url, "sallyport-migrate"), connectionTimeoutMillis: 5000 });
  client.on("error", () => {});
  try {
    await client.connect();
  } catch (error) {
    throw (
      databaseError(error, "database.url") ??
      new StartError("database_unavailable", "the database cannot be reached", safeCause(error))
    );
  }
  try {
    await lock(client, waitMs);
    return await apply(client, waitMs);
  } catch (error) {
    if (error instanceof StartError) throw error;
    throw (
      databaseError(error, "migrating") ??
      new StartError("migration_failed", `a migration failed (${sqlstate(error) ?? "no answer"})`, safeCause(error))
    );
  } finally {
    await client.end().catch(() => {});
  }
}

/** The versions and names of the migrations that this program brings. */
export function migrationFiles(): Migration[] {
  return readdirSync(FOLDER)
    .filter((name) => /^\d{4}_[a-z0-9_]+\.sql$/.test(name))
    .sort()
    .map((name) => {
      const sql = readFileSync(new URL(name, FOLDER), "utf8");
      return { version: Number(name.slice(0, 4)), name, sql, checksum: createHash("sha256").update(sql).digest("hex") };
    });
}

/**
 * Polls a try-lock, because a waiting `pg_advisory_lock` deadlocks with an index that its holder builds concurrently.
 */
async function lock(client: pg.Client, waitMs: number): Promise<void> {
  for (let waited = 0; ; waited += 100) {
    const { rows } = await client.query<{ got: boolean }>("select pg_try_advisory_lock($1) as got", [LOCK]);
    if (rows[0]?.got) return;
    if (waited >= waitMs)
      throw new StartError("database_unavailable", "another instance has been migrating for too long");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function apply(client: pg.Client, waitMs: number): Promise<string[]> {
  const applied = await appliedTo(client);
  const files = migrationFiles();
  await refuseUnfit(client, files, applied);
  const fresh = files.filter((file) => !applied.some((row) => row.version === file.version));
  for (const file of fresh) {
    if (file.sql.startsWith("-- no-transaction")) {
      // Several statements in one query would be one transaction.
      for (const statement of file.sql.split(/;$/m)) await client.query(statement);
      await record(client, file);
    } else {
      await applyWhole(client, file, waitMs);
    }
  }
  return fresh.map((file) => file.name);
}

async function record(client: pg.Client, { version, name, checksum }: Migration): Promise<void> {
  const text = "insert into sallyport.migrations (version, name, checksum) values ($1, $2, $3)";
  await client.query(text, [version, name, checksum]);
}

/**
 * Applies a file in one transaction. A reader of a table queues behind a lock that waits for it. So the wait for a
 * lock is short, and the file is tried again.
 */
async function applyWhole(client: pg.Client, file: Migration, waitMs: number): Promise<void> {
  for (let waited = 0; ; waited += LOCK_MS + LOCK_PAUSE_MS) {
    try {
      await client.query("begin");
      await client.query(`set local lock_timeout = ${LOCK_MS}`);
      await client.query(file.sql);
      await record(client, file);
      await client.query("commit");
      return;
    } catch (error) {
      if (sqlstate(error) !== SQLSTATE.lockNotAvailable) throw error;
      await client.query("rollback");
      if (waited >= waitMs) {
        const text = `migration ${file.name} waits for a table that another session holds: end long transactions`;
        throw new StartError("migration_failed", text, safeCause(error));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, LOCK_PAUSE_MS));
  }
}

interface Applied {
  readonly version: number;
  readonly name: string;
  readonly checksum: string;
}

/**
 * The migrations applied before. Creates schema and table only if they are missing, because a writer may start but not
 * create.
 */
async function appliedTo(client: pg.Client): Promise<Applied[]> {
  const applied = await readApplied(client);
  if (applied !== undefined) return applied;
  await client.query(
    `create schema if not exists sallyport;
     create table if not exists sallyport.migrations (
       version int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now()
     )`,
  );
  return (await readApplied(client)) ?? [];
}

/** Undefined if the database has no Sallyport in it. */
async function readApplied(client: pg.Client): Promise<Applied[] | undefined> {
  try {
    const text = "select version, name, checksum from sallyport.migrations order by version";
    return (await client.query<Applied>(text)).rows;
  } catch (error) {
    if (sqlstate(error) === SQLSTATE.undefinedTable || sqlstate(error) === SQLSTATE.invalidSchema) return undefined;
    throw error;
  }
}

/**
 * The names of the migrations that only this program has, and of those that only the database has. Undefined: the
 * database has no Sallyport in it. Only reads. Rejects with StartError, as `migrate` does.
 */
export async function compareSchema(
  client: pg.Client,
): Promise<{ readonly missing: string[]; readonly newer: string[] } | undefined> {
  const applied = await readApplied(client);
  if (applied === undefined || applied.length === 0) return undefined;
  const files = migrationFiles();
  await refuseUnfit(client, files, applied);
  const without = (some: readonly Migration[] | readonly Applied[], others: readonly { version: number }[]) =>
    some.filter(({ version }) => !others.some((other) => other.version === version)).map(({ name }) => name);
  return { missing: without(files, applied), newer: without(applied, files) };
}

async function refuseUnfit(client: pg.Client, files: readonly Migration[], applied: readonly Applied[]): Promise<void> {
  for (const row of applied) {
    const file = files.find(({ version }) => version === row.version);
    if (file !== undefined && file.checksum !== row.checksum) {
      throw new StartError("schema_changed", `migration ${row.name} was changed after it was applied to this database`);
    }
  }
  const minReader = await client
    .query<{ min_reader: number }>("select min_reader from sallyport.rev_state")
    .then(({ rows }) => rows[0]?.min_reader ?? 1)
    .catch((error: unknown) => {
      if (sqlstate(error) === SQLSTATE.undefinedTable || sqlstate(error) === SQLSTATE.invalidSchema) return 1;
      throw error;
    });
  if (minReader > READER_VERSION) {
    throw new StartError(
      "schema_too_new",
      `the database was made by a newer Sallyport (it needs reader version ${minReader}, this is ${READER_VERSION}): upgrade this program`,
    );
  }
}

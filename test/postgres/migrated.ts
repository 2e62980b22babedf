import pg from "pg";
import { onTestFinished } from "vitest";
import { migrate } from "../../src/postgres/migrate.ts";
import { TYPES } from "../../src/postgres/pool.ts";
import { type Database, freshDatabase } from "../support/postgres.ts";

/** A database of the newest schema, in an epoch that nobody has proven. */
export function unproven(): Promise<Database> {
  return freshDatabase({ template: (url) => migrate(url).then(() => {}), name: "migrated" });
}

/** A database of the newest schema, in a proven epoch. */
export async function migrated(): Promise<Database> {
  const database = await unproven();
  await proveAt(database.url);
  return database;
}

/** The newest schema in the database of this URL, in a proven epoch. */
export async function migrateAt(url: string): Promise<void> {
  await migrate(url);
  await proveAt(url);
}

async function proveAt(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await prove(client);
  await client.end();
}

/** Nothing that anybody remembers is missing. */
export async function prove(client: pg.Client): Promise<void> {
  await client.query("select sallyport.rev_prove(sallyport.rev_epoch(), true)");
}

/** The statements of this database that wait for a lock. The server's other databases do not count. */
export const LOCK_WAITS =
  "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

/** A connection for work by hand, closed when the test ends. */
export async function byHand(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, types: TYPES });
  client.on("error", () => {});
  await client.connect();
  onTestFinished(() => client.end());
  return client;
}

/** An id of a token: `tok_` and 22 characters that end in `n`. */
export function tokenId(n: number): string {
  return `tok_${String(n).padStart(22, "0")}`;
}

/** The look-up key of token `n`, latin1. */
export function digestOf(n: number): string {
  return String(n).padStart(32, "d");
}

/** Makes tokens 1 to `count` of a principal, with audit row, as the program does: issued at the present position. */
export async function makeTokens(client: pg.Client, count: number, principal = "bot:ci", first = 1): Promise<string[]> {
  await client.query("begin");
  await client.query("insert into sallyport.principals (tenant, name) values ('default', $1) on conflict do nothing", [
    principal,
  ]);
  await client.query(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
     select 'tok_' || lpad(i::text, 22, '0'), convert_to(lpad(i::text, 32, 'd'), 'UTF8'), '1', 'h', 'default', 'bot', $3,
       'user:a', 'tok_' || lpad(i::text, 22, '0') from generate_series($1::int, $2::int) i`,
    [first, first + count - 1, principal],
  );
  await auditRow(client);
  await client.query("commit");
  return Array.from({ length: count }, (_, i) => tokenId(first + i));
}

/** The audit row without which no transaction that changes authority commits. */
export async function auditRow(client: pg.Client): Promise<void> {
  await client.query(
    "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'test', 'test', 'test')",
  );
}

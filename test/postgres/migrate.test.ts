import { expect, onTestFinished, test } from "vitest";
import { migrate, migrationFiles } from "../../src/postgres/migrate.ts";
import { freshDatabase } from "../support/postgres.ts";
import { byHand, makeTokens } from "./migrated.ts";

/** The newest migration that takes no lock on the tokens which a reader stops. */
const BEFORE_ROLES = Math.max(...migrationFiles().flatMap(({ version }) => (version < 12 ? [version] : [])));

/** A database as an earlier version left it, with a reader whose transaction stays open. */
async function earlier() {
  const database = await freshDatabase();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await sql.query(`create schema sallyport; create table sallyport.migrations (
    version int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())`);
  for (const { version, name, sql: text, checksum } of migrationFiles().filter(({ version }) => version <= 9)) {
    await sql.query(text);
    await sql.query("insert into sallyport.migrations values ($1, $2, $3)", [version, name, checksum]);
  }
  await makeTokens(sql, 3);
  const reader = await byHand(database.url);
  await reader.query("begin");
  await reader.query("select from sallyport.tokens");
  return { url: database.url, sql, reader };
}

test("an upgrade beside an open reader stops no poll and no look-up, and goes on when the reader ends", async () => {
  const { url, sql, reader } = await earlier();
  let done = false;
  const migrating = migrate(url).finally(() => (done = true));
  const fleet = await byHand(url);
  await fleet.query("set statement_timeout = 500");
  const blocked = async () =>
    (await sql.query("select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"))
      .rowCount === 1;
  // It has waited for the reader, given up, and waited again.
  for (const state of [true, false, true, false]) {
    for (let now = !state; now !== state && !done; now = await blocked()) {
      await fleet.query("select n from sallyport.rev_head, sallyport.rev_state");
      await fleet.query("select t.id from sallyport.token_view t");
      await fleet.query("update sallyport.tokens set display_name = display_name where false");
    }
  }
  expect(done).toBe(false);
  await reader.query("commit");
  expect(await migrating).toEqual(migrationFiles().flatMap(({ version, name }) => (version > 9 ? [name] : [])));
  const { rows } = await sql.query(
    `select c.relname as name, i.indisvalid as valid from pg_index i join pg_class c on c.oid = i.indexrelid
     where indrelid = 'sallyport.tokens'::regclass and relname like 'tokens_of_%' order by 1`,
  );
  const made = ["all", "family", "parent", "role"].map((of) => ({ name: `tokens_of_${of}`, valid: true }));
  expect(rows).toEqual(expect.arrayContaining(made));
  const checks = await sql.query("select from pg_constraint where not convalidated");
  expect(checks.rowCount).toBe(0);
}, 30_000);

test("an upgrade that a reader holds up for too long says so, and keeps what is applied", async () => {
  const { url, sql, reader } = await earlier();
  await expect(migrate(url, 0)).rejects.toThrow(/^migration 0012_roles.sql waits .* end long transactions/);
  expect((await sql.query("select max(version) as newest from sallyport.migrations")).rows).toEqual([
    { newest: BEFORE_ROLES },
  ]);
  await reader.query("commit");
  expect(await migrate(url)).toContain("0012_roles.sql");
});

import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { incarnationOf, isWhole } from "../../src/domain/epoch.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { hasPostgres, startServer, type ThrowawayServer } from "../support/postgres.ts";
import { type Place, WAYS } from "../support/restore.ts";
import { makeTokens, tokenId } from "./migrated.ts";

const ACTOR = { actor: "test", address: "", requestId: "" };
let server: ThrowawayServer;
let made = 0;

beforeAll(async () => {
  // A server of its own: databases are closed, dropped and renamed.
  server = await startServer({ major: hasPostgres(15) ? 15 : 18, fsync: false });
});
afterAll(() => server.remove());

const urlOf = (database: string) => `postgres://sallyport@127.0.0.1:${server.port}/${database}`;

async function sqlOn(database: string): Promise<pg.Client> {
  const sql = new pg.Client(urlOf(database));
  sql.on("error", () => {});
  await sql.connect();
  onTestFinished(() => sql.end().catch(() => {}));
  return sql;
}

function logOf(database: string, url = urlOf(database)): PostgresRevocationLog {
  const log = new PostgresRevocationLog({ url, connections: 1, onTrouble: () => {} });
  onTestFinished(() => log.close());
  return log;
}

/** A database with three tokens, of which the last is revoked. */
async function place(): Promise<Place & { url: string }> {
  const database = `histories_${++made}`;
  const admin = await sqlOn("postgres");
  await admin.query(`create database ${database}`);
  await migrate(urlOf(database));
  const sql = await sqlOn(database);
  await makeTokens(sql, 3);
  await sql.query("select sallyport.revoke($1)", [tokenId(3)]);
  await sql.end();
  await admin.end();
  return { port: server.port, database, binDir: server.binDir, url: urlOf(database) };
}

const epochOf = async (database: string) => {
  const log = logOf(database);
  const { epoch } = await log.readEpoch();
  await log.close();
  return epoch;
};

/** What a process does that meets it. */
async function begun(database: string): Promise<string> {
  const log = logOf(database);
  for (;;) {
    const { epoch } = await log.readEpoch();
    if (isWhole(epoch)) return epoch;
    await log.draw(epoch);
  }
}

describe("a restore of an older state", () => {
  test.for(WAYS.map((way) => [way.name, way] as const))("begins another epoch: %s", async ([, way], { skip }) => {
    skip(way.programs && !hasPostgres(15), "no client programs of this version");
    const at = await place();
    const epochs = [await begun(at.database)];
    expect(isWhole(await epochOf(at.database))).toBe(true);
    const restore = await way.keep(at);
    const restoreAgain = way.name.startsWith("CREATE DATABASE") ? undefined : await way.keep(at);
    let sql = await sqlOn(at.database);
    await sql.query("select sallyport.revoke($1)", [tokenId(2)]);
    epochs.push(await begun(at.database));
    await sql.end();

    for (const again of [restore, restoreAgain]) {
      if (again === undefined) continue;
      await again();
      const first = await epochOf(at.database);
      expect(epochs).not.toContain(first);
      const epoch = await begun(at.database);
      expect(epochs).not.toContain(epoch);
      expect(epochs).not.toContain(epoch.replace(/~$/, ""));
      sql = await sqlOn(at.database);
      const { rows } = await sql.query("select id from sallyport.tokens where revoke_time is null order by id");
      expect(
        rows.map(({ id }) => id),
        "the restore",
      ).toEqual([tokenId(1), tokenId(2)]);
      // And it stays: changes and housekeeping go on in it.
      await sql.query("select sallyport.revoke($1)", [tokenId(2)]);
      await sql.query("update sallyport.rev_state set floor_n = floor_n + 1");
      expect(await epochOf(at.database)).toBe(epoch);
      epochs.push(epoch);
      await sql.end();
    }
  });

  test("a copy of the database has another epoch, and a database that was renamed and back does not count as settled", async () => {
    const { database } = await place();
    const log = logOf(database);
    const { epoch, names } = await log.readEpoch();
    await log.markSettled(epoch, names);
    expect((await log.validators()).settled).toBe(epoch);
    await log.close();
    const admin = await sqlOn("postgres");
    await admin.query(`alter database ${database} rename to ${database}_away`);
    await admin.query(`create database ${database} template ${database}_away`);
    const copy = logOf(database);
    expect((await copy.readEpoch()).epoch).not.toBe(epoch);
    expect((await copy.validators()).settled).not.toBe((await copy.readEpoch()).epoch);
    await copy.close();
    await admin.query(`drop database ${database} with (force)`);
    await admin.query(`alter database ${database}_away rename to ${database}`);
    const back = logOf(database);
    expect((await back.readEpoch()).epoch).toBe(epoch);
    expect((await back.validators()).settled).not.toBe(epoch);
    // Whoever counts under the names of before has not waited for the leases of the one that stood there meanwhile.
    await back.markSettled(epoch, names);
    expect((await back.validators()).settled).not.toBe(epoch);
    await back.markSettled(epoch, (await back.readEpoch()).names);
    expect((await back.validators()).settled).toBe(epoch);
  });

  test.for([
    [
      "the schema",
      "alter schema sallyport rename to away; create schema sallyport; drop schema sallyport; alter schema away rename to sallyport",
    ],
    ["the head", "alter table sallyport.rev_head rename to away; alter table sallyport.away rename to rev_head"],
    ["the state", "alter table sallyport.rev_state rename to away; alter table sallyport.away rename to rev_state"],
  ])("what is renamed and back is not taken for settled: %s", async ([, statements]) => {
    const { database } = await place();
    const log = logOf(database);
    const { epoch, names } = await log.readEpoch();
    await log.markSettled(epoch, names);
    const sql = await sqlOn(database);
    // What goes on every day renames nothing.
    await sql.query("analyze sallyport.rev_head, sallyport.rev_state");
    await sql.query("vacuum (freeze) sallyport.rev_head, sallyport.rev_state");
    expect((await log.validators()).settled).toBe(epoch);
    await sql.query(statements!);
    expect(await log.validators()).toMatchObject({ epoch, settled: undefined });
    await log.markSettled(epoch, names);
    expect(await log.validators()).toMatchObject({ epoch, settled: undefined });
    const again = await log.readEpoch();
    expect(again.names).not.toBe(names);
    await log.markSettled(epoch, again.names);
    expect(await log.validators()).toMatchObject({ epoch, settled: epoch });
  });
});

describe("the incarnation", () => {
  async function drawn(...statements: string[]): Promise<boolean> {
    const { database } = await place();
    const sql = await sqlOn(database);
    const before = incarnationOf(await epochOf(database));
    for (const statement of statements) await sql.query(statement);
    return incarnationOf(await begun(database)) !== before;
  }

  test.for([
    ["n decreases", "update sallyport.rev_head set n = n - 1"],
    ["the floor decreases", "update sallyport.rev_state set floor_n = 1", "update sallyport.rev_state set floor_n = 0"],
    [
      "the head is deleted and inserted",
      "delete from sallyport.rev_head",
      "insert into sallyport.rev_head (n) values (1)",
    ],
    ["the head is truncated", "truncate sallyport.rev_head", "insert into sallyport.rev_head (n) values (99)"],
    [
      "the head is inserted by COPY's like",
      "delete from sallyport.rev_head",
      "insert into sallyport.rev_head select true, 1",
    ],
    [
      "the state is deleted and put back as it was",
      "create table public.kept as table sallyport.rev_state",
      "delete from sallyport.rev_state",
      "insert into sallyport.rev_state select * from public.kept",
    ],
    [
      "an incarnation of before is put back",
      "create table public.kept as table sallyport.rev_state",
      "update sallyport.rev_head set n = n - 1",
      "update sallyport.rev_state set incarnation = (select incarnation from public.kept)",
    ],
    [
      "it happens in a replication role",
      "set session_replication_role = replica",
      "update sallyport.rev_head set n = n - 1",
    ],
    [
      "n decreases while triggers are off",
      "alter table sallyport.rev_head disable trigger all",
      "update sallyport.rev_head set n = n - 1",
      "alter table sallyport.rev_head enable trigger all",
    ],
  ])("is another when %s", async ([, ...statements]) => {
    expect(await drawn(...statements)).toBe(true);
  });

  test("stays the same when n grows, when the state row is updated, and when rows are locked", async () => {
    expect(
      await drawn(
        "update sallyport.rev_head set n = n + 5",
        "update sallyport.rev_state set floor_n = 3, settled = 'x'",
        "update sallyport.rev_state set max_bound_ms = 3000, min_reader = 1",
        "select from sallyport.rev_head for update",
        "vacuum (freeze) sallyport.rev_head, sallyport.rev_state",
      ),
    ).toBe(false);
  });

  // A row that is written in a subtransaction bears the number of that one. psql makes one of each statement where
  // ON_ERROR_ROLLBACK is on, and so does a block with EXCEPTION.
  const AUDITED = "insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't')";
  const REVOKED = `update sallyport.tokens set revoke_time = now() where id = '${tokenId(1)}'`;
  test.for([
    ["a change of authority", AUDITED, REVOKED],
    ["one whose position is taken at once", "set constraints all immediate", AUDITED, REVOKED],
    ["a retired pepper", "insert into sallyport.key_checks values ('9', 'x')", "delete from sallyport.key_checks"],
    ["all of a table gone", AUDITED, "truncate sallyport.token_usage, sallyport.tokens", REVOKED],
    ["the state kept up", "update sallyport.rev_state set floor_n = floor_n + 1, max_bound_ms = 3000"],
    [
      "one in another, then the transaction itself",
      "savepoint deeper",
      "update sallyport.rev_state set floor_n = floor_n + 1",
      "update sallyport.rev_head set n = n + 1",
      "release savepoint s",
      "update sallyport.rev_state set floor_n = floor_n + 1",
      "update sallyport.rev_head set n = n + 1",
      "savepoint s",
    ],
    ["both in a row", "update sallyport.rev_head set n = n + 1", "update sallyport.rev_head set n = n + 1"],
    [
      "a block with EXCEPTION",
      "do $$ begin perform sallyport.rev_settle('x'); exception when others then null; end $$",
    ],
    [
      "undone",
      "update sallyport.rev_head set n = n + 1",
      "rollback to savepoint s",
      "update sallyport.rev_head set n = n + 1",
    ],
  ])("stays when a subtransaction writes: %s", async ([, ...statements]) => {
    expect(
      await drawn(
        "begin",
        "savepoint s",
        ...statements,
        "release savepoint s",
        "commit",
        "update sallyport.rev_state set floor_n = floor_n + 1",
        "update sallyport.rev_head set n = n + 1",
      ),
    ).toBe(false);
  });

  test.for([
    ["n decreases", "update sallyport.rev_head set n = n - 1"],
    ["the floor decreases", "update sallyport.rev_state set floor_n = -1"],
    ["the head is put back", "delete from sallyport.rev_head", "insert into sallyport.rev_head (n) values (1)"],
    [
      "n decreases while triggers are off",
      "alter table sallyport.rev_head disable trigger all",
      "update sallyport.rev_head set n = n - 1",
      "alter table sallyport.rev_head enable trigger all",
    ],
    [
      "the seal of before is kept while triggers are off",
      "alter table sallyport.rev_state disable trigger all",
      "update sallyport.rev_state set floor_n = 0",
      "alter table sallyport.rev_state enable trigger all",
      "update sallyport.rev_state set floor_n = floor_n + 1",
    ],
    [
      "n decreases while triggers are off, before its own next change",
      "update sallyport.rev_head set n = n + 1",
      "savepoint deeper",
      "alter table sallyport.rev_head disable trigger all",
      "update sallyport.rev_head set n = n - 2",
      "alter table sallyport.rev_head enable trigger all",
      "update sallyport.rev_head set n = n + 2",
    ],
    [
      "a seal is made up by hand for what this transaction wrote",
      "update sallyport.rev_head set n = n + 1",
      "savepoint deeper",
      "alter table sallyport.rev_head disable trigger all",
      "update sallyport.rev_head set n = n - 2",
      "alter table sallyport.rev_head enable trigger all",
      "update sallyport.rev_head set sealed = xmin",
    ],
    [
      "a seal is made up by hand for a row that another transaction wrote",
      "alter table sallyport.rev_head disable trigger all",
      "update sallyport.rev_head set n = n - 1",
      "alter table sallyport.rev_head enable trigger all",
      "release savepoint s",
      "commit",
      "begin",
      "savepoint s",
      "update sallyport.rev_head set sealed = xmin",
    ],
  ])("is another when it happens in a subtransaction: %s", async ([, ...statements]) => {
    expect(await drawn("begin", "savepoint s", ...statements, "release savepoint s", "commit")).toBe(true);
  });

  test("is drawn once, even if many processes, readers among them, saw the same old one", async () => {
    const { database } = await place();
    const admin = await sqlOn(database);
    const login = `reader_${made}`;
    await admin.query(`create role ${login} login in role sallyport_reader`);
    const reader = `postgres://${login}@127.0.0.1:${server.port}/${database}`;
    const logs = Array.from({ length: 8 }, (_, i) => logOf(database, i % 2 === 0 ? reader : undefined));
    const { epoch } = await logs[0]!.readEpoch();
    await Promise.all(logs.map((log) => log.draw(epoch)));
    const seen = new Set((await Promise.all(logs.map((log) => log.readEpoch()))).map((look) => look.epoch));
    expect(seen.size).toBe(1);
    const [next] = seen;
    expect(incarnationOf(next!)).not.toBe(incarnationOf(epoch));
    // A late one, who saw what is over.
    await logs[0]!.draw(epoch);
    expect((await logs[0]!.readEpoch()).epoch).toBe(next);
    await expect(admin.query(`set role ${login}; update sallyport.rev_state set floor_n = 0`)).rejects.toMatchObject({
      code: "42501",
    });
    await admin.query(`reset role; drop owned by ${login}; drop role ${login}`);
  });
});

describe("a change of authority while triggers are not in place", () => {
  test.for(["tokens", "principals", "tenants"])("is refused and undone: %s", async (table) => {
    const { database, url } = await place();
    const sql = await sqlOn(database);
    const db = new Postgres({ url, maxConnections: 2, applicationName: "test", onTrouble: () => {} });
    onTestFinished(() => db.close());
    const store = new PostgresAuthorityStore(db);
    await sql.query(`alter table sallyport.${table} disable trigger noted_update`);
    await expect(store.revokeToken(tokenId(1), false, "", ACTOR)).rejects.toMatchObject({ reason: "NOT_DONE" });
    const { rows } = await sql.query("select revoke_time from sallyport.tokens where id = $1", [tokenId(1)]);
    expect(rows).toEqual([{ revoke_time: null }]);
    await sql.query(`alter table sallyport.${table} enable trigger all`);
    await store.revokeToken(tokenId(1), false, "", ACTOR);
  });
});

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type pg from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { AccessUse } from "../../src/domain/access-event.ts";
import { PostgresAccessLog } from "../../src/postgres/access-log.ts";
import { ListReads } from "../../src/postgres/list-reads.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { type Database, hasPostgres, startServer } from "../support/postgres.ts";
import { byHand, LOCK_WAITS, migrateAt, migrated } from "./migrated.ts";

const DAY = 86_400_000;
const onTrouble = () => {};

let database: Database;
let db: Postgres;
let lists: ListReads;
let log: PostgresAccessLog;
let sql: pg.Client;
beforeAll(async () => {
  database = await migrated();
  db = new Postgres({ url: database.url, maxConnections: 2, applicationName: "test", onTrouble });
  lists = new ListReads({
    url: database.url,
    shared: false,
    clock: { mono: () => performance.now(), wall: Date.now },
    onTrouble,
  });
  log = new PostgresAccessLog(db, lists);
});
afterAll(async () => {
  await db?.close();
  await lists?.close();
  await database?.drop();
});
beforeEach(async () => {
  sql = await byHand(database.url);
  await sql.query("truncate sallyport.access_log");
});

function row(over: Partial<AccessUse> = {}): AccessUse {
  const who = { tenant: "default", principal: "bot:ci", tokenId: "tok_1", hint: "sp_bot_1x", profile: "bot" };
  const asked = { scopes: ["a", "b"], audience: "api", method: "GET", host: "h", path: "/p", workload: "w" };
  const rest = { verdict: "ALLOW" as const, reason: "", address: "203.0.113.7", listener: "data", uses: 2 };
  return { time: Date.now() - 1000, ...who, ...asked, ...rest, ...over };
}

async function partitions(): Promise<string[]> {
  const { rows } = await sql.query<{ day: string }>(
    `select right(c.relname, 8) as day from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'sallyport.access_log'::regclass order by 1`,
  );
  return rows.map(({ day }) => day);
}

/** The days so many from now, as partitions are named. */
async function days(from: number, to: number): Promise<string[]> {
  const { rows } = await sql.query<{ day: string }>(
    `select to_char((clock_timestamp() at time zone 'UTC')::date + i, 'YYYYMMDD') as day
     from generate_series($1::int, $2::int) i order by i`,
    [from, to],
  );
  return rows.map(({ day }) => day);
}

async function day(offset: number): Promise<string> {
  return (await days(offset, offset))[0]!;
}

/** Makes the partition of a day that is over. */
async function old(offset: number): Promise<string> {
  const [name, next] = await days(offset, offset + 1);
  await sql.query(
    `create table sallyport.access_log_${name} partition of sallyport.access_log
     for values from ('${name} 00:00:00+00') to ('${next} 00:00:00+00')`,
  );
  return name!;
}

test("rows come back by tenant, principal, token, verdict and time, newest first, each once over the pages", async () => {
  const from = Date.now() - 60_000;
  const rows = Array.from({ length: 25 }, (_, i) => row({ time: from + Math.floor(i / 5) * 10 + 0.4, path: `/${i}` }));
  await log.append(rows);
  await log.append([
    row({ tenant: "acme", tokenId: "tok_2", principal: "bot:x", verdict: "INVALID_TOKEN", reason: "revoked" }),
  ]);
  const seen: string[] = [];
  let start: { time: number; key: string } | undefined;
  for (;;) {
    const part = await log.list({ tenant: "default" }, 7, start);
    seen.push(...part.rows.map(({ path }) => path));
    if ((start = part.rest) === undefined) break;
  }
  expect(seen).toEqual(Array.from({ length: 25 }, (_, i) => `/${24 - i}`));
  const found = async (filter: object) => (await log.list({ tenant: "acme", ...filter }, 100)).rows;
  const [one] = await found({});
  const { time, ...others } = row({
    tenant: "acme",
    tokenId: "tok_2",
    principal: "bot:x",
    verdict: "INVALID_TOKEN",
    reason: "revoked",
  });
  expect(one).toMatchObject(others);
  expect(Math.abs(one!.time - time)).toBeLessThan(60_000);
  for (const filter of [{ tokenId: "tok_2" }, { principal: "bot:x" }, { verdict: "INVALID_TOKEN" }, { after: from }]) {
    expect(await found(filter), JSON.stringify(filter)).toHaveLength(1);
  }
  const none = [{ tokenId: "tok_1" }, { principal: "bot:ci" }, { verdict: "ALLOW" }, { before: from }];
  for (const filter of none) expect(await found(filter), JSON.stringify(filter)).toEqual([]);
  expect(await found({ tokenId: "tok_2", principal: "bot:ci" })).toEqual([]);
});

test("a time of a wrong clock is stored as the nearest good one", async () => {
  const clock = async () => Number((await sql.query("select extract(epoch from now()) * 1000 as now")).rows[0].now);
  const now = await clock();
  await log.append([
    row({ time: now + 400 * DAY, path: "/late" }),
    row({ time: 0, path: "/early" }),
    row({ path: "/" }),
  ]);
  const { rows } = await log.list({ tenant: "default" }, 10);
  expect(rows.map(({ path }) => path)).toEqual(["/late", "/", "/early"]);
  expect(rows[0]!.time).toBeLessThanOrEqual(await clock());
  expect(Math.abs(rows[2]!.time - (now - 3_600_000))).toBeLessThan(60_000);
});

test("the reader adds rows and reads none; nobody but the owner changes or removes one", async () => {
  const login = `access_${randomBytes(6).toString("hex")}`;
  for (const [role, reads] of [
    ["sallyport_reader", false],
    ["sallyport_writer", true],
  ] as const) {
    await sql.query(`create role ${login} login in role ${role}`);
    try {
      const url = new URL(database.url);
      url.username = login;
      const own = new Postgres({ url: url.href, maxConnections: 1, applicationName: "test", onTrouble });
      await own.transaction((tx) => tx.query("select 1"));
      await new PostgresAccessLog(own, lists).append([row({ principal: role })]).finally(() => own.close());
      const client = await byHand(url.href);
      const select = client.query("select from sallyport.access_log");
      if (reads) await select;
      else await expect(select).rejects.toMatchObject({ code: "42501" });
      const today = `sallyport.access_log_${await day(0)}`;
      for (const text of [
        "update sallyport.access_log set uses = 1",
        "delete from sallyport.access_log",
        `drop table ${today}`,
        `select from ${today}`,
      ]) {
        await expect(client.query(text), text).rejects.toMatchObject({ code: "42501" });
      }
      await client.end();
    } finally {
      await sql.query(`drop role ${login}`);
    }
  }
  expect((await log.list({ tenant: "default" }, 10)).rows).toHaveLength(2);
});

test("there is a partition for each day up to two weeks ahead, and retention drops whole days only", async () => {
  const kept = await days(-1, 14);
  expect(await partitions()).toEqual(kept);
  await sql.query(`drop table sallyport.access_log_${kept.at(-1)}`);
  for (const offset of [-40, -32, -31, -30, -2]) await old(offset);
  await log.upkeep(30 * DAY);
  // The day that ended 30 days and some hours ago is the first that goes.
  expect(await partitions()).toEqual([await day(-30), await day(-2), ...kept]);
  await log.append([row()]);
  await log.upkeep(0);
  expect(await partitions()).toEqual(kept);
  expect((await log.list({ tenant: "default" }, 10)).rows).toHaveLength(1);
});

test("upkeep waits for no more than a moment while rows are being added, and two at once are one", async () => {
  const name = await old(-9);
  await sql.query(`drop table sallyport.access_log_${await day(14)}`);
  const adding = await byHand(database.url);
  await adding.query("begin");
  await adding.query(
    `insert into sallyport.access_log (at, tenant, principal, token_id, hint, profile, verdict, reason, scopes, audience, method,
       host, path, workload, address, listener, uses)
     values (now(), '', '', '', '', '', '', '', '{}', '', '', '', '', '', '', '', 1)`,
  );
  // New days come beside the open row; an old one cannot go, and gives up.
  await expect(log.upkeep(DAY)).rejects.toThrow();
  // By itself, long before the statement must end.
  await sql.query("set statement_timeout = '20s'");
  await expect(sql.query("select sallyport.access_log_prune('1 day')")).rejects.toMatchObject({ code: "55P03" });
  expect(await partitions()).toContain(await day(14));
  expect(await partitions()).toContain(name);
  expect((await sql.query(LOCK_WAITS)).rows).toEqual([]);
  await adding.query("rollback");
  await Promise.all([log.upkeep(DAY), log.upkeep(DAY)]);
  expect(await partitions()).not.toContain(name);
  await adding.end();
});

test.skipIf(!hasPostgres(15))(
  "PostgreSQL 15, if it is installed, has it, too, and pg_restore --clean takes a dump back over the schema that it was made from",
  async () => {
    const server = await startServer({ major: 15, fsync: false });
    const old = new Postgres({ url: server.url, maxConnections: 1, applicationName: "test", onTrouble });
    const place = await mkdtemp(join(tmpdir(), "access-log-"));
    try {
      await migrateAt(server.url);
      await new PostgresAccessLog(old, lists).append([row()]);
      await new PostgresAccessLog(old, lists).upkeep(30 * DAY);
      const run = (name: string, ...args: string[]) => promisify(execFile)(join(server.binDir, name), args);
      const file = join(place, "dump");
      await run("pg_dump", "-Fc", "-f", file, server.url);
      await run("pg_restore", "--clean", "--if-exists", "--exit-on-error", "-d", server.url, file);
      const fresh = await byHand(server.url);
      const uses = await fresh.query("select sum(uses)::int as uses from sallyport.access_log");
      expect(uses.rows).toEqual([{ uses: 2 }]);
      await fresh.end();
      await new PostgresAccessLog(old, lists).append([row()]);
      await new PostgresAccessLog(old, lists).upkeep(30 * DAY);
    } finally {
      await old.close();
      await rm(place, { recursive: true });
      await server.remove();
    }
  },
);

import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Keyring } from "../../src/domain/keyring.ts";
import { checkDatabase } from "../../src/postgres/boot.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { connectionSettings, Postgres } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { MISSING, POLL, VALIDATORS } from "../../src/postgres/revocation-sql.ts";
import { isShared, startupSettings } from "../../src/postgres/session-settings.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { byHand } from "./migrated.ts";

/** A server as it comes: with JIT. */
let server: ThrowawayServer;
beforeAll(async () => {
  server = await startServer({ major: 15, settings: { jit: "on", autovacuum: "off" } });
  await migrate(server.url);
});
afterAll(() => server?.remove());

async function show(config: pg.ClientConfig, name: string): Promise<string> {
  const client = new pg.Client(config);
  await client.connect();
  const { rows } = await client.query(`select current_setting($1) as value`, [name]);
  await client.end();
  return rows[0].value;
}

describe("a direct connection", () => {
  test("has jit off, with the operator's own options, and an operator's jit does not win", async () => {
    expect(await show({ connectionString: server.url }, "jit")).toBe("on");
    expect(await show(connectionSettings(server.url, "test"), "jit")).toBe("off");
    for (const query of [
      "?options=-c%20work_mem%3D5MB",
      "?sslmode=disable&options=-c%20work_mem%3D5MB%20-c%20jit%3Don",
    ]) {
      const config = connectionSettings(`${server.url}${query}`, "test");
      expect([await show(config, "jit"), await show(config, "work_mem")]).toEqual(["off", "5MB"]);
    }
  });

  test("keeps PGOPTIONS", () => {
    process.env["PGOPTIONS"] = "-c work_mem=5MB";
    onTestFinished(() => {
      delete process.env["PGOPTIONS"];
    });
    expect(startupSettings("postgres://h/d").options).toMatch(/^-c work_mem=5MB -c jit=off -c datestyle=ISO /);
  });

  test("is each one that polls, waits, reads and changes", async () => {
    const log = new PostgresRevocationLog({ url: server.url, connections: 2, onTrouble: () => {} });
    onTestFinished(() => log.close());
    const db = new Postgres({ url: server.url, maxConnections: 1, applicationName: "sallyport", onTrouble: () => {} });
    onTestFinished(() => db.close());
    expect(await db.read("select current_setting('jit') as jit")).toEqual([{ jit: "off" }]);
    const sql = await byHand(server.url);
    // Of another session only its work shows: its own statement, compiled or not.
    await sql.query("alter system set jit_above_cost = 0");
    await sql.query("select pg_reload_conf()");
    onTestFinished(async () => {
      await sql.query("alter system reset jit_above_cost");
      await sql.query("select pg_reload_conf()");
    });
    const { epoch } = await log.readEpoch();
    await log.unacknowledged(epoch, 0);
    const before = performance.now();
    for (let i = 0; i < 20; i++) await log.unacknowledged(epoch, 0);
    // Compiled, each takes several times that.
    expect((performance.now() - before) / 20).toBeLessThan(100);
  });
});

describe("a shared connection", () => {
  const boot = async (url: string, shared: boolean) => {
    const db = new Postgres({ url, shared, maxConnections: 1, applicationName: "sallyport", onTrouble: () => {} });
    onTestFinished(() => db.close());
    const { current, keys } = freshKeyring();
    return checkDatabase(db, new Keyring(current, keys), { fsyncOffAllowed: false, mayWrite: false, shared });
  };

  test("gets no settings; a wrong value refuses the start with the line to run, and after that line the start succeeds", async () => {
    const sql = await byHand(server.url);
    await sql.query(`create role "app-1" login in role sallyport_writer`);
    onTestFinished(async () => void (await sql.query(`drop role "app-1"`)));
    const url = server.url.replace("sallyport@", "app-1@");
    expect(await show(connectionSettings(url, "test", true), "jit")).toBe("on");
    const line = `ALTER ROLE "app-1" SET jit = off;`;
    await expect(boot(url, true)).rejects.toMatchObject({
      kind: "database_unfit",
      message: expect.stringContaining(line),
    });
    await sql.query(line);
    await boot(url, true);
    await boot(server.url, false);
  });

  test("is one that leads elsewhere than the direct one; another login on the same server is not", () => {
    expect(isShared("postgres://a@h/d", undefined)).toBe(false);
    expect(isShared("postgres://a@h/d", "postgres://owner:x@h:5432/d")).toBe(false);
    expect(isShared("postgres://a@h:6432/d", "postgres://a@h/d")).toBe(true);
    expect(isShared("postgres://a@pooler/d", "postgres://a@h/d")).toBe(true);
    expect(isShared("postgres://a@h/d", "postgres://a@h/d?host=/run/postgresql")).toBe(true);
  });
});

test("migrations leave statistics of the protocol's tables", async () => {
  const sql = await byHand(server.url);
  const { rows } = await sql.query(
    `select relname from pg_class where relnamespace = 'sallyport'::regnamespace
     and relname in ('rev_head', 'rev_state', 'rev_log', 'validators') and reltuples >= 0 order by relname`,
  );
  expect(rows.map(({ relname }) => relname)).toEqual(["rev_head", "rev_log", "rev_state", "validators"]);
});

describe("with jit and without statistics of the tables", () => {
  async function withoutFigures(): Promise<pg.Client> {
    const sql = await byHand(server.url);
    const tables = "'rev_head', 'rev_state', 'rev_log', 'validators'";
    await sql.query(
      `update pg_class set reltuples = -1, relpages = 0
       where relnamespace = 'sallyport'::regnamespace and relname in (${tables})`,
    );
    await sql.query(
      `delete from pg_statistic where starelid in (
         select oid from pg_class where relnamespace = 'sallyport'::regnamespace and relname in (${tables}))`,
    );
    return sql;
  }

  const STATEMENTS: [string, { text: string }, unknown[]][] = [
    ["missing", MISSING, ["e", null]],
    ["validators", VALIDATORS, []],
    ["poll", POLL, ["00000000-0000-0000-0000-000000000000", "e", 0]],
  ];
  test.each(STATEMENTS)(
    "%s is planned for one row, is not compiled, and takes less than 50 ms",
    async (_, { text }, values) => {
      const sql = await withoutFigures();
      const { rows } = await sql.query(`explain (analyze, format json) ${text}`, values);
      const [{ Plan, JIT }] = rows[0]["QUERY PLAN"];
      expect(JIT).toBeUndefined();
      expect(Plan["Plan Rows"]).toBe(1);
      await sql.query(text, values);
      const before = performance.now();
      await sql.query(text, values);
      expect(performance.now() - before).toBeLessThan(50);
    },
  );
});

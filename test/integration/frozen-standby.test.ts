import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

let server: ThrowawayServer;
let sql: pg.Client;
let adminToken: string;
const keyring = freshKeyring();
const running: TestSallyport[] = [];

beforeAll(async () => {
  server = await startServer();
  await migrate(server.url);
  const keep = (secret: { reveal(): string }) => (adminToken = secret.reveal());
  await bootstrap({ url: server.url, keyring, ttlMs: 86_400_000, again: false, keep });
  sql = new pg.Client(server.url);
  await sql.connect();
}, 60_000);
afterAll(async () => {
  for (const sallyport of running) await sallyport.stop();
  await sql?.end();
  await server?.remove();
});

const count = async (text: string) => (await sql.query(text)).rowCount ?? 0;

test("instances start, validate and do their housekeeping while a synchronous standby is frozen, and fill no connections", async () => {
  // A synchronous standby that confirms nothing.
  await sql.query("alter system set synchronous_standby_names = 'nobody'");
  await sql.query("select pg_reload_conf()");
  await expect
    .poll(async () => (await sql.query("show synchronous_standby_names")).rows[0].synchronous_standby_names)
    .toBe("nobody");
  const database = { url: server.url, drop: async () => {} };
  const start = () => TestSallyport.start({ database, keyring });
  running.push(...(await Promise.all([start(), start()])));
  for (const sallyport of running) expect(await sallyport.verdict(adminToken)).toBe("ALLOW");
  const silent = "00000000-0000-0000-0000-000000000001";
  // By a session that waits for no standby: a validator that died before the standby froze.
  await sql.query("set synchronous_commit = local");
  await sql.query(
    `insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids, seen, secret_hash)
     values ($1, 'x', 100, 1, '{}', now() - interval '1 min', '')`,
    [silent],
  );
  // Every kind of row that an instance writes by itself: settled, reaped, deleted, last use, check values of peppers.
  const eventually = { timeout: 20_000, interval: 100 };
  await expect.poll(() => count("select from sallyport.rev_state where settled is not null"), eventually).toBe(1);
  await expect.poll(() => count(`select from sallyport.validators where id = '${silent}'`), eventually).toBe(0);
  await expect.poll(() => count("select from sallyport.token_usage"), eventually).toBe(1);
  expect(await count("select from sallyport.key_checks")).toBe(1);
  expect(await count("select from sallyport.validators where reaped_at is null and applied_n >= 0")).toBe(2);
  expect(await count("select from pg_stat_activity where wait_event = 'SyncRep'")).toBe(0);
  for (const sallyport of running) expect(await sallyport.verdict(adminToken)).toBe("ALLOW");
}, 60_000);

import { connect, createServer, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import { refusal } from "../../src/domain/decide.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { PostgresTokenReader } from "../../src/postgres/token-reader.ts";
import { systemClock } from "../../src/sallyport.ts";
import { startServer } from "../support/postgres.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";
import { auditRow, byHand, digestOf, makeTokens, migrated, tokenId } from "./migrated.ts";

const DIGEST = "x".repeat(32);
/** What a call waits for, and what each session's first look-up takes: Check waits 150, with less room for a busy machine. */
const CALL_MS = 600;
const FIRST_MS = 1_200;

function reading(url: string, connections: number): PostgresTokenReader {
  const reader = new PostgresTokenReader({ url, connections, clock: systemClock, onTrouble: () => {} });
  onTestFinished(() => reader.close());
  return reader;
}

/** In front of a server whose sessions answer their first statement late: `sessions` counts them. */
async function slowToBegin(url: string, ms: number) {
  const target = Number(new URL(url).port);
  let sessions = 0;
  const server = createServer((client: Socket) => {
    sessions++;
    const upstream = connect({ host: "127.0.0.1", port: target });
    let sent = 0;
    let line: Promise<unknown> = Promise.resolve();
    let late = false;
    client.on("data", (chunk) => {
      // The first is the startup packet.
      if (++sent === 2) late = true;
      upstream.write(chunk);
    });
    upstream.on("data", (chunk) => {
      if (late) line = line.then(() => delay(ms));
      late = false;
      line = line.then(() => client.write(chunk));
    });
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const through = new URL(url);
  through.port = String((server.address() as { port: number }).port);
  return { url: through.href, sessions: () => sessions };
}

/** Reads until one is answered in time; how many were not. */
async function refusedFirst(reader: PostgresTokenReader): Promise<number> {
  for (let refused = 0; ; refused++) {
    const found = await reader.read(DIGEST, CALL_MS).catch(() => undefined);
    if (found !== undefined) return refused;
    expect(refused).toBeLessThan(50);
  }
}

test("a session whose first look-up is slower than any call waits is kept: only the first calls are refused", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const { url, sessions } = await slowToBegin(database.url, FIRST_MS);
  const reader = reading(url, 1);
  const refused = await refusedFirst(reader);
  expect(refused).toBeGreaterThan(0);
  for (let i = 0; i < 20; i++) await reader.read(DIGEST, CALL_MS);
  expect(sessions()).toBe(1);
});

test("a session that is opened before the first call refuses none", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const { url, sessions } = await slowToBegin(database.url, FIRST_MS);
  const reader = reading(url, 2);
  reader.warmUp();
  await reader.read(DIGEST, 5_000);
  for (let i = 0; i < 20; i++) await reader.read(DIGEST, CALL_MS);
  expect(sessions()).toBe(2);
});

test("while one connection is being opened, the other one serves all", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const proxy = await startTcpProxy({ port: Number(new URL(database.url).port) });
  onTestFinished(() => proxy.stop());
  const url = new URL(database.url);
  url.port = String(proxy.port);
  const reader = reading(url.href, 2);
  reader.warmUp();
  await reader.read(DIGEST, 5_000);
  while (proxy.connections().length < 2) await delay(5);
  for (let i = 0; i < 4; i++) await reader.read(DIGEST, 5_000);
  const [lost] = proxy.connections();
  // New connections go nowhere from here on; the one that is left works.
  const gone = new Promise((resolve) => lost!.once("close", resolve));
  const swallowing = createServer((socket) => void socket.on("error", () => {}));
  await new Promise<void>((resolve) => swallowing.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void swallowing.close());
  proxy.leadTo({ port: (swallowing.address() as { port: number }).port });
  lost!.resetAndDestroy();
  await gone;
  await delay(20);
  for (let i = 0; i < 20; i++) await reader.read(DIGEST, 1_000);
});

test("a first look-up that the server cancels leaves it unready, and it becomes ready once one is answered", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  const holder = await byHand(database.url);
  await holder.query("begin; lock table sallyport.tokens in access exclusive mode");
  const reader = reading(database.url, 1);
  reader.warmUp();
  const blocked = async () =>
    (
      await sql.query<{ pid: number; since: string }>(
        `select pid, query_start::text as since from pg_stat_activity
         where application_name = 'sallyport-read' and wait_event_type = 'Lock' and datname = current_database()`,
      )
    ).rows[0];
  await expect.poll(blocked, { timeout: 10_000, interval: 5 }).toBeDefined();
  const first = (await blocked())!;
  await sql.query("select pg_cancel_backend($1)", [first.pid]);
  // It asks again: on this connection, or on another one.
  const again = async () => {
    const { since = first.since } = (await blocked()) ?? {};
    reader.warmUp();
    return reader.warm || since !== first.since;
  };
  await expect.poll(again, { timeout: 10_000, interval: 5 }).toBe(true);
  expect(reader.warm).toBe(false);
  await holder.query("rollback");
  const ready = () => {
    reader.warmUp();
    return reader.warm;
  };
  await expect.poll(ready, { timeout: 10_000, interval: 5 }).toBe(true);
});

test("reads under way on a connection that is being closed are read again on another one", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 1);
  const reader = reading(database.url, 1);
  expect((await reader.read(digestOf(1), 5_000)).snapshot?.id).toBe(tokenId(1));
  const holder = await byHand(database.url);
  await holder.query("begin; lock table sallyport.tokens in access exclusive mode");
  const waiting = () =>
    sql.query<{ pid: number }>(
      `select pid from pg_stat_activity
       where application_name = 'sallyport-read' and wait_event_type = 'Lock' and datname = current_database()`,
    );
  const asked = reader.read(digestOf(1), 20_000);
  await expect.poll(async () => (await waiting()).rows.length, { timeout: 10_000 }).toBe(1);
  const distrusted = systemClock.mono();
  reader.reconnect();
  await holder.query("rollback");
  const { sent, snapshot } = await asked;
  expect(snapshot?.id).toBe(tokenId(1));
  expect(sent).toBeGreaterThanOrEqual(distrusted);
});

test("a session that began on a standby counts as a standby's after the promotion, until it is replaced", async () => {
  const server = await startServer({ fsync: false });
  onTestFinished(() => server.remove());
  await migrate(server.url);
  const standby = await server.standby();
  onTestFinished(() => standby.remove());
  const reader = reading(standby.url, 1);
  const log = new PostgresRevocationLog({ url: standby.url, connections: 1, onTrouble: () => {} });
  onTestFinished(() => log.close());
  expect(await reader.read(digestOf(1), 5_000)).toMatchObject({ inRecovery: true });
  expect(await log.readEpoch()).toMatchObject({ inRecovery: true });
  await server.stop();
  const client = await byHand(standby.url);
  await client.query("select pg_promote()");
  await expect
    .poll(async () => (await client.query("select pg_is_in_recovery() as is")).rows[0].is, { timeout: 10_000 })
    .toBe(false);
  for (const seen of [await reader.read(digestOf(1), 5_000), await log.readEpoch()]) {
    expect(seen).toMatchObject({ inRecovery: true });
    expect(seen.epoch).toMatch(/^00000002\//);
  }
  reader.reconnect();
  log.reconnect();
  for (const seen of [await reader.read(digestOf(1), 5_000), await log.readEpoch()]) {
    expect(seen).toMatchObject({ inRecovery: false });
  }
});

test("a child is refused once its parent's row has ended or is gone", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 1);
  await sql.query("begin");
  await auditRow(sql);
  await sql.query(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, parent_id)
     select 'tok_' || lpad(i::text, 22, '0'), convert_to(lpad(i::text, 32, 'd'), 'UTF8'), '1', 'h', 'default', 'bot',
       'bot:ci', 'token:h', 'tok_' || lpad(i::text, 22, '0'), $1 from generate_series(2, 2) i`,
    [tokenId(1)],
  );
  await sql.query("commit");
  const reader = reading(database.url, 1);
  const child = async () => {
    const { snapshot } = await reader.read(digestOf(2), 5_000);
    return snapshot && refusal(snapshot, { lower: Date.now(), upper: Date.now() });
  };
  expect(await child()).toBeUndefined();
  const change = async (...statements: string[]) => {
    await sql.query("begin");
    await auditRow(sql);
    for (const statement of statements) await sql.query(statement);
    await sql.query("commit");
  };
  const parent = `where id = '${tokenId(1)}'`;
  for (const [ended, back] of [
    ["disabled = true", "disabled = false"],
    ["expire_time = now() - interval '1 s'", "expire_time = null"],
    ["not_before_time = now() + interval '1 h'", "not_before_time = null"],
  ]) {
    await change(`update sallyport.tokens set ${ended} ${parent}`);
    expect(await child(), ended).toBe("revoked");
    await change(`update sallyport.tokens set ${back} ${parent}`);
    expect(await child(), back).toBeUndefined();
  }
  // As a restore leaves it that lost rows: no constraint stands, and no trigger was asked.
  await change(
    "alter table sallyport.tokens drop constraint tokens_parent_id_fkey",
    "alter table sallyport.tokens disable trigger all",
    `delete from sallyport.tokens ${parent}`,
    "alter table sallyport.tokens enable trigger all",
  );
  expect(await child()).toBe("revoked");
});

import { expect, onTestFinished, test } from "vitest";
import { migrate } from "../../src/postgres/migrate.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { PostgresTokenReader } from "../../src/postgres/token-reader.ts";
import { systemClock } from "../../src/sallyport.ts";
import { startServer } from "../support/postgres.ts";
import { byHand, digestOf, makeTokens, migrated, tokenId } from "./migrated.ts";

function readerOf(url: string) {
  const reader = new PostgresTokenReader({ url, connections: 1, clock: systemClock, onTrouble: () => {} });
  onTestFinished(() => reader.close());
  return reader;
}

test("what is under way on a connection that is distrusted is not answered by it, and asks once more", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 1);
  const reader = readerOf(database.url);
  expect((await reader.read(digestOf(1), 5_000)).material?.id).toBe(tokenId(1));
  const holder = await byHand(database.url);
  await holder.query("begin; lock table sallyport.tokens in access exclusive mode");
  const waiting = () =>
    sql.query<{ pid: number }>(
      `select pid from pg_stat_activity
       where application_name = 'sallyport-read' and wait_event_type = 'Lock' and datname = current_database()`,
    );
  const reading = reader.read(digestOf(1), 20_000);
  await expect.poll(async () => (await waiting()).rows.length, { timeout: 10_000 }).toBe(1);
  const distrusted = systemClock.mono();
  reader.distrust();
  // A backend that waits for a lock does not notice that nobody listens: the other one is seen beside it.
  await expect.poll(async () => (await waiting()).rows.length, { timeout: 10_000 }).toBe(2);
  await holder.query("rollback");
  const { sent, material } = await reading;
  expect(material?.id).toBe(tokenId(1));
  expect(sent).toBeGreaterThanOrEqual(distrusted);
});

test("a session that began on a standby counts as a standby's after the promotion, until it is another", async () => {
  const server = await startServer({ fsync: false });
  onTestFinished(() => server.remove());
  await migrate(server.url);
  const standby = await server.standby();
  onTestFinished(() => standby.remove());
  const reader = readerOf(standby.url);
  const log = new PostgresRevocationLog({ url: standby.url, connections: 1, onTrouble: () => {} });
  onTestFinished(() => log.close());
  expect(await reader.read(digestOf(1), 5_000)).toMatchObject({ inRecovery: true });
  expect(await log.look()).toMatchObject({ inRecovery: true });
  await server.stop();
  const client = await byHand(standby.url);
  await client.query("select pg_promote()");
  await expect
    .poll(async () => (await client.query("select pg_is_in_recovery() as is")).rows[0].is, { timeout: 10_000 })
    .toBe(false);
  for (const seen of [await reader.read(digestOf(1), 5_000), await log.look()]) {
    expect(seen).toMatchObject({ inRecovery: true });
    expect(seen.epoch).toMatch(/^00000002\//);
  }
  reader.distrust();
  log.distrust();
  for (const seen of [await reader.read(digestOf(1), 5_000), await log.look()]) {
    expect(seen).toMatchObject({ inRecovery: false });
  }
});

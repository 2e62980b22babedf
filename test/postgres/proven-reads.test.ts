import type pg from "pg";
import { expect, onTestFinished, test } from "vitest";
import type { AppError } from "../../src/domain/errors.ts";
import { PostgresCallerStates } from "../../src/postgres/caller-states.ts";
import { EPOCH, HEAD } from "../../src/postgres/evidence.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { type Followed, ProvenReads, proving } from "../../src/postgres/proven-reads.ts";
import { systemClock } from "../../src/sallyport.ts";
import { startServer } from "../support/postgres.ts";
import { byHand, makeTokens, migrated, prove, unproven } from "./migrated.ts";

/** What this program follows, set by hand as the follower sets it. */
class Following implements Followed {
  readonly clock = systemClock;
  seen: string | undefined;
  since = 0;
  position = -1;
  woken = 0;
  missing = false;

  epoch = () => this.seen;
  sawEpoch = () => this.since;
  applied = () => this.position;
  accounted = () => !this.missing;
  wake = () => void this.woken++;

  /** The epoch and the position of this server, seen now. */
  async follow(sql: pg.Client): Promise<void> {
    const { rows } = await sql.query(`select ${EPOCH} as epoch, h.n from ${HEAD}`);
    [this.seen, this.position, this.since] = [rows[0].epoch, rows[0].n, systemClock.mono()];
  }
}

function reading(url: string) {
  const db = new Postgres({ url, maxConnections: 2, applicationName: "proven", onTrouble: () => {} });
  onTestFinished(() => db.close());
  const followed = new Following();
  return { db, followed, reads: new ProvenReads(db, followed) };
}

const STATES = proving("select id, state from sallyport.token_view", "order by found.id");
const states = async (reads: ProvenReads) =>
  (await reads.rows<{ id: string; state: string }>(STATES, [])).rows.map(({ state }) => state);
const reason = (work: Promise<unknown>) =>
  work.then(
    () => "OK",
    (error: AppError) => error.reason,
  );
test("a read proves nothing before an epoch is known, in another epoch, or below the applied position", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 1);
  const { db, followed, reads } = reading(database.url);
  expect(await reason(states(reads))).toBe("STORE_UNAVAILABLE");
  await followed.follow(sql);
  expect(await states(reads)).toEqual(["ACTIVE"]);
  const good = { seen: followed.seen, position: followed.position, since: followed.since };
  for (const wrong of [
    { seen: `${good.seen}~` },
    { position: good.position + 1 },
    { since: systemClock.mono() + 60_000 },
  ]) {
    const before = followed.woken;
    Object.assign(followed, good, wrong);
    expect(await reason(states(reads)), Object.keys(wrong)[0]!).toBe("STORE_UNAVAILABLE");
    // It has asked more than once, let the follower look each time, and kept no connection that answered so.
    expect(followed.woken - before).toBeGreaterThan(1);
    expect(db.stats.total).toBe(0);
  }
  Object.assign(followed, good);
  expect(await states(reads)).toEqual(["ACTIVE"]);
  expect(db.stats.total).toBe(1);
});

test("a session is let in only by an epoch that is proven, while other reads go on", async () => {
  const database = await unproven();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 1);
  const { db, followed, reads } = reading(database.url);
  await followed.follow(sql);
  const call = { tenant: "default", roles: [] };
  const admitted = () => reason(new PostgresCallerStates(db, followed).callerStates(call, ["default"], "bot:ci"));
  expect(await admitted()).toBe("STORE_UNAVAILABLE");
  expect(await states(reads)).toEqual(["ACTIVE"]);
  await prove(sql);
  expect(await admitted()).toBe("OK");
  followed.missing = true;
  expect(await admitted()).toBe("STORE_UNAVAILABLE");
  followed.missing = false;
  await sql.query("update sallyport.rev_state set guard = 'regressed'");
  expect(await admitted()).toBe("STORE_UNAVAILABLE");
});

test("a standby proves nothing, and after its promotion neither do its reads from before", async () => {
  const primary = await startServer({ fsync: false });
  onTestFinished(() => primary.remove());
  await migrate(primary.url);
  const standby = await primary.standby();
  onTestFinished(() => standby.remove());
  const [sql, late] = [await byHand(primary.url), await byHand(standby.url)];
  await makeTokens(sql, 1);
  const reached = (at: string) =>
    expect
      .poll(
        async () =>
          (
            await late.query(`select pg_last_wal_${at}_lsn() >= $1::pg_lsn as is`, [
              (await sql.query("select pg_current_wal_lsn()::text as at")).rows[0].at,
            ])
          ).rows[0].is,
        { timeout: 10_000 },
      )
      .toBe(true);
  await reached("replay");
  const { followed, reads } = reading(standby.url);
  await followed.follow(sql);
  expect(await reason(states(reads))).toBe("STORE_UNAVAILABLE");
  // What says that it is no standby, and of which epoch, is told by a session that has no say in the rows.
  followed.seen = (await late.query(`select ${EPOCH} as epoch from ${HEAD}`)).rows[0].epoch;
  expect(await reason(states(reads))).toBe("STORE_UNAVAILABLE");

  // Received, but not yet replayed: another token. It takes no position, so none tells that it is missed.
  await late.query("select pg_wal_replay_pause()");
  await makeTokens(sql, 1, "bot:ci", 2);
  await reached("receive");

  // A read that begins on the standby, with its rows, and ends after the promotion.
  const gate = await byHand(standby.url);
  await gate.query("select pg_advisory_lock(7)");
  const held = proving("select id, pg_advisory_xact_lock_shared(7)::text from sallyport.tokens");
  const begun = reason(reads.rows(held, [], 25_000));
  const waiting = async () =>
    (await late.query("select from pg_stat_activity where application_name = 'proven' and wait_event = 'advisory'"))
      .rowCount;
  await expect.poll(waiting, { timeout: 10_000 }).toBe(1);
  await sql.end();
  await primary.stop();
  await late.query("select pg_promote()");
  await expect
    .poll(async () => (await late.query("select pg_is_in_recovery() as is")).rows[0].is, { timeout: 10_000 })
    .toBe(false);
  await followed.follow(late);
  await gate.query("select pg_advisory_unlock(7)");
  expect(await begun).toBe("STORE_UNAVAILABLE");
  expect(await states(reads)).toEqual(["ACTIVE", "ACTIVE"]);
}, 90_000);

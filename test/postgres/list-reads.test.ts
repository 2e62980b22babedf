import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import { ListReads } from "../../src/postgres/list-reads.ts";
import { systemClock } from "../../src/sallyport.ts";
import { freshDatabase } from "../support/postgres.ts";
import { byHand } from "./migrated.ts";

async function opened() {
  const database = await freshDatabase();
  const troubles: string[] = [];
  const lists = new ListReads({ url: database.url, clock: systemClock, onTrouble: (what) => troubles.push(what) });
  const admin = await byHand(database.url);
  onTestFinished(async () => {
    await lists.close();
    await database.drop();
  });
  const active = async () => {
    const { rows } = await admin.query(
      "select count(*)::int as n from pg_stat_activity where application_name = 'sallyport-list' and state = 'active'",
    );
    return rows[0].n as number;
  };
  const until = async (count: number) => {
    while ((await active()) !== count) await delay(20);
  };
  return { lists, troubles, until };
}

const sleep = "select pg_sleep(600)";

test("a statement ends on the server at the caller's deadline", async () => {
  const { lists, until } = await opened();
  await lists.read("select 1", []);
  const late = lists.read(sleep, [], { deadline: systemClock.mono() + 400 });
  await until(1);
  await expect(late).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  await until(0);
  expect(await lists.read("select 1 as one", [])).toEqual([{ one: 1 }]);
});

test("a statement ends on the server when its caller disconnects, and this counts as no trouble", async () => {
  const { lists, until, troubles } = await opened();
  const caller = new AbortController();
  const left = lists.read(sleep, [], { signal: caller.signal }, 600_000);
  await until(1);
  caller.abort();
  await expect(left).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  await until(0);
  await expect(lists.read("select 1", [], { signal: caller.signal })).rejects.toMatchObject({
    reason: "STORE_UNAVAILABLE",
  });
  expect(troubles).toEqual([]);
});

test("two lists run at once; others wait until their deadline, and then get OVERLOADED", async () => {
  const { lists, until } = await opened();
  const caller = new AbortController();
  const long = [1, 2].map(() => lists.read(sleep, [], { signal: caller.signal }, 600_000).catch(() => {}));
  await until(2);
  await expect(lists.read("select 1", [], { deadline: systemClock.mono() + 50 })).rejects.toMatchObject({
    reason: "OVERLOADED",
  });
  const patient = lists.read("select 2 as two", [], {}, 600_000);
  const waiting = Array.from({ length: 63 }, () => lists.read("select 3", [], {}, 600_000));
  await expect(lists.read("select 4", [], {}, 600_000)).rejects.toMatchObject({ reason: "OVERLOADED" });
  caller.abort();
  expect(await patient).toEqual([{ two: 2 }]);
  await Promise.all([...long, ...waiting]);
});

test("the server has the client's time limit, and a list runs in a read-only transaction", async () => {
  const { lists } = await opened();
  const settings = ["statement_timeout", "client_connection_check_interval", "transaction_read_only"];
  const text = "select name, setting from pg_settings where name = any($1) order by name";
  expect(await lists.read(text, [settings])).toEqual([
    { name: "client_connection_check_interval", setting: "250" },
    { name: "statement_timeout", setting: "5000" },
    { name: "transaction_read_only", setting: "on" },
  ]);
});

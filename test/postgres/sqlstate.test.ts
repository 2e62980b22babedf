import { randomUUID } from "node:crypto";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import type { AppError } from "../../src/domain/errors.ts";
import { DirectConnection } from "../../src/postgres/direct-connection.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { MEANINGS } from "../../src/postgres/sqlstate.ts";
import { PostgresTokenReader } from "../../src/postgres/token-reader.ts";
import { systemClock } from "../../src/sallyport.ts";
import { byHand, migrated } from "./migrated.ts";

let url: string;
beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
});

function open(at = url): Postgres {
  const db = new Postgres({ url: at, maxConnections: 2, applicationName: "states", onTrouble: () => {} });
  onTestFinished(() => db.close());
  return db;
}

const failing = (work: Promise<unknown>) =>
  work.then(
    () => ({ reason: "OK", message: "" }),
    ({ reason, message }: AppError) => ({ reason, message }),
  );
/** The first state of a class: `55` is `55000`. */
const raising = (state: string) =>
  `do $$ begin raise exception using errcode = '${state.padEnd(5, "0")}', message = 'secret'; end $$`;
const settings = async (set: string) => {
  const sql = await byHand(url);
  await sql.query(`alter database ${new URL(url).pathname.slice(1)} ${set}`);
};

test.each(Object.entries(MEANINGS))(
  "%s: a change, a read and a direct statement tell it, and keep or destroy the connection",
  async (state, meaning) => {
    const db = open();
    const reason = { NOT_DONE: "NOT_DONE", INTERNAL: "INTERNAL", again: "WRITE_CONFLICT" }[meaning.change];
    const change = await failing(db.transaction((tx) => tx.query(raising(state))));
    expect(change).toEqual({ reason, message: `${meaning.words}; nothing was changed` });
    expect(db.stats.total).toBe(meaning.connection === "keep" ? 1 : 0);
    expect(await failing(db.read(raising(state)))).toEqual({ reason: "STORE_UNAVAILABLE", message: meaning.words });
    expect(db.stats.total).toBe(meaning.connection === "keep" ? 1 : 0);

    const direct = new DirectConnection({ url, applicationName: "direct", onLost: () => {} });
    onTestFinished(() => direct.close());
    const pid = async () =>
      (await direct.run<{ pid: number }>({ name: "pid", text: "select pg_backend_pid() as pid" }, []))[0]!.pid;
    const before = await pid();
    expect((await failing(direct.run({ name: "raise", text: raising(state) }, []))).message).toBe(meaning.words);
    expect((await pid()) === before).toBe(meaning.connection === "keep");
  },
);

test("a SQLSTATE that is not in the table is a bug: INTERNAL, and the connection is kept", async () => {
  const db = open();
  for (const state of ["23505", "22012", "P0001", "42601", "54000"]) {
    const { reason, message } = await failing(db.transaction((tx) => tx.query(raising(state))));
    expect([reason, message]).toEqual(["INTERNAL", "the database refused the change; nothing was changed"]);
    expect(db.stats.total).toBe(1);
  }
});

test("a database that only reads: NOT_DONE, and the connection is destroyed", async () => {
  const db = open();
  await settings("set default_transaction_read_only = on");
  const change = await failing(db.transaction((tx) => tx.query("delete from sallyport.requests")));
  expect(change).toEqual({ reason: "NOT_DONE", message: expect.stringContaining("only reads") });
  expect(db.stats.total).toBe(0);
});

test("a session that the server ends inside a change: NOT_DONE, with the cause in words", async () => {
  const db = open();
  const change = await failing(db.transaction((tx) => tx.query("select pg_terminate_backend(pg_backend_pid())")));
  expect(change.reason).toBe("NOT_DONE");
  expect(change.message).toContain("shutting down");
  expect(db.stats.total).toBe(0);
});

test("no connection left, a missing right, and a schema that is not there are NOT_DONE, and no bug", async () => {
  const sql = await byHand(url);
  const name = `poor_${randomUUID().replaceAll("-", "")}`;
  await sql.query(`create role ${name} login`);
  onTestFinished(async () => void (await sql.query(`drop role ${name}`)));
  const as = new URL(url);
  as.username = name;
  const db = open(as.href);
  const change = () => failing(db.transaction((tx) => tx.query("select n from sallyport.rev_head")));
  expect(await change()).toEqual({ reason: "NOT_DONE", message: expect.stringContaining("lacks a right") });
  await sql.query(`alter role ${name} connection limit 0`);
  const full = open(as.href);
  const refused = await failing(full.transaction((tx) => tx.query("select 1")));
  expect(refused).toEqual({ reason: "NOT_DONE", message: expect.stringContaining("no connection left") });
  expect((await failing(full.read("select 1"))).message).toContain("no connection left");
  await sql.query("drop schema sallyport cascade");
  const gone = await failing(open().transaction((tx) => tx.query("select n from sallyport.rev_head")));
  expect(gone).toEqual({ reason: "NOT_DONE", message: expect.stringContaining("schema") });
});

test("a look-up on a connection that lost its prepared statements opens another connection", async () => {
  const reader = new PostgresTokenReader({ url, connections: 1, clock: systemClock, onTrouble: () => {} });
  onTestFinished(() => reader.close());
  const pids = async () => {
    const sql = await byHand(url);
    return (
      await sql.query(
        "select pid from pg_stat_activity where application_name = 'sallyport-read' and datname = current_database()",
      )
    ).rows;
  };
  await reader.read("d".repeat(32), 2000);
  const before = await pids();
  // The columns of the look-up have another type: PostgreSQL refuses the plan of before for good.
  const sql = await byHand(url);
  await sql.query("alter table sallyport.validators alter column seen drop default");
  await sql.query("drop view sallyport.token_view; alter table sallyport.tokens alter column hint type varchar(64)");
  expect((await failing(reader.read("d".repeat(32), 2000))).message).toContain("prepared");
  await reader.read("d".repeat(32), 2000);
  expect(await pids()).not.toEqual(before);
});

test.each(["off", "local", "remote_write", "on", "remote_apply"])(
  "where the server's default is synchronous_commit = %s, every change waits for at least its disk and the standby's",
  async (set) => {
    await settings(`set synchronous_commit = '${set}'`);
    const db = open();
    const inside = await db.transaction((tx) => tx.query("show synchronous_commit"));
    expect(inside).toEqual([{ synchronous_commit: set === "remote_apply" ? set : "on" }]);
    // Nothing is left behind on a session that others may use.
    expect(await db.read("show synchronous_commit")).toEqual([{ synchronous_commit: set }]);
  },
);

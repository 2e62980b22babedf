import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type pg from "pg";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { StartError } from "../../src/domain/start-error.ts";
import { PostgresJournal } from "../../src/postgres/journal.ts";
import { assertJournal, migrateJournal, needsJournal, openJournal } from "../../src/postgres/journal-schema.ts";
import { restore } from "../../src/postgres/restore.ts";
import type { JournalRecord } from "../../src/revocation/ports.ts";
import { type Database, freshDatabase } from "../support/postgres.ts";
import { auditRow, byHand, makeTokens, tokenId, unproven } from "./migrated.ts";

const START = { position: 0, nr: 2 ** 31 - 1 };
let database: Database;
let journal: Database;
let sql: pg.Client;
let kept: pg.Client;

beforeEach(async () => {
  [database, journal] = [await unproven(), await freshDatabase()];
  onTestFinished(() => Promise.all([database.drop(), journal.drop()]).then(() => {}));
  [sql, kept] = [await byHand(database.url), await byHand(journal.url)];
  expect(await migrateJournal(journal.url)).toBe(true);
});

function open(url = journal.url): PostgresJournal {
  const store = new PostgresJournal({ url: database.url, journalUrl: url, onTrouble: () => {} });
  onTestFinished(() => store.close());
  return store;
}

const epochOf = async () => (await sql.query("select sallyport.rev_epoch() as epoch")).rows[0].epoch as string;
const proven = async () =>
  (await sql.query("select sallyport.rev_prove(sallyport.rev_epoch(), true) as done")).rows[0].done;
const revoke = async (...ns: number[]) => {
  await sql.query("begin");
  await auditRow(sql);
  for (const n of ns) await sql.query("select sallyport.revoke($1, 'why')", [tokenId(n)]);
  await sql.query("commit");
};

test("with a journal, no process proves an epoch that was not compared with it", async () => {
  const store = open();
  const epoch = await epochOf();
  await store.attach(epoch);
  expect(await proven()).toBe(false);
  await sql.query("update sallyport.rev_state set compared = 'another'");
  expect(await proven()).toBe(false);
  await store.compared(epoch);
  expect(await proven()).toBe(true);
});

test("the guard that the journal closes opens by a comparison; the one that was closed by hand does not", async () => {
  const store = open();
  const epoch = await epochOf();
  const says = async () => (await sql.query("select guard, mismatch as why from sallyport.rev_state")).rows[0];
  expect(await store.mismatch(epoch, "it is another's")).toBe(true);
  expect(await says()).toEqual({ guard: "regressed", why: "it is another's" });
  expect(await store.mismatch(epoch, "it is empty")).toBe(true);
  expect(await says()).toEqual({ guard: "regressed", why: "it is empty" });
  await store.attach(epoch);
  expect(await proven()).toBe(false);
  await store.compared(epoch);
  expect(await proven()).toBe(true);
  // Somebody who was slower than that comparison does not close it again.
  expect(await store.mismatch(epoch, "it is empty")).toBe(false);
  expect((await sql.query("select guard, mismatch from sallyport.rev_state")).rows).toEqual([
    { guard: "ok", mismatch: null },
  ]);
  await sql.query("update sallyport.rev_state set guard = 'regressed'");
  await store.compared(epoch);
  expect(await proven()).toBe(false);
  await sql.query("update sallyport.rev_state set compared = null");
  expect(await store.mismatch(epoch, "it is empty")).toBe(true);
  expect(await says()).toEqual({ guard: "regressed", why: null });
  await expect(sql.query("select sallyport.journal_waive(true, false)")).rejects.toThrow("lacks nothing");
});

test("an operator does without the journal for one epoch, or for good", async () => {
  const store = open();
  const epoch = await epochOf();
  await expect(sql.query("select sallyport.journal_waive(false, false)")).rejects.toThrow("no journal");
  await store.attach(epoch);
  await sql.query("select sallyport.journal_waive(false, false)");
  expect(await proven()).toBe(true);
  expect(await store.mismatch(epoch, "it is empty")).toBe(false);
  await sql.query("select sallyport.draw_incarnation((select incarnation from sallyport.rev_state))");
  expect(await proven()).toBe(false);
  await sql.query("select sallyport.journal_waive(false, true)");
  await sql.query("select sallyport.draw_incarnation((select incarnation from sallyport.rev_state))");
  expect(await proven()).toBe(true);
  const { rows } = await sql.query("select metadata from sallyport.audit where action = 'journal.waive'");
  expect(rows).toHaveLength(2);
});

test("what the log has is appended once, position by position, and read back as it was", async () => {
  await makeTokens(sql, 5);
  await revoke(1);
  await revoke(2, 3);
  const [one, other] = [open(), open()];
  const epoch = await epochOf();
  const { database: id } = await one.state(epoch);
  expect(await one.begin(id, epoch, true)).toBe("begun");
  const { records, more, head } = await one.after(epoch, START);
  expect(more).toBe(false);
  expect(head).toBe(records.at(-1)!.position);
  expect(records.slice(-3).map(({ position, nr, of, kind }) => [head - position, nr, of, kind])).toEqual([
    [1, 1, 1, "revoked"],
    [0, 1, 2, "revoked"],
    [0, 2, 2, "revoked"],
  ]);
  expect(await Promise.all([one.append(epoch, records), other.append(epoch, records)])).toEqual([true, true]);
  expect(await one.page(epoch, START)).toEqual(records);
  expect(await one.newest(undefined)).toBe(head);
  expect(await one.common(epoch, records)).toBe(head);
  const changed = records.map((record): JournalRecord => ({ ...record, at: record.at + 1 }));
  expect(await one.common(epoch, changed)).toBe(-1);
  // From any place on, also inside a position.
  expect((await one.after(epoch, records.at(-2)!)).records).toEqual(records.slice(-1));
});

test("an epoch appends until a later one begins", async () => {
  const store = open();
  const id = randomUUID();
  await makeTokens(sql, 1);
  await revoke(1);
  const { records } = await store.after(await epochOf(), START);
  expect(await store.begin(id, "e1", false)).toBe("empty");
  expect(await store.begin(id, "e1", true)).toBe("begun");
  expect(await store.append("e1", records)).toBe(true);
  expect(await store.begin(randomUUID(), "e2", true)).toBe("other");
  // An append in progress comes before the begin, or is refused.
  await kept.query("begin");
  await kept.query("select sallyport_journal.append('e1', '{9}', '{1}', '{1}', '{a}', '{other}', '{1}', '{null}')");
  let begun: string | undefined;
  const begins = store.begin(id, "e2", false).then((answer) => (begun = answer));
  await expect
    .poll(async () => (await sql.query("select from pg_locks where not granted")).rows.length)
    .toBeGreaterThan(0);
  expect(begun).toBeUndefined();
  await kept.query("commit");
  expect(await begins).toBe("begun");
  expect(await store.append("e1", records)).toBe(false);
  expect(await store.begin(id, "e1", false)).toBe("older");
  expect(await store.epochs("e1")).toEqual(["e1", "e2"]);
  expect(await store.epochs("e2")).toEqual(["e2"]);
  expect(await store.epochs("e0")).toBeUndefined();
  expect(
    await store.append(
      "e2",
      records.map((record) => ({ ...record, position: 99 })),
    ),
  ).toBe(true);
  expect([await store.newest("e1"), await store.newest("e2"), await store.newest(undefined)]).toEqual([9, 99, 99]);
  await kept.query("drop table sallyport_journal.epochs");
  expect(await store.begin(id, "e2", false)).toBe("empty");
  expect(await store.append("e2", records)).toBe(false);
  await kept.query("drop schema sallyport_journal cascade");
  expect(await store.begin(id, "e2", false)).toBe("empty");
  expect(await store.append("e2", records)).toBe(false);
});

test("what an earlier epoch has noted is not noted again", async () => {
  const report = (epoch: string) =>
    sql.query("select sallyport.lost_report($1, '{900}', '{a}', '{1}', '{other}', '{null}')", [epoch]);
  await report("e1");
  await report("e2");
  expect((await sql.query("select from sallyport.lost_changes")).rows).toHaveLength(1);
});

test("while an epoch needs the journal, the log keeps what the journal does not have", async () => {
  await makeTokens(sql, 1);
  await revoke(1);
  const store = open();
  const epoch = await epochOf();
  await store.attach(epoch);
  await store.compared(epoch);
  expect(await proven()).toBe(true);
  const { head } = await store.after(epoch, START);
  // Old enough to go, with the newest 1,000 above.
  await sql.query("update sallyport.rev_log set at = at - interval '1 hour'");
  await sql.query("update sallyport.rev_head set n = n + 5000");
  const raised = async () => (await sql.query("select sallyport.rev_raise_floor() as n")).rows[0].n as number;
  expect(await raised()).toBe(0);
  await store.reached(epoch, head - 1);
  expect(await raised()).toBe(head - 1);
  expect(await store.after(epoch, START)).toMatchObject({ floor: head - 1, journaledN: head - 1, waived: false });
  await sql.query("select sallyport.journal_waive(false, false)");
  expect(await raised()).toBe(head);
  expect(await store.after(epoch, START)).toMatchObject({ floor: head, journaledN: head - 1, waived: true });
});

test("a report with another kind or other facts does not take the place of a lost change, nor its outcome", async () => {
  await makeTokens(sql, 1);
  const [{ key }] = (await sql.query("select 't'::bytea || digest as key from sallyport.tokens")).rows;
  const report = (...kinds: string[]) =>
    sql.query("select sallyport.lost_report('e1', $1, $2, $3, $4, $5)", [
      ...[kinds.map(() => 900), kinds.map(() => key), kinds.map(() => 1), kinds, kinds.map(() => '{"id": "x"}')],
    ]);
  // Somebody who may only read tells less than the truth first.
  await report("other");
  await report("revoked", "revoked");
  await report("revoked");
  const states = async () =>
    (await sql.query("select kind || ' ' || state as one from sallyport.lost_changes order by id")).rows.map(
      ({ one }) => one,
    );
  expect(await states()).toEqual(["other pending", "revoked pending"]);
  await sql.query("select sallyport.lost_redo()");
  expect(await states()).toEqual(["other noted", "revoked pending"]);
  await sql.query("select sallyport.lost_redo()");
  expect(await states()).toEqual(["other noted", "revoked applied"]);
  expect((await sql.query("select revoke_time is not null as done from sallyport.tokens")).rows).toEqual([
    { done: true },
  ]);
});

test("the user of an instance needs to select and to insert, and a start says what it lacks", async () => {
  const login = `journal_${randomUUID().slice(0, 8)}`;
  await kept.query(`create role ${login} login password 'x'`);
  onTestFinished(async () => {
    const again = await byHand(journal.url);
    await again.query(`drop owned by ${login}; drop role ${login}`);
  });
  const url = journal.url.replace(/\/\/[^@]*@/, `//${login}:x@`);
  const problem = async () => {
    const error = await assertJournal(url, false).catch((failure) => failure);
    return error instanceof StartError ? `${error.kind} ${error.message}` : error;
  };
  expect(await problem()).toMatch(
    /^database_unfit journal.url: this user may not use the schema .* GRANT USAGE .* TO "journal_/,
  );
  await kept.query(`grant usage on schema sallyport_journal to ${login}`);
  expect(await problem()).toMatch(
    /^database_unfit journal.url: this user may not select meta, select epochs, .* GRANT/,
  );
  await kept.query(`grant select, insert on all tables in schema sallyport_journal to ${login}`);
  expect(await problem()).toBe(true);
  const store = open(url);
  const epoch = await epochOf();
  const { database: id } = await store.state(epoch);
  await makeTokens(sql, 1);
  await revoke(1);
  expect(await store.begin(id, epoch, true)).toBe("begun");
  expect(await store.append(epoch, (await store.after(epoch, START)).records)).toBe(true);
  const member = await byHand(url);
  for (const text of ["delete from sallyport_journal.changes", "update sallyport_journal.meta set made = now()"]) {
    await expect(member.query(text)).rejects.toThrow("permission denied");
  }
  await member.end();
});

test("a start refuses another database's journal, and goes on without one that is away once it is attached", async () => {
  const problem = (url = journal.url) =>
    openJournal(database.url, url).then(
      (away) => away?.kind ?? "opened",
      (error: StartError) => `${error.kind}: ${error.message}`,
    );
  expect(await problem()).toBe("opened");
  const gone = journal.url.replace(/:\d+\//, ":1/");
  expect(await problem(gone)).toMatch(/^database_unavailable: journal.url: nothing listens/);
  await open().attach(await epochOf());
  expect(await problem(gone)).toBe("database_unavailable");
  expect(await problem(journal.url.replace(/[^/]*$/, "no_such_database"))).toMatch(/^database_unusable: journal.url: /);
  await sql.query("update sallyport.rev_state set journal = false");
  await kept.query("insert into sallyport_journal.meta (database) values (gen_random_uuid())");
  expect(await problem()).toMatch(/^database_unfit: journal.url: this is the journal of another database/);
});

test("restore proves nothing by an empty journal, not even for a backup from before it was attached", async () => {
  const again = (cutAll: boolean) => restore({ url: database.url, journalUrl: journal.url, cutAll });
  expect((await again(false)).why).toBe("it is empty");
  expect(await proven()).toBe(false);
  // No instance takes it for a new one either.
  expect((await open().state(await epochOf())).attached).toBe(true);
  expect((await again(true)).why).toBeUndefined();
  expect(await proven()).toBe(true);
});

test("restore --cut-all without a journal lets later epochs begin, too", async () => {
  await open().attach(await epochOf());
  expect(await needsJournal(database.url)).toBe(true);
  await restore({ url: database.url, journalUrl: undefined, cutAll: true });
  await sql.query("select sallyport.draw_incarnation((select incarnation from sallyport.rev_state))");
  expect(await proven()).toBe(true);
  expect(await needsJournal(database.url)).toBe(false);
});

test("the documented removal of old rows keeps the newest position of each epoch", async () => {
  await kept.query(`insert into sallyport_journal.changes (epoch, n, i, "of", key, kind, at)
    select e, n, i, 2, 'a', 'other', timestamptz '2001-01-01' from unnest(array['e1', 'e2']) e, generate_series(1, 3) n,
      generate_series(1, 2) i`);
  const page = readFileSync(new URL("../../docs/backup-and-failover.md", import.meta.url), "utf8");
  await kept.query(/delete from sallyport_journal[^;]*;/.exec(page)![0]);
  const { rows } = await kept.query("select epoch || n || i as one from sallyport_journal.changes order by 1");
  expect(rows.map(({ one }) => one)).toEqual(["e131", "e132", "e231", "e232"]);
});

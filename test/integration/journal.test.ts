import { setTimeout as delay } from "node:timers/promises";
import { ConnectError } from "@connectrpc/connect";
import pg from "pg";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { FREE_PORTS, folder, freshKeyring, run, writeConfig } from "../support/program.ts";
import { type Place, WAYS } from "../support/restore.ts";
import { TestSallyport } from "../support/sallyport.ts";

/*
 * The journal against real servers: what a restored database lacks comes from it, although no process remembers it; and no
 * token is allowed while it is missing, another's or unreachable.
 */
const BACK_MS = 30_000;
/** The caller where no token can be validated. */
const BREAK_GLASS = "break-glass-".repeat(4);
const ANOTHER_NAME = WAYS.find(({ name }) => name.includes("TEMPLATE"))!;
let server: ThrowawayServer;
let made = 0;

beforeAll(async () => {
  server = await startServer({ fsync: false });
}, 60_000);
afterAll(() => server?.remove());

const urlOf = (database: string) => server.url.replace(/sallyport$/, database);

async function on<R extends pg.QueryResultRow>(database: string, text: string, values: unknown[] = []): Promise<R[]> {
  const sql = new pg.Client(urlOf(database));
  await sql.connect();
  try {
    return (await sql.query<R>(text, values)).rows;
  } finally {
    await sql.end();
  }
}

/** A database with an administrator, and an empty one for its journal. */
async function deployment(mode: "async" | "required" = "async") {
  const name = `journaled_${++made}`;
  const journal = `${name}_journal`;
  for (const one of [name, journal]) await on("postgres", `create database ${one}`);
  await migrate(urlOf(name));
  const keyring = freshKeyring();
  let adminToken = "";
  const keep = (secret: { reveal(): string }) => (adminToken = secret.reveal());
  await bootstrap({ url: urlOf(name), keyring, ttlMs: 86_400_000, again: false, keep });
  const database = { url: urlOf(name), drop: async () => {} };
  const config = { journal: { url: urlOf(journal), mode }, break_glass: { secret: BREAK_GLASS } };
  const start = async () => {
    const instance = await TestSallyport.start({ database, keyring, config });
    onTestFinished(() => instance.stop().catch(() => {}));
    return instance;
  };
  const place: Place = { port: server.port, database: name, binDir: server.binDir };
  /** The server of the journal goes away, or comes back. */
  const reachable = async (there: boolean) => {
    await on("postgres", `alter database ${journal} allow_connections ${there}`);
    if (!there)
      await on("postgres", "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1", [
        journal,
      ]);
  };
  /** The database begins another epoch. */
  const nextEpoch = () => on(name, "select sallyport.draw_incarnation((select incarnation from sallyport.rev_state))");
  /** A command of the program on this database. */
  const command = async (...words: string[]) => {
    const files = folder();
    const whole = { ...config, listeners: FREE_PORTS, database: { allow_fsync_off: true }, keyring };
    const answer = await run([...words, "--config", writeConfig(files.path, whole)], { DATABASE_URL: database.url });
    files.remove();
    return answer;
  };
  return { name, journal, adminToken, start, place, reachable, nextEpoch, command };
}

async function until(expected: unknown, ask: () => Promise<unknown>): Promise<void> {
  let last: unknown;
  for (const end = performance.now() + BACK_MS; performance.now() < end; await delay(50)) {
    last = await ask().catch((error: Error) => error.message);
    if (last === expected) return;
  }
  expect(last).toEqual(expected);
}

const revoke = (one: TestSallyport, adminToken: string, id: string) =>
  one.as(adminToken).tokens.revokeToken({ target: { case: "id", value: id } });
const ready = async (one: TestSallyport) => (await fetch(`${one.listeners.ops}/readyz`)).status;
/** The journal has everything that the log has. */
const caughtUp = async ({ name, journal }: { name: string; journal: string }) => {
  const [{ n: head }] = (await on<{ n: string }>(name, "select n from sallyport.rev_head")) as [{ n: string }];
  const sql = "select coalesce(max(n), 0)::text as n from sallyport_journal.changes";
  await until(String(head), async () => (await on<{ n: string }>(journal, sql))[0]!.n);
};
const alarmed = (one: TestSallyport, what: string) =>
  until(true, async () => one.program.out.includes(`"event":"${what}"`));
const guard = async (name: string) =>
  (await on<{ guard: string; mismatch: string }>(name, "select guard, mismatch from sallyport.rev_state"))[0]!;

/** The journal was compared with this life of the database. */
const compared = (name: string) =>
  until(
    1,
    async () => (await on(name, "select from sallyport.rev_state where compared = sallyport.rev_epoch()")).length,
  );

/** Asks for the tokens again and again; `stop` returns those that were allowed. */
function asking(one: TestSallyport, tokens: readonly { id: string; tokenString: string }[]) {
  const allowed = new Set<string>();
  let going = true;
  const loop = (async () => {
    while (going) {
      for (const { id, tokenString } of tokens)
        if ((await one.verdict(tokenString).catch(() => "")) === "ALLOW") allowed.add(id);
      await delay(2);
    }
  })();
  return async () => {
    going = false;
    await loop;
    return [...allowed];
  };
}

test("of the tokens that a restored database lacks the end of, none is accepted, though no process remembers it", async () => {
  const parts = await deployment();
  const { name, adminToken, start, place } = parts;
  const first = await start();
  const admin = first.as(adminToken);
  const tokens = await Promise.all(Array.from({ length: 6 }, () => first.createToken({}, admin)));
  const bens = await first.createToken({ principal: "user:ben" }, admin);
  const cyds = await first.createToken({ principal: "user:cyd" }, admin);
  const lost = [...tokens.slice(1), bens, cyds];
  const restore = await ANOTHER_NAME.keep(place);
  for (const { id } of tokens.slice(1)) await until(true, async () => !!(await revoke(first, adminToken, id)));
  await admin.tokens.revokeTokens({ principal: "user:ben", reason: "left" });
  await admin.tokens.updateToken({ token: { id: cyds.id, disabled: true }, updateMask: { paths: ["disabled"] } });
  await caughtUp(parts);
  await first.halt();
  await restore();

  const second = await start();
  const stop = asking(second, lost);
  await until("ALLOW", () => second.verdict(tokens[0]!.tokenString));
  expect(await Promise.all(lost.map((one) => second.verdict(one.tokenString)))).toEqual(
    lost.map(() => "INVALID_TOKEN"),
  );
  expect(await stop()).toEqual([]);
  const replayed = await on(name, "select from sallyport.audit where metadata ? 'replayed'");
  expect(replayed).toHaveLength(lost.length);

  // The next epoch finds nothing more, and does nothing again.
  await caughtUp(parts);
  const count = async () => (await on(name, "select from sallyport.lost_changes")).length;
  const before = await count();
  await parts.nextEpoch();
  await until("ALLOW", () => second.verdict(tokens[0]!.tokenString));
  expect(await count()).toBe(before);
}, 120_000);

test("required: no change is reported as done that the journal does not have", async () => {
  const parts = await deployment("required");
  const { journal, adminToken, start, reachable } = parts;
  const one = await start();
  const [a, b] = [await one.createToken({}, one.as(adminToken)), await one.createToken({}, one.as(adminToken))];
  const has = async () =>
    (await on<{ n: number }>(journal, "select count(*)::int as n from sallyport_journal.changes"))[0]!.n;
  await revoke(one, adminToken, a.id);
  // In the journal when it returns.
  expect(await has()).toBeGreaterThan(0);

  await reachable(false);
  for (const noWait of [false, true]) {
    const failure = await one
      .as(adminToken)
      .tokens.revokeToken({ target: { case: "id", value: b.id }, noWait })
      .catch(ConnectError.from);
    expect(failure).toBeInstanceOf(ConnectError);
    const [info] = (failure as ConnectError).findDetails(ErrorInfoSchema);
    expect(info).toMatchObject({ reason: "OUTCOME_UNKNOWN", metadata: { journal: "pending" } });
  }
  // It is in force all the same.
  expect(await one.verdict(b.tokenString)).toBe("INVALID_TOKEN");
  await reachable(true);
  await until(true, async () => !!(await revoke(one, adminToken, b.id)));
  await caughtUp(parts);
}, 120_000);

test.for([
  ["emptied", "truncate sallyport_journal.meta, sallyport_journal.epochs, sallyport_journal.changes"],
  ["dropped", "drop schema sallyport_journal cascade"],
  ["another database's", "update sallyport_journal.meta set database = gen_random_uuid()"],
  ["without its newest changes", "delete from sallyport_journal.changes"],
] as const)(
  "a journal that is %s closes the guard at the next epoch, until an operator decides",
  { timeout: 120_000 },
  async ([what, harm]) => {
    const parts = await deployment();
    const { name, journal, adminToken, start, nextEpoch } = parts;
    const one = await start();
    const [kept, gone] = [await one.createToken({}, one.as(adminToken)), await one.createToken({}, one.as(adminToken))];
    await revoke(one, adminToken, (await one.createToken({}, one.as(adminToken))).id);
    await caughtUp(parts);
    // The database knows how far the journal was.
    await on(name, "update sallyport.rev_state set journaled_n = (select n from sallyport.rev_head)");
    expect(await one.verdict(kept.tokenString)).toBe("ALLOW");
    await on(journal, harm);
    await nextEpoch();

    await until("regressed", async () => (await guard(name)).guard);
    await alarmed(one, "journal_mismatch");
    await until(503, () => ready(one));
    expect(await one.verdict(kept.tokenString)).toBe("UNDETERMINED");
    // What takes away is done, and nothing else.
    await revoke(one, BREAK_GLASS, gone.id);
    await expect(one.createToken({}, one.as(BREAK_GLASS))).rejects.toThrow();
    expect(await one.verdict(kept.tokenString)).toBe("UNDETERMINED");

    // Nor does the guard open by itself once the journal has a change of this epoch.
    if (what === "without its newest changes") await caughtUp(parts);
    expect(await guard(name)).toMatchObject({ guard: "regressed" });
    expect(await parts.command("reconcile", "--accept-gap")).toMatchObject({ code: 0, err: "" });
    await until("ALLOW", () => one.verdict(kept.tokenString));
    expect(await one.verdict(gone.tokenString)).toBe("INVALID_TOKEN");
    if (what === "another database's" || what === "dropped") return;
    await compared(name);
    await caughtUp(parts);
    await nextEpoch();
    await until("ALLOW", () => one.verdict(kept.tokenString));
    expect(await guard(name)).toMatchObject({ guard: "ok" });
  },
);

test("an epoch waits for a journal that cannot be reached", async () => {
  const parts = await deployment();
  const { name, adminToken, start, reachable, nextEpoch } = parts;
  const one = await start();
  const token = await one.createToken({}, one.as(adminToken));
  expect(await one.verdict(token.tokenString)).toBe("ALLOW");
  await compared(name);
  await reachable(false);
  expect(await one.verdict(token.tokenString)).toBe("ALLOW");
  await nextEpoch();
  const stop = asking(one, [token]);
  await until("UNDETERMINED", () => one.verdict(token.tokenString));
  await stop();
  const later = asking(one, [token]);
  await alarmed(one, "journal_unreachable");
  expect(await later()).toEqual([]);
  await reachable(true);
  await until("ALLOW", () => one.verdict(token.tokenString));

  // An operator can do without it.
  await reachable(false);
  await nextEpoch();
  await until("UNDETERMINED", () => one.verdict(token.tokenString));
  expect(await parts.command("reconcile", "--without-journal")).toMatchObject({ code: 0, err: "" });
  await until("ALLOW", () => one.verdict(token.tokenString));
  await reachable(true);
}, 120_000);

test("a journal that is emptied while the database lives on raises the alarm, takes no change, and stops no instance", async () => {
  const { name, journal, adminToken, start } = await deployment("required");
  const one = await start();
  const [kept, gone] = [await one.createToken({}, one.as(adminToken)), await one.createToken({}, one.as(adminToken))];
  await compared(name);
  await on(journal, "truncate sallyport_journal.meta, sallyport_journal.epochs, sallyport_journal.changes");
  await expect(revoke(one, adminToken, gone.id)).rejects.toThrow("not in the journal");
  await alarmed(one, "journal_mismatch");
  expect(await one.verdict(gone.tokenString)).toBe("INVALID_TOKEN");
  expect(await one.verdict(kept.tokenString)).toBe("ALLOW");
  expect(one.program.out).not.toContain("two_primaries");
}, 120_000);

test("the processes of an old primary stop when a later epoch has begun", async () => {
  const { journal, adminToken, start } = await deployment("required");
  const one = await start();
  const [a, b] = [await one.createToken({}, one.as(adminToken)), await one.createToken({}, one.as(adminToken))];
  expect(await one.verdict(a.tokenString)).toBe("ALLOW");
  await revoke(one, adminToken, b.id);
  await on(journal, "insert into sallyport_journal.epochs (epoch) values ('of the new primary')");
  const failure = await revoke(one, adminToken, a.id).catch((error) => error);
  expect(failure).toBeInstanceOf(ConnectError);
  await alarmed(one, "two_primaries");
  await until("UNDETERMINED", () => one.verdict(a.tokenString));
}, 120_000);

test("restore does again what the journal has, before any instance starts, and ends all tokens where it has nothing", async () => {
  const parts = await deployment();
  const { name, journal, adminToken, start, place, command } = parts;
  const first = await start();
  const tokens = await Promise.all(Array.from({ length: 4 }, () => first.createToken({}, first.as(adminToken))));
  const [kept, ...gone] = tokens;
  const restore = await ANOTHER_NAME.keep(place);
  for (const { id } of gone) await until(true, async () => !!(await revoke(first, adminToken, id)));
  await caughtUp(parts);
  const running = await command("restore");
  expect([running.code, running.err]).toEqual([78, expect.stringMatching(/1 instances were seen in the last 30 s/)]);
  await first.halt();
  await restore();
  // The backup has the row of the instance that ran then.
  await on(name, "update sallyport.validators set seen = seen - interval '1 minute'");
  const done = await command("restore");
  expect([done.code, done.out, done.err]).toEqual([0, "re-applied 3, held 0, noted 0\n", ""]);
  const second = await start();
  expect(await second.verdict(kept!.tokenString)).toBe("ALLOW");
  expect(await Promise.all(gone.map((one) => second.verdict(one.tokenString)))).toEqual(
    gone.map(() => "INVALID_TOKEN"),
  );
  await caughtUp(parts);
  await second.halt();

  await on(journal, "truncate sallyport_journal.meta, sallyport_journal.epochs, sallyport_journal.changes");
  const lacking = await command("restore");
  expect([lacking.code, lacking.err]).toEqual([1, expect.stringMatching(/does not show everything \(it is empty\)/)]);
  expect(await guard(name)).toEqual({ guard: "regressed", mismatch: "it is empty" });
  expect((await command("restore", "--cut-all")).code).toBe(0);
  const third = await start();
  await until("INVALID_TOKEN", () => third.verdict(kept!.tokenString));
}, 120_000);

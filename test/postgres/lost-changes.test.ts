import { randomUUID } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { EPOCH, HEAD } from "../../src/postgres/evidence.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import type { LogRecord } from "../../src/revocation/ports.ts";
import type { Database } from "../support/postgres.ts";
import { auditRow, byHand, digestOf, LOCK_WAITS, makeTokens, tokenId, unproven } from "./migrated.ts";

let database: Database;
let sql: pg.Client;

beforeEach(async () => {
  database = await unproven();
  onTestFinished(() => database.drop());
  sql = await byHand(database.url);
  await makeTokens(sql, 3);
  await change(
    `insert into sallyport.roles (id, tenant, name, scopes) values ('${ROLE}', 'default', 'deployer', '{a,b}')`,
  );
});

const ROLE = `rol_${"1".repeat(22)}`;

function open(url = database.url): PostgresRevocationLog {
  const log = new PostgresRevocationLog({ url, connections: 2, onTrouble: () => {} });
  onTestFinished(() => log.close());
  return log;
}

async function joined(log: PostgresRevocationLog) {
  const { epoch, position } = await log.readEpoch();
  const me = randomUUID();
  await log.register({ old: undefined, me, epoch, boundMs: 1500, readerVersion: 1, kids: ["1"] });
  return { me, epoch, position };
}

/** The statements in one transaction, with an audit row. */
async function change(...statements: string[]): Promise<void> {
  await sql.query("begin");
  await auditRow(sql);
  for (const statement of statements) await sql.query(statement);
  await sql.query("commit");
}

const token = (n: number, set: string) => `update sallyport.tokens set ${set} where id = '${tokenId(n)}'`;
const tokenKey = (n: number) => `t${digestOf(n)}`;
const CI = "p" + "default\0bot:ci";

/** A change that only a process remembers. */
function remembered(over: Partial<LogRecord> = {}): LogRecord {
  return {
    position: 900,
    key: tokenKey(1),
    at: 1_700_000_000_123_456,
    kind: "revoked",
    change: JSON.stringify({ id: tokenId(1), by: "user:ann", reason: "stolen" }),
    ...over,
  };
}

async function lost() {
  const { rows } = await sql.query("select n, state, late, note from sallyport.lost_changes order by id");
  return rows as { n: number; state: string; late: boolean; note: string }[];
}

async function redoAll(log: PostgresRevocationLog, epoch: string) {
  const done = [];
  for (;;) {
    const one = await log.redoLost(epoch);
    if (one === undefined) return done;
    done.push(one === "busy" ? one : one.state);
  }
}

/** Tells of the records and redoes them. */
async function redone(...records: LogRecord[]) {
  const log = open();
  const { epoch } = await log.readEpoch();
  await log.reportLost(epoch, records);
  return redoAll(log, epoch);
}

const audit = async () =>
  (await sql.query("select actor, action, target, owner, metadata from sallyport.audit where metadata ? 'replayed'"))
    .rows;
const tokenRow = async (n: number) =>
  (await sql.query("select * from sallyport.tokens where id = $1", [tokenId(n)])).rows[0];

describe("the log says what redoing a change needs", () => {
  const id = tokenId(1);
  test.for<[string, string[], object]>([
    ["a revocation", [`select sallyport.revoke('${id}', 'why')`], { kind: "revoked", change: { id, reason: "why" } }],
    ["a disabled token", [token(1, "disabled = true")], { kind: "lowered", change: { id, disabled: true } }],
    ["an end", [token(1, "expire_time = '2031-01-01Z'")], { kind: "lowered", change: { id } }],
    ["fewer scopes", [token(1, "scopes = '{a}'"), token(1, "scopes = '{}'")], { change: { narrowed: { scopes: [] } } }],
    [
      "the first audience",
      [token(1, "audiences = '{a}'")],
      { kind: "lowered", change: { narrowed: { audiences: ["a"] } } },
    ],
    ["the first network", [token(1, "allowed_cidrs = '{10.0.0.0/8}'")], { kind: "lowered" }],
    [
      "a role less",
      [token(1, "roles = '{a,b}'"), token(1, "roles = '{b}'")],
      { change: { narrowed: { roles: ["b"] } } },
    ],
    ["a later begin", [token(1, "not_before_time = '2031-01-01Z'")], { kind: "lowered", change: { narrowed: {} } }],
    ["another name", [token(1, "display_name = 'x'")], { kind: "other", change: undefined }],
    ["a wider scope", [token(1, "scopes = '{a}'")], { kind: "other", change: undefined }],
    [
      "a name, and then its end",
      [token(1, "display_name = 'x'"), token(1, "revoke_time = now()")],
      { kind: "revoked" },
    ],
    [
      "its end, and then a name",
      [token(1, "revoke_time = now()"), token(1, "display_name = 'x'")],
      { kind: "revoked" },
    ],
    [
      "two that lower",
      [token(1, "disabled = true"), token(1, "audiences = '{a}'")],
      { kind: "lowered", change: { disabled: true, narrowed: { audiences: ["a"] } } },
    ],
    ["a live token that is deleted", [`delete from sallyport.tokens where id = '${id}'`], { kind: "revoked" }],
  ])("%s", async ([, statements, expected]) => {
    const log = open();
    const { me, epoch, position } = await joined(log);
    await change(...statements);
    const { rows } = await log.poll(me, epoch, position);
    const shown = rows.map((row) => ({ ...row, change: row.change && JSON.parse(row.change) }));
    expect(shown).toMatchObject([{ key: tokenKey(1), ...expected }]);
  });

  test.for<[string, string, object]>([
    [
      "a narrowed role",
      "update sallyport.roles set scopes = '{b,c}'",
      { key: `r${ROLE}`, kind: "lowered", change: { id: ROLE, scopes: ["b", "c"] } },
    ],
    ["a widened role", "update sallyport.roles set scopes = '{a,b,c}'", { key: `r${ROLE}`, kind: "other" }],
    [
      "a deleted role",
      "update sallyport.roles set state = 'DELETED'",
      { key: `r${ROLE}`, kind: "lowered", change: { id: ROLE, deleted: true } },
    ],
    [
      "a disabled principal",
      "update sallyport.principals set state = 'DISABLED' where name = 'bot:ci'",
      { key: CI, kind: "lowered", change: { tenant: "default", name: "bot:ci", state: "DISABLED" } },
    ],
    [
      "a cut of a principal",
      "update sallyport.principals set cut_time = '2026-01-01Z' where name = 'bot:ci'",
      { key: CI, kind: "cut", change: { name: "bot:ci", cut_time: "2026-01-01T00:00:00+00:00" } },
    ],
    [
      "a principal that is deleted, with its cut",
      "update sallyport.principals set cut_time = now(), state = 'DELETED' where name = 'bot:ci'",
      { key: CI, kind: "cut", change: { state: "DELETED" } },
    ],
    [
      "a principal that comes disabled",
      "insert into sallyport.principals (tenant, name, state) values ('default', 'bot:x', 'DISABLED')",
      { kind: "lowered", change: { name: "bot:x", state: "DISABLED" } },
    ],
    [
      "a suspended tenant",
      "update sallyport.tenants set state = 'SUSPENDED'",
      { key: "odefault", kind: "lowered", change: { tenant: "default", state: "SUSPENDED" } },
    ],
    ["a cut of a tenant", "update sallyport.tenants set cut_time = now()", { key: "odefault", kind: "cut" }],
    [
      "a principal's name",
      "update sallyport.principals set display_name = 'x'",
      { key: CI, kind: "other", change: undefined },
    ],
  ])("%s", async ([, statement, expected]) => {
    await sql.query("set timezone = 'UTC'");
    const log = open();
    const { me, epoch, position } = await joined(log);
    await change(statement);
    const { rows } = await log.poll(me, epoch, position);
    const shown = rows.map((row) => ({ ...row, change: row.change && JSON.parse(row.change) }));
    expect(shown).toMatchObject([expected]);
  });
});

describe("what a process tells", () => {
  test("is noted if the log lacks it: content counts, not positions", async () => {
    const log = open();
    const { me, epoch, position } = await joined(log);
    await change(token(1, "disabled = true"));
    await change(token(2, "disabled = true"));
    const { rows } = await log.poll(me, epoch, position);
    const first = rows.find((row) => row.position === position + 1)!;
    await log.reportLost(epoch, rows);
    expect(await lost()).toEqual([]);
    const others = [
      { ...first, at: first.at + 1 },
      { ...first, key: tokenKey(3) },
      { ...first, position: position + 3 },
    ];
    await log.reportLost(epoch, [...rows, ...others]);
    expect((await lost()).map(({ n }) => n).sort()).toEqual([position + 1, position + 1, position + 3]);
  });

  test("goes in portions that the database takes", async () => {
    const log = open();
    const { epoch } = await log.readEpoch();
    const change = JSON.stringify({ id: tokenId(1), reason: "x".repeat(400_000) });
    await log.reportLost(
      epoch,
      Array.from({ length: 12 }, (_, i) => remembered({ position: 900 + i, change })),
    );
    expect(await lost()).toHaveLength(12);
  });

  test("is noted once, however many tell it at once", async () => {
    const logs = Array.from({ length: 4 }, () => open());
    const { epoch } = await logs[0]!.readEpoch();
    const records = Array.from({ length: 700 }, (_, i) => remembered({ position: 900 + i }));
    await Promise.all(logs.map((log, i) => log.reportLost(epoch, i % 2 === 0 ? records : records.toReversed())));
    expect(await lost()).toHaveLength(700);
  });

  test("below the floor counts only if it is final and its row does not show it", async () => {
    await sql.query("update sallyport.rev_head set n = 5000; update sallyport.rev_state set floor_n = 2000");
    await change(token(2, "revoke_time = now()"));
    const log = open();
    const { epoch } = await log.readEpoch();
    const cut = { tenant: "default", name: "bot:ci", cut_time: "2026-01-01T00:00:00Z" };
    await log.reportLost(epoch, [
      remembered({ position: 901 }),
      remembered({ position: 902, key: tokenKey(2) }),
      remembered({ position: 903, key: tokenKey(9) }),
      remembered({ position: 904, kind: "lowered", change: '{"disabled": true}' }),
      remembered({ position: 905, key: CI, kind: "cut", change: JSON.stringify(cut) }),
    ]);
    expect((await lost()).map(({ n }) => n)).toEqual([901, 905]);
    await redoAll(log, epoch);
    await log.reportLost(epoch, [remembered({ position: 906, key: CI, kind: "cut", change: JSON.stringify(cut) })]);
    expect(await lost()).toHaveLength(2);
  });

  test("in another epoch is not taken", async () => {
    const log = open();
    await expect(log.reportLost("another", [remembered()])).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
    expect(await lost()).toEqual([]);
  });
});

describe("redoing", () => {
  test("a revocation: once, with its reason, its audit row and a position of its own", async () => {
    const log = open();
    const { epoch, position } = await log.readEpoch();
    await log.reportLost(epoch, [remembered(), remembered({ position: 901 })]);
    expect(await redoAll(log, epoch)).toEqual(["applied", "noted"]);
    expect(await tokenRow(1)).toMatchObject({
      revoke_time: expect.any(Number),
      revoked_by: "user:ann",
      revoke_reason: "stolen",
    });
    expect(await audit()).toEqual([
      {
        actor: "sallyport",
        action: "token.revoke",
        target: `token:${tokenId(1)}`,
        owner: "bot:ci",
        metadata: { replayed: "true", position: "900", time: "2023-11-14T22:13:20.123Z", reason: "stolen" },
      },
    ]);
    expect((await log.readEpoch()).position).toBe(position + 1);
  });

  test("many changes by many at once: each exactly once", async () => {
    const logs = Array.from({ length: 5 }, () => open());
    const { epoch, position } = await logs[0]!.readEpoch();
    await makeTokens(sql, 40, "bot:many", 100);
    const records = Array.from({ length: 40 }, (_, i) =>
      remembered({ position: 900 + i, key: tokenKey(100 + i), change: JSON.stringify({ id: tokenId(100 + i) }) }),
    );
    await Promise.all(logs.map((log) => log.reportLost(epoch, records)));
    let applied = 0;
    const work = async (log: PostgresRevocationLog) => {
      for (;;) {
        const done = await log.redoLost(epoch);
        if (done === undefined) return;
        if (done !== "busy") applied++;
      }
    };
    await Promise.all(logs.map(work));
    expect(applied).toBe(40);
    expect(await audit()).toHaveLength(40);
    expect((await logs[0]!.readEpoch()).position).toBe(position + 40);
  });

  const lowered = (of: object): Partial<LogRecord> => ({ kind: "lowered", change: JSON.stringify(of) });
  test.for<[string, Partial<LogRecord>, string, object]>([
    ["disables", lowered({ disabled: true }), "applied", { disabled: true }],
    [
      "brings the end forward",
      lowered({ expire_time: "2031-01-01T00:00:00Z" }),
      "applied",
      { disabled: false, expire_time: Date.parse("2031-01-01T00:00:00Z") },
    ],
    ["disables what was narrowed, and holds it", lowered({ narrowed: { scopes: [] } }), "held", { disabled: true }],
    ["leaves what takes nothing away", { kind: "other", change: undefined }, "noted", { disabled: false }],
    ["holds a change of everything", { key: "*", kind: "other", change: undefined }, "held", { disabled: false }],
    ["notes a token that is not there", { key: tokenKey(9) }, "noted", { disabled: false }],
    ["holds what it cannot read", lowered({ expire_time: "never" }), "held", { disabled: false }],
  ])("%s", async ([, over, state, row]) => {
    expect(await redone(remembered(over))).toEqual([state]);
    expect(await tokenRow(1)).toMatchObject({ revoke_time: null, ...row });
  });

  test("gives nothing: an end that is earlier by now stays", async () => {
    await change(token(1, "expire_time = '2029-01-01Z'"));
    expect(await redone(remembered(lowered({ expire_time: "2031-01-01T00:00:00Z" })))).toEqual(["noted"]);
    expect((await tokenRow(1)).expire_time).toBe(Date.parse("2029-01-01T00:00:00Z"));
  });

  const principal = async (name: string) =>
    (await sql.query("select state, cut_time, cut_n from sallyport.principals where name = $1", [name])).rows[0];
  const of = (name: string, more: object) => JSON.stringify({ tenant: "default", name, ...more });

  test("a cut, a disabled principal, one that is not there, and a suspended tenant", async () => {
    const states = await redone(
      remembered({ key: CI, kind: "cut", change: of("bot:ci", { cut_time: "2026-01-01T00:00:00Z" }) }),
      remembered({ position: 901, key: CI, kind: "lowered", change: of("bot:ci", { state: "DISABLED" }) }),
      remembered({
        position: 902,
        key: "pdefault\0bot:new",
        kind: "lowered",
        change: of("bot:new", { state: "DELETED" }),
      }),
      remembered({ position: 903, key: "pnone\0bot:ci", kind: "cut", change: '{"tenant": "none", "name": "bot:ci"}' }),
      remembered({
        position: 904,
        key: "odefault",
        kind: "lowered",
        change: '{"tenant": "default", "state": "SUSPENDED"}',
      }),
    );
    expect(states).toEqual(["applied", "applied", "applied", "noted", "applied"]);
    expect(await principal("bot:ci")).toMatchObject({ state: "DISABLED", cut_time: expect.any(Number) });
    expect((await principal("bot:ci")).cut_n).toBeGreaterThan((await tokenRow(1)).issued_n);
    expect(await principal("bot:new")).toMatchObject({ state: "DELETED" });
    const { rows } = await sql.query("select state from sallyport.tenants");
    expect(rows).toEqual([{ state: "SUSPENDED" }]);
    expect((await audit()).map(({ action, target }) => [action, target])).toEqual([
      ["tokens.revoke", "principal:bot:ci"],
      ["principal.update", "principal:bot:ci"],
      ["principal.update", "principal:bot:new"],
      ["tenant.update", "tenant:default"],
    ]);
  });

  test("waits for a row that somebody holds, and holds up nothing else for good", async () => {
    const other = await byHand(database.url);
    await other.query("begin");
    await other.query("select from sallyport.tokens where id = $1 for update", [tokenId(1)]);
    const log = open();
    const { epoch } = await log.readEpoch();
    await log.reportLost(epoch, [remembered()]);
    await expect(log.redoLost(epoch)).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
    expect(await lost()).toMatchObject([{ state: "pending" }]);
    await other.query("rollback");
    // The server may still finish the statement that this process gave up.
    await redoAll(log, epoch);
    await expect.poll(lost).toMatchObject([{ state: "applied" }]);
  });
});

test.each([
  ["53100", "pending"],
  ["40001", "pending"],
  ["55P03", "pending"],
  ["58030", "pending"],
  ["XX001", "pending"],
  ["23514", "held"],
  ["P0001", "held"],
  ["42501", "held"],
])("an error %s while redoing leaves the change %s", async (code, state) => {
  await sql.query(`create function public.object() returns trigger language plpgsql as $$
    begin raise exception 'no' using errcode = '${code}'; end $$;
    create trigger object before update on sallyport.tokens for each row execute function public.object()`);
  const log = open();
  const { epoch } = await log.readEpoch();
  await log.reportLost(epoch, [remembered()]);
  const done = await log.redoLost(epoch).then(
    (redone) => (redone === "busy" ? redone : redone?.state),
    () => "pending",
  );
  expect([done, (await lost())[0]!.state]).toEqual([state, state]);
  await sql.query("drop trigger object on sallyport.tokens");
  expect(await redoAll(log, epoch)).toEqual(state === "pending" ? ["applied"] : []);
});

describe("a held change", () => {
  const narrowed = (of: object) =>
    remembered({ kind: "lowered", change: JSON.stringify({ id: tokenId(1), narrowed: of }) });
  const id = async () => (await sql.query("select id from sallyport.lost_changes")).rows[0].id;
  const apply = async () => sql.query("select sallyport.lost_apply($1)", [await id()]);

  test("is done as far as it takes away; the token stays disabled", async () => {
    await change(token(1, "scopes = '{b,c}', allowed_cidrs = '{10.0.0.0/8,fd00::/8}'"));
    await redone(
      narrowed({ scopes: ["a", "b"], audiences: ["x"], allowed_cidrs: ["fd00::/8"], not_before_time: "2024-01-01Z" }),
    );
    expect(await tokenRow(1)).toMatchObject({ disabled: true, scopes: ["b", "c"] });
    await apply();
    expect(await tokenRow(1)).toMatchObject({
      ...{ disabled: true, scopes: ["b"], audiences: ["x"], allowed_cidrs: ["fd00::/8"] },
      not_before_time: Date.parse("2024-01-01Z"),
    });
    expect(await lost()).toMatchObject([{ state: "applied" }]);
    expect((await audit()).map(({ actor, action }) => [actor, action])).toEqual([
      ["sallyport", "token.update"],
      ["sql:sallyport", "token.update"],
    ]);
    await expect(apply()).rejects.toMatchObject({ code: "P0002" });
  });

  test.for<[string, LogRecord[], string[]]>([
    ["by an administrator's own change since", [], [token(1, "disabled = true, display_name = 'shut'")]],
    [
      "by a second lost change",
      [remembered({ position: 901, kind: "lowered", change: '{"narrowed": {"audiences": ["x"]}}' })],
      [],
    ],
  ])("enables no token that is disabled %s", async ([, more, statements]) => {
    await redone(narrowed({ scopes: [] }), ...more);
    if (statements.length > 0) await change(...statements);
    await apply();
    expect(await tokenRow(1)).toMatchObject({ disabled: true });
  });

  test("is not done if nobody noted what the token had left", async () => {
    await redone(remembered({ kind: "lowered", change: '{"narrowed": true}' }));
    await expect(apply()).rejects.toMatchObject({ code: "22000" });
    expect(await lost()).toMatchObject([{ state: "held" }]);
    expect(await tokenRow(1)).toMatchObject({ disabled: true });
  });

  test("is not done if it would leave a token without any audience, which means all", async () => {
    await change(token(1, "audiences = '{y}'"));
    await redone(narrowed({ audiences: ["x"] }));
    await expect(apply()).rejects.toMatchObject({ code: "22000" });
    expect(await tokenRow(1)).toMatchObject({ disabled: true, audiences: ["y"] });
  });

  test("can be dismissed, with a reason in the audit log", async () => {
    await redone(narrowed({ scopes: [] }));
    await sql.query("select sallyport.lost_dismiss($1, 'done by hand')", [await id()]);
    expect(await lost()).toMatchObject([{ state: "dismissed", note: "done by hand (sallyport)" }]);
    expect(await tokenRow(1)).toMatchObject({ disabled: true });
    const { rows } = await sql.query("select metadata from sallyport.audit where action = 'lost_change.dismiss'");
    expect(rows).toEqual([{ metadata: { reason: "done by hand" } }]);
  });
});

describe("an epoch is proven", () => {
  test("once nothing is pending; and what comes later counts as late", async () => {
    const log = open();
    const { me, epoch } = await joined(log);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ proven: false, pending: false });
    await log.reportLost(epoch, [remembered()]);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ proven: false, pending: true });
    expect(await log.prove(epoch, true)).toBe(false);
    expect(await redoAll(log, epoch)).toEqual(["applied"]);
    expect(await log.prove(epoch, true)).toBe(true);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ proven: true, pending: false });
    await log.reportLost(epoch, [remembered({ position: 950, key: tokenKey(2) })]);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ proven: true, pending: true });
    expect(await log.redoLost(epoch)).toEqual({ state: "applied", late: true });
  });

  test("without a wait only when the registry knows nobody of an earlier one", async () => {
    const log = open();
    const { epoch } = await log.readEpoch();
    const old = randomUUID();
    const entry = { old: undefined, boundMs: 1500, readerVersion: 1, kids: ["1"] };
    await log.register({ ...entry, me: old, epoch: "an earlier one" });
    expect(await log.prove(epoch, false)).toBe(false);
    await log.reap([old]);
    expect(await log.prove(epoch, false)).toBe(true);
  });

  test("without a wait only when every registered process has acknowledged, and so reported", async () => {
    const log = open();
    const { me, epoch } = await joined(log);
    expect(await log.prove(epoch, false)).toBe(false);
    await log.ack(me, epoch, 0);
    expect(await log.prove(epoch, false)).toBe(true);
  });

  test("not while the guard says that history regressed", async () => {
    await sql.query("update sallyport.rev_state set guard = 'regressed'");
    const log = open();
    const { me, epoch } = await joined(log);
    expect(await log.prove(epoch, true)).toBe(false);
    await sql.query("update sallyport.rev_state set proven = $1", [epoch]);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ proven: false });
    expect(await log.prove(epoch, true)).toBe(false);
  });

  test("by a report that is under way, it waits for it", async () => {
    const log = open();
    const { epoch } = await log.readEpoch();
    const holder = await byHand(database.url);
    await holder.query("begin");
    await holder.query("select sallyport.lost_report($1, '{900}', $2, '{1700000000123456}', '{revoked}', array[$3])", [
      epoch,
      [Buffer.from(tokenKey(1), "latin1")],
      "{}",
    ]);
    const proven = log.prove(epoch, true);
    await expect.poll(async () => (await sql.query(LOCK_WAITS)).rowCount, { interval: 5 }).toBe(1);
    await holder.query("commit");
    expect(await proven).toBe(false);
    expect((await log.readEpoch()).epoch).toBe(epoch);
  });

  test("the database spells the epoch as the program does", async () => {
    const { rows } = await sql.query(`select ${EPOCH} = sallyport.rev_epoch() as same from ${HEAD}`);
    expect(rows).toEqual([{ same: true }]);
  });
});

test("a reader tells and proves, and writes nothing else", async () => {
  const name = `login_${randomUUID().replaceAll("-", "")}`;
  await sql.query(`create role ${name} login in role sallyport_reader`);
  onTestFinished(async () => void (await sql.query(`drop role ${name}`)));
  const url = Object.assign(new URL(database.url), { username: name }).href;
  const reader = open(url);
  const { epoch } = await reader.readEpoch();
  await reader.reportLost(epoch, [remembered()]);
  expect(await reader.prove(epoch, true)).toBe(false);
  await expect(reader.redoLost(epoch)).rejects.toMatchObject({ reason: "STORE_UNAVAILABLE" });
  const client = await byHand(url);
  for (const statement of [
    "update sallyport.lost_changes set state = 'noted'",
    "delete from sallyport.lost_changes",
    "select sallyport.lost_redo()",
    "select sallyport.rev_note('x', 'other', null)",
    "update sallyport.rev_state set proven = 'x'",
  ]) {
    await expect(client.query(statement), statement).rejects.toMatchObject({ code: "42501" });
  }
  const log = open();
  expect(await redoAll(log, epoch)).toEqual(["applied"]);
  expect(await reader.prove(epoch, true)).toBe(true);
});

describe("pruning", () => {
  const aged = async (count: number) => {
    await sql.query(
      "insert into sallyport.rev_log (n, key, at) select i, 'x', now() - interval '1 hour' from generate_series(1, $1::int) i",
      [count],
    );
    await sql.query("update sallyport.rev_head set n = $1", [count]);
  };
  const floor = async () => (await sql.query("select floor_n from sallyport.rev_state")).rows[0].floor_n;

  test("leaves the newest 1,000 positions, whatever their age", async () => {
    await aged(1500);
    const log = open();
    await log.prove((await log.readEpoch()).epoch, true);
    await log.prune();
    expect(await floor()).toBe(500);
  });

  test("happens only in a proven epoch", async () => {
    await aged(1500);
    const log = open();
    await log.prune();
    expect(await floor()).toBe(0);
  });
});

describe("a role loses again what it had lost, and no more", () => {
  const record = (over: object) =>
    remembered({ key: `r${ROLE}`, kind: "lowered", change: JSON.stringify({ id: ROLE, ...over }) });
  const role = async () => (await sql.query("select scopes, state from sallyport.roles")).rows[0];

  test("its scopes", async () => {
    expect(await redone(record({ scopes: ["b", "c"] }))).toEqual(["applied"]);
    expect(await role()).toEqual({ scopes: ["b"], state: "ACTIVE" });
    expect(await audit()).toMatchObject([{ actor: "sallyport", action: "role.update", target: "role:deployer" }]);
  });

  test("itself", async () => {
    expect(await redone(record({ deleted: true }))).toEqual(["applied"]);
    expect(await role()).toEqual({ scopes: ["a", "b"], state: "DELETED" });
    expect(await audit()).toMatchObject([{ action: "role.delete", metadata: { role: ROLE, replayed: "true" } }]);
  });

  test.each([{ scopes: ["a", "b", "c"] }, { scopes: ["c"], id: `rol_${"2".repeat(22)}` }])(
    "nothing where it has no more than it should: %j",
    async (change) => {
      expect(await redone(record(change))).toEqual(["noted"]);
      expect(await role()).toEqual({ scopes: ["a", "b"], state: "ACTIVE" });
    },
  );
});

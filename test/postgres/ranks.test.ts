import { randomBytes } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { AppError } from "../../src/domain/errors.ts";
import type { Rank } from "../../src/domain/rights.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { auditRow, byHand, migrated } from "./migrated.ts";

const by = (rank: Rank) => ({ actor: `user:${rank}`, address: "192.0.2.1", requestId: "r", rank });
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const NOBODY = { callerScopes: [], child: false, mustExist: false };

let url: string;
let sql: pg.Client;
let store: PostgresAuthorityStore;

beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  sql = await byHand(url);
  store = opened();
});

function opened(): PostgresAuthorityStore {
  const db = new Postgres({ url, maxConnections: 4, applicationName: "ranks", onTrouble: () => {} });
  onTestFinished(() => db.close());
  return new PostgresAuthorityStore(db);
}

let made = 0;
async function created(...scopes: string[]): Promise<string> {
  // Chunks lock in the order of ids.
  const id = `tok_${String(++made).padStart(22, "0")}`;
  const token = { id, digest: randomBytes(32).toString("latin1"), kid: "1", hint: "sp_adm_1abcdefgh", createdBy: "x" };
  const whose = { tenant: "default", profile: "adm", principal: "user:ann", scopes };
  await store.createToken({ ...NOTHING_GIVEN, ...token, ...whose }, HOUR, NOBODY, UNLIMITED, by("operator"));
  return id;
}

const isRevoked = async (id: string) =>
  (await sql.query("select revoke_time is not null as is from sallyport.tokens where id = $1", [id])).rows[0].is;
const told = (work: Promise<unknown>) =>
  work.then(
    () => "OK",
    ({ reason }: AppError) => reason as string,
  );
const blocked = () =>
  expect
    .poll(
      async () =>
        (
          await sql.query(
            `select from pg_stat_activity where datname = current_database() and application_name = 'ranks'
               and wait_event_type = 'Lock'`,
          )
        ).rowCount,
      { interval: 5 },
    )
    .toBe(1);

/** Changes a token's scopes in a transaction that is left open. */
async function changing(id: string, scopes: string): Promise<pg.Client> {
  const holder = await byHand(url);
  await holder.query("begin");
  await auditRow(holder);
  await holder.query("update sallyport.tokens set scopes = $2 where id = $1", [id, scopes]);
  return holder;
}

const OPERATOR = "sallyport.operator";
const ADMIN = "sallyport.admin";
const ORDER: readonly Rank[][] = [
  ["other", "admin", "operator"],
  ["operator", "admin", "other"],
  ["admin", "other", "operator"],
];

describe("revocations that share a transaction:", () => {
  /** All of them in the transaction after one that is held up. */
  async function together(calls: readonly (() => Promise<unknown>)[]): Promise<string[]> {
    const [slow, behind] = [await created(), await byHand(url)];
    await behind.query("begin");
    await behind.query("lock table sallyport.audit in share mode");
    const first = told(store.revokeToken(slow, false, "", by("operator")));
    await blocked();
    const all = calls.map((call) => told(call()));
    await behind.query("rollback");
    expect(await first).toBe("OK");
    return Promise.all(all);
  }

  test.each(ORDER)("each is judged by the rank of its own caller, in any order: %s, %s, %s", async (...ranks) => {
    const ends: Record<string, readonly Rank[]> = {
      [await created(OPERATOR)]: ["operator"],
      [await created("sallyport.*")]: ["operator"],
      [await created(ADMIN)]: ["operator", "admin"],
      [await created("x")]: ["operator", "admin", "other"],
    };
    const calls = Object.keys(ends).flatMap((id) => ranks.map((rank) => ({ id, rank })));
    const answers = await together(
      calls.map(
        ({ id, rank }) =>
          () =>
            store.revokeToken(id, false, "", by(rank)),
      ),
    );
    expect(answers).toEqual(calls.map(({ id, rank }) => (ends[id]!.includes(rank) ? "OK" : "RIGHTS_EXCEEDED")));
    for (const id of Object.keys(ends)) expect(await isRevoked(id)).toBe(true);
    // Nobody who was refused has an audit row that says that it was done.
    const { rows } = await sql.query(
      "select actor, target from sallyport.audit where action = 'token.revoke' and target = any($1) order by seq",
      [Object.keys(ends).map((id) => `token:${id}`)],
    );
    const done = calls.filter(({ id, rank }) => ends[id]!.includes(rank));
    expect(new Set(rows.map(({ actor, target }) => `${actor} ${target}`))).toEqual(
      new Set(done.map(({ id, rank }) => `user:${rank} token:${id}`)),
    );
  });

  test.each([
    ["other", "admin"],
    ["admin", "other"],
  ] as const)(
    "%s and %s, and nobody above them: what an administrator holds ends for the administrator",
    async (...ranks) => {
      const [admins, operators] = [await created(ADMIN), await created(OPERATOR)];
      const calls = [admins, operators].flatMap((id) => ranks.map((rank) => ({ id, rank })));
      const answers = await together(
        calls.map(
          ({ id, rank }) =>
            () =>
              store.revokeToken(id, false, "", by(rank)),
        ),
      );
      const right = calls.map(({ id, rank }) => (id === admins && rank === "admin" ? "OK" : "RIGHTS_EXCEEDED"));
      expect(answers).toEqual(right);
      expect([await isRevoked(admins), await isRevoked(operators)]).toEqual([true, false]);
    },
  );
});

describe("no revocation returns OK for a token that stays live:", () => {
  test.each([
    ["is given an administrator's rights", ["x"], "{sallyport.admin}"],
    ["is given an operator's", ["x"], "{x,sallyport.*}"],
    ["loses them", [OPERATOR], "{x}"],
  ] as const)("a token that %s while its revocation waits", async (_, before, after) => {
    const id = await created(...before);
    const holder = await changing(id, after);
    const waiting = told(store.revokeToken(id, false, "", by("other")));
    await blocked();
    await holder.query("commit");
    expect(await waiting).toBe((await isRevoked(id)) ? "OK" : "RIGHTS_EXCEEDED");
    if (after !== "{x}") expect(await isRevoked(id)).toBe(false);
  });

  test("if one token of a chunk gets such rights after the selection, no token of the chunk ends", async () => {
    const [plain, raised] = [await created(), await created(ADMIN)];
    expect(await told(store.revokeChunk("default", [plain, raised], "", by("other")))).toBe("RIGHTS_EXCEEDED");
    expect([await isRevoked(plain), await isRevoked(raised)]).toEqual([false, false]);
    expect(await told(store.revokeChunk("default", [plain, raised], "", by("admin")))).toBe("OK");
    expect([await isRevoked(plain), await isRevoked(raised)]).toEqual([true, true]);
    // What is dead is in nobody's way.
    expect(await told(store.revokeChunk("default", [plain, raised], "", by("other")))).toBe("OK");
  });

  test.each([
    ["is given an administrator's rights", ["x"], "{sallyport.admin}"],
    ["loses an operator's", [OPERATOR], "{x}"],
  ] as const)("one among others that %s while the chunk is under way", async (_, before, after) => {
    const [first, id] = [await created(), await created(...before)];
    // The statement has its snapshot, and is held up at the first row; behind that the second one changes.
    const gate = 4711;
    await sql.query(
      `create function public.hold() returns trigger language plpgsql as $$
       begin perform pg_advisory_xact_lock_shared(${gate}); return new; end $$;
       create trigger held before update on sallyport.tokens for each row when (old.id = '${first}')
         execute function public.hold();
       do $$ begin
         execute format('alter database %I set enable_hashjoin = off', current_database());
         execute format('alter database %I set enable_mergejoin = off', current_database());
       end $$`,
    );
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query(`select pg_advisory_xact_lock(${gate})`);
    const waiting = told(opened().revokeChunk("default", [first, id], "", by("other")));
    await blocked();
    await (await changing(id, after)).query("commit");
    await holder.query("rollback");
    expect(await waiting).toBe((await isRevoked(id)) ? "OK" : "RIGHTS_EXCEEDED");
    expect(await isRevoked(first)).toBe(await isRevoked(id));
  });
});

describe("a caller cannot end a principal if it lacks a right that a token of the principal holds by then:", () => {
  const CALLS: Record<string, () => Promise<unknown>> = {
    cut: () => store.cut("default", "user:ann", false, "", by("other")),
    disabled: () => store.updatePrincipal("default", "user:ann", { state: "DISABLED" }, "", NOBODY, by("other")),
    deleted: () => store.deletePrincipal("default", "user:ann", by("other")),
    "cut with its tenant": () => store.cut("default", undefined, false, "", by("other")),
  };

  test.each(Object.entries(CALLS))("%s, while a token of it is being made", async (_, call) => {
    const id = await created("x");
    const holder = await byHand(url);
    await holder.query("begin");
    // As minting does it: the shared locks first.
    await holder.query(
      `select sallyport.lock_shared(array(select k from (values (sallyport.principal_key('default', 'user:ann')),
         (sallyport.tenant_key('default'))) keys (k) order by k))`,
    );
    await auditRow(holder);
    await holder.query("update sallyport.tokens set scopes = '{sallyport.admin}' where id = $1", [id]);
    const waiting = told(call());
    await blocked();
    await holder.query("commit");
    expect(await waiting).toBe("RIGHTS_EXCEEDED");
    const { rows } = await sql.query("select state from sallyport.token_view where id = $1", [id]);
    expect(rows).toEqual([{ state: "ACTIVE" }]);
  });
});

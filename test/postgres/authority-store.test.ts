import { randomBytes, randomUUID } from "node:crypto";
import type pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import type { LifetimeRule } from "../../src/domain/lifetime.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { NOTHING_GIVEN, type Token } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import type { MintGuard, MintLimits, NewToken } from "../../src/revocation/authority-store.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";
import { auditRow, byHand, makeTokens, migrateAt, migrated } from "./migrated.ts";

let url: string;
let sql: pg.Client;
let db: Postgres;
let store: PostgresAuthorityStore;

function open(at: string, maxConnections = 12) {
  const made = new Postgres({ url: at, maxConnections, applicationName: "sallyport-test", onTrouble: () => {} });
  onTestFinished(() => made.close());
  return made;
}

async function use(at: string): Promise<void> {
  url = at;
  sql = await byHand(url);
  db = open(url);
  store = new PostgresAuthorityStore(db);
}

const by = (actor: string) => ({ actor, address: "192.0.2.1", requestId: "r" });
const ADMIN = by("user:admin");
const YEAR: LifetimeRule = { ttl: 3_600_000, maxTtl: 86_400_000 };
const FREE: MintGuard = { callerScopes: [], child: false, mustExist: false };
const NOBODY = { callerScopes: [] };
const UNLIMITED: MintLimits = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };

const newId = () => `tok_${randomBytes(11).toString("hex")}`;
const fresh = (createdBy = "user:admin") => ({
  id: newId(),
  digest: randomBytes(32).toString("latin1"),
  kid: "1",
  hint: "sp_bot_1abcdefgh",
  createdBy,
});
const newToken = (over: Partial<NewToken> = {}): NewToken => ({
  ...fresh(),
  tenant: "default",
  profile: "bot",
  principal: "bot:ci",
  ...NOTHING_GIVEN,
  displayName: "n",
  scopes: ["a"],
  ...over,
});

async function created(over: Partial<NewToken> = {}, guard = FREE, limits = UNLIMITED) {
  const done = await store.createToken(newToken(over), YEAR, guard, limits, ADMIN);
  if (done.kind !== "created") throw new Error("a repeat");
  return done.token;
}

const head = async () => (await sql.query("select n from sallyport.rev_head")).rows[0].n as number;
const stateOf = async (id: string) =>
  (await sql.query("select state from sallyport.token_view where id = $1", [id])).rows[0]?.state as string;
/** A refusal that is told after a commit is the value. */
const refusalIn = (done: unknown) => {
  const value = (done as { value?: unknown } | undefined)?.value;
  return value instanceof AppError ? value.reason : undefined;
};
const outcome = (work: Promise<unknown>) =>
  work.then(
    (done) => refusalIn(done) ?? "ok",
    (error: { reason?: string }) => error.reason ?? String(error),
  );
/** Resolves when so many wait for a lock. */
const waiting = (count: number) =>
  expect
    .poll(
      async () => {
        const { rowCount } = await sql.query(
          "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        return rowCount;
      },
      { interval: 5 },
    )
    .toBe(count);

describe("revoking", () => {
  beforeEach(async () => {
    const database = await migrated();
    onTestFinished(() => database.drop());
    await use(database.url);
  });

  test("concurrent calls share transactions, but each has its own answer and audit row", async () => {
    const tokens = await Promise.all(Array.from({ length: 30 }, () => created()));
    const before = await head();
    const calls = [...tokens, ...tokens.slice(0, 10)].map(({ id }, i) => ({ id, actor: `user:u${i}` }));
    const answers = await Promise.all([
      ...calls.map(({ id, actor }) => store.revokeToken(id, false, `because ${actor}`, by(actor))),
      outcome(store.revokeToken("tok_0000000000000000000000", false, "", ADMIN)),
    ]);
    expect(answers.pop()).toBe("TOKEN_NOT_FOUND");
    const done = answers as Exclude<(typeof answers)[number], string>[];
    expect(done.map(({ value }) => value.id)).toEqual(calls.map(({ id }) => id));
    expect(new Set(done.map(({ value }) => value.state))).toEqual(new Set(["REVOKED"]));
    expect(done.every(({ epoch, maxBoundMs }) => epoch.length > 10 && maxBoundMs === 1500)).toBe(true);
    // The first to come goes alone, the others together.
    expect((await head()) - before).toBeLessThanOrEqual(3);
    const { rows } = await sql.query("select actor, target from sallyport.audit where action = 'token.revoke'");
    expect(new Set(rows.map(({ actor, target }) => `${actor} ${target}`))).toEqual(
      new Set(calls.map(({ id, actor }) => `${actor} token:${id}`)),
    );
    expect(rows).toHaveLength(40);
    // Who came first is who revoked it.
    expect(done.slice(30).map(({ value }) => value.revokedBy)).toEqual(calls.slice(0, 10).map(({ actor }) => actor));
  });

  test("a repeat changes nothing, takes no position, and commits an audit row", async () => {
    const token = await created();
    const first = await store.revokeToken(token.id, false, "once", by("user:a"));
    const before = await head();
    const second = await store.revokeToken(token.id, false, "twice", by("user:b"));
    expect(second.value).toEqual(first.value);
    expect(await head()).toBe(before);
    const chunk = await store.revokeChunk("default", [token.id], "thrice", by("user:c"));
    expect(chunk.value).toEqual({ revoked: [], busy: [] });
    const empty = await store.revokeChunk("default", [], "nothing", by("user:d"));
    expect(empty.value).toEqual({ revoked: [], busy: [] });
    const { rows } = await sql.query(
      "select actor, outcome, tenant from sallyport.audit where action like 'token%.revoke' order by seq",
    );
    expect(rows).toEqual(
      ["user:a", "user:b", "user:c", "user:d"].map((actor) => ({ actor, outcome: "OK", tenant: "default" })),
    );
  });

  test("a locked row delays only its own revocation, which is NOT_DONE after the lock timeout", async () => {
    const [held, ...others] = await Promise.all(Array.from({ length: 5 }, () => created()));
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select from sallyport.tokens where id = $1 for update", [held!.id]);
    const before = performance.now();
    const first = outcome(store.revokeToken(others[0]!.id, false, "", ADMIN));
    const stuck = outcome(store.revokeToken(held!.id, false, "", ADMIN));
    const rest = others.slice(1).map(({ id }) => outcome(store.revokeToken(id, false, "", ADMIN)));
    expect(await Promise.all([first, ...rest])).toEqual(["ok", "ok", "ok", "ok"]);
    expect(await outcome(store.revokeToken(others[0]!.id, false, "", ADMIN))).toBe("ok");
    expect(performance.now() - before).toBeLessThan(1500);
    expect(await stuck).toBe("NOT_DONE");
    await holder.query("rollback");
    expect(await stateOf(held!.id)).toBe("ACTIVE");
    expect(await outcome(store.revokeToken(held!.id, false, "", ADMIN))).toBe("ok");
  });

  test("a chunk skips locked rows, and reports their ids", async () => {
    const [held, old, ...rest] = await Promise.all(Array.from({ length: 5 }, () => created()));
    await store.revokeToken(old!.id, false, "", ADMIN);
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select from sallyport.tokens where id = $1 for update", [held!.id]);
    const ids = [held!, old!, ...rest].map(({ id }) => id);
    const { value } = await store.revokeChunk("default", [...ids, newId()], "", ADMIN);
    expect([...value.revoked].sort()).toEqual(rest.map(({ id }) => id).sort());
    expect(value.busy).toEqual([held!.id]);
    // Nothing but what is held: the call leaves a row all the same.
    expect((await store.revokeChunk("default", [held!.id], "why", ADMIN)).value).toEqual({
      revoked: [],
      busy: [held!.id],
    });
    const { rows } = await holder.query("select metadata from sallyport.audit where action = 'tokens.revoke'");
    expect(rows).toEqual([{ metadata: { revoked: "0", busy: "1", reason: "why" } }]);
    await holder.query("rollback");
    expect((await store.revokeChunk("default", ids, "", ADMIN)).value).toEqual({ revoked: [held!.id], busy: [] });
  });

  test.each([
    ["changed", "display_name = 'new'", { displayName: "new", revokedBy: "user:admin" }],
    ["revoked", "revoke_time = now(), revoked_by = 'sql'", { revokedBy: "sql" }],
  ])("a row that somebody %s meanwhile is revoked, and answered as it is now", async (_, set, now) => {
    const token = await created();
    const holder = await byHand(url);
    await holder.query("begin");
    await auditRow(holder);
    await holder.query(`update sallyport.tokens set ${set} where id = $1`, [token.id]);
    const pending = store.revokeToken(token.id, false, "", ADMIN);
    await waiting(1);
    await holder.query("commit");
    expect((await pending).value).toMatchObject({ ...now, state: "REVOKED" });
    expect(await stateOf(token.id)).toBe("REVOKED");
    const { rowCount } = await sql.query("select from sallyport.audit where action = 'token.revoke'");
    expect(rowCount).toBe(1);
  });

  test("while the head row is locked, a change is NOT_DONE after the lock timeout at its commit, and nothing was changed", async () => {
    const tokens = await Promise.all(Array.from({ length: 3 }, () => created()));
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("update sallyport.rev_head set n = n");
    const before = performance.now();
    const outcomes = await Promise.all(tokens.map(({ id }) => outcome(store.revokeToken(id, false, "", ADMIN))));
    expect(outcomes).toEqual(["NOT_DONE", "NOT_DONE", "NOT_DONE"]);
    expect(performance.now() - before).toBeLessThan(5500);
    await holder.query("rollback");
    for (const { id } of tokens) expect(await stateOf(id)).toBe("ACTIVE");
  });

  test("without a connection all waiting revocations are NOT_DONE after one attempt", async () => {
    const tokens = Array.from({ length: 200 }, () => newId());
    const away = new URL(url);
    away.port = "1";
    const lonely = new PostgresAuthorityStore(open(away.href));
    const before = performance.now();
    const outcomes = await Promise.all(tokens.map((id) => outcome(lonely.revokeToken(id, false, "", ADMIN))));
    expect(new Set(outcomes)).toEqual(new Set(["NOT_DONE"]));
    expect(performance.now() - before).toBeLessThan(2500);
  });

  test("a whole family is revoked, even during rotations", async () => {
    for (let round = 0; round < 12; round++) {
      const root = await created();
      const begun = Promise.withResolvers<void>();
      const rotating = (async () => {
        let id = root.id;
        for (let i = 0; i < 4; i++) {
          const next = fresh();
          if (i === round % 4) begun.resolve();
          const done = await outcome(store.rotateToken(id, next, YEAR, 60_000, { callerScopes: [] }, ADMIN));
          if (done !== "ok") return done;
          id = next.id;
        }
        return "TOKEN_REVOKED";
      })();
      await begun.promise;
      const revoked = await store.revokeToken(root.id, true, "family", ADMIN);
      expect(revoked.value.state).toBe("REVOKED");
      expect(await rotating).toBe("TOKEN_REVOKED");
      const { rows } = await sql.query(
        "select count(*) as live from sallyport.token_view where family = $1 and state <> 'REVOKED'",
        [root.id],
      );
      expect(rows).toEqual([{ live: 0 }]);
    }
  });

  test("a revoked parent ends its child, and a child mints none itself", async () => {
    const parent = await created();
    const guard = { callerTokenId: parent.id, callerScopes: ["a"], child: true, mustExist: true };
    const child = await created({}, guard);
    expect(child.parent).toBe(parent.id);
    expect(await outcome(created({}, { ...guard, callerTokenId: child.id }))).toBe("RIGHTS_EXCEEDED");
    await store.revokeToken(parent.id, false, "", ADMIN);
    expect(await stateOf(child.id)).toBe("REVOKED");
  });

  test("a login with only the writer's rights can make every change", async () => {
    const name = `login_${randomUUID().replaceAll("-", "")}`;
    await sql.query(`create role ${name} login in role sallyport_writer`);
    onTestFinished(async () => void (await sql.query(`drop role ${name}`)));
    const as = new URL(url);
    as.username = name;
    store = new PostgresAuthorityStore(open(as.href));
    const limits = { maxLive: 5, perPrincipalPerDay: 9, address: "192.0.2.1", perAddressPerHour: 9 };
    const token = await created({}, FREE, limits);
    const [one, two, three] = [fresh(), fresh(), fresh()];
    await store.rotateToken(token.id, one, YEAR, 60_000, { callerScopes: [] }, ADMIN, {
      caller: "c",
      requestId: randomUUID(),
      method: "RotateToken",
      body: new Uint8Array(1),
      salt: new Uint8Array(16),
    });
    await store.updateToken(
      one.id,
      { scopes: ["b"], displayName: "x" },
      "",
      { maxTtl: 1e12 },
      { callerScopes: [] },
      ADMIN,
    );
    await store.revokeToken(one.id, true, "", ADMIN);
    await store.revokeChunk("t", [(await created({ ...two })).id], "", ADMIN);
    await store.revokeToken((await created({ ...three })).id, false, "", ADMIN);
    const facts = { displayName: "", annotations: {}, state: "ACTIVE" as const };
    await store.createTenant({ id: "t", ...facts }, NOBODY, ADMIN);
    await store.createPrincipal({ tenant: "t", name: "bot:p", email: "", owner: "", ...facts }, NOBODY, ADMIN);
    await store.updatePrincipal("t", "bot:p", { state: "DISABLED" }, "", NOBODY, ADMIN);
    await store.cut("t", "bot:p", false, "", ADMIN);
    await store.cut("t", undefined, false, "", ADMIN);
    await store.deletePrincipal("t", "bot:p", ADMIN);
    await store.updateTenant("t", { state: "SUSPENDED" }, "", NOBODY, ADMIN);
    const { rows } = await sql.query(
      "select action, count(*) as n from sallyport.audit where actor = 'user:admin' group by 1",
    );
    expect(Object.fromEntries(rows.map(({ action, n }) => [action, n]))).toEqual({
      "token.create": 3,
      "token.rotate": 1,
      "token.update": 1,
      "token.revoke": 4,
      "tokens.revoke": 2,
      "tenant.create": 1,
      "tenant.update": 1,
      "principal.create": 1,
      "principal.update": 1,
      "principal.delete": 1,
    });
  });

  test("a cut of a principal without a row ends no token, and creates the row", async () => {
    const before = await head();
    const done = await store.cut("default", "bot:none", false, "", ADMIN);
    expect(done).toMatchObject({ epoch: expect.any(String), value: 0 });
    const { rows } = await sql.query("select cut_n from sallyport.principals where name = 'bot:none'");
    expect(rows).toEqual([{ cut_n: before + 1 }]);
    const token = await created({ principal: "bot:none" });
    expect(token.state).toBe("ACTIVE");
    await store.cut("default", undefined, false, "", ADMIN);
    expect(await stateOf(token.id)).toBe("REVOKED");
    expect((await store.cut("default", "bot:none", false, "", ADMIN)).value).toBe(before + 1);
    expect((await store.cut("default", undefined, false, "", ADMIN)).value).toBe(before + 2);
    expect(await outcome(store.cut("nowhere", "bot:none", false, "", ADMIN))).toBe("TENANT_NOT_FOUND");
  });

  test("a deleted principal that is created again does not get its tokens back", async () => {
    const token = await created();
    await store.deletePrincipal("default", "bot:ci", ADMIN);
    expect(await outcome(created())).toBe("PRINCIPAL_NOT_FOUND");
    const again = {
      tenant: "default",
      name: "bot:ci",
      displayName: "",
      email: "",
      owner: "",
      state: "ACTIVE" as const,
      annotations: {},
    };
    await store.createPrincipal(again, NOBODY, ADMIN);
    expect(await stateOf(token.id)).toBe("REVOKED");
    expect((await created()).state).toBe("ACTIVE");
  });
});

describe("minting", () => {
  beforeEach(async () => {
    const database = await migrated();
    onTestFinished(() => database.drop());
    await use(database.url);
  });

  test.each<[string, Partial<MintLimits>]>([
    ["live tokens of a principal", { maxLive: 10 }],
    ["mints of a principal in a day", { perPrincipalPerDay: 10 }],
    ["mints of an address in an hour", { address: "192.0.2.1", perAddressPerHour: 10 }],
    ["all of them together", { maxLive: 10, perPrincipalPerDay: 12, address: "192.0.2.1", perAddressPerHour: 14 }],
  ])("50 at once make exactly as many as are allowed: %s", async (_, limits) => {
    // One that waits for a lock for too long did nothing, and is repeated, as a client does.
    const minted = async (): Promise<string> => {
      const end = await outcome(created({}, FREE, { ...UNLIMITED, ...limits }));
      return end === "NOT_DONE" ? minted() : end;
    };
    const outcomes = await Promise.all(Array.from({ length: 50 }, minted));
    expect(outcomes.filter((one) => one === "ok")).toHaveLength(10);
    expect(new Set(outcomes)).toEqual(new Set(["ok", "LIMIT_EXCEEDED"]));
    const { rows } = await sql.query("select count(*) as tokens from sallyport.tokens");
    expect(rows).toEqual([{ tokens: 10 }]);
  });

  test("the limit on live tokens holds over midnight, when the counts of mints start again", async () => {
    const limits = { ...UNLIMITED, maxLive: 1, perPrincipalPerDay: 100 };
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select pg_advisory_xact_lock(hashtextextended('live p default bot:ci', 0))");
    const one = outcome(created({}, FREE, limits));
    await waiting(1);
    // As if the second call's day were another: its row of counts is not the one that the first holds.
    const two = outcome(created({ principal: "bot:ci" }, FREE, { ...limits, perPrincipalPerDay: 0 }));
    await waiting(2);
    await holder.query("rollback");
    expect([await one, await two].sort()).toEqual(["LIMIT_EXCEEDED", "ok"]);
  });

  /** Mints without pause until `stop` has returned; what was there then must be all there ever is. */
  async function storm(stop: () => Promise<unknown>, guard: (i: number) => MintGuard, minters = 6) {
    let going = true;
    const outcomes: string[] = [];
    const minting = Array.from({ length: minters }, async (_, i) => {
      while (going) outcomes.push(await outcome(created({}, guard(i))));
    });
    const count = async () => (await sql.query("select count(*) as n from sallyport.tokens")).rows[0].n as number;
    const more = (than: number) =>
      expect.poll(() => outcomes.length, { interval: 5, timeout: 10_000 }).toBeGreaterThan(than);
    let then = 0;
    let took = 0;
    try {
      await more(20);
      const begun = performance.now();
      await stop();
      took = performance.now() - begun;
      then = await count();
      await more(outcomes.length + 20);
    } finally {
      // Whatever fails: on a pool that is closed they would go round without ever giving way.
      going = false;
    }
    await Promise.all(minting);
    return { then, later: await count(), outcomes: new Set(outcomes), took };
  }

  test.each<[string, string, () => Promise<unknown>]>([
    [
      "disabling the principal",
      "PRINCIPAL_DISABLED",
      () => store.updatePrincipal("default", "bot:ci", { state: "DISABLED" }, "", NOBODY, ADMIN),
    ],
    ["deleting the principal", "PRINCIPAL_NOT_FOUND", () => store.deletePrincipal("default", "bot:ci", ADMIN)],
    [
      "suspending the tenant",
      "TENANT_SUSPENDED",
      () => store.updateTenant("default", { state: "SUSPENDED" }, "", NOBODY, ADMIN),
    ],
  ])("under a storm of mints, none is committed once %s has returned", async (_, reason, stop) => {
    await created();
    const { then, later, outcomes, took } = await storm(stop, () => FREE);
    expect(later).toBe(then);
    expect(outcomes).toEqual(new Set(["ok", reason]));
    // The locks queue fairly.
    expect(took).toBeLessThan(1500);
  });

  test("after the revocation of a token has returned, no mint by it commits, even among many at once", async () => {
    const minter = await created();
    const guard = { callerTokenId: minter.id, callerScopes: ["a"], child: true, mustExist: true };
    const { then, later, outcomes, took } = await storm(
      () => store.revokeToken(minter.id, false, "", ADMIN),
      () => guard,
    );
    expect(later).toBe(then);
    expect(outcomes).toEqual(new Set(["ok", "CALLER_UNAUTHENTICATED"]));
    expect(took).toBeLessThan(1500);
  });

  test.each<[string, string, (minter: string) => Promise<unknown>]>([
    [
      "disables the principal",
      "DISABLED",
      () => store.updatePrincipal("default", "bot:ci", { state: "DISABLED" }, "", NOBODY, ADMIN),
    ],
    ["deletes the principal", "REVOKED", () => store.deletePrincipal("default", "bot:ci", ADMIN)],
    ["suspends the tenant", "DISABLED", () => store.updateTenant("default", { state: "SUSPENDED" }, "", NOBODY, ADMIN)],
    ["cuts the principal", "REVOKED", () => store.cut("default", "bot:ci", false, "", ADMIN)],
    ["cuts the tenant", "REVOKED", () => store.cut("default", undefined, false, "", ADMIN)],
    ["revokes the minter", "REVOKED", (minter) => store.revokeToken(minter, false, "", ADMIN)],
    [
      "narrows the minter",
      "ACTIVE",
      (minter) => store.updateToken(minter, { scopes: [] }, "", { maxTtl: 1e12 }, { callerScopes: [] }, ADMIN),
    ],
  ])("a mint that has found all good commits before whoever %s", async (_, state, change) => {
    const limits = { ...UNLIMITED, perPrincipalPerDay: 100 };
    const minter = await created({}, FREE, limits);
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select from sallyport.mint_counts for update");
    const order: string[] = [];
    const guard = { callerTokenId: minter.id, callerScopes: ["a"], child: true, mustExist: true };
    const minting = created({}, guard, limits).then((token) => {
      order.push("mint");
      return token;
    });
    await waiting(1);
    const changing = change(minter.id).then(() => order.push("change"));
    await waiting(2);
    await holder.query("rollback");
    const token = await minting;
    await changing;
    expect(order).toEqual(["mint", "change"]);
    expect(await stateOf(token.id)).toBe(state);
  });

  test.each<[string, (parent: string) => Promise<unknown>]>([
    ["is revoked", (parent) => store.revokeToken(parent, false, "", ADMIN)],
    [
      "is disabled",
      (parent) => store.updateToken(parent, { disabled: true }, "", { maxTtl: 1e12 }, { callerScopes: [] }, ADMIN),
    ],
  ])("a rotation by a child commits before its parent %s, or is refused", async (_, change) => {
    const parent = await created();
    const child = await created({}, { callerTokenId: parent.id, callerScopes: ["a"], child: true, mustExist: true });
    const target = await created({ principal: "bot:other" });
    const guard = { callerTokenId: child.id, callerScopes: ["a"] };
    const rotate = (id: string) => outcome(store.rotateToken(id, fresh(), YEAR, 0, guard, ADMIN));
    const holder = await byHand(url);
    await holder.query("begin");
    // Where the new row refers to its principal: after all was found good.
    await holder.query("select from sallyport.principals where name = 'bot:other' for update");
    const order: string[] = [];
    const rotating = rotate(target.id).then((told) => order.push(`rotation ${told}`));
    await waiting(1);
    const changing = change(parent.id).then(() => order.push("change"));
    await waiting(2);
    await holder.query("rollback");
    await Promise.all([rotating, changing]);
    expect(order).toEqual(["rotation ok", "change"]);
    expect(await rotate((await created()).id)).toBe("CALLER_UNAUTHENTICATED");
  });

  test("a token whose mint waited for a cut outlives it; a token that was minted before the cut ends", async () => {
    await created();
    const cutter = await byHand(url);
    await cutter.query("begin");
    await cutter.query("insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't')");
    await cutter.query("update sallyport.principals set cut_time = clock_timestamp() where name = 'bot:ci'");
    const minting = created();
    await waiting(1);
    await cutter.query("commit");
    const after = await minting;
    expect(after.state).toBe("ACTIVE");
    await store.cut("default", "bot:ci", false, "", ADMIN);
    expect(await stateOf(after.id)).toBe("REVOKED");
  });

  test("a caller whose token loses a scope or is narrowed while it waits cannot mint", async () => {
    const caller = await created({ scopes: ["a", "b"] });
    const guard = { callerTokenId: caller.id, callerScopes: ["a", "b"], child: false, mustExist: false };
    expect((await created({}, guard)).state).toBe("ACTIVE");
    const narrowing = await byHand(url);
    await narrowing.query("begin");
    await narrowing.query(
      "insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't')",
    );
    await narrowing.query("update sallyport.tokens set scopes = '{a}' where id = $1", [caller.id]);
    const minting = outcome(created({}, guard));
    await waiting(1);
    await narrowing.query("commit");
    expect(await minting).toBe("CALLER_UNAUTHENTICATED");
  });

  const request = (over = {}) => ({
    caller: "token:x",
    requestId: randomUUID() as string,
    method: "CreateToken",
    body: new Uint8Array([1]),
    salt: randomBytes(16),
    ...over,
  });

  test("the same request 10 times at once creates one token that each call returns; another body is refused", async () => {
    const same = request();
    const done = await Promise.all(
      Array.from({ length: 10 }, () =>
        store.createToken(newToken(), YEAR, FREE, UNLIMITED, ADMIN, { ...same, salt: randomBytes(16) }),
      ),
    );
    expect(done.filter(({ kind }) => kind === "created")).toHaveLength(1);
    expect(new Set(done.map(({ token }) => token.id)).size).toBe(1);
    const salts = done.flatMap((one) => (one.kind === "repeated" ? [Buffer.from(one.salt).toString("hex")] : []));
    expect(new Set(salts).size).toBe(1);
    const { rows } = await sql.query("select count(*) as tokens from sallyport.tokens");
    expect(rows).toEqual([{ tokens: 1 }]);
    const other = { ...same, body: new Uint8Array([2]) };
    expect(await outcome(store.createToken(newToken(), YEAR, FREE, UNLIMITED, ADMIN, other))).toBe("REQUEST_ID_REUSED");
  });

  test("the same rotation 8 times at once creates one token, and of different rotations at once one succeeds", async () => {
    const root = await created();
    const same = request({ method: "RotateToken" });
    const rotate = (idempotency: ReturnType<typeof request> | undefined) =>
      store.rotateToken(root.id, fresh(), YEAR, 1000, { callerScopes: [] }, ADMIN, idempotency);
    const done = await Promise.all(Array.from({ length: 8 }, () => rotate(same)));
    const values = done.map(({ value }) => {
      if (value instanceof AppError) throw value;
      return value;
    });
    expect(new Set(values.map(({ token }) => token.id)).size).toBe(1);
    expect(values.filter(({ kind }) => kind === "created")).toHaveLength(1);
    expect(new Set(values.map(({ previous }) => previous?.id))).toEqual(new Set([root.id]));
    expect(new Set(await Promise.all(Array.from({ length: 4 }, () => outcome(rotate(undefined)))))).toEqual(
      new Set(["TOKEN_ROTATED"]),
    );
    const second = await created();
    const outcomes = await Promise.all(
      Array.from({ length: 6 }, () =>
        outcome(store.rotateToken(second.id, fresh(), YEAR, 0, { callerScopes: [] }, ADMIN)),
      ),
    );
    expect(outcomes.filter((one) => one === "ok")).toHaveLength(1);
    const { rows } = await sql.query("select count(*) as n from sallyport.tokens where family = $1", [second.id]);
    expect(rows).toEqual([{ n: 2 }]);
  });

  test("a token from before families were stored is the first of its family, and renews itself to its own lifetime and no longer", async () => {
    const [id = ""] = await makeTokens(sql, 1);
    const profile = BUILT_IN_PROFILES.find(({ name }) => name === "bot")!;
    await store.updateToken(id, { expireTime: Date.now() + 60_000 }, "", { maxTtl: 1e12 }, { callerScopes: [] }, ADMIN);
    const caller = {
      kind: "token",
      provenance: "token:h",
      tenant: "default",
      principal: "bot:ci",
      scopes: [],
    } as const;
    const rights = { caller: { ...caller, address: "", direct: true }, profile, rotationsPerDay: 0 };
    const guard = { callerTokenId: id, callerScopes: [], rights };
    const rotated = (await store.rotateToken(id, fresh(), undefined, 0, guard, ADMIN)).value as { token: Token };
    const life = rotated.token.expireTime! - rotated.token.createTime;
    expect(life).toBeGreaterThan(50_000);
    expect(life).toBeLessThanOrEqual(61_000);
    const grow = `update sallyport.tokens set family_life = family_life + 1 where id = '${rotated.token.id}'`;
    await expect(sql.query(grow)).rejects.toThrow("does not grow");
  });

  test("a refused mint stores nothing, not even its request id", async () => {
    const same = request();
    const limits = { ...UNLIMITED, maxLive: 1 };
    await created();
    expect(await outcome(store.createToken(newToken(), YEAR, FREE, limits, ADMIN, same))).toBe("LIMIT_EXCEEDED");
    const { rows } = await sql.query("select from sallyport.requests union all select from sallyport.mint_counts");
    expect(rows).toHaveLength(0);
    expect(await outcome(store.createToken(newToken(), YEAR, FREE, UNLIMITED, ADMIN, same))).toBe("ok");
  });
});

describe("a commit without a clear answer", () => {
  let server: ThrowawayServer;
  beforeAll(async () => {
    server = await startServer();
    await migrateAt(server.url);
  });
  afterAll(() => server?.remove());
  beforeEach(() => use(server.url));

  test("a cancelled wait for a synchronous standby is OUTCOME_UNKNOWN although the server reports success; the repeat waits again", async () => {
    const token = await created();
    await sql.query("alter system set synchronous_standby_names = 'nobody'");
    await sql.query("select pg_reload_conf()");
    onTestFinished(async () => {
      await sql.query("alter system reset synchronous_standby_names");
      await sql.query("select pg_reload_conf()");
    });
    await expect
      .poll(async () => (await sql.query("show synchronous_standby_names")).rows[0].synchronous_standby_names)
      .toBe("nobody");
    const cancelled = async (work: Promise<unknown>) => {
      let answer: string | undefined;
      void outcome(work).then((told) => (answer = told));
      let cancels = 0;
      await expect
        .poll(
          async () => {
            const { rows } = await sql.query(
              "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'",
            );
            cancels += rows.length;
            return answer;
          },
          { interval: 5, timeout: 6000 },
        )
        .toBeDefined();
      return { answer, cancels: cancels > 0 };
    };
    const unknown = { answer: "OUTCOME_UNKNOWN", cancels: true };
    expect(await cancelled(store.revokeToken(token.id, false, "", ADMIN))).toEqual(unknown);
    expect(await stateOf(token.id)).toBe("REVOKED");
    // Each of these changes nothing any more; without a row of its own it would not wait, and say OK.
    expect(await cancelled(store.revokeToken(token.id, false, "", ADMIN))).toEqual(unknown);
    expect(await cancelled(store.revokeToken(token.id, true, "", ADMIN))).toEqual(unknown);
    expect(await cancelled(store.revokeChunk("default", [token.id], "", ADMIN))).toEqual(unknown);
    expect(await cancelled(store.revokeChunk("default", [], "", ADMIN))).toEqual(unknown);
  });

  test("a commit without an answer in time is OUTCOME_UNKNOWN", async () => {
    const token = await created();
    await sql.query("alter system set synchronous_standby_names = 'nobody'");
    await sql.query("select pg_reload_conf()");
    onTestFinished(async () => {
      await sql.query("alter system reset synchronous_standby_names");
      await sql.query("select pg_reload_conf()");
    });
    await expect
      .poll(async () => (await sql.query("show synchronous_standby_names")).rows[0].synchronous_standby_names)
      .toBe("nobody");
    const before = performance.now();
    expect(await outcome(store.revokeToken(token.id, false, "", ADMIN))).toBe("OUTCOME_UNKNOWN");
    expect(performance.now() - before).toBeLessThan(6000);
  });

  test("wherever a connection is cut, NOT_DONE means not done, OK means done, and everything else is OUTCOME_UNKNOWN", async () => {
    const proxy = await startTcpProxy({ port: server.port });
    onTestFinished(() => proxy.stop());
    const through = new URL(server.url);
    through.port = String(proxy.port);
    const attempt = async (way: "up" | "down", bytes: number) => {
      const token = await created();
      await proxy.set({ kind: "cut", [way]: bytes });
      const cut = new Postgres({ url: through.href, maxConnections: 1, applicationName: "cut", onTrouble: () => {} });
      const told = await outcome(new PostgresAuthorityStore(cut).revokeToken(token.id, false, "", ADMIN));
      await cut.close();
      // Whatever the server was still doing has ended with its backend.
      const backends = () => sql.query("select from pg_stat_activity where application_name = 'cut'");
      await expect.poll(async () => (await backends()).rowCount, { interval: 2 }).toBe(0);
      const done = (await stateOf(token.id)) === "REVOKED";
      const { rowCount } = await sql.query(
        "select from sallyport.audit where target = $1 and action = 'token.revoke'",
        [`token:${token.id}`],
      );
      expect(rowCount).toBe(done ? 1 : 0);
      if (told === "NOT_DONE") expect(done).toBe(false);
      else if (told === "ok") expect(done).toBe(true);
      else expect(told).toBe("OUTCOME_UNKNOWN");
      return told;
    };
    const seen = new Set<string>();
    for (const way of ["up", "down"] as const) {
      // Doubling until it gets through, then evenly: about 60 cuts over one revocation.
      let whole = 256;
      while ((await attempt(way, whole)) !== "ok") whole *= 2;
      for (let bytes = 1; bytes < whole; bytes += Math.ceil(whole / 30)) seen.add(await attempt(way, bytes));
      // Every byte at the end, where the commit and its answer are.
      let low = 1;
      for (let high = whole; low < high; ) {
        const middle = (low + high) >> 1;
        if ((await attempt(way, middle)) === "ok") high = middle;
        else low = middle + 1;
      }
      for (let bytes = Math.max(1, low - 24); bytes < low; bytes++) seen.add(await attempt(way, bytes));
    }
    // The last byte or two vary with the figures in the answers.
    expect([...seen].filter((told) => told !== "ok").sort()).toEqual(["NOT_DONE", "OUTCOME_UNKNOWN"]);
  }, 60_000);

  test("if the server stops before the commit, the change is NOT_DONE, and the pool reconnects", async () => {
    const token = await created();
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select from sallyport.tokens where id = $1 for update", [token.id]);
    const family = outcome(store.revokeToken(token.id, true, "", ADMIN));
    await waiting(1);
    await sql.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sallyport-test' and wait_event_type = 'Lock'",
    );
    expect(await family).toBe("NOT_DONE");
    await holder.query("rollback");
    expect(await stateOf(token.id)).toBe("ACTIVE");
    expect(await outcome(store.revokeToken(token.id, false, "", ADMIN))).toBe("ok");
  });

  test("two changes that deadlock are both done, one after the other", async () => {
    const [low, high] = [(await created()).id, (await created()).id].sort();
    const hand = await byHand(url);
    await hand.query("begin");
    await hand.query("select from sallyport.tokens where id = $1 for update", [high]);
    const both = db.transaction((tx) =>
      tx.query("select from sallyport.tokens where id = any($1) order by id for update", [[low, high]]),
    );
    await waiting(1);
    // The hand takes what the other holds: a deadlock, of which PostgreSQL ends one side.
    await outcome(hand.query("select from sallyport.tokens where id = $1 for update", [low]));
    await hand.query("rollback");
    expect(await both).toHaveLength(2);
  });
});

describe("rights that an operator's token denies to others", () => {
  const OTHER = { ...by("user:other"), rank: "other" as const };
  const STRONG = { scopes: ["sallyport.operator"], principal: "bot:strong" };
  const told = async (call: () => Promise<unknown>) =>
    call().then(
      () => "ok",
      ({ reason }: AppError) => reason,
    );
  const ways: Record<string, () => Promise<unknown>> = {
    "a cut": () => store.cut("default", "bot:strong", false, "", OTHER),
    "disabling its principal": () =>
      store.updatePrincipal("default", "bot:strong", { state: "DISABLED" }, "", NOBODY, OTHER),
    "deleting its principal": () => store.deletePrincipal("default", "bot:strong", OTHER),
  };

  test.each(Object.entries(ways))(
    "%s, while the token is live, but not after a cut or the end of its parent",
    async (_, way) => {
      const database = await migrated();
      onTestFinished(() => database.drop());
      await use(database.url);
      await created(STRONG);
      expect(await told(way)).toBe("RIGHTS_EXCEEDED");
      await store.cut("default", "bot:strong", false, "", ADMIN);
      const parent = await created(STRONG);
      const guard = { ...FREE, callerTokenId: parent.id, callerScopes: parent.scopes, child: true };
      await created(STRONG, guard);
      expect(await told(way)).toBe("RIGHTS_EXCEEDED");
      await store.revokeToken(parent.id, false, "", ADMIN);
      expect(await told(way)).toBe("ok");
    },
  );

  test("a cut of the tenant ends it, too; a token made afterwards is live", async () => {
    const database = await migrated();
    onTestFinished(() => database.drop());
    await use(database.url);
    await created(STRONG);
    await store.cut("default", undefined, false, "", ADMIN);
    expect(await told(ways["a cut"]!)).toBe("ok");
    await created(STRONG);
    expect(await told(ways["a cut"]!)).toBe("RIGHTS_EXCEEDED");
  });
});

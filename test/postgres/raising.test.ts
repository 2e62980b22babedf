import { randomBytes, randomUUID } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { AuditActor } from "../../src/domain/audit-event.ts";
import type { AppError } from "../../src/domain/errors.ts";
import { newRoleId } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres, TYPES } from "../../src/postgres/pool.ts";
import type { AuthorityStore, CallerGuard, NewToken } from "../../src/revocation/authority-store.ts";
import { auditRow, byHand, migrated, prove } from "./migrated.ts";

const ADMIN = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const NOBODY: CallerGuard = { callerScopes: [] };
const FACTS = { displayName: "", email: "", owner: "", annotations: {} };
const RULE = { maxTtl: 86_400_000 };

const fresh = () => ({
  id: `tok_${randomBytes(11).toString("hex")}`,
  digest: randomBytes(32).toString("latin1"),
  kid: "1",
  hint: "sp_bot_1abcdefgh",
  createdBy: "user:admin",
});
const newToken = (tenant: string, principal: string): NewToken => ({
  ...fresh(),
  tenant,
  profile: "adm",
  principal,
  ...NOTHING_GIVEN,
  displayName: "n",
  scopes: ["sallyport.operator"],
});

const newRole = (tenant: string, name: string, scopes: readonly string[] = []) => ({
  ...{ id: newRoleId(), tenant, name, description: "", scopes, administrative: true },
});

/** What the raising calls are made to: all in another tenant than the caller is of. */
interface Targets {
  readonly token: string;
  readonly disabledToken: string;
}
type Call = (store: AuthorityStore, targets: Targets, guard: CallerGuard) => Promise<unknown>;

/** Every method that can give somebody more than it has; a new one is a line here, or the types are wrong. */
const RAISING: Record<Exclude<keyof AuthorityStore, Lowering>, Record<string, Call>> = {
  createToken: {
    "a token": (store, _, guard) =>
      store.createToken(
        newToken("acme", "bot:on"),
        HOUR,
        { ...guard, child: false, mustExist: true },
        UNLIMITED,
        ADMIN,
      ),
  },
  rotateToken: {
    "a rotation": (store, { token }, guard) => store.rotateToken(token, fresh(), HOUR, 60_000, guard, ADMIN),
  },
  updateToken: {
    tenants: (store, { token }, guard) => store.updateToken(token, { tenants: ["default"] }, "", RULE, guard, ADMIN),
    roles: (store, { token }, guard) => store.updateToken(token, { roles: ["wide"] }, "", RULE, guard, ADMIN),
    scopes: (store, { token }, guard) => store.updateToken(token, { scopes: ["a", "b"] }, "", RULE, guard, ADMIN),
    audiences: (store, { token }, guard) => store.updateToken(token, { audiences: [] }, "", RULE, guard, ADMIN),
    networks: (store, { token }, guard) => store.updateToken(token, { allowedCidrs: [] }, "", RULE, guard, ADMIN),
    "no expiry": (store, { token }, guard) => store.updateToken(token, { noExpiry: true }, "", RULE, guard, ADMIN),
    "a later expiry": (store, { token }, guard) =>
      store.updateToken(token, { expireTime: Date.now() + 7_200_000 }, "", RULE, guard, ADMIN),
    enabling: (store, { disabledToken }, guard) =>
      store.updateToken(disabledToken, { disabled: false }, "", RULE, guard, ADMIN),
  },
  createPrincipal: {
    "a new one": (store, _, guard) =>
      store.createPrincipal({ tenant: "acme", name: "bot:new", state: "ACTIVE", ...FACTS }, guard, ADMIN),
    "over a deleted one": (store, _, guard) =>
      store.createPrincipal({ tenant: "acme", name: "bot:deleted", state: "ACTIVE", ...FACTS }, guard, ADMIN),
  },
  updatePrincipal: {
    enabling: (store, _, guard) => store.updatePrincipal("acme", "bot:off", { state: "ACTIVE" }, "", guard, ADMIN),
    "its owner": (store, _, guard) => store.updatePrincipal("acme", "bot:on", { owner: "user:eve" }, "", guard, ADMIN),
    "its owner, with what takes away": (store, _, guard) =>
      store.updatePrincipal("acme", "bot:on", { owner: "user:eve", state: "DISABLED" }, "", guard, ADMIN),
  },
  createTenant: {
    "a new one": (store, _, guard) => store.createTenant({ id: "new", state: "ACTIVE", ...FACTS }, guard, ADMIN),
  },
  updateTenant: {
    resuming: (store, _, guard) => store.updateTenant("suspended", { state: "ACTIVE" }, "", guard, ADMIN),
    "its name": (store, _, guard) => store.updateTenant("acme", { displayName: "Acme" }, "", guard, ADMIN),
    "its name, with what takes away": (store, _, guard) =>
      store.updateTenant("acme", { displayName: "Acme", state: "SUSPENDED" }, "", guard, ADMIN),
  },
  createRole: {
    "a new one": (store, _, guard) => store.createRole(newRole("acme", "new"), guard, ADMIN),
  },
  updateRole: {
    "its scopes": (store, _, guard) => store.updateRole("acme", "wide", { scopes: ["a"] }, "", () => {}, guard, ADMIN),
  },
};
/** What only takes away: these methods, and these changes by the others. */
type Lowering = "revokeToken" | "detachTenant" | "revokeChunk" | "cut" | "deletePrincipal" | "deleteRole";
type Takes = Lowering | "updateToken" | "updatePrincipal" | "updateTenant";
type Taking = (store: AuthorityStore, targets: Targets, guard: CallerGuard, actor: AuditActor) => Promise<unknown>;
const LOWERING: Record<Takes, Record<string, Taking>> = {
  revokeToken: {
    "a token": (store, { token }, _, actor) => store.revokeToken(token, false, "", actor),
    "a family": (store, { token }, _, actor) => store.revokeToken(token, true, "", actor),
  },
  revokeChunk: {
    "two tokens": (store, { token, disabledToken }, _, actor) =>
      store.revokeChunk("acme", [token, disabledToken], "", actor),
  },
  detachTenant: { "a token": (store, { token }, _, actor) => store.detachTenant("other", token, actor) },
  cut: {
    "a principal": (store, _, __, actor) => store.cut("acme", "bot:on", true, "", actor),
    "a tenant": (store, _, __, actor) => store.cut("acme", undefined, false, "", actor),
  },
  deleteRole: { "a role": (store, _, __, actor) => store.deleteRole("acme", "wide", true, actor) },
  deletePrincipal: { "a principal": (store, _, __, actor) => store.deletePrincipal("acme", "bot:on", actor) },
  updateToken: {
    disabling: (store, { token }, guard, actor) => store.updateToken(token, { disabled: true }, "", RULE, guard, actor),
    "its name": (store, { token }, guard, actor) =>
      store.updateToken(token, { displayName: "m" }, "", RULE, guard, actor),
  },
  updatePrincipal: {
    disabling: (store, _, guard, actor) =>
      store.updatePrincipal("acme", "bot:on", { state: "DISABLED" }, "", guard, actor),
  },
  updateTenant: {
    suspending: (store, _, guard, actor) => store.updateTenant("acme", { state: "SUSPENDED" }, "", guard, actor),
  },
};
const TAKING = Object.entries(LOWERING).flatMap(([method, calls]) =>
  Object.entries(calls).map(([what, call]) => [`${method}: ${what}`, call] as const),
);
const CALLS = Object.entries(RAISING).flatMap(([method, calls]) =>
  Object.entries(calls).map(([what, call]) => [`${method}: ${what}`, call] as const),
);

/** What ends the caller's right, as SQL in a transaction of its own: of its token, of what that depends on. */
const OF = "from sallyport.tokens where id = $1";
const ENDS: Record<string, string> = {
  "is revoked": "update sallyport.tokens set revoke_time = clock_timestamp() where id = $1",
  "is disabled": "update sallyport.tokens set disabled = true where id = $1",
  expires: "update sallyport.tokens set expire_time = clock_timestamp() where id = $1",
  "loses a scope": "update sallyport.tokens set scopes = '{}' where id = $1",
  "loses its parent": `update sallyport.tokens set revoke_time = clock_timestamp() where id = (select parent_id ${OF})`,
  "has its principal disabled": `update sallyport.principals set state = 'DISABLED'
    where (tenant, name) = (select tenant, principal ${OF})`,
  "has its principal cut": `update sallyport.principals set cut_time = clock_timestamp()
    where (tenant, name) = (select tenant, principal ${OF})`,
  "has its tenant suspended": `update sallyport.tenants set state = 'SUSPENDED' where id = (select tenant ${OF})`,
  "loses its role": "update sallyport.tokens set roles = '{}' where id = $1",
  "has its role narrowed": `update sallyport.roles set scopes = '{}' where id = (select roles[1] ${OF})`,
  "has its role deleted": `update sallyport.roles set state = 'DELETED' where id = (select roles[1] ${OF})`,
  "has its parent's role narrowed": `update sallyport.roles set scopes = '{}'
    where id = (select roles[1] from sallyport.tokens where id = (select parent_id ${OF}))`,
  "is bound to other networks": "update sallyport.tokens set allowed_cidrs = '{203.0.113.0/24}' where id = $1",
  "is bound to an audience": "update sallyport.tokens set audiences = '{api}' where id = $1",
  "has its parent narrowed": `update sallyport.tokens set scopes = '{x}' where id = (select parent_id ${OF})`,
  "has its parent disabled": `update sallyport.tokens set disabled = true where id = (select parent_id ${OF})`,
  "has its parent bound to other networks": `update sallyport.tokens set allowed_cidrs = '{203.0.113.0/24}'
    where id = (select parent_id ${OF})`,
  "has its parent bound to an audience": `update sallyport.tokens set audiences = '{api}'
    where id = (select parent_id ${OF})`,
  "has its tenant cut": `update sallyport.tenants set cut_time = clock_timestamp() where id = (select tenant ${OF})`,
};

/** What ends a session, as SQL about its tenant. */
const SESSION_ENDS: Record<string, string> = {
  "has its principal disabled": "update sallyport.principals set state = 'DISABLED' where tenant = $1",
  "has its principal deleted": "update sallyport.principals set state = 'DELETED' where tenant = $1",
  "has its tenant suspended": "update sallyport.tenants set state = 'SUSPENDED' where id = $1",
};

/** What a session loses with its role, as SQL about its tenant. */
const SESSION_ROLE_ENDS: Record<string, string> = {
  "has its role narrowed": "update sallyport.roles set scopes = '{other}' where tenant = $1",
  "has its role deleted": "update sallyport.roles set state = 'DELETED' where tenant = $1",
};

let sql: pg.Client;
let url: string;
let store: PostgresAuthorityStore;
let targets: Targets;
let caller: string;
const guard = () => ({ callerTokenId: caller, callerScopes: ["sallyport.operator", "special"] });
const actor = (): AuditActor => ({
  actor: "token:caller",
  address: "",
  requestId: "r",
  rank: "operator",
  token: { id: caller, scopes: ["sallyport.operator", "special"] },
});

async function use(): Promise<() => Promise<void>> {
  const database = await migrated();
  url = database.url;
  const db = new Postgres({ url, maxConnections: 4, applicationName: "raising", onTrouble: () => {} });
  store = new PostgresAuthorityStore(db);
  sql = new pg.Client({ connectionString: url, types: TYPES });
  await sql.connect();
  for (const id of ["acme", "suspended"]) {
    await store.createTenant({ id, state: id === "suspended" ? "SUSPENDED" : "ACTIVE", ...FACTS }, NOBODY, ADMIN);
  }
  for (const name of ["bot:on", "bot:off", "bot:deleted"]) {
    const state = name === "bot:off" ? "DISABLED" : "ACTIVE";
    await store.createPrincipal({ tenant: "acme", name, state, ...FACTS }, NOBODY, ADMIN);
  }
  await store.deletePrincipal("acme", "bot:deleted", ADMIN);
  await store.createRole(newRole("acme", "wide"), NOBODY, ADMIN);
  targets = { token: await made("acme", "bot:on"), disabledToken: await made("acme", "bot:on") };
  await store.updateToken(targets.disabledToken, { disabled: true }, "", RULE, NOBODY, ADMIN);
  return async () => {
    await sql.end();
    await db.close();
    await database.drop();
  };
}

async function made(tenant: string, principal: string, parent?: string, ...roles: string[]): Promise<string> {
  const token = { ...newToken(tenant, principal), roles };
  const by = { callerTokenId: parent, callerScopes: [], child: parent !== undefined, mustExist: false };
  await store.createToken(token, HOUR, by, UNLIMITED, ADMIN);
  return token.id;
}

/** A caller in a tenant of its own: a child, so that it depends on all that a token can depend on. */
async function newCaller(): Promise<string> {
  const tenant = `home${randomBytes(4).toString("hex")}`;
  await store.createTenant({ id: tenant, state: "ACTIVE", ...FACTS }, NOBODY, ADMIN);
  // One of its scopes comes from a role, and its parent has that by another one.
  for (const name of ["chief", "boss"]) await store.createRole(newRole(tenant, name, ["special"]), NOBODY, ADMIN);
  const parent = await made(tenant, "user:boss", undefined, "boss");
  caller = await made(tenant, "user:boss", parent, "chief");
  return tenant;
}

/** A session in a tenant of its own, and one in another tenant that the first one ends, too. */
async function newSessions(): Promise<NonNullable<CallerGuard["callerPrincipal"]>[]> {
  const ended = await newSession();
  return [ended, { ...(await newSession()), alsoIn: [ended.tenant] }];
}

/** A session in a tenant of its own. */
async function newSession(): Promise<NonNullable<CallerGuard["callerPrincipal"]>> {
  const tenant = `home${randomBytes(4).toString("hex")}`;
  await store.createTenant({ id: tenant, state: "ACTIVE", ...FACTS }, NOBODY, ADMIN);
  await store.createPrincipal({ tenant, name: "user:boss", state: "ACTIVE", ...FACTS }, NOBODY, ADMIN);
  await store.createRole(newRole(tenant, "chief", ["special"]), NOBODY, ADMIN);
  return { tenant, name: "user:boss", roles: { names: ["chief", "none"], scopes: ["special"] } };
}

const outcome = (work: Promise<unknown>) =>
  work.then(
    () => "ok",
    ({ reason }: AppError) => reason as string,
  );
const blocked = async () =>
  (
    await sql.query(
      "select from pg_stat_activity where datname = current_database() and application_name = 'raising' and wait_event_type = 'Lock'",
    )
  ).rowCount;
/** All that authority rests on, but in the tenants of the callers. */
async function world() {
  const seen: unknown[] = [];
  for (const table of ["tokens", "principals", "tenants", "roles"]) {
    const of = table === "tenants" ? "id" : "tenant";
    const text = `select to_jsonb(t) as row from sallyport.${table} t where ${of} not like 'home%' order by 1`;
    seen.push((await sql.query(text)).rows);
  }
  return seen;
}

describe("is refused if its caller ends while it waits:", () => {
  let drop: () => Promise<void>;
  beforeAll(async () => void (drop = await use()));
  afterAll(() => drop?.());

  test.each(CALLS)("%s", async (_, call) => {
    const before = await world();
    const holder = await byHand(url);
    for (const [how, ending] of Object.entries(ENDS)) {
      await newCaller();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [caller])).rowCount).toBe(1);
      let ended: string | undefined;
      const raising = outcome(call(store, targets, guard())).then((told) => (ended = told));
      await expect.poll(async () => (await blocked()) === 1 || ended !== undefined, { interval: 2 }).toBe(true);
      await holder.query("commit");
      expect([how, await raising]).toEqual([how, "CALLER_UNAUTHENTICATED"]);
    }
    for (const [how, ending] of Object.entries(SESSION_ENDS)) {
      const sessions = await newSessions();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [sessions[0]!.tenant])).rowCount).toBe(1);
      const ended: string[] = [];
      const raising = sessions.map(async (callerPrincipal) => {
        const by = { callerScopes: ["sallyport.operator"], callerPrincipal };
        ended.push(await outcome(call(store, targets, by)));
      });
      await expect.poll(async () => ((await blocked()) ?? 0) + ended.length, { interval: 2 }).toBe(2);
      await holder.query("commit");
      await Promise.all(raising);
      expect(["sessions", how, ended]).toEqual(["sessions", how, ["CALLER_UNAUTHENTICATED", "CALLER_UNAUTHENTICATED"]]);
    }
    for (const [how, ending] of Object.entries(SESSION_ROLE_ENDS)) {
      const callerPrincipal = await newSession();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [callerPrincipal.tenant])).rowCount).toBe(1);
      let ended: string | undefined;
      const by = { callerScopes: ["sallyport.operator", "special"], callerPrincipal };
      const raising = outcome(call(store, targets, by)).then((told) => (ended = told));
      await expect.poll(async () => (await blocked()) === 1 || ended !== undefined, { interval: 2 }).toBe(true);
      await holder.query("commit");
      expect(["a session", how, await raising]).toEqual(["a session", how, "CALLER_UNAUTHENTICATED"]);
    }
    expect(await world()).toEqual(before);
  });
});

describe("in an epoch that may lack changes,", () => {
  beforeEach(async () => {
    onTestFinished(await use());
    await newCaller();
  });

  test.each([
    ["not proven", "update sallyport.rev_state set proven = 'another'"],
    ["closed", "update sallyport.rev_state set guard = 'regressed'"],
  ])("nothing that may widen rights is done, and what takes away is: %s", async (_, ending) => {
    await sql.query(ending);
    const before = await world();
    for (const [what, call] of CALLS) {
      for (const by of [guard(), NOBODY, { ...NOBODY, callerPrincipal: { tenant: "acme", name: "bot:on" } }]) {
        expect([what, await outcome(call(store, targets, by))]).toEqual([what, "STORE_UNAVAILABLE"]);
      }
    }
    expect(await world()).toEqual(before);
    await store.updateToken(targets.token, { disabled: true }, "", RULE, guard(), actor());
    await store.updatePrincipal("acme", "bot:on", { state: "DISABLED" }, "", guard(), actor());
    await store.updateTenant("acme", { state: "SUSPENDED" }, "", guard(), actor());
    await store.cut("acme", "bot:on", true, "", actor());
    await store.revokeToken(targets.token, false, "", actor());
    await store.deleteRole("acme", "wide", false, actor());
    await sql.query("update sallyport.rev_state set guard = 'ok'");
    await prove(sql);
    await store.updateTenant("suspended", { state: "ACTIVE" }, "", guard(), ADMIN);
  });
});

describe("what only takes away is refused where its caller has ended before its transaction:", () => {
  let drop: () => Promise<void>;
  beforeAll(async () => void (drop = await use()));
  afterAll(() => drop?.());

  test.each(TAKING)("%s", async (_, call) => {
    const before = await world();
    const holder = await byHand(url);
    for (const [how, ending] of Object.entries(ENDS)) {
      await newCaller();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [caller])).rowCount).toBe(1);
      await holder.query("commit");
      expect([how, await outcome(call(store, targets, guard(), actor()))]).toEqual([how, "CALLER_UNAUTHENTICATED"]);
    }
    for (const [how, ending] of Object.entries(SESSION_ENDS)) {
      const sessions = await newSessions();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [sessions[0]!.tenant])).rowCount).toBe(1);
      await holder.query("commit");
      for (const session of sessions) {
        const by: AuditActor = { ...actor(), actor: "session:boss", token: undefined, session };
        const guarded = { callerScopes: ["sallyport.operator"], callerPrincipal: session };
        expect(["a session", how, await outcome(call(store, targets, guarded, by))]).toEqual([
          ...["a session", how, "CALLER_UNAUTHENTICATED"],
        ]);
      }
    }
    for (const [how, ending] of Object.entries(SESSION_ROLE_ENDS)) {
      const session = await newSession();
      await holder.query("begin");
      await auditRow(holder);
      expect((await holder.query(ending, [session.tenant])).rowCount).toBe(1);
      await holder.query("commit");
      const by: AuditActor = { ...actor(), actor: "session:boss", token: undefined, session };
      const guarded = { callerScopes: ["sallyport.operator", "special"], callerPrincipal: session };
      expect(["a session", how, await outcome(call(store, targets, guarded, by))]).toEqual([
        ...["a session", how, "CALLER_UNAUTHENTICATED"],
      ]);
    }
    expect(await world()).toEqual(before);
  });

  test("a repeat of its request hands no string to a caller that has ended", async () => {
    for (const [how, ending] of Object.entries(ENDS).filter(([, text]) => !text.includes("parent_id"))) {
      const tenant = await newCaller();
      caller = await made(tenant, "user:boss", undefined, "chief");
      const ask = (method: string, id: string) => ({
        caller,
        requestId: id,
        method,
        body: Buffer.alloc(32),
        salt: Buffer.alloc(32),
      });
      const [one, two] = [randomUUID(), randomUUID()];
      const mint = { ...guard(), child: false, mustExist: true };
      const repeats: (() => Promise<unknown>)[] = [
        () => store.createToken(newToken("acme", "bot:on"), HOUR, mint, UNLIMITED, actor(), ask("CreateToken", one)),
      ];
      const old = await made("acme", "bot:on");
      repeats.push(() => store.rotateToken(old, fresh(), HOUR, 60_000, guard(), actor(), ask("RotateToken", two)));
      for (const call of repeats) expect([how, await outcome(call())]).toEqual([how, "ok"]);
      for (const call of repeats) expect([how, await outcome(call())]).toEqual([how, "ok"]);
      await sql.query("begin");
      await auditRow(sql);
      expect((await sql.query(ending, [caller])).rowCount).toBe(1);
      await sql.query("commit");
      for (const call of repeats) expect([how, await outcome(call())]).toEqual([how, "CALLER_UNAUTHENTICATED"]);
    }
  });

  test("and not where it ends itself", async () => {
    const calls: Record<string, () => Promise<unknown>> = {
      "a token": () => store.revokeToken(caller, false, "", actor()),
      "a family": () => store.revokeToken(caller, true, "", actor()),
      "a chunk": () => store.revokeChunk("home", [caller], "", actor()),
      disabling: () => store.updateToken(caller, { disabled: true }, "", RULE, guard(), actor()),
    };
    for (const [how, call] of Object.entries(calls)) {
      await newCaller();
      await sql.query("begin");
      await auditRow(sql);
      await sql.query(ENDS["has its parent narrowed"]!, [caller]);
      await sql.query("commit");
      expect([how, await outcome(call())]).toEqual([how, "ok"]);
      const { rows } = await sql.query("select state from sallyport.token_view where id = $1", [caller]);
      expect([how, rows[0].state]).toEqual([how, how === "disabling" ? "DISABLED" : "REVOKED"]);
    }
  });

  test("others that share its transaction are not refused with it", async () => {
    const [mine, theirs] = [await made("acme", "bot:on"), await made("acme", "bot:on")];
    await newCaller();
    await sql.query("begin");
    await auditRow(sql);
    await sql.query(ENDS["has its parent narrowed"]!, [caller]);
    await sql.query("commit");
    const slow = await made("acme", "bot:on");
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("lock table sallyport.audit in share mode");
    const first = outcome(store.revokeToken(slow, false, "", ADMIN));
    await expect.poll(blocked, { interval: 2 }).toBe(1);
    const both = [
      outcome(store.revokeToken(mine, false, "", actor())),
      outcome(store.revokeToken(theirs, false, "", ADMIN)),
    ];
    await holder.query("rollback");
    expect([await first, ...(await Promise.all(both))]).toEqual(["ok", "CALLER_UNAUTHENTICATED", "ok"]);
    const { rows } = await sql.query("select revoke_time is null as lives from sallyport.tokens where id = $1", [mine]);
    expect(rows).toEqual([{ lives: true }]);
  });
});

describe("alone in a database:", () => {
  let home: string;
  beforeEach(async () => {
    onTestFinished(await use());
    home = await newCaller();
  });

  // A child mints nothing.
  test.each(CALLS.filter(([what]) => !what.startsWith("createToken")))(
    "the caller's end waits until it commits: %s",
    async (_, call) => {
      const holder = await byHand(url);
      await holder.query("begin");
      // The audit row is written when all was found good.
      await holder.query("lock table sallyport.audit in share mode");
      const raising = outcome(call(store, targets, guard()));
      await expect.poll(blocked, { interval: 2 }).toBe(1);
      const free = await sql.query(
        `with recursive mine as (
         select id, parent_id, tenant, principal, roles from sallyport.tokens where id = $1
         union all select t.id, t.parent_id, t.tenant, t.principal, t.roles from sallyport.tokens t join mine on t.id = mine.parent_id
       )
       select pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.principal_key(tenant, principal))) as principal,
         pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.tenant_key(tenant))) as tenant,
         pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.role_key(roles[1]))) as role,
         (select pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.role_key(roles[1]))) from mine where id <> $1)
           as role_of_parent from mine where id = $1`,
        [caller],
      );
      expect(free.rows).toEqual([{ principal: false, tenant: false, role: false, role_of_parent: false }]);
      const rows = await sql.query(
        `select id from sallyport.tokens where id = $1 or id = (select parent_id from sallyport.tokens where id = $1)
       for no key update skip locked`,
        [caller],
      );
      expect(rows.rows).toEqual([]);
      await holder.query("rollback");
      expect(await raising).toBe("ok");
    },
  );
  test.each(CALLS)("the end of a session's principal waits until it commits: %s", async (_, call) => {
    const callerPrincipal = await newSession();
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("lock table sallyport.audit in share mode");
    const raising = outcome(call(store, targets, { callerScopes: [], callerPrincipal }));
    await expect.poll(blocked, { interval: 2 }).toBe(1);
    const free = await sql.query(
      `select pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.principal_key($1, $2))) as principal,
         pg_try_advisory_xact_lock(sallyport.lock_id(sallyport.tenant_key($1))) as tenant`,
      [callerPrincipal.tenant, callerPrincipal.name],
    );
    expect(free.rows).toEqual([{ principal: false, tenant: false }]);
    await holder.query("rollback");
    expect(await raising).toBe("ok");
  });

  test("a change that only takes rights away does not wait for its caller's token", async () => {
    const holder = await byHand(url);
    await holder.query("begin");
    await holder.query("select from sallyport.tokens where id = $1 for update", [caller]);
    await store.updatePrincipal("acme", "bot:on", { state: "DISABLED" }, "", guard(), actor());
    await store.updateTenant("acme", { state: "SUSPENDED" }, "", guard(), actor());
    await store.deletePrincipal("acme", "bot:off", actor());
    await store.cut("acme", "bot:on", true, "", actor());
    await store.revokeToken(targets.token, false, "", actor());
    await store.revokeChunk("acme", [targets.disabledToken], "", actor());
    await store.deleteRole("acme", "wide", false, actor());
    await holder.query("rollback");
  });

  test("changes of one principal by others and by itself never deadlock", async () => {
    const name = "user:boss";
    const change = (i: number) =>
      i % 3 === 0
        ? store.updatePrincipal(home, name, { state: "ACTIVE" }, "", guard(), ADMIN)
        : i % 3 === 1
          ? store.updatePrincipal(home, name, { displayName: `n${i}` }, "", guard(), ADMIN)
          : store.updateTenant(home, { state: "ACTIVE", displayName: `n${i}` }, "", guard(), ADMIN);
    const outcomes = await Promise.all(Array.from({ length: 24 }, (_, i) => outcome(change(i))));
    expect(new Set(outcomes)).toEqual(new Set(["ok"]));
    const { rows } = await sql.query("select deadlocks from pg_stat_database where datname = current_database()");
    expect(Number(rows[0].deadlocks)).toBe(0);
  });
});

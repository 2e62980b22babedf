import { randomBytes, randomUUID } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import type { AppError } from "../../src/domain/errors.ts";
import type { PrincipalState } from "../../src/domain/principal.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { newRoleId } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { READER_VERSION } from "../../src/postgres/migrate.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import type { ChangeGuard } from "../../src/revocation/authority-store.ts";
import { auditRow, byHand, LOCK_WAITS, migrated } from "./migrated.ts";

const ACTOR = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const NOBODY = { callerScopes: [] };
const PROFILE = BUILT_IN_PROFILES.find(({ name }) => name === "bot")!;

let url: string;
let sql: pg.Client;
let store: PostgresAuthorityStore;
beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  sql = await byHand(url);
  const db = new Postgres({ url, maxConnections: 4, applicationName: "attachments", onTrouble: () => {} });
  onTestFinished(() => db.close());
  store = new PostgresAuthorityStore(db);
  for (const id of ["blue", "red"]) {
    await store.createTenant({ id, displayName: "", state: "ACTIVE", annotations: {} }, NOBODY, ACTOR);
  }
});

const fresh = () => ({
  id: `tok_${randomBytes(11).toString("hex")}`,
  digest: randomBytes(32).toString("latin1"),
  ...{ kid: "1", hint: `sp_bot_1${randomBytes(4).toString("hex")}`, createdBy: "x" },
});

async function mint(tenants: readonly string[]) {
  const token = { ...NOTHING_GIVEN, ...fresh(), tenant: "default", profile: "bot", principal: "bot:ci", tenants };
  return (await store.createToken(token, HOUR, { ...NOBODY, child: false, mustExist: false }, UNLIMITED, ACTOR)).token;
}
const attach = (id: string, tenants: readonly string[]) => store.updateToken(id, { tenants }, "", HOUR, NOBODY, ACTOR);
const told = (work: Promise<unknown>) =>
  work.then(
    () => "OK",
    ({ reason }: AppError) => reason as string,
  );
/** The tenants in which a token is live, as its record and as validation judge it. */
async function live(id: string): Promise<string[]> {
  const { rows } = await sql.query("select live_tenants from sallyport.token_view where id = $1", [id]);
  return rows[0].live_tenants;
}
const blocked = (many = 1) =>
  expect
    .poll(async () => (await sql.query(`${LOCK_WAITS} and application_name = 'attachments'`)).rowCount, { interval: 5 })
    .toBe(many);

/** A transaction by hand that is left open. */
async function open(...statements: string[]): Promise<pg.Client> {
  const holder = await byHand(url);
  await holder.query("begin");
  await auditRow(holder);
  for (const statement of statements) await holder.query(statement);
  return holder;
}

describe("what attaches a token waits for a change of the tenant, and is judged by what is there then", () => {
  const suspension = "update sallyport.tenants set state = 'SUSPENDED' where id = 'blue'";
  const cut = "update sallyport.tenants set cut_time = clock_timestamp() where id = 'blue'";

  test.each([
    ["a mint", () => mint(["blue"])],
    ["an update", async (id: string) => attach(id, ["blue"])],
  ])("%s during a suspension is refused", async (_, work) => {
    const { id } = await mint([]);
    const holder = await open(suspension);
    const attaching = told(work(id));
    await blocked();
    await holder.query("commit");
    expect(await attaching).toBe("TENANT_SUSPENDED");
  });

  test.each([
    ["a mint", () => mint(["blue"])],
    ["an update", async (id: string) => (await attach(id, ["blue"])).value],
  ])("%s during a cut comes after it, so the cut does not end it", async (_, work) => {
    const { id } = await mint([]);
    const holder = await open(cut);
    const attaching = work(id);
    await blocked();
    await holder.query("commit");
    expect(await live((await attaching).id)).toEqual(["blue"]);
  });

  test("a cut that comes during an attachment waits for it, and ends it", async () => {
    const { id } = await mint([]);
    const holder = await open("lock table sallyport.audit in share mode");
    const attaching = attach(id, ["blue"]);
    await blocked();
    const cutting = store.cut("blue", undefined, false, "", ACTOR);
    await blocked(2);
    await holder.query("rollback");
    await Promise.all([attaching, cutting]);
    expect(await live(id)).toEqual([]);
    // Naming it again gives it no later position.
    await attach(id, ["red", "blue"]);
    expect(await live(id)).toEqual(["red"]);
  });

  test("a suspension that comes during an attachment waits for it, and counts", async () => {
    const { id } = await mint([]);
    const holder = await open("lock table sallyport.audit in share mode");
    const attaching = attach(id, ["blue"]);
    await blocked();
    const suspending = store.updateTenant("blue", { state: "SUSPENDED" }, "", NOBODY, ACTOR);
    await blocked(2);
    await holder.query("rollback");
    await Promise.all([attaching, suspending]);
    expect(await live(id)).toEqual([]);
  });
});

describe("a detachment", () => {
  test("that waits for a rotation takes the new token, too", async () => {
    const { id } = await mint(["blue", "red"]);
    const holder = await open("lock table sallyport.audit in share mode");
    const next = fresh();
    const rotating = store.rotateToken(id, next, undefined, 60_000, NOBODY, ACTOR);
    await blocked();
    const detaching = store.detachTenant("blue", id, ACTOR);
    await blocked(2);
    await holder.query("rollback");
    await Promise.all([rotating, detaching]);
    for (const one of [id, next.id]) expect(await live(one)).toEqual(["red"]);
  });

  test("that waits for an update takes what the update kept", async () => {
    const { id } = await mint(["blue"]);
    const holder = await open("lock table sallyport.audit in share mode");
    const updating = attach(id, ["blue", "red"]);
    await blocked();
    const detaching = store.detachTenant("blue", id, ACTOR);
    await blocked(2);
    await holder.query("rollback");
    await Promise.all([updating, detaching]);
    expect(await live(id)).toEqual(["red"]);
  });

  test("is repeated by a commit, and refused for a token that was never there", async () => {
    const { id } = await mint(["blue"]);
    for (let n = 0; n < 2; n++) expect(await told(store.detachTenant("blue", id, ACTOR))).toBe("OK");
    expect(await told(store.detachTenant("red", id, ACTOR))).toBe("TOKEN_NOT_FOUND");
    expect(await told(store.detachTenant("default", id, ACTOR))).toBe("TOKEN_NOT_FOUND");
  });
});

test("an attachment keeps the position that was read under the locks, whatever else changes", async () => {
  const positions = async (id: string) => {
    const { rows } = await sql.query("select tenants, tenants_n::text from sallyport.tokens where id = $1", [id]);
    return rows[0];
  };
  const { id } = await mint(["blue"]);
  const before = await positions(id);
  await store.cut("red", undefined, false, "", ACTOR);
  await attach(id, ["red", "blue"]);
  const after = await positions(id);
  expect(after.tenants).toEqual(["red", "blue"]);
  const [later, kept] = after.tenants_n.slice(1, -1).split(",").map(Number);
  expect(`{${kept}}`).toBe(before.tenants_n);
  expect(later).toBeGreaterThan(kept);
  const next = fresh();
  await store.rotateToken(id, next, undefined, 60_000, NOBODY, ACTOR);
  expect(await positions(next.id)).toEqual(after);
});

test("the audit log of another tenant shows neither the address nor the request of a caller", async () => {
  const { id } = await mint(["blue"]);
  await store.detachTenant("blue", id, ACTOR);
  const { rows } = await sql.query(
    `select tenant, action, actor, actor_address as address, request_id as request from sallyport.audit
     where target = $1 order by seq`,
    [`token:${id}`],
  );
  const [own, other] = [
    { address: ACTOR.address, request: ACTOR.requestId },
    { address: "", request: "" },
  ];
  expect(rows).toMatchObject([
    { tenant: "default", action: "token.create", actor: ACTOR.actor, ...own },
    { tenant: "blue", action: "token.attach", actor: ACTOR.actor, ...other },
    { tenant: "blue", action: "token.detach", actor: ACTOR.actor, ...own },
    { tenant: "default", action: "token.detach", actor: ACTOR.actor, ...other },
  ]);
});

describe.each([
  ["a rotation", (id: string, guard: ChangeGuard) => store.rotateToken(id, fresh(), undefined, 0, guard, ACTOR)],
  ["an update", (id: string, guard: ChangeGuard) => store.updateToken(id, { scopes: ["x"] }, "", HOUR, guard, ACTOR)],
])("%s by a session that is over in a tenant of the token", (_, change) => {
  const ADMIN = ["sallyport.admin"];
  const tenants = ["default", "blue"];
  const caller: Caller = {
    ...{ kind: "session", provenance: "session:ann", principal: "user:ann", address: "", direct: true },
    ...{ tenant: "default", tenants, scopes: ADMIN, scopesIn: new Map(tenants.map((tenant) => [tenant, ADMIN])) },
  };
  const guard: ChangeGuard = {
    callerScopes: ADMIN,
    callerPrincipal: { tenant: "default", name: "user:ann", tenants },
    rights: { caller, profile: PROFILE, rotationsPerDay: 0 },
  };
  const ann = (state: PrincipalState) =>
    store.createPrincipal(
      { tenant: "blue", name: "user:ann", displayName: "", email: "", owner: "", annotations: {}, state },
      NOBODY,
      ACTOR,
    );

  test.each<[PrincipalState, string]>([
    ["DISABLED", "RIGHTS_EXCEEDED"],
    ["ACTIVE", "OK"],
  ])("%s there: %s", async (state, outcome) => {
    await ann(state);
    expect(await told(change((await mint([])).id, guard))).toBe("OK");
    expect(await told(change((await mint(["blue"])).id, guard))).toBe(outcome);
  });

  test("which the token got meanwhile, is refused", async () => {
    await ann("DISABLED");
    const { id } = await mint([]);
    const holder = await open("lock table sallyport.audit in share mode");
    const attaching = attach(id, ["blue"]);
    await blocked();
    const changing = told(change(id, guard));
    await blocked(2);
    await holder.query("rollback");
    await attaching;
    expect(await changing).toBe("WRITE_CONFLICT");
    expect(await told(change(id, guard))).toBe("RIGHTS_EXCEEDED");
  });
});

describe("while a program runs that does not know further tenants", () => {
  test("nothing is attached; once it is gone, a token is, and such a program is not admitted any more", async () => {
    const log = new PostgresRevocationLog({ url, connections: 1, onTrouble: () => {} });
    onTestFinished(() => log.close());
    const { epoch } = await log.readEpoch();
    const old = { old: undefined, me: randomUUID(), epoch, boundMs: 1500, readerVersion: 2, kids: ["1"] };
    expect(await log.register(old)).toBe(true);
    const { id } = await mint([]);
    expect(await told(mint(["blue"]))).toBe("UPGRADE_PENDING");
    expect(await told(attach(id, ["blue"]))).toBe("UPGRADE_PENDING");
    expect(await told(attach(id, []))).toBe("OK");
    await log.deregister(old.me);
    expect(await told(attach(id, ["blue"]))).toBe("OK");
    expect(await log.register({ ...old, me: randomUUID() })).toBe(false);
    expect(await log.register({ ...old, me: randomUUID(), readerVersion: READER_VERSION })).toBe(true);
  });
});

test.each([
  ["a later position", "update sallyport.tokens set tenants_n = '{999999}'", /does not rise/],
  ["no position", "update sallyport.tokens set tenants_n = '{}'", /has a position/],
  ["its own tenant", "update sallyport.tokens set tenants = '{default}'", /has a position/],
  ["one twice", "update sallyport.tokens set tenants = '{blue,blue}', tenants_n = '{0,0}'", /has a position/],
  ["one that is not there", "update sallyport.tokens set tenants = '{nowhere}'", /exist/],
  ["a role", `update sallyport.tokens set roles = '{${newRoleId()}}'`, /no roles/],
])("not even by SQL gets a token of further tenants %s", async (_, statement, refusal) => {
  await mint(["blue"]);
  await expect(open(statement)).rejects.toThrow(refusal);
});

test("what a lost detachment took away is held for a person, and then taken away", async () => {
  const { id } = await mint(["blue", "red"]);
  const { rows } = await sql.query(
    'select sallyport.lowered(t, jsonb_populate_record(t, \'{"tenants": ["red"]}\')) as change from sallyport.tokens t',
  );
  expect(rows[0].change).toEqual({ narrowed: { tenants: ["red"] } });
  await sql.query("begin");
  await auditRow(sql);
  await sql.query(
    `insert into sallyport.lost_changes (epoch, n, key, at, kind, change, late, state)
     select 'e', 1, 't'::bytea || digest, clock_timestamp(), 'lowered', $1, false, 'held' from sallyport.tokens`,
    [JSON.stringify(rows[0].change)],
  );
  await sql.query("select sallyport.lost_apply(id) from sallyport.lost_changes");
  await sql.query("commit");
  expect(await live(id)).toEqual(["red"]);
});

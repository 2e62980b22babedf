import { randomBytes } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import type { AppError } from "../../src/domain/errors.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { newRoleId } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { loadPatched, type Patch } from "../support/patched.ts";
import { auditRow, byHand, migrated } from "./migrated.ts";

/*
 * The roles that a session has by its groups. A change that may widen rights reads them again under their locks: here
 * beside changes of those roles, on the program and on broken variants of it.
 */

const ACTOR = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const NOBODY = { callerScopes: [] };
const PROFILE = BUILT_IN_PROFILES.find(({ name }) => name === "pat")!;

let url: string;
let sql: pg.Client;
let db: Postgres;
let store: PostgresAuthorityStore;
beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  sql = await byHand(url);
  db = new Postgres({ url, maxConnections: 4, applicationName: "session-roles", onTrouble: () => {} });
  onTestFinished(() => db.close());
  store = new PostgresAuthorityStore(db);
  await role("deployer", ["deploy"]);
});

const role = async (name: string, scopes: readonly string[]) => {
  const asked = { id: newRoleId(), tenant: "default", name, description: "", scopes, administrative: false };
  await store.createRole(asked, NOBODY, ACTOR);
};
const told = (work: Promise<unknown>) =>
  work.then(
    () => "OK",
    ({ reason }: AppError) => reason as string,
  );

/** A session of ann that was admitted while its role gave `deploy`. */
const session = (scopes: readonly string[], roles = ["deployer"]) => ({
  callerScopes: [...scopes, "deploy"],
  callerPrincipal: { tenant: "default", name: "user:ann", roles: { names: roles, scopes: ["deploy"] } },
});

/** The session mints a token with the scope that it has by its role. */
function mint(by: PostgresAuthorityStore) {
  const guard = session([]);
  const caller: Caller = {
    ...{ kind: "session", provenance: "session:ann", tenant: "default", principal: "user:ann", address: "" },
    ...{ direct: true, scopes: guard.callerScopes },
  };
  const token = {
    ...NOTHING_GIVEN,
    ...{ tenant: "default", profile: "pat", principal: "user:ann", createdBy: "x", kid: "1", hint: "sp_pat_1abcdefgh" },
    id: `tok_${randomBytes(11).toString("hex")}`,
    digest: randomBytes(32).toString("latin1"),
    scopes: ["deploy"],
  };
  const rights = { caller, profile: PROFILE, rotationsPerDay: 0 };
  return by.createToken(token, HOUR, { ...guard, rights, child: false, mustExist: false }, UNLIMITED, ACTOR);
}

/** The outcome of a mint that starts while the change of its role is under way. */
async function mintBeside(change: readonly string[], by: PostgresAuthorityStore): Promise<string> {
  const holder = await byHand(url);
  await holder.query("begin");
  await auditRow(holder);
  for (const statement of change) await holder.query(statement);
  let done: string | undefined;
  const minting = told(mint(by)).then((outcome) => (done = outcome));
  const waits = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
    and application_name = 'session-roles'`;
  const blocked = async () => (await sql.query(waits)).rowCount === 1;
  await expect.poll(async () => done !== undefined || (await blocked()), { interval: 5 }).toBe(true);
  await holder.query("commit");
  return minting;
}

const NARROWED = ["update sallyport.roles set scopes = '{other}'"];
const DELETED = ["update sallyport.roles set state = 'DELETED'"];
const MADE_AGAIN = [
  ...DELETED,
  `insert into sallyport.roles (id, tenant, name, description, scopes, administrative)
     values ('${newRoleId()}', 'default', 'deployer', '', '{deploy}', false)`,
];

test("a session mints by what its role gives", async () => {
  expect(await told(mint(store))).toBe("OK");
});

describe("a session's mint that starts while its role changes does not come after the change", () => {
  test.each([
    ["narrowed", NARROWED],
    ["deleted", DELETED],
    ["deleted, and made again", MADE_AGAIN],
  ])("%s", async (_, change) => {
    expect(await mintBeside(change, store)).toBe("CALLER_UNAUTHENTICATED");
    expect((await sql.query("select from sallyport.tokens")).rowCount).toBe(0);
    const again = await mintBeside([], store);
    expect(again).toBe(change === MADE_AGAIN ? "OK" : "CALLER_UNAUTHENTICATED");
  });
});

test("a session holds its roles by name: it neither widens nor makes them, unless it is an administrator's", async () => {
  const widen = (guard: ReturnType<typeof session>, name = "deployer") =>
    told(store.updateRole("default", name, { scopes: ["deploy", "x"] }, "", () => {}, guard, ACTOR));
  const make = (name: string, guard: ReturnType<typeof session>) => {
    const made = { id: newRoleId(), tenant: "default", name, description: "", scopes: ["x"], administrative: false };
    return told(store.createRole(made, guard, ACTOR));
  };
  const writer = session(["sallyport.roles.write", "x"], ["deployer", "oncall"]);
  const admin = session(["sallyport.admin"], ["deployer", "oncall"]);
  await role("other", []);
  expect([await widen(writer), await make("oncall", writer)]).toEqual(["RIGHTS_EXCEEDED", "RIGHTS_EXCEEDED"]);
  expect([await widen(writer, "other"), await make("more", writer)]).toEqual(["OK", "OK"]);
  expect([await widen(admin), await make("oncall", admin)]).toEqual(["OK", "OK"]);
  // An administrator by the role itself is none for it.
  const { callerPrincipal, callerScopes } = session(["sallyport.roles.write"]);
  await sql.query("begin");
  await auditRow(sql);
  await sql.query("update sallyport.roles set scopes = '{sallyport.admin}' where name = 'deployer'");
  await sql.query("commit");
  const roles = { names: ["deployer"], scopes: ["sallyport.admin"] };
  const byRole = { callerScopes: [...callerScopes, "sallyport.admin"], callerPrincipal: { ...callerPrincipal, roles } };
  expect(await widen(byRole)).toBe("RIGHTS_EXCEEDED");
});

describe("a variant of the program is caught:", () => {
  const patch = (file: string, from: string, to: string): Patch => ({ file: `postgres/${file}.ts`, from, to });
  const unread = patch(
    "caller-session",
    "every((scope) => now?.includes(scope)) === false",
    "every(() => now) === false",
  );
  const unlocked = patch("caller-session", "::text[]) and state = 'ACTIVE'`", "::text[]) and state = 'NONE'`");
  const any = patch("caller-guard", "[session], (id) => locked.has(id)", "[session]");
  const variants: [string, readonly string[], Patch[]][] = [
    ["the role is read before the lock only", NARROWED, [unread]],
    ["the role is read without a lock", NARROWED, [unlocked, any]],
    ["a role that was made meanwhile counts without its lock", MADE_AGAIN, [any]],
  ];

  test.each(variants)("%s", async (_, change, patches) => {
    const folders = ["domain", "postgres", "revocation", "telemetry", "management", "validation"];
    type Patched = { PostgresAuthorityStore: typeof PostgresAuthorityStore };
    const patched = (await loadPatched(folders, patches, ["postgres/authority-store.ts"])) as Patched;
    expect(await mintBeside(change, new patched.PostgresAuthorityStore(db))).toBe("OK");
  });
});

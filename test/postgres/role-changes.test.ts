import { randomBytes, randomUUID } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import type { AppError } from "../../src/domain/errors.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { newRoleId, type Role } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { READER_VERSION } from "../../src/postgres/migrate.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { auditRow, byHand, LOCK_WAITS, migrated } from "./migrated.ts";

const ACTOR = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const NOBODY = { callerScopes: [] };

let url: string;
let sql: pg.Client;
let store: PostgresAuthorityStore;
beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  sql = await byHand(url);
  const db = new Postgres({ url, maxConnections: 4, applicationName: "roles", onTrouble: () => {} });
  onTestFinished(() => db.close());
  store = new PostgresAuthorityStore(db);
});

async function role(name: string, scopes: readonly string[] = [], administrative = false): Promise<Role> {
  const asked = { id: newRoleId(), tenant: "default", name, description: "", scopes, administrative };
  const { value } = await store.createRole(asked, NOBODY, ACTOR);
  if ("reason" in value) throw value;
  return value;
}

/** Creates a token with these roles, judged by the rights of a caller with these scopes if there are some. */
function grant(roles: readonly string[], callerScopes?: readonly string[]) {
  const [profile] = BUILT_IN_PROFILES.filter(({ name }) => name === "bot");
  const who = { tenant: "default", principal: "", address: "", direct: true };
  const caller: Caller = { kind: "mtls", provenance: "mtls:x", scopes: callerScopes ?? [], ...who };
  const rights = callerScopes && { rights: { caller, profile: profile!, rotationsPerDay: 0 } };
  const token = {
    ...NOTHING_GIVEN,
    ...{ tenant: "default", profile: "bot", principal: "bot:ci", createdBy: "x", kid: "1", hint: "sp_bot_1abcdefgh" },
    id: `tok_${randomBytes(11).toString("hex")}`,
    digest: randomBytes(32).toString("latin1"),
    roles,
  };
  const guard = { ...NOBODY, child: false, mustExist: false, ...rights };
  return store.createToken(token, HOUR, guard, UNLIMITED, ACTOR);
}

const told = (work: Promise<unknown>) =>
  work.then(
    (value) => ((value as { value?: AppError })?.value?.reason as string | undefined) ?? "OK",
    ({ reason }: AppError) => reason as string,
  );
const blocked = () =>
  expect
    .poll(
      async () =>
        (
          await sql.query(
            `select from pg_stat_activity where datname = current_database() and application_name = 'roles'
               and wait_event_type = 'Lock'`,
          )
        ).rowCount,
      { interval: 5 },
    )
    .toBe(1);

/** A transaction by hand that is left open. */
async function open(...statements: string[]): Promise<pg.Client> {
  const holder = await byHand(url);
  await holder.query("begin");
  await auditRow(holder);
  for (const statement of statements) await holder.query(statement);
  return holder;
}

describe("a grant that waits while its role changes is judged by the role as it is then", () => {
  test.each([
    ["deleted", "update sallyport.roles set state = 'DELETED'", "ROLE_NOT_FOUND"],
    ["widened beyond the caller's rights", "update sallyport.roles set scopes = '{repo:write}'", "RIGHTS_EXCEEDED"],
  ])("%s", async (_, change, refusal) => {
    await role("deployer", ["repo:read"]);
    const holder = await open(change);
    const granting = told(grant(["deployer"], ["repo:read"]));
    await blocked();
    await holder.query("commit");
    expect(await granting).toBe(refusal);
    expect((await sql.query("select from sallyport.tokens")).rowCount).toBe(0);
  });

  test("and one that was first is seen by the deletion that waited for it", async () => {
    await role("deployer");
    const holder = await open("lock table sallyport.audit in share mode");
    const granting = told(grant(["deployer"]));
    await blocked();
    const deleting = told(store.deleteRole("default", "deployer", false, ACTOR));
    await expect.poll(async () => (await sql.query(`${LOCK_WAITS} and wait_event = 'advisory'`)).rowCount).toBe(1);
    await holder.query("rollback");
    expect(await granting).toBe("OK");
    expect(await deleting).toBe("ROLE_IN_USE");
  });
});

test("a role that live tokens hold is deleted by force only; revoked ones hold nothing", async () => {
  await role("deployer", ["deploy"]);
  const made = await grant(["deployer"]);
  expect(made.token).toMatchObject({ roles: ["deployer"], roleScopes: ["deploy"], scopes: [] });
  expect(await told(store.deleteRole("default", "deployer", false, ACTOR))).toBe("ROLE_IN_USE");
  await store.revokeToken(made.token.id, false, "", ACTOR);
  expect(await told(store.deleteRole("default", "deployer", false, ACTOR))).toBe("OK");
  // A repeat finds it deleted.
  expect(await told(store.deleteRole("default", "deployer", false, ACTOR))).toBe("OK");
  expect(await told(store.updateRole("default", "deployer", {}, "", () => {}, NOBODY, ACTOR))).toBe("ROLE_NOT_FOUND");
});

test("a name that is made again is another role: holders of the old one do not hold it", async () => {
  const old = await role("deployer", ["deploy"]);
  const { token } = await grant(["deployer"]);
  await store.deleteRole("default", "deployer", true, ACTOR);
  const again = await role("deployer", ["other"]);
  expect(again.id).not.toBe(old.id);
  const { value } = await store.updateToken(token.id, { description: "x" }, "", HOUR, NOBODY, ACTOR);
  expect(value).toMatchObject({ roles: [], roleIds: [old.id], roleScopes: [] });
  expect(await told(store.createRole({ ...again, id: newRoleId() }, NOBODY, ACTOR))).toBe("ROLE_EXISTS");
});

describe("a rerun after a failover answers as the first run did", () => {
  const asked = { tenant: "default", name: "deployer", description: "", scopes: ["a"], administrative: false };
  test.each<[string, () => Promise<unknown>]>([
    ["at once", async () => {}],
    [
      "after its role was changed",
      () => store.updateRole("default", "deployer", { scopes: [] }, "", () => {}, NOBODY, ACTOR),
    ],
    ["after its role was deleted", () => store.deleteRole("default", "deployer", false, ACTOR)],
    [
      "after its role was deleted and the name made again",
      async () => {
        await store.deleteRole("default", "deployer", false, ACTOR);
        await role("deployer", ["b"]);
      },
    ],
  ])("%s", async (_, meanwhile) => {
    const one = { ...asked, id: newRoleId() };
    const first = await store.createRole(one, NOBODY, ACTOR);
    await meanwhile();
    const stored = () => sql.query("select * from sallyport.roles order by id");
    const before = (await stored()).rows;
    const second = await store.createRole(one, NOBODY, ACTOR, first.value as Role);
    expect(second.value).toEqual(first.value);
    expect((await stored()).rows).toEqual(before);
  });

  test("and makes the role again if the failover lost it", async () => {
    const made = { ...asked, id: newRoleId(), state: "ACTIVE" as const, createTime: 1, etag: "1" };
    const { value } = await store.createRole(made, NOBODY, ACTOR, made);
    expect(value).toMatchObject({ id: made.id, name: "deployer" });
    expect((await sql.query("select from sallyport.roles")).rowCount).toBe(1);
  });
});

test("a change with an old etag is refused", async () => {
  const { etag } = await role("deployer");
  const change = (scopes: string[]) =>
    store.updateRole("default", "deployer", { scopes }, etag, () => {}, NOBODY, ACTOR);
  expect(await told(change(["a"]))).toBe("OK");
  expect(await told(change(["b"]))).toBe("ETAG_MISMATCH");
});

describe("what an operator's token has by a role is protected as what it has itself", () => {
  const by = (rank: "operator" | "admin" | "other") => ({ ...ACTOR, rank });

  test("from being revoked, disabled, cut, and from losing it with the role", async () => {
    await role("boss", ["sallyport.operator"], true);
    const { token } = await grant(["boss"]);
    const attempts = (rank: "operator" | "admin") => [
      () => store.revokeToken(token.id, true, "", by(rank)),
      () => store.revokeToken(token.id, false, "", by(rank)),
      () => store.updateToken(token.id, { disabled: true }, "", HOUR, NOBODY, by(rank)),
      () => store.cut("default", "bot:ci", false, "", by(rank)),
      () => store.cut("default", undefined, false, "", by(rank)),
      () => store.updatePrincipal("default", "bot:ci", { state: "DISABLED" }, "", NOBODY, by(rank)),
      () => store.revokeChunk("default", [token.id], "", by(rank)),
      () => store.updateRole("default", "boss", { scopes: [] }, "", () => {}, NOBODY, by(rank)),
      () => store.deleteRole("default", "boss", true, by(rank)),
    ];
    for (const attempt of attempts("admin")) expect(await told(attempt())).toBe("RIGHTS_EXCEEDED");
    const [revoke] = attempts("operator");
    expect(await told(revoke!())).toBe("OK");
  });
});

describe("while a program runs that does not know roles", () => {
  async function registered(readerVersion: number) {
    const log = new PostgresRevocationLog({ url, connections: 1, onTrouble: () => {} });
    onTestFinished(() => log.close());
    const { epoch } = await log.readEpoch();
    const me = randomUUID();
    const entry = { old: undefined, me, epoch, boundMs: 1500, readerVersion, kids: ["1"] };
    return { log, me, admitted: await log.register(entry), entry };
  }

  test("no role is made; once it is gone, one is, and such a program is not admitted any more", async () => {
    const { log, me, admitted, entry } = await registered(1);
    expect(admitted).toBe(true);
    expect(await told(role("deployer"))).toBe("UPGRADE_PENDING");
    await log.deregister(me);
    await registered(READER_VERSION);
    expect(await told(role("deployer"))).toBe("OK");
    expect((await sql.query("select min_reader from sallyport.rev_state")).rows).toEqual([{ min_reader: 2 }]);
    expect(await log.register({ ...entry, me: randomUUID() })).toBe(false);
  });

  test("a registration that is under way is waited for", async () => {
    const holder = await open(
      `select sallyport.validator_join(null, null, gen_random_uuid(), decode(repeat('00', 32), 'hex'), 'e', 1500, 1, '{}')`,
    );
    const making = told(role("deployer"));
    await blocked();
    await holder.query("commit");
    expect(await making).toBe("UPGRADE_PENDING");
  });

  test("a program that registers after it sees the new bound, though it waited for it", async () => {
    const holder = await open("select sallyport.readers_from(2)");
    const joining = registered(1);
    await expect.poll(async () => (await sql.query(LOCK_WAITS)).rowCount, { interval: 5 }).toBe(1);
    await holder.query("commit");
    expect((await joining).admitted).toBe(false);
  });
});

test.each([
  ["renamed", "update sallyport.roles set name = 'x'"],
  ["moved to another tenant", "update sallyport.roles set tenant = 'default2'"],
  ["made administrative", "update sallyport.roles set administrative = true"],
  ["brought back", "update sallyport.roles set state = 'ACTIVE'"],
])("not even by SQL is a role %s", async (_, statement) => {
  await role("deployer");
  if (statement.includes("ACTIVE")) await store.deleteRole("default", "deployer", false, ACTOR);
  await expect(open(statement)).rejects.toThrow(/role/);
});

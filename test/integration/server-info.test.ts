import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { InstanceState, RedisState } from "../../src/gen/sallyport/v1/server_info_pb.ts";
import { TokenState } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { run } from "../support/program.ts";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
let other: TestSallyport;
const BREAK_GLASS = "break-glass-of-this-test-0123456789";
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { break_glass: { secret: BREAK_GLASS } } });
  const { database, keyring } = sallyport;
  other = await TestSallyport.start({ database, keyring, config: { mode: "validate" } });
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
  await sallyport.registered("bot:ci");
});
afterAll(async () => {
  await other?.stop();
  await sallyport?.stop();
});

const who = async (bearer: string) => (await sallyport.as(bearer).info.getServerInfo({})).caller!;

describe("GetServerInfo", () => {
  test("tells an operator everything that it may do, everywhere", async () => {
    const { version, serverTime, caller, profiles } = await sallyport.admin.info.getServerInfo({});
    expect(version).toMatch(/^\d+\.\d+\.\d+/);
    expect(Math.abs(Number(serverTime!.seconds) - Date.now() / 1000)).toBeLessThan(60);
    expect(caller).toMatchObject({ kind: "token", tenant: "default", tenants: ["-"], principal: "user:admin" });
    expect(caller!.permissions).toContain("sallyport.operator");
    expect(caller!.provenance).toMatch(/^token:sp_adm_/);
    expect(caller!.tokenId).toMatch(/^tok_/);
    expect(caller!.expireTime).toBeDefined();
    expect(profiles.map(({ name }) => name)).toEqual(["pat", "bot", "svc", "org", "adm"]);
    expect(profiles.every(({ canCreate }) => canCreate)).toBe(true);
    expect(profiles[0]).toMatchObject({
      prefix: "sp_pat",
      principalTypes: ["user"],
      maxTtl: { seconds: 315_360_000n },
      defaultTtl: { seconds: 7_776_000n },
      allowNoExpiry: true,
      allowEmptyName: false,
      selfRotate: false,
    });
  });

  test("tells an administrator what sallyport.admin includes, in its tenant", async () => {
    const caller = await who((await sallyport.callerWith(["sallyport.admin"], { tenant: "acme" })).tokenString);
    expect(caller).toMatchObject({ tenant: "acme", tenants: ["acme"] });
    expect(caller.permissions).toContain("sallyport.tokens.revoke");
    expect(caller.permissions).not.toContain("sallyport.operator");
  });

  test("tells a token without permissions that it has none, and one that may create, of which profiles", async () => {
    const plain = await sallyport.createToken();
    expect((await who(plain.tokenString)).permissions).toEqual([]);
    const { profiles } = await sallyport.as(plain.tokenString).info.getServerInfo({});
    expect(profiles.filter(({ canCreate }) => canCreate)).toEqual([]);
    const scopes = ["sallyport.tokens.create"];
    const ci = await sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", scopes });
    const may = (await sallyport.as(ci.tokenString).info.getServerInfo({})).profiles.filter((one) => one.canCreate);
    expect(may.map(({ name }) => name)).toEqual(["bot", "svc", "org"]);
  });

  test("knows break-glass; a dead token and nobody get no answer", async () => {
    expect(await who(BREAK_GLASS)).toMatchObject({ kind: "break-glass", tenant: "", tenants: ["-"], tokenId: "" });
    const dead = await sallyport.createToken();
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: dead.id } });
    for (const bearer of [dead.tokenString, undefined]) {
      expect(await outcome(sallyport.as(bearer).info.getServerInfo({}))).toBe("CALLER_UNAUTHENTICATED");
    }
  });
});

describe("ListInstances", () => {
  test("shows each instance with its mode and version, and how the last change came into force", async () => {
    const made = await sallyport.createToken();
    const { effect } = await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: made.id } });
    const { instances, headPosition, settled, redis, lastWait } = await sallyport.admin.info.listInstances({});
    expect(instances.map(({ mode }) => mode).sort()).toEqual(["full", "validate"]);
    for (const one of instances) {
      expect(one).toMatchObject({ state: InstanceState.LIVE });
      expect(one.version).toMatch(/^\d/);
      expect(one.appliedPosition).toBeLessThanOrEqual(headPosition);
    }
    expect(redis).toBe(RedisState.OFF);
    expect(lastWait).toMatchObject({ position: effect!.position, mode: effect!.mode, validators: effect!.validators });
    expect(headPosition).toBeGreaterThanOrEqual(effect!.position);
    expect(typeof settled).toBe("boolean");
  });

  test("is for operators", async () => {
    const admin = await sallyport.callerWith(["sallyport.admin"]);
    expect(await outcome(sallyport.as(admin.tokenString).info.listInstances({}))).toBe("CALLER_FORBIDDEN");
  });
});

test("an effect counts the instances that acknowledged, of those that there are", async () => {
  const revoked = async () => {
    const { id } = await sallyport.createToken();
    return (await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } })).effect!;
  };
  // Acknowledgements count once the leases of earlier epochs are over.
  let effect = await revoked();
  while (effect.mode !== EffectMode.ACKED) effect = await revoked();
  expect([effect.validators, effect.acknowledged]).toEqual([2, 2]);
});

describe("ListTokens", () => {
  const ids = async (request: object, by = sallyport.admin) =>
    (await by.tokens.listTokens(request)).tokens.map(({ id }) => id);

  test("by ids, states, family, parent, maker, name and end", async () => {
    const scopes = ["sallyport.tokens.create"];
    const bot = await sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "nightly", scopes });
    const child = await sallyport.createToken(
      { profile: "bot", principal: "bot:ci", displayName: "" },
      sallyport.as(bot.tokenString),
    );
    const next = await sallyport.admin.tokens.rotateToken({ id: bot.id, overlap: { seconds: 3600n, nanos: 0 } });
    const ever = await sallyport.createToken({ lifetime: { case: "noExpiry", value: true } });
    expect((await ids({ familyOf: bot.id })).sort()).toEqual([bot.id, next.token!.id].sort());
    expect(await ids({ parent: bot.id })).toEqual([child.id]);
    expect(await ids({ ids: [child.id, ever.id], noExpiry: true })).toEqual([ever.id]);
    expect(await ids({ noExpiry: true, states: [TokenState.ACTIVE] })).toEqual([ever.id]);
    expect(await ids({ createdBy: `token:${bot.token.hint}` })).toEqual([child.id]);
    expect((await ids({ displayNamePrefix: "night" })).sort()).toEqual([bot.id, next.token!.id].sort());
    const soon = { seconds: BigInt(Math.floor(Date.now() / 1000)) + 7200n, nanos: 0 };
    expect(await ids({ expiresBefore: soon, principal: "bot:ci" })).toEqual([bot.id]);
    expect(await ids({ states: [TokenState.REVOKED, TokenState.DISABLED], ids: [ever.id] })).toEqual([]);
    expect(await failure(ids({ ids: ["tok_1"] }))).toMatchObject({ violations: [{ field: "ids" }] });
    expect(await failure(ids({ familyOf: "x" }))).toMatchObject({ violations: [{ field: "family_of" }] });
    expect(await failure(ids({ parent: "x" }))).toMatchObject({ violations: [{ field: "parent" }] });
  });

  test("of all tenants, for operators alone; a page token belongs to its filters", async () => {
    const far = await sallyport.createToken({ tenant: "acme" });
    expect(await ids({ tenant: "-", hint: far.token.hint })).toEqual([far.id]);
    expect(await ids({ hint: far.token.hint })).toEqual([]);
    expect(await ids({ tenant: "-", ids: [far.id] })).toEqual([far.id]);
    expect(await ids({ tenant: "-", pageSize: 500 })).toContain(far.id);
    const admin = sallyport.as((await sallyport.callerWith(["sallyport.admin"])).tokenString);
    expect(await outcome(ids({ tenant: "-", hint: far.token.hint }, admin))).toBe("CALLER_FORBIDDEN");
    expect(await ids({ ids: [far.id] }, admin)).toEqual([]);
    const plain = sallyport.as((await sallyport.createToken()).tokenString);
    expect(await outcome(ids({ tenant: "-" }, plain))).toBe("CALLER_FORBIDDEN");
    const first = await sallyport.admin.tokens.listTokens({ tenant: "-", pageSize: 1 });
    const other = { pageSize: 1, pageToken: first.nextPageToken };
    expect(await outcome(sallyport.admin.tokens.listTokens({ tenant: "-", ...other }))).toBe("OK");
    expect(await outcome(sallyport.admin.tokens.listTokens(other))).toBe("INVALID_PAGE_TOKEN");
    const more = { tenant: "-", ...other, noExpiry: true };
    expect(await outcome(sallyport.admin.tokens.listTokens(more))).toBe("INVALID_PAGE_TOKEN");
  });
});

test("ListPrincipals by the start of the name", async () => {
  await sallyport.registered("bot:cd");
  const names = async (namePrefix: string) =>
    (await sallyport.admin.principals.listPrincipals({ namePrefix })).principals.map(({ name }) => name);
  expect(await names("bot:c")).toEqual(["bot:cd", "bot:ci"]);
  expect(await names("bot:ci")).toEqual(["bot:ci"]);
  expect(await names("%")).toEqual([]);
});

test("sallyport whoami and sallyport status print it", async () => {
  const env = { SALLYPORT_ADDRESS: sallyport.listeners.admin, SALLYPORT_TOKEN: sallyport.adminToken };
  const me = await run(["whoami"], env);
  expect(me.code).toBe(0);
  expect(me.out).toMatch(/^principal +user:admin$/m);
  expect(me.out).toMatch(/^permissions +sallyport\.operator, /m);
  expect(me.out).toMatch(/^may create +pat, bot, svc, org, adm$/m);
  const status = await run(["status"], env);
  expect(status.out).toMatch(/^INSTANCE +MODE +VERSION +STATE +BEHIND +SEEN$/m);
  expect(status.out).toMatch(/^redis +OFF$/m);
  const json = JSON.parse((await run(["status", "--json"], env)).out);
  expect(json.instances).toHaveLength(2);
});

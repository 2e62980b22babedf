import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ListTokensRequestSchema, TokenState } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { AUDIENCE, TestIssuer } from "../sessions/issuer.ts";
import { type AdminClients, failure, outcome, TestSallyport } from "../support/sallyport.ts";

/** Tokens of several tenants. Home is acme; each test has further tenants of its own. */
let one: TestSallyport;
let two: TestSallyport;
let issuer: TestIssuer;
const PLAIN = { scopes: ["read"] };
beforeAll(async () => {
  issuer = await TestIssuer.open();
  const groups = [
    { group: "acme-admins", tenant: "acme", permissions: ["sallyport.admin"] },
    { group: "globex-admins", tenant: "globex", permissions: ["sallyport.admin"] },
    { group: "globex-readers", tenant: "globex", scopes: ["read"] },
    { group: "globex-makers", tenant: "globex", permissions: ["sallyport.tokens.create"], scopes: ["read"] },
    { group: "dark-admins", tenant: "dark", permissions: ["sallyport.admin"] },
  ];
  const oidc = [{ name: "corp", issuer: issuer.url, audiences: [AUDIENCE], groups }];
  one = await TestSallyport.start({ config: { callers: { oidc } } });
  two = await TestSallyport.start({ database: one.database, keyring: one.keyring });
  for (const id of ["acme", "globex", "initech", "dark"]) await one.admin.tenants.createTenant({ tenant: { id } });
  await one.admin.tenants.updateTenant({ tenant: { id: "dark", state: 2 }, updateMask: { paths: ["state"] } });
  for (const tenant of ["acme", "globex"]) await one.registered("bot:ci", tenant);
  await one.admin.roles.createRole({ role: { tenant: "acme", name: "deployer" } });
});
afterAll(async () => {
  await two?.stop();
  await one?.stop();
  await issuer?.close();
});

let made = 0;
async function tenant(): Promise<string> {
  const id = `t-${++made}`;
  await one.admin.tenants.createTenant({ tenant: { id } });
  return id;
}
const guest = (tenants: string[], more: object = {}, by = one.admin) =>
  one.createToken(
    { tenant: "acme", profile: "bot", principal: "bot:ci", displayName: "", tenants, ...PLAIN, ...more },
    by,
  );
const set = (id: string, fields: object, by: AdminClients = one.admin) =>
  by.tokens.updateToken({ token: { id, ...fields }, updateMask: { paths: Object.keys(fields).map(snake) } });
const snake = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const admin = async (of: string, more: object = {}) =>
  one.as((await one.callerWith(["sallyport.admin"], { tenant: of, ...more })).tokenString);
const both = async (tokenString: string, where: string) => {
  const verdicts = [
    await one.verdict(tokenString, { tenant: where }),
    await two.verdict(tokenString, { tenant: where }),
  ];
  expect(verdicts[0]).toBe(verdicts[1]);
  return verdicts[0];
};

describe("a token is live in its own tenant and in those that it is attached to", () => {
  test("and the answer names them; any other is WRONG_TENANT; without one there is no check", async () => {
    const [blue, red] = [await tenant(), await tenant()];
    const { tokenString, token } = await guest([blue, red, blue]);
    expect(token.tenants).toEqual([blue, red]);
    for (const where of ["", "acme", blue, red]) expect(await both(tokenString, where), where).toBe("ALLOW");
    for (const where of ["globex", "nowhere", "No Tenant"]) expect(await both(tokenString, where)).toBe("WRONG_TENANT");
    expect((await one.validate(tokenString)).token).toMatchObject({ tenant: "acme", tenants: [blue, red] });
    expect((await one.validate(tokenString, { tenant: "globex" })).token).toMatchObject({ tenants: [blue, red] });
    expect(await outcome(one.validate(tokenString, { tenant: "x".repeat(64) }))).toBe("INVALID_FIELD");
    const plain = await one.createToken({ tenant: "acme", principal: "user:ann" });
    expect(await both(plain.tokenString, blue)).toBe("WRONG_TENANT");
    expect((await one.validate(plain.tokenString)).token?.tenants).toEqual([]);
  });

  test("and introspection says so", async () => {
    const blue = await tenant();
    const { tokenString: token } = await guest([blue]);
    const asked = async (more: object) => (await one.post("data", "/v1/introspect", { token, ...more })).json();
    expect(await asked({ tenant: blue })).toMatchObject({ active: true, tenant: "acme", tenants: [blue] });
    expect(await asked({})).toMatchObject({ active: true });
    expect(await asked({ tenant: "globex" })).toEqual({ active: false });
  });

  test("an answer about a tenant has no entry for client caches", async () => {
    const blue = await tenant();
    const { tokenString } = await guest([blue]);
    await expect
      .poll(async () => (await one.validate(tokenString, { wantEntry: true })).entry?.tags.length)
      .toBeGreaterThan(3);
    for (const where of [blue, "acme", "globex"]) {
      expect((await one.validate(tokenString, { wantEntry: true, tenant: where })).entry).toBeUndefined();
    }
  });
});

describe("what takes a further tenant away is in force on every instance when it returns, and touches no other", () => {
  const rows: [string, (id: string, where: string) => Promise<unknown>][] = [
    ["an update", (id) => set(id, { tenants: [] })],
    ["a detachment", (id, where) => one.admin.tokens.detachTenant({ tenant: where, id })],
    [
      "a suspension",
      (_, where) =>
        one.admin.tenants.updateTenant({ tenant: { id: where, state: 2 }, updateMask: { paths: ["state"] } }),
    ],
    ["a cut of the tenant", (_, where) => one.admin.tokens.revokeTokens({ tenant: where })],
  ];
  test.each(rows)("%s", async (_, change) => {
    const [blue, red] = [await tenant(), await tenant()];
    const { id, tokenString } = await guest([blue]);
    const other = await guest([red]);
    for (const where of ["acme", blue]) expect(await both(tokenString, where)).toBe("ALLOW");
    expect(await both(other.tokenString, red)).toBe("ALLOW");
    await change(id, blue);
    expect(await both(tokenString, blue)).toBe("WRONG_TENANT");
    expect((await two.validate(tokenString)).token?.tenants).toEqual([]);
    expect(await both(tokenString, "acme")).toBe("ALLOW");
    expect(await both(other.tokenString, red)).toBe("ALLOW");
  });

  test("and so is what gives it back: a resumed tenant, an update", async () => {
    const blue = await tenant();
    const { id, tokenString } = await guest([]);
    expect(await both(tokenString, blue)).toBe("WRONG_TENANT");
    await set(id, { tenants: [blue] });
    expect(await both(tokenString, blue)).toBe("ALLOW");
    for (const [state, verdict] of [
      [2, "WRONG_TENANT"],
      [1, "ALLOW"],
    ] as const) {
      await one.admin.tenants.updateTenant({ tenant: { id: blue, state }, updateMask: { paths: ["state"] } });
      expect(await both(tokenString, blue)).toBe(verdict);
    }
  });

  test("a tenant that was cut stays lost until it is taken out and attached again, whatever else changes", async () => {
    const [blue, red] = [await tenant(), await tenant()];
    const { id, tokenString } = await guest([blue]);
    await one.admin.tokens.revokeTokens({ tenant: blue });
    await set(id, { tenants: [red, blue] });
    expect(await both(tokenString, red)).toBe("ALLOW");
    expect(await both(tokenString, blue)).toBe("WRONG_TENANT");
    const next = await one.admin.tokens.rotateToken({ id, noWait: true });
    expect(next.token?.tenants).toEqual([red, blue]);
    expect(await both(next.tokenString, red)).toBe("ALLOW");
    expect(await both(next.tokenString, blue)).toBe("WRONG_TENANT");
    await set(next.token!.id, { tenants: [red] });
    await set(next.token!.id, { tenants: [red, blue] });
    expect(await both(next.tokenString, blue)).toBe("ALLOW");
  });

  test("its own tenant ends it everywhere", async () => {
    const [home, blue] = [await tenant(), await tenant()];
    const { tokenString } = await one.createToken({ tenant: home, tenants: [blue] });
    expect(await both(tokenString, blue)).toBe("ALLOW");
    await one.admin.tenants.updateTenant({ tenant: { id: home, state: 2 }, updateMask: { paths: ["state"] } });
    for (const where of ["", home, blue]) expect(await both(tokenString, where)).toBe("INVALID_TOKEN");
  });

  test("a child loses it with its parent", async () => {
    const [blue, red] = [await tenant(), await tenant()];
    const parent = await guest([blue, red], { scopes: ["read", "sallyport.tokens.create"] });
    const child = await guest([blue, red], {}, one.as(parent.tokenString));
    expect(child.token.parent).toBe(parent.id);
    for (const where of [blue, red]) expect(await both(child.tokenString, where)).toBe("ALLOW");
    await set(parent.id, { tenants: [red] });
    expect(await both(child.tokenString, blue)).toBe("WRONG_TENANT");
    expect(await both(child.tokenString, red)).toBe("ALLOW");
    // It does not come back with its parent, but is attached again itself.
    await set(parent.id, { tenants: [red, blue] });
    expect(await both(parent.tokenString, blue)).toBe("ALLOW");
    expect(await both(child.tokenString, blue)).toBe("WRONG_TENANT");
    expect((await one.validate(child.tokenString)).token?.tenants).toEqual([red]);
    const [row] = await one.sql("select live_tenants from sallyport.token_view where id = $1", [child.id]);
    expect(row).toEqual({ live_tenants: [red] });
    const next = await one.as(child.tokenString).tokens.rotateToken({ id: child.id });
    expect(await both(next.tokenString, blue)).toBe("WRONG_TENANT");
    await set(next.token!.id, { tenants: [red] });
    await set(next.token!.id, { tenants: [red, blue] });
    expect(await both(next.tokenString, blue)).toBe("ALLOW");
  });
});

describe("only a caller that has all of its tenants gives a token more", () => {
  test("administrators of its own tenant attach nothing, and learn nothing of other tenants", async () => {
    const by = await admin("acme");
    const { id } = await guest([]);
    for (const where of ["globex", "nowhere", "dark"]) {
      const created = await failure(guest([where], {}, by));
      expect(created).toMatchObject({ reason: "TENANT_NOT_FOUND", message: "no such tenant" });
      const { metadata: _, ...same } = created;
      expect(await failure(set(id, { tenants: [where] }, by))).toMatchObject(same);
    }
  });

  test("they widen, enable and rotate no token of further tenants; they narrow, disable and revoke it", async () => {
    const by = await admin("acme");
    const { id, tokenString } = await guest(["globex"], { lifetime: { case: "ttl", value: { seconds: 60n } } });
    const wider = [{ scopes: ["read", "write"] }, { expireTime: undefined }, { tenants: ["globex", "initech"] }];
    for (const fields of wider) {
      const later = { seconds: BigInt(Math.floor(Date.now() / 1000) + 3600), nanos: 0 };
      expect(await outcome(set(id, "expireTime" in fields ? { expireTime: later } : fields, by))).toBe(
        "RIGHTS_EXCEEDED",
      );
    }
    expect(await failure(by.tokens.rotateToken({ id }))).toMatchObject({
      reason: "RIGHTS_EXCEEDED",
      message: "tenants: only a caller that has all tenants of a token can give it more or rotate it",
    });
    expect(await outcome(set(id, { disabled: true }, by))).toBe("OK");
    expect(await outcome(set(id, { disabled: false }, by))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(set(id, { scopes: [] }, by))).toBe("OK");
    expect(await outcome(set(id, { tenants: [] }, by))).toBe("OK");
    // Now it is theirs alone.
    expect(await outcome(set(id, { disabled: false, scopes: ["read", "write"] }, by))).toBe("OK");
    expect(await both(tokenString, "globex")).toBe("WRONG_TENANT");
    expect(await outcome(by.tokens.revokeToken({ target: { case: "id", value: id } }))).toBe("OK");
  });

  test("a token gives what it has itself, in the tenants in which it is live, though it administers its own", async () => {
    const maker = await guest(["globex"], { scopes: ["read", "sallyport.tokens.create"] });
    const by = one.as(maker.tokenString);
    expect(await outcome(guest(["globex"], {}, by))).toBe("OK");
    expect(await outcome(guest(["globex"], { scopes: ["write"] }, by))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(guest(["initech"], {}, by))).toBe("TENANT_NOT_FOUND");
    const mine = await guest(["globex"], {}, by);
    expect(await outcome(set(mine.id, { scopes: ["read", "write"] }, by))).toBe("RIGHTS_EXCEEDED");
  });

  test("a token gives nothing to another principal there, though it administers its own tenant", async () => {
    const caller = await one.callerWith(["sallyport.admin", "read"], { tenant: "acme", tenants: ["globex"] });
    const by = one.as(caller.tokenString);
    const other = await guest(["globex"]);
    const apart = await guest([]);
    expect(await failure(guest(["globex"], {}, by))).toMatchObject({
      reason: "RIGHTS_EXCEEDED",
      message: "principal: a token attaches only tokens of its own principal",
    });
    expect(await outcome(set(apart.id, { tenants: ["globex"] }, by))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(set(other.id, { allowedCidrs: ["192.0.2.1"] }, by))).toBe("OK");
    expect(await outcome(set(other.id, { allowedCidrs: [] }, by))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(by.tokens.rotateToken({ id: other.id }))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(set(apart.id, { scopes: ["read", "write"] }, by))).toBe("OK");
  });

  test("a token that lost a tenant gives it no more", async () => {
    const blue = await tenant();
    const caller = await guest([blue], { scopes: ["read", "sallyport.tokens.create"] });
    const by = one.as(caller.tokenString);
    expect(await outcome(guest([blue], {}, by))).toBe("OK");
    await one.admin.tokens.detachTenant({ tenant: blue, id: caller.id });
    expect(await outcome(guest([blue], {}, by))).toBe("TENANT_NOT_FOUND");
  });

  test("a token rotates itself with its tenants", async () => {
    const blue = await tenant();
    const { id, tokenString } = await guest([blue]);
    const next = await one.as(tokenString).tokens.rotateToken({ id });
    expect(next.token?.tenants).toEqual([blue]);
    expect(await both(next.tokenString, blue)).toBe("ALLOW");
  });

  test("a session attaches to tenants that it has, with what it may give in each", async () => {
    const call = async (groups: string[], tenants: string[], scopes: string[], more: object = {}) => {
      const by = one.as(await issuer.jwt({ claims: { groups } }));
      const asked = { tenant: "acme", profile: "bot", principal: "bot:ci", tenants, scopes, ...more };
      return by.tokens.createToken(asked, { headers: { "x-sallyport-tenant": "acme" } });
    };
    const own = { profile: "pat", principal: "user:ann", displayName: "mine" };
    const admins = ["acme-admins", "globex-admins"];
    const reader = ["acme-admins", "globex-readers"];
    expect(await outcome(call(admins, ["globex"], ["write"]))).toBe("OK");
    expect(await outcome(call(reader, ["globex"], ["read"], own))).toBe("OK");
    expect(await outcome(call(reader, ["globex"], ["write"], own))).toBe("RIGHTS_EXCEEDED");
    // Who administers only the home tenant must not speak there for somebody else.
    expect(await outcome(call(reader, ["globex"], ["read"]))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(call(reader, ["globex"], ["read"], { ...own, principal: "user:ceo" }))).toBe(
      "RIGHTS_EXCEEDED",
    );
    expect(await outcome(call(["acme-admins", "globex-makers"], ["globex"], ["read"]))).toBe("OK");
    expect(await outcome(call(reader, [], ["write"]))).toBe("OK");
    expect(await outcome(call(["acme-admins"], ["globex"], ["read"]))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(call(admins, ["nowhere"], ["read"]))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(call([...admins, "dark-admins"], ["dark"], ["read"]))).toBe("TENANT_NOT_FOUND");
    // Whoever is disabled in one of them has it no more, as with one that is suspended.
    const name = "user:ann";
    await one.admin.principals.createPrincipal({ principal: { tenant: "globex", name, state: 2 } });
    expect(await outcome(call(admins, ["globex"], ["read"]))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(call(admins, [], ["read"]))).toBe("OK");
    await one.admin.principals.deletePrincipal({ tenant: "globex", name });
  });

  test("a session widens and rotates there only its own tokens, if it may not make tokens there", async () => {
    const headers = { "x-sallyport-tenant": "acme" };
    const { id } = await guest(["globex"]);
    const change = { token: { id, scopes: [], expireTime: undefined }, updateMask: { paths: ["expire_time"] } };
    for (const [second, told] of [
      ["globex-readers", "RIGHTS_EXCEEDED"],
      ["globex-makers", "OK"],
    ] as const) {
      const by = one.as(await issuer.jwt({ claims: { sub: "bob", groups: ["acme-admins", second] } }));
      expect(await outcome(by.tokens.updateToken(change, { headers }))).toBe(told);
      expect(await outcome(by.tokens.rotateToken({ id }, { headers }))).toBe(told);
    }
  });
});

test.each<[string, object, string, string]>([
  ["an unknown tenant", { tenants: ["nowhere"] }, "TENANT_NOT_FOUND", ""],
  ["its own tenant", { tenants: ["acme"] }, "INVALID_FIELD", "tenants"],
  ["more than 16", { tenants: Array.from({ length: 17 }, (_, i) => `t${i}`) }, "INVALID_FIELD", "tenants"],
  ["no tenant's id", { tenants: ["No Tenant"] }, "INVALID_FIELD", "tenants"],
  ["a suspended tenant", { tenants: ["dark"] }, "TENANT_SUSPENDED", ""],
  ["tenants and roles", { tenants: ["globex"], roles: ["deployer"] }, "INVALID_FIELD", "tenants"],
])("%s is refused in both calls", async (_, fields, reason, field) => {
  const { id } = await guest([]);
  const refusals = [await failure(guest([], fields)), await failure(set(id, fields))];
  for (const { reason: told, violations } of refusals) {
    expect(told).toBe(reason);
    if (field !== "") expect(violations[0]?.field).toContain(field);
  }
  expect((await one.admin.tokens.getToken({ id })).token).toMatchObject({ tenants: [], roles: [] });
});

test("a token of further tenants gets no role, and one with roles no tenant, until the other is given up", async () => {
  await one.admin.roles.createRole({ role: { tenant: "acme", name: "only" } });
  const { id } = await guest(["globex"]);
  expect(await outcome(set(id, { roles: ["only"] }))).toBe("INVALID_FIELD");
  expect(await outcome(set(id, { roles: ["only"], tenants: [] }))).toBe("OK");
  expect(await outcome(set(id, { tenants: ["globex"] }))).toBe("INVALID_FIELD");
  // A deleted role is still in its row.
  await one.admin.roles.deleteRole({ tenant: "acme", name: "only", force: true });
  expect(await outcome(set(id, { tenants: ["globex"] }))).toBe("INVALID_FIELD");
  expect(await outcome(set(id, { tenants: ["globex"], roles: [] }))).toBe("OK");
});

describe("an administrator of a tenant", () => {
  test("sees of the tokens of others that are attached to it only whose they are, and when", async () => {
    const blue = await tenant();
    const by = await admin(blue);
    const { id, token } = await guest([blue, "globex"], { description: "secret plan", annotations: { a: "b" } });
    const { tokens } = await by.tokens.listTokens({ attached: true });
    expect(tokens.map((one) => one.id)).toEqual([id]);
    const { hint, createTime, expireTime } = token;
    const shown = Object.fromEntries(
      Object.entries(tokens[0]!).filter(([, value]) => !["", 0, false, undefined].includes(value as never)),
    );
    expect(shown).toMatchObject({ id, hint, tenant: "acme", principal: "bot:ci", createTime, expireTime });
    for (const hidden of ["scopes", "tenants", "audiences", "roles", "effectiveScopes", "allowedCidrs"] as const) {
      expect(tokens[0]![hidden]).toEqual([]);
    }
    for (const hidden of ["description", "displayName", "createdBy", "etag", "profile"] as const) {
      expect(tokens[0]![hidden]).toBe("");
    }
    expect(tokens[0]!.annotations).toEqual({});
    const unseen: MessageInitShape<typeof ListTokensRequestSchema>[] = [
      ...[
        { createdBy: "x" },
        { displayNamePrefix: "s" },
        { role: "x" },
        { state: TokenState.ACTIVE },
        { profile: "bot" },
      ],
      ...[{ parent: id }, { familyOf: id }, { states: [TokenState.ACTIVE] }],
    ];
    for (const filter of unseen) {
      expect(await outcome(by.tokens.listTokens({ ...filter, attached: true }))).toBe("INVALID_FIELD");
    }
    for (const filter of [{ hint }, { principal: "bot:ci" }, { ids: [id] }]) {
      expect((await by.tokens.listTokens({ attached: true, ...filter })).tokens).toHaveLength(1);
      expect((await (await admin("initech")).tokens.listTokens({ attached: true, ...filter })).tokens).toEqual([]);
    }
    expect(await outcome(by.tokens.getToken({ id }))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(by.tokens.listTokens({ tenant: "acme", attached: true }))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(one.as((await guest([])).tokenString).tokens.listTokens({ attached: true }))).toBe(
      "CALLER_FORBIDDEN",
    );
  });

  test("takes them out of it, with their rotations and in force; a repeat says the same", async () => {
    const blue = await tenant();
    const by = await admin(blue);
    const { id, tokenString } = await guest([blue, "globex"]);
    const next = await one.as(tokenString).tokens.rotateToken({ id, overlap: { seconds: 600n } });
    for (const text of [tokenString, next.tokenString]) expect(await both(text, blue)).toBe("ALLOW");
    const { effect } = await by.tokens.detachTenant({ id });
    expect(effect?.waited).toBeDefined();
    for (const text of [tokenString, next.tokenString]) {
      expect(await both(text, blue)).toBe("WRONG_TENANT");
      expect(await both(text, "globex")).toBe("ALLOW");
    }
    expect((await by.tokens.detachTenant({ id })).effect?.waited).toBeDefined();
    expect((await by.tokens.listTokens({ attached: true })).tokens).toEqual([]);
    const rows = await one.sql<{ tenant: string; action: string }>(
      "select tenant, action from sallyport.audit where target = $1 and action ~ 'tach$' order by seq",
      [`token:${next.token!.id}`],
    );
    expect(rows).toEqual([
      ...[blue, "globex"].map((tenant) => ({ tenant, action: "token.attach" })),
      ...[blue, "acme"].map((tenant) => ({ tenant, action: "token.detach" })),
    ]);
  });

  test("takes none out of another, and none that is not there", async () => {
    const blue = await tenant();
    const by = await admin(blue);
    const { id, tokenString } = await guest(["globex"]);
    expect(await outcome(by.tokens.detachTenant({ tenant: "globex", id }))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(by.tokens.detachTenant({ id }))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(by.tokens.detachTenant({ id: "tok_0000000000000000000000" }))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(by.tokens.detachTenant({ id: "x" }))).toBe("INVALID_FIELD");
    expect(await both(tokenString, "globex")).toBe("ALLOW");
  });
});

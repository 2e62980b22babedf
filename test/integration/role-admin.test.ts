import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";

let one: TestSallyport;
let two: TestSallyport;
beforeAll(async () => {
  one = await TestSallyport.start();
  two = await TestSallyport.start({ database: one.database, keyring: one.keyring });
  for (const id of ["acme", "globex"]) await one.admin.tenants.createTenant({ tenant: { id } });
  for (const tenant of ["", "acme", "globex"]) await one.registered("bot:ci", tenant);
});
afterAll(async () => {
  await two?.stop();
  await one?.stop();
});

let made = 0;
const fresh = () => `role-${++made}`;
const role = (name: string, scopes: string[], more: object = {}) =>
  one.admin.roles.createRole({ role: { name, scopes, ...more } });
const change = (name: string, scopes: string[]) =>
  one.admin.roles.updateRole({ role: { name, scopes }, updateMask: { paths: ["scopes"] } });
const bot = (more: object) => one.createToken({ profile: "bot", principal: "bot:ci", displayName: "", ...more });
const needs = (...requiredScopes: string[]) => ({ requiredScopes });

describe("a token has the scopes of its roles", () => {
  test("with its own, in its record and in each answer", async () => {
    const [deployer, reader] = [fresh(), fresh()];
    await role(deployer, ["deploy", "repo:*"]);
    await role(reader, ["repo:read", "logs"]);
    const { token, tokenString, id } = await bot({ scopes: ["own"], roles: [reader, deployer, reader] });
    expect(token).toMatchObject({ scopes: ["own"], roles: [deployer, reader] });
    const effective = ["own", "deploy", "logs", "repo:*", "repo:read"];
    expect(token.effectiveScopes).toEqual(effective);
    expect((await one.admin.tokens.getToken({ id })).token?.effectiveScopes).toEqual(effective);
    expect((await one.validate(tokenString)).token?.scopes).toEqual(effective);
    expect(await two.verdict(tokenString, needs("repo:write", "deploy"))).toBe("ALLOW");
  });

  test("as they are at each use: a change of the role is in force on every instance when it returns", async () => {
    const name = fresh();
    await role(name, ["a"]);
    const { tokenString } = await bot({ roles: [name] });
    for (const scopes of [["b"], ["a"], [], ["a", "b"]]) {
      for (const at of [one, two]) await at.verdict(tokenString, needs("a"));
      expect((await change(name, scopes)).effect?.waited).toBeDefined();
      for (const at of [one, two]) {
        for (const scope of ["a", "b"]) {
          const expected = scopes.includes(scope) ? "ALLOW" : "INSUFFICIENT_SCOPE";
          expect(await at.verdict(tokenString, needs(scope)), `${scope} of ${scopes}`).toBe(expected);
        }
      }
    }
    await one.admin.roles.deleteRole({ name, force: true });
    for (const at of [one, two]) expect(await at.verdict(tokenString, needs("a"))).toBe("INSUFFICIENT_SCOPE");
  });

  test("until an update takes the role away; a rotation hands it on", async () => {
    const name = fresh();
    await role(name, ["a"]);
    const { id } = await bot({ roles: [name] });
    const next = await one.admin.tokens.rotateToken({ id, noWait: true });
    expect(next.token).toMatchObject({ roles: [name], effectiveScopes: ["a"] });
    expect(await two.verdict(next.tokenString, needs("a"))).toBe("ALLOW");
    const updateMask = { paths: ["roles"] };
    await one.admin.tokens.updateToken({ token: { id: next.token!.id, roles: [] }, updateMask });
    for (const at of [one, two]) expect(await at.verdict(next.tokenString, needs("a"))).toBe("INSUFFICIENT_SCOPE");
    await one.admin.tokens.updateToken({ token: { id: next.token!.id, roles: [name] }, updateMask });
    for (const at of [one, two]) expect(await at.verdict(next.tokenString, needs("a"))).toBe("ALLOW");
  });

  test("as a caller too: what its role loses, it may not do any more", async () => {
    const name = fresh();
    await role(name, ["sallyport.principals.write"], { administrative: true });
    const by = one.as((await one.callerWith([], { roles: [name] })).tokenString);
    expect(await outcome(by.principals.listPrincipals({}))).toBe("OK");
    await change(name, []);
    expect(await outcome(by.principals.listPrincipals({}))).toBe("CALLER_FORBIDDEN");
  });

  test("a child has of its role only what its parent has", async () => {
    const name = fresh();
    await role(name, ["a", "b"]);
    const parent = await bot({ scopes: ["sallyport.tokens.create"], roles: [name] });
    const child = await bot2(parent, { roles: [name] });
    expect(child.token?.effectiveScopes).toEqual(["a", "b"]);
    await one.admin.tokens.updateToken({
      token: { id: parent.id, roles: [], scopes: ["a"] },
      updateMask: { paths: ["roles", "scopes"] },
    });
    expect((await one.admin.tokens.getToken({ id: child.token!.id })).token?.effectiveScopes).toEqual(["a"]);
    for (const at of [one, two]) expect((await at.validate(child.tokenString)).token?.scopes).toEqual(["a"]);
  });
});

const bot2 = (by: { tokenString: string }, more: object) =>
  one.as(by.tokenString).tokens.createToken({ profile: "bot", principal: "bot:ci", ...more });

describe("rights only shrink, by roles too", () => {
  test("a caller gives only roles whose scopes it holds, and makes no role beyond them", async () => {
    const [narrow, wide] = [fresh(), fresh()];
    await role(narrow, ["repo:read"]);
    await role(wide, ["repo:*"]);
    const creator = await one.callerWith(["sallyport.tokens.create", "sallyport.roles.write", "repo:read"]);
    const by = one.as(creator.tokenString);
    const give = (name: string) =>
      outcome(by.tokens.createToken({ profile: "bot", principal: "bot:ci", roles: [name] }));
    expect([await give(narrow), await give(wide)]).toEqual(["OK", "RIGHTS_EXCEEDED"]);
    // It ends before the caller does.
    const { id } = await bot({ lifetime: { case: "ttl", value: seconds(3600) } });
    const add = (name: string) =>
      outcome(by.tokens.updateToken({ token: { id, roles: [name] }, updateMask: { paths: ["roles"] } }));
    expect([await add(narrow), await add(wide)]).toEqual(["OK", "RIGHTS_EXCEEDED"]);
    expect(await outcome(by.roles.createRole({ role: { name: fresh(), scopes: ["repo:*"] } }))).toBe("RIGHTS_EXCEEDED");
    const more = { role: { name: narrow, scopes: ["repo:*"] }, updateMask: { paths: ["scopes"] } };
    expect(await outcome(by.roles.updateRole(more))).toBe("RIGHTS_EXCEEDED");
    // It does not see the string of a token with more than it has.
    const other = await bot({ roles: [wide] });
    expect(await outcome(by.tokens.rotateToken({ id: other.id, noWait: true }))).toBe("RIGHTS_EXCEEDED");
  });

  test("a token that ends gives a role nothing, because the role outlives it, unless it is an administrator", async () => {
    const name = fresh();
    await role(name, ["a"]);
    const scopes = ["sallyport.tokens.create", "sallyport.roles.write", "a", "b"];
    const admin = ["sallyport.admin", "a", "b"];
    const hour = { lifetime: { case: "ttl" as const, value: seconds(3600) } };
    const local = { allowedCidrs: ["127.0.0.0/8", "::1/128"] };
    const asks: [string, { tokenString: string }, string][] = [
      ["ends", await one.callerWith(scopes, hour), "RIGHTS_EXCEEDED"],
      ["ends, and is bound", await one.callerWith(scopes, { ...hour, ...local }), "RIGHTS_EXCEEDED"],
      ["an administrator", await one.callerWith(admin, { ...hour, ...local }), "OK"],
    ];
    for (const [what, { tokenString }, expected] of asks) {
      const { roles } = one.as(tokenString);
      const adding = { role: { name, scopes: ["a", "b"] }, updateMask: { paths: ["scopes"] } };
      expect([what, await outcome(roles.updateRole(adding))]).toEqual([what, expected]);
      expect(await outcome(roles.createRole({ role: { name: fresh(), scopes: ["a"] } }))).toBe(expected);
      expect(await outcome(roles.createRole({ role: { name: fresh() } }))).toBe("OK");
      const narrower = {
        role: { name, scopes: ["a"], description: what },
        updateMask: { paths: ["scopes", "description"] },
      };
      expect(await outcome(roles.updateRole(narrower))).toBe("OK");
    }
  });

  test("a token gives itself no role, and a child none beyond its parent", async () => {
    const name = fresh();
    await role(name, ["a"]);
    const self = await one.callerWith(["sallyport.admin"]);
    const update = { token: { id: self.id, roles: [name] }, updateMask: { paths: ["roles"] } };
    expect(await outcome(one.as(self.tokenString).tokens.updateToken(update))).toBe("RIGHTS_EXCEEDED");
    const parent = await bot({ scopes: ["sallyport.tokens.create"] });
    expect(await outcome(bot2(parent, { roles: [name] }))).toBe("RIGHTS_EXCEEDED");
  });

  test("a token does not make a scope of its role its own, so that it ends with the role", async () => {
    const name = fresh();
    await role(name, ["a"]);
    const { id, tokenString } = await bot({ scopes: ["sallyport.tokens.create"], roles: [name] });
    const by = one.as(tokenString);
    const own = (scopes: string[]) =>
      by.tokens.updateToken({ token: { id, scopes }, updateMask: { paths: ["scopes"] } });
    expect(await outcome(own(["sallyport.tokens.create", "a"]))).toBe("RIGHTS_EXCEEDED");
    await one.admin.roles.deleteRole({ name, force: true });
    for (const at of [one, two]) expect(await at.verdict(tokenString, needs("a"))).toBe("INSUFFICIENT_SCOPE");
  });

  test("only an administrative role holds administrative scopes, and only administrative tokens hold it", async () => {
    const [plain, admin] = [fresh(), fresh()];
    expect(await outcome(role(plain, ["sallyport.admin"]))).toBe("RIGHTS_EXCEEDED");
    await role(plain, ["a"]);
    expect(await outcome(change(plain, ["sallyport.admin"]))).toBe("RIGHTS_EXCEEDED");
    await role(admin, [], { administrative: true });
    expect(await outcome(bot({ roles: [admin] }))).toBe("RIGHTS_EXCEEDED");
    const { tokenString } = await one.callerWith([], { roles: [admin] });
    await change(admin, ["sallyport.admin"]);
    expect(await outcome(one.as(tokenString).roles.listRoles({}))).toBe("OK");
  });

  test("no scope of a role covers one that limits the life of a token", async () => {
    const name = fresh();
    expect((await failure(role(name, ["bootstrap"]))).violations[0]?.field).toBe("role.scopes");
    await role(name, []);
    expect(await outcome(change(name, ["bootstrap"]))).toBe("INVALID_FIELD");
  });
});

describe("roles belong to a tenant", () => {
  test("a token holds those of its own; another tenant's are not found, whoever asks", async () => {
    const name = fresh();
    await role(name, ["a"], { tenant: "acme" });
    expect(await outcome(bot({ roles: [name] }))).toBe("ROLE_NOT_FOUND");
    expect(await outcome(bot({ roles: [name], tenant: "globex" }))).toBe("ROLE_NOT_FOUND");
    expect((await bot({ roles: [name], tenant: "acme" })).token.roles).toEqual([name]);
    const there = one.as((await one.callerWith(["sallyport.admin"], { tenant: "globex" })).tokenString);
    expect(await outcome(there.roles.getRole({ name }))).toBe("ROLE_NOT_FOUND");
    expect(await outcome(there.roles.getRole({ tenant: "acme", name }))).toBe("TENANT_NOT_FOUND");
    expect((await there.roles.listRoles({})).roles).toEqual([]);
  });

  test("a list has them newest first, without the deleted, page by page", async () => {
    const names = [fresh(), fresh(), fresh()];
    for (const name of names) await role(name, [], { tenant: "globex" });
    await one.admin.roles.deleteRole({ tenant: "globex", name: names[1]! });
    const first = await one.admin.roles.listRoles({ tenant: "globex", pageSize: 1 });
    const second = await one.admin.roles.listRoles({ tenant: "globex", pageSize: 1, pageToken: first.nextPageToken });
    expect([first, second].flatMap(({ roles }) => roles.map(({ name }) => name))).toEqual([names[2], names[0]]);
    expect(await outcome(one.admin.roles.getRole({ tenant: "globex", name: names[1]! }))).toBe("ROLE_NOT_FOUND");
    expect(await outcome(one.admin.roles.listRoles({ tenant: "nowhere" }))).toBe("TENANT_NOT_FOUND");
  });
});

test("every change of a role has its audit row", async () => {
  const name = fresh();
  const { role: made } = await role(name, ["a"], { description: "d" });
  await change(name, ["b"]);
  await one.admin.roles.deleteRole({ name });
  const { events } = await one.admin.audit.listAuditEvents({ target: `role:${name}` });
  expect(events.map(({ action, metadata }) => [action, metadata])).toEqual([
    ["role.delete", { role: made!.id }],
    ["role.update", { role: made!.id, fields: "scopes", scopes: "b" }],
    ["role.create", { role: made!.id, scopes: "a" }],
  ]);
});

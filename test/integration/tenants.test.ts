import { readFileSync } from "node:fs";
import { ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { TrustRuleKind } from "../../src/gen/sallyport/v1/federation_admin_pb.ts";
import { ALL_METHODS } from "../../src/rpc/methods.ts";
import { AUDIENCE, TestIssuer } from "../sessions/issuer.ts";
import { type AdminClients, TestSallyport } from "../support/sallyport.ts";

/*
 * Nothing crosses the border of a tenant. Every RPC of the admin listener is called on an object of the caller's own,
 * of another person, of another tenant, and on one that does not exist, by callers of every kind. An object that a
 * caller may not see must get exactly the answer of one that does not exist.
 */
let sallyport: TestSallyport;
let counter = 0;
type Objects = {
  tenant: string;
  principal: string;
  role: string;
  profile?: string;
  token: { id: string; tokenString: string };
  /** A token of another tenant that is attached to this one. Made where it is needed. */
  guest?: string;
};
type Place = "own" | "other person" | "other tenant" | "none";
let objects: Record<Place, Objects>;
let issuer: TestIssuer;
/** The groups of a session, and the permissions that they give in tenant acme. */
const GROUPS = {
  staff: [],
  admins: ["sallyport.admin"],
  all: [
    "sallyport.tokens.*",
    "sallyport.principals.write",
    "sallyport.roles.write",
    "sallyport.federation.write",
    "sallyport.audit.read",
  ],
};

beforeAll(async () => {
  issuer = await TestIssuer.open();
  const groups = Object.entries(GROUPS).map(([group, permissions]) => ({ group, permissions }));
  const oidc = [{ name: "corp", issuer: issuer.url, audiences: [AUDIENCE], tenant: "acme", groups }];
  const federation = { issuers: [{ name: "platform", issuer: issuer.url }] };
  sallyport = await TestSallyport.start({ config: { callers: { oidc }, federation } });
  for (const id of ["acme", "globex", "initech"]) await sallyport.admin.tenants.createTenant({ tenant: { id } });
  for (const [name, tenant] of [
    ["bot:mine", "acme"],
    ["bot:reach", "acme"],
    ["bot:theirs", "acme"],
    ["bot:mine", "globex"],
    ["bot:far", "globex"],
  ] as const) {
    await sallyport.registered(name, tenant);
  }
  objects = {
    own: await fresh("acme", "bot:mine"),
    "other person": await fresh("acme", "bot:theirs"),
    "other tenant": await fresh("globex", "bot:far"),
    none: {
      tenant: "nowhere",
      principal: "bot:nobody",
      role: "none",
      token: { id: "tok_0000000000000000000000", tokenString: "sp_bot_1nothing" },
      guest: "tok_0000000000000000000000",
    },
  };
  objects["other tenant"].guest = await guest("globex");
});
afterAll(async () => {
  await sallyport?.stop();
  await issuer?.close();
});

async function fresh(tenant: string, principal: string, profile = "bot"): Promise<Objects> {
  // Role names of one tenant alone: the same name elsewhere would be another object.
  const role = `${tenant}-${++counter}`;
  await sallyport.admin.roles.createRole({ role: { tenant, name: role } });
  await sallyport.admin.federation.createTrustRule({ rule: trustRule(tenant, role) });
  const token = await sallyport.createToken({ tenant, profile, principal, displayName: "x" });
  return { tenant, principal, role, profile, token };
}

/** A trust rule for a principal that needs no row. */
const trustRule = (tenant: string, name: string) => ({
  ...{ tenant, name, issuer: "platform", audience: "x", principal: "org:shop", profile: "org" },
  kind: TrustRuleKind.KUBERNETES,
  match: [{ claim: "sub", value: { case: "equals" as const, value: "system:serviceaccount:shop:deployer" } }],
});

const guest = async (tenant: string) => (await sallyport.createToken({ tenant: "initech", tenants: [tenant] })).id;

const jwt = (group: keyof typeof GROUPS) => issuer.jwt({ claims: { groups: [group] } });
const session = async (group: keyof typeof GROUPS) => sallyport.as(await jwt(group));

const id = (value: string) => ({ case: "id" as const, value });
/** The way in which each RPC names its object; `made` makes each call a different one. */
const CALLS: Readonly<Record<string, (by: AdminClients, of: Objects, made: number) => Promise<unknown>>> = {
  "TokenAdmin/CreateToken": (by, of) =>
    by.tokens.createToken({
      tenant: of.tenant,
      profile: of.profile ?? "bot",
      principal: of.principal,
      displayName: "x",
    }),
  "TokenAdmin/GetToken": (by, of) => by.tokens.getToken({ id: of.token.id }),
  "TokenAdmin/ListTokens": (by, of) => by.tokens.listTokens({ tenant: of.tenant, principal: of.principal }),
  "TokenAdmin/UpdateToken": (by, of, made) =>
    by.tokens.updateToken({
      token: { id: of.token.id, description: `d${made}` },
      updateMask: { paths: ["description"] },
      noWait: true,
    }),
  "TokenAdmin/RevokeToken": (by, of) => by.tokens.revokeToken({ target: id(of.token.id), noWait: true }),
  "TokenAdmin/RevokeTokens": (by, of) =>
    by.tokens.revokeTokens({ tenant: of.tenant, principal: of.principal, noWait: true }),
  "TokenAdmin/DetachTenant": async (by, of) => {
    of.guest ??= await guest(of.tenant);
    return by.tokens.detachTenant({ tenant: of.tenant, id: of.guest, noWait: true });
  },
  "TokenAdmin/RotateToken": (by, of) => by.tokens.rotateToken({ id: of.token.id, noWait: true }),
  "PrincipalAdmin/CreatePrincipal": (by, of, made) =>
    by.principals.createPrincipal({ principal: { tenant: of.tenant, name: `bot:new${made}` } }),
  "PrincipalAdmin/GetPrincipal": (by, of) => by.principals.getPrincipal({ tenant: of.tenant, name: of.principal }),
  "PrincipalAdmin/ListPrincipals": (by, of) => by.principals.listPrincipals({ tenant: of.tenant }),
  "PrincipalAdmin/UpdatePrincipal": (by, of) =>
    by.principals.updatePrincipal({
      principal: { tenant: of.tenant, name: of.principal, displayName: "x" },
      updateMask: { paths: ["display_name"] },
      noWait: true,
    }),
  "PrincipalAdmin/DeletePrincipal": (by, of) =>
    by.principals.deletePrincipal({ tenant: of.tenant, name: of.principal, noWait: true }),
  "TenantAdmin/CreateTenant": (by, _of, made) => by.tenants.createTenant({ tenant: { id: `t-${made}` } }),
  "TenantAdmin/GetTenant": (by, of) => by.tenants.getTenant({ id: of.tenant }),
  "TenantAdmin/ListTenants": (by) => by.tenants.listTenants({}),
  "TenantAdmin/UpdateTenant": (by, of) =>
    by.tenants.updateTenant({
      tenant: { id: of.tenant, displayName: "x" },
      updateMask: { paths: ["display_name"] },
      noWait: true,
    }),
  "RoleAdmin/CreateRole": (by, of, made) => by.roles.createRole({ role: { tenant: of.tenant, name: `new-${made}` } }),
  "RoleAdmin/GetRole": (by, of) => by.roles.getRole({ tenant: of.tenant, name: of.role }),
  "RoleAdmin/ListRoles": (by, of) => by.roles.listRoles({ tenant: of.tenant }),
  "RoleAdmin/UpdateRole": (by, of) =>
    by.roles.updateRole({
      role: { tenant: of.tenant, name: of.role, description: "x" },
      updateMask: { paths: ["description"] },
      noWait: true,
    }),
  "RoleAdmin/DeleteRole": (by, of) => by.roles.deleteRole({ tenant: of.tenant, name: of.role, noWait: true }),
  "FederationAdmin/CreateTrustRule": (by, of, made) =>
    by.federation.createTrustRule({ rule: trustRule(of.tenant, `new-${made}`) }),
  "FederationAdmin/GetTrustRule": (by, of) => by.federation.getTrustRule({ tenant: of.tenant, name: of.role }),
  "FederationAdmin/ListTrustRules": (by, of) => by.federation.listTrustRules({ tenant: of.tenant }),
  "FederationAdmin/UpdateTrustRule": (by, of) =>
    by.federation.updateTrustRule({
      rule: { tenant: of.tenant, name: of.role, audience: "y" },
      updateMask: { paths: ["audience"] },
      noWait: true,
    }),
  "FederationAdmin/DeleteTrustRule": (by, of) =>
    by.federation.deleteTrustRule({ tenant: of.tenant, name: of.role, noWait: true }),
  "AuditLog/ListAuditEvents": (by, of) => by.audit.listAuditEvents({ tenant: of.tenant }),
  "AuditLog/ListAccessEvents": (by, of) => by.audit.listAccessEvents({ tenant: of.tenant }),
  "ServerInfo/GetServerInfo": (by) => by.info.getServerInfo({}),
  "ServerInfo/ListInstances": (by) => by.info.listInstances({}),
};

test("docs/security.md has the number of its cells", () => {
  const [callers, places] = [REACHES.length + Object.keys(GROUPS).length, 2];
  const cells = Object.keys(CALLS).length * callers * places * CARRIERS.length;
  expect(readFileSync("docs/security.md", "utf8")).toContain(`${cells.toLocaleString("en")} cells`);
});

test("the matrix has every RPC of the admin listener", () => {
  const methods = ALL_METHODS.filter(({ listener, permission }) => listener === "admin" && permission !== "open");
  const names = new Set(methods.map(({ name }) => name.replace("sallyport.v1.", "")));
  expect(Object.keys(CALLS).sort()).toEqual([...names].sort());
});

/** The reason and text of a refusal, or OK. */
async function answer(call: string, by: AdminClients, of: Objects): Promise<string> {
  try {
    await CALLS[call]!(by, of, ++counter);
    return "OK";
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    return `${error.findDetails(ErrorInfoSchema)[0]?.reason}: ${error.rawMessage}`;
  }
}

const PLACES: readonly Place[] = ["own", "other person", "other tenant", "none"];
/** The state of everything that belongs to another tenant: no call of ours may change it. */
const globex = () =>
  sallyport.sql(`select (select jsonb_agg(t order by t.id) from sallyport.tokens t
      where tenant = 'globex' or 'globex' = any(tenants)) as tokens,
    (select jsonb_agg(p order by p.name) from sallyport.principals p where tenant = 'globex') as principals,
    (select jsonb_agg(r order by r.id) from sallyport.roles r where tenant = 'globex') as roles,
    (select jsonb_agg(r order by r.id) from sallyport.trust_rules r where tenant = 'globex') as rules,
    (select jsonb_agg(o) from sallyport.tenants o where id = 'globex') as tenants`);

/** Names no object: every caller may ask. */
const WHO_AM_I = "ServerInfo/GetServerInfo";

const CARRIERS = ["connect", "connect-json", "grpc", "grpc-web"] as const;

/** One caller over each protocol. */
const carried = (bearer: string) => CARRIERS.map((carrier) => sallyport.as(bearer, carrier));

/** The answer is the same over every protocol, and that for an object which does not exist. */
async function crossesNothing(call: string, caller: readonly AdminClients[]): Promise<void> {
  const before = await globex();
  const answers = await Promise.all(
    caller.map(async (by) => [await answer(call, by, objects["other tenant"]), await answer(call, by, objects.none)]),
  );
  const none = answers[0]![1]!;
  // Our own refusal, not the failure of a connection.
  if (call !== "TenantAdmin/CreateTenant" && call !== WHO_AM_I) expect(none).toMatch(/^[A-Z_]+: /);
  expect(new Set(answers.flat())).toEqual(new Set([none]));
  expect(await globex()).toEqual(before);
}

const REACHES = [
  ["an administrator of the tenant", ["sallyport.admin"]],
  [
    "one with every single permission of the tenant",
    [
      "sallyport.tokens.*",
      "sallyport.principals.write",
      "sallyport.roles.write",
      "sallyport.federation.write",
      "sallyport.audit.read",
    ],
  ],
  ["a token without any permission", []],
] as const;

describe.each(REACHES)("%s", (_, scopes) => {
  let caller: AdminClients[];
  beforeAll(async () => {
    // Not `bot:mine`: a caller without permission cannot end tokens of an administrator among its principal's.
    const request = { tenant: "acme", principal: "bot:reach", displayName: "", scopes: [...scopes] };
    caller = carried((await sallyport.createToken({ profile: "adm", ...request })).tokenString);
  });

  test.each(Object.keys(CALLS))(
    "%s of another tenant answers exactly like one that does not exist, and changes nothing there",
    (call) => crossesNothing(call, caller),
  );
});

test("a token without permission reaches exactly its own objects: the matrix", async () => {
  // Not the tokens of the callers above: they hold more than this one, so it could not end them.
  await sallyport.admin.tokens.revokeTokens({ tenant: "acme", principal: "bot:mine", profile: "adm", noWait: true });
  const matrix: Record<string, string> = {};
  for (const call of Object.keys(CALLS)) {
    const row = [];
    for (const place of PLACES) {
      // Each cell has its own objects: a revocation must not be the reason of the next refusal.
      const own = await sallyport.createToken({
        tenant: "acme",
        profile: "bot",
        principal: "bot:mine",
        displayName: "",
      });
      const of = place === "none" ? objects.none : await fresh(objects[place].tenant, objects[place].principal);
      row.push((await answer(call, sallyport.as(own.tokenString), of)).split(":")[0]);
    }
    matrix[call] = row.join(" ");
  }
  const forbidden = "CALLER_FORBIDDEN CALLER_FORBIDDEN CALLER_FORBIDDEN CALLER_FORBIDDEN";
  expect(matrix).toEqual({
    ...Object.fromEntries(Object.keys(CALLS).map((call) => [call, forbidden])),
    "TokenAdmin/GetToken": "OK TOKEN_NOT_FOUND TOKEN_NOT_FOUND TOKEN_NOT_FOUND",
    "TokenAdmin/ListTokens": "OK OK TENANT_NOT_FOUND TENANT_NOT_FOUND",
    "TokenAdmin/RevokeToken": "OK TOKEN_NOT_FOUND TOKEN_NOT_FOUND TOKEN_NOT_FOUND",
    "TokenAdmin/RevokeTokens": "OK PRINCIPAL_NOT_FOUND TENANT_NOT_FOUND TENANT_NOT_FOUND",
    [WHO_AM_I]: "OK OK OK OK",
    // A bot rotates itself, not its siblings.
    "TokenAdmin/RotateToken": "TOKEN_NOT_FOUND TOKEN_NOT_FOUND TOKEN_NOT_FOUND TOKEN_NOT_FOUND",
  });
});

describe.each(["admins", "all", "staff"] as const)("a session in the group %s", (group) => {
  let caller: AdminClients[];
  beforeAll(async () => {
    caller = carried(await jwt(group));
  });

  test.each(Object.keys(CALLS))(
    "%s of another tenant answers exactly like one that does not exist, and changes nothing there",
    (call) => crossesNothing(call, caller),
  );
});

test("a session reaches exactly what its permissions give: the matrix", async () => {
  for (const name of ["user:ann", "user:bob"]) await sallyport.registered(name, "acme");
  const kinds: Record<string, Record<string, string>> = {};
  for (const group of ["staff", "all", "admins"] as const) {
    const matrix: Record<string, string> = (kinds[group] = {});
    const by = await session(group);
    for (const call of Object.keys(CALLS)) {
      // Deleted principals are made again, so that each cell has its own objects.
      const row = [];
      for (const principal of ["user:ann", "user:bob"]) {
        row.push((await answer(call, by, await fresh("acme", principal, "pat"))).split(":")[0]);
        if (call !== "PrincipalAdmin/DeletePrincipal" || row.at(-1) !== "OK") continue;
        await sallyport.registered(principal, "acme");
      }
      matrix[call] = row.join(" ");
    }
  }
  const every = (answer: string) => Object.fromEntries(Object.keys(CALLS).map((call) => [call, answer]));
  const operators = Object.fromEntries(
    [
      ...["CreateTenant", "GetTenant", "ListTenants", "UpdateTenant"].map((call) => `TenantAdmin/${call}`),
      "ServerInfo/ListInstances",
    ].map((call) => [call, "CALLER_FORBIDDEN CALLER_FORBIDDEN"]),
  );
  expect(kinds).toEqual({
    staff: {
      ...every("CALLER_FORBIDDEN CALLER_FORBIDDEN"),
      [WHO_AM_I]: "OK OK",
      "TokenAdmin/CreateToken": "OK PRINCIPAL_NOT_FOUND",
      "TokenAdmin/GetToken": "OK TOKEN_NOT_FOUND",
      "TokenAdmin/ListTokens": "OK OK",
      "TokenAdmin/UpdateToken": "OK TOKEN_NOT_FOUND",
      "TokenAdmin/RevokeToken": "OK TOKEN_NOT_FOUND",
      "TokenAdmin/RevokeTokens": "OK PRINCIPAL_NOT_FOUND",
      "TokenAdmin/RotateToken": "OK TOKEN_NOT_FOUND",
    },
    all: {
      ...every("OK OK"),
      ...operators,
      // A pat of somebody else is minted and seen by an administrator alone.
      "TokenAdmin/CreateToken": "OK RIGHTS_EXCEEDED",
      "TokenAdmin/RotateToken": "OK RIGHTS_EXCEEDED",
    },
    admins: { ...every("OK OK"), ...operators },
  });
});

test("an administrator's lists hold only its tenant, whatever it asks for", async () => {
  const admin = await sallyport.callerWith(["sallyport.admin"], { tenant: "acme" });
  const by = sallyport.as(admin.tokenString);
  for (const tenant of ["", "acme"]) {
    const { tokens } = await by.tokens.listTokens({ tenant, pageSize: 500 });
    expect(new Set(tokens.map((token) => token.tenant))).toEqual(new Set(["acme"]));
    const { principals } = await by.principals.listPrincipals({ tenant, pageSize: 500 });
    expect(new Set(principals.map((one) => one.tenant))).toEqual(new Set(["acme"]));
  }
  expect(
    (await by.tokens.listTokens({ hint: (objects["other tenant"].token as { token?: { hint: string } }).token!.hint }))
      .tokens,
  ).toEqual([]);
  const far = objects["other tenant"].token;
  const leaked = await by.tokens.revokeTokens({ tokenStrings: [far.tokenString], ids: [far.id], noWait: true });
  expect(leaked).toMatchObject({ revokedCount: 0, matchedIds: [] });
});

test("two principals of one name in two tenants are independent: a cut of one leaves the other alone", async () => {
  const here = await fresh("acme", "bot:mine");
  const there = await fresh("globex", "bot:mine");
  await sallyport.admin.tokens.revokeTokens({ tenant: "acme", principal: "bot:mine" });
  expect(await sallyport.verdict(here.token.tokenString)).toBe("INVALID_TOKEN");
  expect(await sallyport.verdict(there.token.tokenString)).toBe("ALLOW");
});

test.each(Object.keys(CALLS))("%s is audited, and repeated, as its row in the table of methods says", async (call) => {
  const { audit, repeat } = ALL_METHODS.find(({ name }) => name === `sallyport.v1.${call}`)!;
  const principal = `bot:audited-${Object.keys(CALLS).indexOf(call)}`;
  await sallyport.registered(principal, "acme");
  const of = await fresh("acme", principal);
  const caller = await sallyport.callerWith(["sallyport.operator"]);
  const by = sallyport.as(caller.tokenString);
  const made = ++counter;
  await CALLS[call]!(by, of, made);
  const written = await sallyport.sql<{ action: string }>(
    "select distinct action from sallyport.audit where actor = $1",
    [`token:${caller.token.hint}`],
  );
  expect(written.filter(({ action }) => !audit.includes(action))).toEqual([]);
  expect(written.length > 0).toBe(audit.length > 0);
  const again = await CALLS[call]!(by, of, made).then(
    () => "OK",
    (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason,
  );
  if (repeat === "exists") expect(again).toMatch(/_EXISTS$/);
  if (repeat === "read" || repeat === "same") expect(again).toBe("OK");
});

import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PrincipalState } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { TenantState } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { AUDIENCE, type Made, TestIssuer } from "../sessions/issuer.ts";
import { fetchPatiently, folder, run } from "../support/program.ts";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

/*
 * Sessions on a real server: an issuer on loopback, every listener, the database. The rules about JWTs have their cases
 * in test/sessions/cases.ts; here is what a session may do, and what its refusals look like from outside.
 */

/** In the form of a JWT: the secret is compared first. */
const GLASS = `${"glass".repeat(4)}.${"glass".repeat(4)}.glass`;
let issuer: TestIssuer;
let sallyport: TestSallyport;

beforeAll(async () => {
  issuer = await TestIssuer.open();
  const group = (name: string, tenant: string, permissions: string[], scopes: string[] = []) => ({
    ...{ group: name, tenant, permissions, scopes },
  });
  const groups = [
    group("staff", "acme", [], ["repo:*"]),
    group("makers", "acme", ["sallyport.tokens.create"]),
    group("admins", "acme", ["sallyport.admin"]),
    group("globex", "globex", [], ["repo:*"]),
    { group: "ship", tenant: "acme", roles: ["deployer", "nobody-made-it"] },
  ];
  sallyport = await TestSallyport.start({
    config: {
      break_glass: { secret: GLASS },
      callers: { oidc: [{ name: "corp", issuer: issuer.url, audiences: [AUDIENCE], groups }] },
      profiles: {
        cli: { principals: ["user", "bot"], minted_by: ["session"] },
        desk: { principals: ["user"], minted_by: ["admin"] },
      },
      listeners: {
        data: { bind: "127.0.0.1:0", trust_peers: false },
        admin: { bind: "127.0.0.1:0" },
        ops: { bind: "127.0.0.1:0" },
      },
    },
  });
  for (const id of ["acme", "globex"]) await sallyport.admin.tenants.createTenant({ tenant: { id } });
});
afterAll(async () => {
  await sallyport?.stop();
  await issuer?.close();
});

const as = async (made: Made = {}) => sallyport.as(await issuer.jwt(made));
const of = (sub: string, ...groups: string[]): Made => ({
  claims: { sub, groups: groups.length > 0 ? groups : ["staff"] },
});
const pat = (principal: string, more: object = {}) => ({ profile: "pat", principal, displayName: "laptop", ...more });

/** One call as JSON, with the tenant in the header. */
async function call(method: string, body: object, jwt: string, tenant?: string) {
  const headers = { authorization: `Bearer ${jwt}`, ...(tenant !== undefined && { "x-sallyport-tenant": tenant }) };
  const response = await sallyport.post("admin", `/sallyport.v1.${method}`, body, headers);
  const text = await response.text();
  return {
    status: response.status,
    challenge: response.headers.get("www-authenticate"),
    text,
    json: JSON.parse(text) as JsonObject,
  };
}

const metric = async (name: string) => {
  const text = await (await fetchPatiently(`${sallyport.listeners.ops}/metrics`)).text();
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(name))
      ?.split(" ")[1] ?? 0,
  );
};

describe("a credential that is not good", () => {
  test("has one face, by every cause and on every path; metric and log have the cause", async () => {
    const dead = await sallyport.createToken();
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: dead.id } });
    const at = Math.floor(Date.now() / 1000);
    const bad: Record<string, string> = {
      "": dead.tokenString,
      malformed: "a.b.c",
      issuer_unknown: await issuer.jwt({ claims: { iss: "https://other.example" } }),
      audience: await issuer.jwt({ claims: { aud: "x" } }),
      type: await issuer.jwt({ header: { typ: "JWT" } }),
      claim_missing: await issuer.jwt({ without: ["exp"] }),
      expired: await issuer.jwt({ claims: { exp: at - 60 } }),
      too_old: await issuer.jwt({ claims: { iat: at - 4_000 } }),
      issued_at: await issuer.jwt({ claims: { iat: at + 600, exp: at + 900 } }),
      signature: await issuer.jwt({ key: 1 }),
      key_unknown: await issuer.jwt({ header: { kid: "x" } }),
      too_long: `${await issuer.jwt()}${"x".repeat(8_192)}`,
    };
    const faces = new Set<string>();
    for (const [reason, credential] of Object.entries(bad)) {
      const before = await metric(`sallyport_session_refusals_total{reason="${reason}"}`);
      const { status, challenge, text } = await call("TokenAdmin/ListTokens", {}, credential);
      // Only the request ids differ.
      faces.add(`${status} ${challenge} ${text.replace(/"[\w-]{36}"|"value":"[^"]*"/g, "")}`);
      const headers = { authorization: `Bearer ${credential}`, "content-type": "application/x-www-form-urlencoded" };
      const path = await sallyport.post("admin", "/v1/revoke", "token=x", headers);
      faces.add(`/v1/revoke ${path.status} ${await path.text()}`);
      if (reason === "") continue;
      expect(await metric(`sallyport_session_refusals_total{reason="${reason}"}`), reason).toBe(before + 2);
    }
    // At most ten lines a second are logged.
    const line = /"reason":"CALLER_UNAUTHENTICATED".*"err":\{"class":"SessionRefused","code":"malformed"\}/;
    await expect.poll(() => sallyport.program.out).toMatch(line);
    expect([...faces].sort()).toEqual([
      expect.stringMatching(
        /^\/v1\/revoke 401 \{"error":"invalid_client","error_description":"the credential is not good"/,
      ),
      expect.stringMatching(
        /^401 Bearer realm="sallyport" \{"code":"unauthenticated","message":"the credential is not good"/,
      ),
    ]);
  });

  test("is not tried as another kind: a session JWT opens no data listener, a token string is no session", async () => {
    const jwt = await issuer.jwt(of("ann", "admins"));
    const { tokenString } = await sallyport.createToken();
    const right = (await sallyport.callerWith(["sallyport.validate"])).tokenString;
    const validated = (bearer: string, text: string) =>
      sallyport.client(TokenValidator, "data", "connect", bearer).validateToken({ tokenString: text });
    expect(await outcome(validated(jwt, tokenString))).toBe("CALLER_UNAUTHENTICATED");
    expect((await validated(right, jwt)).verdict).toBe(2);
  });

  test("the break-glass secret comes before the form of a JWT", async () => {
    expect(await outcome(sallyport.as(GLASS).tenants.listTenants({}))).toBe("OK");
    expect(await outcome(sallyport.as(`${GLASS}x`).tenants.listTenants({}))).toBe("CALLER_UNAUTHENTICATED");
  });
});

describe("a session of one tenant", () => {
  test("creates, gets, lists, updates, rotates and revokes its own tokens, and sees nobody else's", async () => {
    const by = await as(of("ann"));
    const made = await by.tokens.createToken(pat("user:ann", { scopes: ["repo:read"] }));
    expect(made.token).toMatchObject({ tenant: "acme", principal: "user:ann", createdBy: "session:ann" });
    expect(made.warning).toMatch(/shown once/);
    const id = made.token!.id;
    const theirs = await sallyport.createToken({ tenant: "acme", principal: "user:bob" });
    expect((await by.tokens.getToken({ id })).token!.id).toBe(id);
    expect((await by.tokens.listTokens({})).tokens.map((one) => one.id)).toEqual([id]);
    const wider = { token: { id, scopes: ["repo:read", "repo:write"] }, updateMask: { paths: ["scopes"] } };
    expect((await by.tokens.updateToken(wider)).token!.scopes).toEqual(["repo:read", "repo:write"]);
    const rotated = await by.tokens.rotateToken({ id });
    expect(rotated.token).toMatchObject({ principal: "user:ann", scopes: ["repo:read", "repo:write"] });
    const target = { case: "id" as const, value: rotated.token!.id };
    expect((await by.tokens.revokeToken({ target })).token!.revokedBy).toBe("session:ann");
    const other = { case: "id" as const, value: theirs.id };
    for (const refused of [
      () => by.tokens.getToken({ id: theirs.id }),
      () =>
        by.tokens.updateToken({ token: { id: theirs.id, description: "x" }, updateMask: { paths: ["description"] } }),
      () => by.tokens.rotateToken({ id: theirs.id }),
      () => by.tokens.revokeToken({ target: other }),
    ]) {
      expect(await outcome(refused())).toBe("TOKEN_NOT_FOUND");
    }
    expect(await outcome(by.tokens.createToken(pat("user:bob")))).toBe("PRINCIPAL_NOT_FOUND");
    const { events } = await sallyport.admin.audit.listAuditEvents({ tenant: "acme", actor: "session:ann" });
    expect(events.map(({ action }) => action)).toEqual([
      "token.revoke",
      "token.rotate",
      "token.update",
      "token.create",
    ]);
  });

  test("gives no scope that it does not hold, at create, update and rotation", async () => {
    const by = await as(of("carl"));
    for (const scopes of [["deploy"], ["*"], ["repo.*"], ["sallyport.tokens.read"]])
      expect(await outcome(by.tokens.createToken(pat("user:carl", { scopes }))), scopes[0]).toBe("RIGHTS_EXCEEDED");
    const id = (await by.tokens.createToken(pat("user:carl"))).token!.id;
    const wider = { token: { id, scopes: ["deploy"] }, updateMask: { paths: ["scopes"] } };
    expect(await outcome(by.tokens.updateToken(wider))).toBe("RIGHTS_EXCEEDED");
    const stronger = await sallyport.createToken({ tenant: "acme", principal: "user:carl", scopes: ["deploy"] });
    expect(await outcome(by.tokens.rotateToken({ id: stronger.id }))).toBe("RIGHTS_EXCEEDED");
  });

  test("widens no token that it may not mint, and enables none that somebody disabled", async () => {
    const by = await as(of("kate"));
    const update = (id: string, token: object, path: string, who = by) =>
      outcome(who.tokens.updateToken({ token: { id, ...token }, updateMask: { paths: [path] } }));
    const given = await sallyport.createToken({
      ...{ tenant: "acme", principal: "user:kate", profile: "desk", scopes: ["repo:read"] },
    });
    expect(await update(given.id, { scopes: ["repo:read", "repo:write"] }, "scopes")).toBe("RIGHTS_EXCEEDED");
    expect(await update(given.id, { scopes: [] }, "scopes")).toBe("OK");
    const { id } = (await by.tokens.createToken(pat("user:kate"))).token!;
    expect(await update(id, { disabled: true }, "disabled", sallyport.admin)).toBe("OK");
    expect(await update(id, { disabled: false }, "disabled")).toBe("RIGHTS_EXCEEDED");
    expect(await update(id, { disabled: false }, "disabled", await as(of("kate", "makers")))).toBe("OK");
  });

  test("revokes its own token by RFC 7009, and by its string", async () => {
    const jwt = await issuer.jwt(of("dora"));
    const { tokenString, token } = await sallyport.as(jwt).tokens.createToken(pat("user:dora"));
    const headers = { authorization: `Bearer ${jwt}`, "content-type": "application/x-www-form-urlencoded" };
    const done = await sallyport.post("admin", "/v1/revoke", `token=${tokenString}`, headers);
    expect(done.status).toBe(200);
    expect((await sallyport.admin.tokens.getToken({ id: token!.id })).token!.revokedBy).toBe("session:dora");
  });

  test("has no rights without a mapped group, and a header of another tenant finds none", async () => {
    expect(await failure((await as(of("ann", "x"))).tokens.listTokens({}))).toMatchObject({
      code: "PermissionDenied",
      reason: "CALLER_FORBIDDEN",
    });
    const jwt = await issuer.jwt(of("ann"));
    expect((await call("TokenAdmin/ListTokens", {}, jwt, "acme")).status).toBe(200);
    expect((await call("TokenAdmin/ListTokens", {}, jwt, "globex")).text).toContain("TENANT_NOT_FOUND");
    const revoke = await sallyport.post("admin", "/v1/revoke", "token=x", {
      ...{ authorization: `Bearer ${jwt}`, "content-type": "application/x-www-form-urlencoded" },
      "x-sallyport-tenant": "globex",
    });
    expect(revoke.status).toBe(400);
  });
});

describe("tokens that only a person gets", () => {
  test("a pat is minted by a session of its user or by an administrator, never by another token", async () => {
    const maker = await as(of("eve", "makers"));
    expect(await outcome(maker.tokens.createToken(pat("user:eve")))).toBe("OK");
    expect(await outcome(maker.tokens.createToken(pat("user:frank")))).toBe("RIGHTS_EXCEEDED");
    const admin = await as(of("greta", "admins"));
    expect(await outcome(admin.tokens.createToken(pat("user:frank", { scopes: ["deploy"] })))).toBe("OK");
    expect(await outcome(admin.tokens.createToken(pat("user:greta")))).toBe("OK");
    expect(await outcome(sallyport.admin.tokens.createToken(pat("user:frank", { tenant: "acme" })))).toBe("OK");
    expect(await outcome(sallyport.as(GLASS).tokens.createToken(pat("user:frank", { tenant: "acme" })))).toBe("OK");
    const scopes = ["sallyport.tokens.create"];
    const mine = await sallyport.createToken({ ...pat("user:eve"), tenant: "acme", scopes });
    const byToken = sallyport.as(mine.tokenString);
    for (const principal of ["user:eve", "user:frank"])
      expect(await outcome(byToken.tokens.createToken(pat(principal))), principal).toBe("RIGHTS_EXCEEDED");
  });

  test("a profile with minted_by: [session] is for the session's own principal, and nobody else mints it", async () => {
    const cli = (principal: string, more: object = {}) => ({ ...pat(principal, more), profile: "cli" });
    expect(await outcome((await as(of("hugo"))).tokens.createToken(cli("user:hugo")))).toBe("OK");
    const admin = await as(of("greta", "admins"));
    expect(await outcome(admin.tokens.createToken(cli("user:hugo")))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(admin.tokens.createToken(cli("user:greta")))).toBe("OK");
    expect(await outcome(sallyport.admin.tokens.createToken(cli("user:hugo", { tenant: "acme" })))).toBe(
      "RIGHTS_EXCEEDED",
    );
    expect(await outcome(sallyport.as(GLASS).tokens.createToken(cli("user:hugo", { tenant: "acme" })))).toBe(
      "RIGHTS_EXCEEDED",
    );
  });
});

test("a session has what its roles give at each call: permissions and scopes, until they are changed or deleted", async () => {
  const by = await as(of("rosa", "ship"));
  const make = (scope: string) => outcome(by.tokens.createToken(pat("user:rosa", { scopes: [scope] })));
  const others = () => outcome(by.roles.listRoles({}));
  const roles = sallyport.admin.roles;
  const set = (scopes: string[]) =>
    roles.updateRole({ role: { tenant: "acme", name: "deployer", scopes }, updateMask: { paths: ["scopes"] } });
  // It has a mapped group, so its own tokens. A role that does not exist adds nothing, nor does one of another tenant.
  await roles.createRole({ role: { tenant: "globex", name: "deployer", scopes: ["deploy:all"] } });
  expect([await make("deploy:all"), await others(), await outcome(by.tokens.listTokens({}))]).toEqual([
    ...["RIGHTS_EXCEEDED", "CALLER_FORBIDDEN", "OK"],
  ]);
  await roles.createRole({ role: { tenant: "acme", name: "deployer", scopes: ["deploy:*", "sallyport.tokens.read"] } });
  expect([await make("deploy:all"), await others()]).toEqual(["OK", "OK"]);
  const { caller } = await by.info.getServerInfo({});
  expect(caller!.permissions).toEqual(["sallyport.tokens.read"]);
  await set(["deploy:*"]);
  expect([await make("deploy:all"), await others()]).toEqual(["OK", "CALLER_FORBIDDEN"]);
  await roles.deleteRole({ tenant: "acme", name: "deployer" });
  expect([await make("deploy:all"), await others()]).toEqual(["RIGHTS_EXCEEDED", "CALLER_FORBIDDEN"]);
});

test("a session in two tenants names one for each call; a request id belongs to one of them", async () => {
  const jwt = await issuer.jwt(of("ines", "staff", "globex"));
  const unnamed = await call("TokenAdmin/ListTokens", {}, jwt);
  expect(unnamed.text).toContain("x-sallyport-tenant must name the tenant of the call: the session has acme, globex");
  const who = await call("ServerInfo/GetServerInfo", {}, jwt, "globex");
  expect(who.json["caller"]).toMatchObject({
    ...{ provenance: "session:ines", kind: "session", tenant: "globex", tenants: ["acme", "globex"] },
  });
  const body = { ...pat("user:ines"), requestId: randomUUID() };
  const made = [];
  for (const tenant of ["acme", "globex", "acme"])
    made.push((await call("TokenAdmin/CreateToken", body, jwt, tenant)).json);
  const [first, other, again] = made as { token: { id: string; tenant: string }; tokenString: string }[];
  expect([first, other].map((one) => one!.token.tenant)).toEqual(["acme", "globex"]);
  expect(again).toMatchObject({ token: { id: first!.token.id }, tokenString: first!.tokenString });
  expect(other!.tokenString).not.toBe(first!.tokenString);
  const { json } = await call("TokenAdmin/ListTokens", {}, jwt, "globex");
  expect((json["tokens"] as { id: string }[]).map(({ id }) => id)).toEqual([other!.token.id]);
  expect((await call("TokenAdmin/GetToken", { id: first!.token.id }, jwt, "globex")).text).toContain("TOKEN_NOT_FOUND");
});

test("a session learns which profiles it may create", async () => {
  const may = async (made: Made) => {
    const { profiles } = await (await as(made)).info.getServerInfo({});
    return profiles.filter(({ canCreate }) => canCreate).map(({ name }) => name);
  };
  expect(await may(of("ann"))).toEqual(["pat", "adm", "cli"]);
  expect(await may(of("eve", "makers"))).toEqual(["pat", "bot", "svc", "org", "adm", "cli"]);
});

test("disabling a principal ends its session and its tokens, at the answer; enabling brings both back", async () => {
  const by = await as(of("judy"));
  const { tokenString } = await by.tokens.createToken(pat("user:judy"));
  const set = (state: PrincipalState) =>
    sallyport.admin.principals.updatePrincipal({
      ...{ principal: { tenant: "acme", name: "user:judy", state }, updateMask: { paths: ["state"] } },
    });
  const both = async () => [
    await outcome(by.tokens.listTokens({})),
    await outcome(sallyport.as(tokenString).tokens.listTokens({})),
  ];
  expect(await both()).toEqual(["OK", "OK"]);
  await set(PrincipalState.DISABLED);
  expect(await both()).toEqual(["CALLER_UNAUTHENTICATED", "CALLER_UNAUTHENTICATED"]);
  await set(PrincipalState.ACTIVE);
  expect(await both()).toEqual(["OK", "OK"]);
  await sallyport.admin.tenants.updateTenant({
    tenant: { id: "globex", state: TenantState.SUSPENDED },
    updateMask: { paths: ["state"] },
  });
  expect(await outcome((await as(of("judy", "globex"))).tokens.listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
});

test("the age of the issuer's keys is a metric, and an issuer that is down is UNAVAILABLE only without keys", async () => {
  await expect.poll(() => metric('sallyport_jwks_age_seconds{issuer="corp"}')).toBeGreaterThan(0);
  const down = await TestIssuer.open();
  down.instead = (_, res) => res.writeHead(503).end();
  await using cold = await TestSallyport.start({
    config: {
      callers: {
        oidc: [{ name: "down", issuer: down.url, audiences: [AUDIENCE], tenant: "acme", groups: [{ group: "*" }] }],
      },
    },
  });
  const refused = await failure(cold.as(await down.jwt()).tokens.listTokens({}));
  expect(refused).toMatchObject({ code: "Unavailable", reason: "ISSUER_UNAVAILABLE" });
  expect(refused.retryMs).toBeGreaterThan(20_000);
  expect(cold.program.out).toMatch(/"event":"issuer_unreachable","issuer":"down"/);
  await down.close();
});

test("check-config names file, key and bound of each problem, and two issuers with one sub_prefix exit 78", async () => {
  const place = folder();
  const one = { audiences: ["x"], tenant: "acme", groups: [{ group: "*" }] };
  const file = join(place.path, "sallyport.yaml");
  const config = (...oidc: object[]) => writeFileSync(file, JSON.stringify({ callers: { oidc } }));
  config({ ...one, name: "a", issuer: "https://a.example" }, { ...one, name: "b", issuer: "https://b.example" });
  const twice = await run(["check-config", "--config", file]);
  expect([twice.code, twice.err]).toEqual([
    78,
    expect.stringContaining("callers.oidc.1.sub_prefix: is that of another issuer"),
  ]);
  writeFileSync(join(place.path, "ca.pem"), "x");
  for (const ca of ["nothing.pem", "ca.pem"]) {
    config({ ...one, name: "a", issuer: "https://a.example", ca_file: join(place.path, ca) });
    const { code, err } = await run(["check-config", "--config", file]);
    expect([code, err]).toEqual([
      78,
      expect.stringMatching(/callers\.oidc\.0\.ca_file: \S+\.pem: (cannot be used|is not a PEM)/),
    ]);
  }
  place.remove();
});

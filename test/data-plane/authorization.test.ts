import { describe, expect, test } from "vitest";
import {
  type AuthorizationQuery,
  addressBy,
  ask,
  credentialHeaders,
  type Denial,
  facts,
  identityOf,
} from "../../src/data-plane/check/authorization.ts";
import { IDENTITY, Policies, type Policy, type PolicySettings } from "../../src/data-plane/policy.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import type { Validate, ValidationResult } from "../../src/validation/validate.ts";

const settings: PolicySettings = {
  required_scopes: ["items.read", "items.write"],
  audience: "https://api.example",
  tenant: "",
  tenant_from: "",
  carriers: ["bearer", "x-api-key", "basic"],
  realm: "api",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};
const policy = (more: Partial<PolicySettings> = {}): Policy =>
  new Policies({ it: { ...settings, ...more } }).get("it")!;
const snapshot = (more: Partial<TokenSnapshot> = {}): TokenSnapshot => ({
  version: { epoch: "e", position: 1 },
  id: "tok_0000000000000000000000",
  digest: "d",
  tenant: "acme",
  profile: "pat",
  principal: "user:ann",
  scopes: ["items.read"],
  roles: [],
  attachments: [],
  audiences: [],
  allowedCidrs: [],
  annotations: {},
  hint: "sp_pat_1abcdefgh",
  rotated: false,
  revoked: false,
  disabled: false,
  cut: false,
  principalState: "ACTIVE",
  tenantState: "ACTIVE",
  ...more,
});

describe("identity headers", () => {
  test("all five are set, and an empty value is a dash", () => {
    const { set, removed } = identityOf(policy(), snapshot({ scopes: [], tenant: "" }));
    expect(set).toEqual([
      ["x-auth-principal", "user:ann"],
      ["x-auth-tenant", "-"],
      ["x-auth-token-id", "tok_0000000000000000000000"],
      ["x-auth-scopes", "-"],
      ["x-auth-profile", "pat"],
    ]);
    expect(removed).toEqual(["x-auth-tenants"]);
    expect(identityOf(policy(), undefined).set).toEqual(IDENTITY.map((name) => [name, "-"]));
  });

  test("a renamed or omitted header is removed under its original name", () => {
    const { set, removed } = identityOf(
      policy({ headers: { "x-auth-principal": "x-user", "x-auth-scopes": false, "x-auth-profile": "x-auth-profile" } }),
      snapshot(),
    );
    expect(set.map(([name]) => name)).toEqual(["x-user", "x-auth-tenant", "x-auth-token-id", "x-auth-profile"]);
    expect(removed).toEqual(["x-auth-principal", "x-auth-scopes", "x-auth-tenants"]);
  });

  test("the tenant is the required one, and all are named only where the policy asks for them", () => {
    const attachments = [
      { tenant: "blue", tenantState: "ACTIVE", cut: false },
      { tenant: "green", tenantState: "ACTIVE", cut: true },
    ] as const;
    const guest = snapshot({ attachments });
    const sent = (more: Partial<PolicySettings>, of: TokenSnapshot | undefined = guest) => {
      const { set, removed } = identityOf(policy(more), of);
      return { ...Object.fromEntries(set), removed };
    };
    expect(sent({ tenant: "blue" })).toMatchObject({ "x-auth-tenant": "blue", removed: ["x-auth-tenants"] });
    expect(sent({})).toMatchObject({ "x-auth-tenant": "acme" });
    expect(facts(policy({ tenant: "blue" }), guest)).toMatchObject({ tenant: "blue" });
    const asking = { headers: { "x-auth-tenants": "x-auth-tenants" } };
    expect(sent(asking)).toMatchObject({ "x-auth-tenants": "acme blue", removed: [] });
    expect(sent(asking, snapshot())).toMatchObject({ "x-auth-tenants": "acme" });
    expect(sent({ headers: { "x-auth-tenants": "x-orgs" } })).toMatchObject({
      "x-orgs": "acme blue",
      removed: ["x-auth-tenants"],
    });
    expect(identityOf(policy(asking), undefined).set).toContainEqual(["x-auth-tenants", "-"]);
  });

  test("have at most 4 KiB together: the scopes are cut at a whole one", () => {
    const scopes = Array.from({ length: 100 }, (_, i) => `${String(i).padStart(3, "0")}${"s".repeat(125)}`);
    const largest = snapshot({
      scopes,
      principal: `service:${"p".repeat(128)}`,
      tenant: "t".repeat(63),
      profile: "f".repeat(32),
    });
    const { set } = identityOf(policy(), largest);
    const sent = set.find(([name]) => name === "x-auth-scopes")![1].split(" ");
    expect(sent.length).toBeGreaterThan(20);
    expect(sent).toEqual(scopes.slice(0, sent.length));
    expect(set.reduce((sum, [, value]) => sum + value.length, 0)).toBeLessThanOrEqual(4096);
  });

  test("omit a single scope that is too long", () => {
    const { set } = identityOf(policy(), snapshot({ scopes: ["s".repeat(5000)] }));
    expect(set).toContainEqual(["x-auth-scopes", "-"]);
  });

  test("percent-encode everything but visible ASCII", () => {
    const { set } = identityOf(policy(), snapshot({ principal: "user:jür\r\ngen" }));
    expect(set[0]).toEqual(["x-auth-principal", "user:j%C3%BCr%0D%0Agen"]);
  });

  test("the proxy's own log gets the facts and the hint, and nothing else", () => {
    expect(facts(policy(), snapshot())).toEqual({
      verdict: "ALLOW",
      principal: "user:ann",
      tenant: "acme",
      "token-id": "tok_0000000000000000000000",
      scopes: "items.read",
      profile: "pat",
      hint: "sp_pat_1abcdefgh",
    });
    expect(facts(policy(), undefined)).toEqual({ verdict: "ALLOW" });
  });

  test.each([
    [["bearer"], ["authorization"]],
    [["basic", "bearer"], ["authorization"]],
    [["x-api-key"], ["x-api-key"]],
    [
      ["bearer", "x-api-key"],
      ["authorization", "x-api-key"],
    ],
  ] as [Policy["carriers"], string[]][])("of the carriers %j the upstream does not see %j", (carriers, names) => {
    expect(credentialHeaders(policy({ carriers }))).toEqual(names);
    expect(credentialHeaders(policy({ carriers, keep_credential: true }))).toEqual([]);
  });
});

describe("the client's address", () => {
  const from = (source: Policy["clientAddress"], headers: Record<string, string[]>) =>
    addressBy(source, "203.0.113.1", (name) => headers[name] ?? []);

  test("of the peer is the address that the proxy saw, whatever the headers say", () => {
    expect(from("peer", { "x-forwarded-for": ["1.1.1.1"], "x-envoy-external-address": ["1.1.1.1"] })).toBe(
      "203.0.113.1",
    );
  });

  test("of a hop is counted from the right, over all lines; a missing hop is unknown", () => {
    const headers = { "x-forwarded-for": ["9.9.9.9, 1.1.1.1", " 2.2.2.2 "] };
    expect([1, 2, 3, 4].map((n) => from(`xff:${n}`, headers))).toEqual(["2.2.2.2", "1.1.1.1", "9.9.9.9", ""]);
    expect(from("xff:1", {})).toBe("");
  });

  test.each([
    ["203.0.113.7:51234", "203.0.113.7"],
    ["[2001:db8::5]:443", "2001:db8::5"],
    ["[2001:db8::5]", "2001:db8::5"],
  ])("may be written with a port: %s", (hop, address) => {
    expect(from("xff:1", { "x-forwarded-for": [`9.9.9.9, ${hop}`] })).toBe(address);
    expect(from("x-envoy-external-address", { "x-envoy-external-address": [hop] })).toBe(address);
  });

  test("of Envoy's header is known only if it occurs once", () => {
    const source = "x-envoy-external-address";
    expect(from(source, { [source]: [" 2.2.2.2 "] })).toBe("2.2.2.2");
    expect(from(source, { [source]: ["2.2.2.2", "3.3.3.3"] })).toBe("");
    expect(from(source, {})).toBe("");
  });
});

describe("the validation for a proxy", () => {
  const asked: unknown[][] = [];
  const saying =
    (verdict: ValidationResult["verdict"]): Validate =>
    (...given) => {
      asked.push(given);
      return { verdict, tier: "l1", ...(verdict === "ALLOW" && { snapshot: snapshot() }) } as ValidationResult;
    };
  const question = (more: Partial<AuthorizationQuery> = {}): AuthorizationQuery => ({
    policy: policy(),
    credential: { kind: "one", tokenString: "secret" },
    clientAddress: "203.0.113.1",
    preflight: false,
    ...more,
  });

  test("has the policy's requirement, the client's address and the deadline", async () => {
    asked.length = 0;
    expect(await ask(saying("ALLOW"), question(), 77)).toEqual({ kind: "allowed", snapshot: snapshot() });
    const requirement = { scopes: ["items.read", "items.write"], audience: "https://api.example", tenant: "" };
    expect(asked).toEqual([["secret", requirement, { clientAddress: "203.0.113.1" }, 77]]);
  });

  test("does not run without a credential, for a malformed one, or for a preflight that the policy allows", async () => {
    asked.length = 0;
    const none = await ask(saying("ALLOW"), question({ credential: { kind: "none" } }), 0);
    expect(none).toMatchObject({
      kind: "denied",
      status: 401,
      challenges: ['Bearer realm="api"', 'Basic realm="api"'],
    });
    const two = await ask(saying("ALLOW"), question({ credential: { kind: "malformed", why: "two" } }), 0);
    expect(two).toMatchObject({ status: 400, code: 3, challenges: ['Bearer realm="api", error="invalid_request"'] });
    const cors = policy({ allow_cors_preflight: true });
    expect(await ask(saying("ALLOW"), question({ policy: cors, preflight: true }), 0)).toEqual({
      kind: "allowed",
      snapshot: undefined,
    });
    expect(asked).toEqual([]);
  });

  test.each([
    [["bearer"], ['Bearer realm="api"']],
    [["basic"], ['Basic realm="api"']],
    [["x-api-key"], ['ApiKey realm="api"']],
    [["x-api-key", "basic"], ['Basic realm="api"']],
  ] as const)("of the carriers %j is refused with the challenges %j and no other", async (carriers, challenges) => {
    const none = question({ policy: policy({ carriers }), credential: { kind: "none" } });
    expect(await ask(saying("ALLOW"), none, 0)).toMatchObject({ status: 401, challenges });
    for (const verdict of ["INVALID_TOKEN", "INSUFFICIENT_SCOPE"] as const) {
      const outcome = await ask(saying(verdict), question({ policy: policy({ carriers }) }), 0);
      const schemes = (outcome as Denial).challenges.map((value) => value.split(" ")[0]);
      const expected = challenges.map((value) => value.split(" ")[0]);
      expect(schemes).toEqual(verdict === "INVALID_TOKEN" || carriers[0] === "bearer" ? expected : []);
    }
  });

  test("a preflight is a request like others if the policy does not allow it", async () => {
    const preflight = await ask(saying("ALLOW"), question({ preflight: true, credential: { kind: "none" } }), 0);
    expect(preflight).toMatchObject({ kind: "denied", status: 401 });
  });

  test.each([
    ["INVALID_TOKEN", 16, 401, ['Bearer realm="api", error="invalid_token"', 'Basic realm="api"']],
    ["WRONG_AUDIENCE", 16, 401, ['Bearer realm="api", error="invalid_token"', 'Basic realm="api"']],
    ["WRONG_TENANT", 7, 403, []],
    ["INSUFFICIENT_SCOPE", 7, 403, ['Bearer realm="api", error="insufficient_scope", scope="items.read items.write"']],
    ["ADDRESS_NOT_ALLOWED", 7, 403, []],
    ["RATE_LIMITED", 8, 429, []],
    ["UNDETERMINED", 14, 503, []],
  ] as const)("%s is %i and %i", async (verdict, code, status, challenges) => {
    const outcome = await ask(saying(verdict), question(), 0);
    expect(outcome).toMatchObject({ kind: "denied", verdict, code, status, challenges });
    const later: Validate = async (...given) => saying(verdict)(...given);
    expect(await ask(later, question(), 0)).toEqual(outcome);
  });
});

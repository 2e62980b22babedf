import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TrustRuleKind, type TrustRuleSchema } from "../../src/gen/sallyport/v1/federation_admin_pb.ts";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";
import { AUDIENCE, PLATFORMS } from "./platforms.ts";

const issuer = { name: "platform", issuer: "http://127.0.0.1:9/none" };
let one: TestSallyport;
beforeAll(async () => {
  one = await TestSallyport.start({ config: { federation: { issuers: [issuer] } } });
  for (const id of ["acme", "globex"]) await one.admin.tenants.createTenant({ tenant: { id } });
  for (const tenant of ["", "acme"]) await one.registered("bot:ci", tenant);
});
afterAll(() => one?.stop());

let made = 0;
type Rule = MessageInitShape<typeof TrustRuleSchema>;
const asked = (more: Rule = {}): Rule => ({
  ...{ name: `rule-${++made}`, issuer: "platform", audience: AUDIENCE, principal: "bot:ci", profile: "bot" },
  ...{ scopes: ["deploy"], ...PLATFORMS.github.rule, ...more },
});
const create = async (more: Rule = {}, by = one.admin) => {
  const { rule } = await by.federation.createTrustRule({ rule: asked(more) });
  return rule!;
};
const equal = (claim: string, value: string) => ({ claim, value: { case: "equals" as const, value } });
const begins = (claim: string, value: string) => ({ claim, value: { case: "prefix" as const, value } });
const GITHUB = PLATFORMS.github.rule.match;
const SPIFFE = TrustRuleKind.SPIFFE;

describe("a trust rule", () => {
  test("is created with defaults, read, listed, changed and deleted", async () => {
    const rule = await create({ tenant: "acme" });
    expect(rule).toMatchObject({ tenant: "acme", singleUse: true, maxMintsPerHour: 600, disabled: false });
    expect(rule.id).toMatch(/^trr_[0-9A-Za-z]{22}$/);
    expect([rule.maxTtl?.seconds, rule.maxTokenAge?.seconds]).toEqual([900n, 600n]);
    const { name } = rule;
    const place = { tenant: "acme", name };
    expect((await one.admin.federation.getTrustRule(place)).rule).toEqual(rule);
    expect((await one.admin.federation.listTrustRules({ tenant: "acme" })).rules).toEqual([rule]);
    expect(await outcome(create({ tenant: "acme", name }))).toBe("RULE_EXISTS");
    const { rule: changed } = await one.admin.federation.updateTrustRule({
      rule: { ...place, etag: rule.etag, scopes: ["a"], maxTtl: seconds(60), singleUse: false, maxMintsPerHour: 5 },
      updateMask: { paths: ["scopes", "max_ttl", "single_use", "max_mints_per_hour"] },
    });
    expect(changed).toMatchObject({ scopes: ["a"], maxTtl: { seconds: 60n }, singleUse: false, maxMintsPerHour: 5 });
    const match = [...GITHUB.slice(0, 3), begins("ref", "refs/tags/")];
    const update = { rule: { ...place, match }, updateMask: { paths: ["match"] } };
    expect((await one.admin.federation.updateTrustRule(update)).rule?.match).toMatchObject(match);
    expect(
      await outcome(one.admin.federation.updateTrustRule({ ...update, rule: { ...update.rule, etag: "1" } })),
    ).toBe("ETAG_MISMATCH");
    await one.admin.federation.deleteTrustRule(place);
    for (const call of [
      one.admin.federation.getTrustRule(place),
      one.admin.federation.updateTrustRule(update),
      one.admin.federation.deleteTrustRule({ tenant: "acme", name: "never" }),
    ]) {
      expect(await outcome(call)).toBe("RULE_NOT_FOUND");
    }
    const again = await create({ tenant: "acme", name });
    expect(again.id).not.toBe(rule.id);
    const { events } = await one.admin.audit.listAuditEvents({ tenant: "acme", target: `rule:${rule.id}` });
    expect(events.map(({ action }) => action)).toEqual(["rule.delete", "rule.update", "rule.update", "rule.create"]);
  });

  test("of Kubernetes is for many uses unless it says otherwise", async () => {
    expect(await create(PLATFORMS.kubernetes.rule)).toMatchObject({ singleUse: false });
    expect(await create({ ...PLATFORMS.kubernetes.rule, singleUse: true })).toMatchObject({ singleUse: true });
  });

  test.each<[string, Rule, string]>([
    ["no audience", { audience: "" }, "rule.audience"],
    ["no match", { match: [] }, "rule.match"],
    ["no kind", { kind: TrustRuleKind.UNSPECIFIED }, "rule.kind"],
    ["an issuer that is not configured", { issuer: "other" }, "rule.issuer"],
    ["an unknown profile", { profile: "none" }, "rule.profile"],
    ["a principal of another type", { principal: "user:ann" }, "principal"],
    ["a bad name", { name: "No" }, "rule.name"],
    ["a life beyond an hour", { maxTtl: seconds(3601) }, "rule.max_ttl"],
    ["no life", { maxTtl: seconds(0) }, "rule.max_ttl"],
    ["an age beyond a day", { maxTokenAge: seconds(86_401) }, "rule.max_token_age"],
    ["a prefix of one segment", { match: [...GITHUB, begins("actor", "ann/")] }, "rule.match"],
    ["a prefix of one segment and slashes", { kind: SPIFFE, match: [begins("sub", "spiffe://")] }, "rule.match"],
    ["a prefix that ends in a letter", { match: [...GITHUB, begins("workflow_ref", "acme/app")] }, "rule.match"],
    ["a claim twice", { match: [...GITHUB, equal("ref", "refs/heads/other")] }, "rule.match"],
    ["a claim that is checked apart", { match: [...GITHUB, equal("aud", AUDIENCE)] }, "rule.match"],
    ["a claim that is checked apart, as pointer", { match: [...GITHUB, equal("/iss", "x")] }, "rule.match"],
    ["control characters", { match: [...GITHUB, equal("actor", "a\u0007")] }, "rule.match"],
    ["no owner of the repository", { match: GITHUB.slice(1) }, "rule.match"],
    ["no repository", { match: [GITHUB[0], ...GITHUB.slice(2)] }, "rule.match"],
    ["an owner by prefix", { match: [begins("repository_owner_id", "6/5/"), ...GITHUB.slice(1)] }, "rule.match"],
    ["an owner by name", { match: [equal("repository_owner_id", "acme"), ...GITHUB.slice(1)] }, "rule.match"],
    ["any workflow", { match: [...GITHUB.slice(0, 2), equal("ref", "refs/heads/main")] }, "rule.match"],
    ["any project", { kind: TrustRuleKind.GITLAB, match: [equal("ref", "main")] }, "rule.match"],
    ["a project by name", { kind: TrustRuleKind.GITLAB, match: [equal("project_id", "g/app")] }, "rule.match"],
    ["no service account", { kind: TrustRuleKind.KUBERNETES, match: [equal("sub", "shop:deployer")] }, "rule.match"],
    [
      "service accounts by prefix",
      { kind: TrustRuleKind.KUBERNETES, match: [begins("sub", "system:serviceaccount:shop:")] },
      "rule.match",
    ],
    ["no SPIFFE id", { kind: SPIFFE, match: [equal("sub", "prod.example/app")] }, "rule.match"],
    ["a trust domain alone", { kind: SPIFFE, match: [equal("sub", "spiffe://prod.example")] }, "rule.match"],
    [
      "a prefix of a trust domain's name",
      { kind: SPIFFE, match: [begins("sub", "spiffe://prod.example:")] },
      "rule.match",
    ],
  ])("with %s is INVALID_FIELD", async (_, more, field) => {
    const { reason, violations, message } = await failure(create(more));
    expect([reason, violations[0]?.field ?? message]).toEqual(["INVALID_FIELD", field]);
  });

  test("that becomes bad by an update is INVALID_FIELD, and stays as it was", async () => {
    const rule = await create();
    for (const [paths, change] of [
      [["match"], { match: GITHUB.slice(2) }],
      [["audience"], { audience: "" }],
      [["max_ttl"], { maxTtl: seconds(7200) }],
      [["max_ttl"], {}],
      [["name"], { name: "x" }],
      [["issuer"], { issuer: "x" }],
    ] as const) {
      const update = { rule: { name: rule.name, ...change }, updateMask: { paths: [...paths] } };
      expect(await outcome(one.admin.federation.updateTrustRule(update)), paths[0]).toMatch(/INVALID_FIELD|RULE_NOT/);
    }
    expect((await one.admin.federation.getTrustRule({ name: rule.name })).rule).toEqual(rule);
  });

  test("cannot become another one behind the program's back", async () => {
    const { id } = await create();
    const tampered = one.sql("update sallyport.trust_rules set principal = 'bot:other' where id = $1", [id]);
    await expect(tampered).rejects.toThrow("cannot be changed");
    await expect(one.sql("update sallyport.trust_rules set scopes = '{x}' where id = $1", [id])).rejects.toThrow(
      "audit",
    );
  });
});

describe("the writer of a rule", () => {
  test("gives no scope that it does not have itself, at creation and at each change", async () => {
    const { tokenString } = await one.callerWith(["sallyport.federation.write", "sallyport.tokens.create", "deploy"], {
      lifetime: { case: undefined },
    });
    // A token with an end, as all of profile adm have: it lets no rule last.
    expect(await outcome(create({}, one.as(tokenString)))).toBe("RIGHTS_EXCEEDED");
    const rule = await create();
    const by = one.as((await one.callerWith(["sallyport.federation.write", "deploy"])).tokenString);
    const update = (scopes: string[]) =>
      by.federation.updateTrustRule({ rule: { name: rule.name, scopes }, updateMask: { paths: ["scopes"] } });
    expect(await outcome(update(["deploy", "more"]))).toBe("RIGHTS_EXCEEDED");
    // It may end the rule.
    const end = { rule: { name: rule.name, disabled: true }, updateMask: { paths: ["disabled"] } };
    expect(await outcome(by.federation.updateTrustRule(end))).toBe("OK");
    const enable = { rule: { name: rule.name, disabled: false }, updateMask: { paths: ["disabled"] } };
    expect(await outcome(by.federation.updateTrustRule(enable))).toBe("RIGHTS_EXCEEDED");
  });

  test("of a tenant gives no administrative scopes beyond its own, and does not end an operator's rule", async () => {
    const admin = one.as((await one.callerWith(["sallyport.admin"], { tenant: "acme" })).tokenString);
    const adm = { profile: "adm", principal: "bot:ci" };
    expect(await outcome(create({ ...adm, scopes: ["sallyport.operator"] }, admin))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(create({ ...adm, scopes: ["sallyport.admin"] }, admin))).toBe("OK");
    expect(await outcome(create({ scopes: ["sallyport.admin"] }, admin))).toBe("RIGHTS_EXCEEDED");
    const own = await create({ ...adm, scopes: ["deploy"] }, admin);
    for (const scopes of [["sallyport.operator"], ["deploy", "sallyport.tenants"]]) {
      const widen = { rule: { name: own.name, scopes }, updateMask: { paths: ["scopes"] } };
      expect(await outcome(admin.federation.updateTrustRule(widen))).toBe("RIGHTS_EXCEEDED");
    }
    const high = await create({ ...adm, tenant: "acme", scopes: ["sallyport.operator"] });
    expect(await outcome(admin.federation.deleteTrustRule({ name: high.name }))).toBe("RIGHTS_EXCEEDED");
    const end = { rule: { name: high.name, disabled: true }, updateMask: { paths: ["disabled"] } };
    expect(await outcome(admin.federation.updateTrustRule(end))).toBe("RIGHTS_EXCEEDED");
  });

  test("reaches its own tenant only", async () => {
    const { name } = await create({ tenant: "acme" });
    const other = one.as((await one.callerWith(["sallyport.admin"], { tenant: "globex" })).tokenString);
    expect(await outcome(other.federation.getTrustRule({ tenant: "acme", name }))).toBe("TENANT_NOT_FOUND");
    expect(await outcome(other.federation.getTrustRule({ name }))).toBe("RULE_NOT_FOUND");
    expect(await outcome(other.federation.deleteTrustRule({ name }))).toBe("RULE_NOT_FOUND");
    expect((await other.federation.listTrustRules({})).rules).toEqual([]);
  });

  test("needs a principal that exists, of the types that are registered", async () => {
    expect(await outcome(create({ principal: "bot:nobody" }))).toBe("PRINCIPAL_NOT_FOUND");
    expect(await outcome(create({ tenant: "globex" }))).toBe("PRINCIPAL_NOT_FOUND");
  });
});

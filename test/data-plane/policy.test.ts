import { describe, expect, test } from "vitest";
import { merged, Policies, type PolicySettings } from "../../src/data-plane/policy.ts";

const settings: PolicySettings = {
  required_scopes: ["items.read"],
  audience: "https://api.example",
  tenant: "",
  tenant_from: "",
  carriers: ["bearer"],
  realm: "api",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};
const policies = new Policies({ api: settings });
const asked = (extensions: Record<string, string>) => merged(policies, new Map(Object.entries(extensions)));

describe("a policy with the proxy's context extensions for a route", () => {
  test("scopes are added, each once; audience and realm are replaced", () => {
    expect(asked({ policy: "api", required_scopes: " items.write  items.read ", audience: "b", realm: "c" })).toEqual({
      ...policies.get("api")!,
      requirement: { scopes: ["items.read", "items.write"], audience: "b", tenant: "" },
      realm: "c",
    });
  });

  test("is remembered within a bound in bytes, and a large route is not", () => {
    const mine = new Policies({ api: settings });
    let most = 0;
    for (let route = 0; route < 5_000; route++) {
      const raw = `${route}${"r".repeat(4_000)}`;
      expect(mine.forRoute(raw, () => new Map([["realm", `r${route}`]]))?.realm).toBe(`r${route}`);
      most = Math.max(most, mine.bytes);
    }
    expect(most).toBeLessThanOrEqual(1 << 20);
    expect(most).toBeGreaterThan(1 << 19);
    const large = "r".repeat(100_000);
    mine.replace({ api: settings });
    expect(mine.forRoute(large, () => new Map([["realm", "l"]]))?.realm).toBe("l");
    expect(mine.bytes).toBe(0);
  });

  test("is merged once for each route, and again when the policies are replaced", () => {
    const mine = new Policies({ api: settings });
    let made = 0;
    const read = () => {
      made++;
      return new Map([
        ["policy", "api"],
        ["realm", "c"],
      ]);
    };
    expect(mine.forRoute("a route", read)).toBe(mine.forRoute("a route", read));
    expect(made).toBe(1);
    expect(mine.forRoute("another", () => new Map([["policy", "none"]]))).toBeUndefined();
    mine.replace({ api: { ...settings, required_scopes: ["now"] } });
    expect(mine.forRoute("a route", read)?.requirement.scopes).toEqual(["now"]);
  });

  test("is the policy itself without extensions, so that cached answers are found again", () => {
    expect(asked({ policy: "api" })).toBe(policies.get("api"));
    expect(asked({ policy: "api", sni: "whatever" })).toBe(policies.get("api"));
  });

  test("a tenant replaces that of the policy, and the header that would name one", () => {
    const mine = new Policies({ a: { ...settings, tenant: "blue" }, b: { ...settings, tenant_from: "header:x-org" } });
    const of = (policy: string) => merged(mine, new Map(Object.entries({ policy, tenant: "red" })));
    for (const policy of ["a", "b"]) {
      expect(of(policy)).toMatchObject({ requirement: { tenant: "red" }, tenantFrom: undefined });
    }
    expect(mine.get("a")?.requirement.tenant).toBe("blue");
    expect(mine.get("b")?.tenantFrom).toBe("x-org");
  });

  test("scopes can only be added: an empty list takes none away", () => {
    expect(asked({ policy: "api", required_scopes: "" })?.requirement.scopes).toEqual(["items.read"]);
  });

  test("an empty audience replaces, too: any token with the scopes is then accepted", () => {
    expect(asked({ policy: "api", audience: "" })?.requirement.audience).toBe("");
  });

  test("without a name is `default`, which requires nothing until the configuration says otherwise", () => {
    expect(asked({})?.requirement).toEqual({ scopes: [], audience: "", tenant: "" });
    const stated = new Policies({ default: settings });
    expect(merged(stated, new Map())?.requirement.scopes).toEqual(["items.read"]);
  });

  test.each(["", "API", "toString", "__proto__", "api/", "api "])("%j names no policy", (policy) => {
    expect(asked({ policy })).toBeUndefined();
  });

  test("a realm cannot break out of its quotes, nor into another header", () => {
    expect(asked({ policy: "api", realm: 'a", error="x\\\r\nset-cookie: y' })?.realm).toBe("a, error=xset-cookie: y");
    expect(asked({ policy: "api", realm: "x".repeat(500) })?.realm).toHaveLength(64);
  });
});

test("a reload replaces all policies, and a removed one is unknown", () => {
  const reloaded = new Policies({ old: settings });
  reloaded.replace({ fresh: { ...settings, realm: "fresh" } });
  expect([reloaded.get("old"), reloaded.get("fresh")?.realm]).toEqual([undefined, "fresh"]);
});

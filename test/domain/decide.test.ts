import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decide, liveTenants, NO_REQUIREMENT, refusal, type TimeBounds } from "../../src/domain/decide.ts";
import { addressAllowed, isAddress, isCidr } from "../../src/domain/networks.ts";
import type { Attachment, TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { snapshot } from "../support/token-snapshot.ts";

const NOW: TimeBounds = { lower: 1000, upper: 1010 };
const HERE = { clientAddress: "10.1.2.3" };
const of = (over: Partial<TokenSnapshot> = {}) => snapshot(1, over);
const live = { revoked: false, disabled: false, cut: false };

describe("a token that is not live is refused for every requirement,", () => {
  test.each<[string, Partial<TokenSnapshot>, string]>([
    ["when it is revoked", { revoked: true }, "revoked"],
    ["when it was issued before a cut", { cut: true }, "revoked"],
    ["when it is disabled", { disabled: true }, "disabled"],
    ["when its principal is disabled", { principalState: "DISABLED" }, "disabled"],
    ["when its principal is deleted", { principalState: "DELETED" }, "principal_gone"],
    ["when its tenant is suspended", { tenantState: "SUSPENDED" }, "disabled"],
    ["when it may have expired", { expire: 1010 }, "expired"],
    ["when it may not be valid yet", { notBefore: 1001 }, "not_yet_valid"],
    [
      "when its parent is revoked",
      { parent: { ...live, digest: "q", audiences: [], allowedCidrs: [], revoked: true } },
      "revoked",
    ],
    [
      "when its parent was cut",
      { parent: { ...live, digest: "q", audiences: [], allowedCidrs: [], cut: true } },
      "revoked",
    ],
    [
      "when its parent is disabled",
      { parent: { ...live, digest: "q", audiences: [], allowedCidrs: [], disabled: true } },
      "revoked",
    ],
    [
      "when its parent may have expired",
      { parent: { ...live, digest: "q", audiences: [], allowedCidrs: [], expire: 1010 } },
      "revoked",
    ],
    [
      "when its parent may not be valid yet",
      { parent: { ...live, digest: "q", audiences: [], allowedCidrs: [], notBefore: 1001 } },
      "revoked",
    ],
    ["for good before for now", { revoked: true, disabled: true, expire: 1, tenantState: "SUSPENDED" }, "revoked"],
  ])("%s", (_, over, reason) => {
    expect(refusal(of(over), NOW)).toBe(reason);
    expect(decide(of(over), NO_REQUIREMENT, HERE, NOW)).toEqual({ verdict: "INVALID_TOKEN", reason });
    const demanding = { scopes: ["x"], audience: "y", tenant: "z" };
    expect(decide(of({ ...over, allowedCidrs: ["192.0.2.0/24"] }), demanding, HERE, NOW)).toEqual({
      verdict: "INVALID_TOKEN",
      reason,
    });
  });
});

describe("the bounds of time", () => {
  test("an expiry is judged by the upper bound and a not-before by the lower: early, never late", () => {
    expect(refusal(of({ expire: 1011 }), NOW)).toBeUndefined();
    expect(refusal(of({ expire: 1010 }), NOW)).toBe("expired");
    expect(refusal(of({ notBefore: 1000 }), NOW)).toBeUndefined();
    expect(refusal(of({ notBefore: 1001 }), NOW)).toBe("not_yet_valid");
  });

  test("a token that is refused for its age stays refused at every later time", () => {
    fc.assert(
      fc.property(fc.nat(1000), fc.nat(1000), fc.nat(1000), (expire, at, later) => {
        const token = of({ expire });
        if (refusal(token, { lower: at, upper: at }) === "expired") {
          expect(refusal(token, { lower: at + later, upper: at + later })).toBe("expired");
        }
      }),
    );
  });
});

describe("a live token", () => {
  test("is judged by address, then audience, then tenant, then scopes, and every answer shows it", () => {
    const token = of({ scopes: ["repo:*"], audiences: ["a"], allowedCidrs: ["10.0.0.0/8"] });
    const ask = (scopes: string[], audience: string, clientAddress: string, tenant = "") =>
      decide(token, { scopes, audience, tenant }, { clientAddress }, NOW);
    expect(ask(["deploy"], "b", "192.0.2.1")).toEqual({ verdict: "ADDRESS_NOT_ALLOWED", snapshot: token });
    expect(ask(["deploy"], "b", "10.0.0.1")).toEqual({ verdict: "WRONG_AUDIENCE", snapshot: token });
    expect(ask(["deploy"], "b", "10.0.0.1", "other")).toEqual({ verdict: "WRONG_AUDIENCE", snapshot: token });
    expect(ask(["deploy"], "a", "10.0.0.1", "other")).toEqual({ verdict: "WRONG_TENANT", snapshot: token });
    expect(ask(["repo:x", "deploy"], "a", "10.0.0.1", token.tenant)).toEqual({
      verdict: "INSUFFICIENT_SCOPE",
      snapshot: token,
      missingScopes: ["deploy"],
    });
    expect(ask(["repo:x"], "a", "10.0.0.1")).toEqual({ verdict: "ALLOW", snapshot: token });
  });

  test("is live in its own tenant, and in those that it is attached to if they are active and did not cut it since", () => {
    const attachment = (tenant: string, over: Partial<Attachment> = {}): Attachment => {
      return { tenant, tenantState: "ACTIVE", cut: false, ...over };
    };
    const attachments = [
      attachment("blue"),
      attachment("green", { cut: true }),
      attachment("red", { tenantState: "SUSPENDED" }),
      attachment("white"),
    ];
    const token = of({ attachments });
    const verdict = (tenant: string) => decide(token, { ...NO_REQUIREMENT, tenant }, HERE, NOW).verdict;
    for (const tenant of ["", token.tenant, "blue", "white"]) expect(verdict(tenant), tenant).toBe("ALLOW");
    for (const tenant of ["green", "red", "black", "blu", "bluee", "Blue", " blue"]) {
      expect(verdict(tenant), tenant).toBe("WRONG_TENANT");
    }
    expect(liveTenants(token)).toEqual(["blue", "white"]);
    // Its own tenant ends it everywhere.
    const over = of({ attachments, tenantState: "SUSPENDED" });
    expect(decide(over, { ...NO_REQUIREMENT, tenant: "blue" }, HERE, NOW).verdict).toBe("INVALID_TOKEN");
  });

  test("without audiences is accepted for every audience, and with audiences only for those", () => {
    const verdict = (audiences: string[], audience: string) =>
      decide(of({ audiences }), { ...NO_REQUIREMENT, audience }, HERE, NOW).verdict;
    expect(verdict([], "anything")).toBe("ALLOW");
    expect(verdict([], "")).toBe("ALLOW");
    expect(verdict(["a", "b"], "b")).toBe("ALLOW");
    for (const audience of ["", "c", "A", "a "]) expect(verdict(["a", "b"], audience)).toBe("WRONG_AUDIENCE");
  });

  test("that is bound to networks is refused if the address is missing or invalid", () => {
    const token = of({ allowedCidrs: ["0.0.0.0/0", "::/0"] });
    for (const clientAddress of ["", "unknown", "10.0.0.1:80", "10.0.0.256", "fe80::1%eth0x y", "10.0.0.1, 10.0.0.2"]) {
      expect(decide(token, NO_REQUIREMENT, { clientAddress }, NOW).verdict, clientAddress).toBe("ADDRESS_NOT_ALLOWED");
    }
    for (const clientAddress of ["10.0.0.1", "2001:db8::1"])
      expect(decide(token, NO_REQUIREMENT, { clientAddress }, NOW).verdict).toBe("ALLOW");
  });
});

describe("networks", () => {
  test.each([
    ["10.0.0.0/8", "10.255.255.255", true],
    ["10.0.0.0/8", "11.0.0.0", false],
    ["192.0.2.7", "192.0.2.7", true],
    ["192.0.2.7", "192.0.2.8", false],
    ["192.0.2.0/31", "192.0.2.1", true],
    ["0.0.0.0/0", "255.255.255.255", true],
    ["2001:db8::/32", "2001:db8:ffff::1", true],
    ["2001:db8::/32", "2001:db9::1", false],
    ["::1", "::1", true],
    // An IPv4 address in IPv6 form counts as the IPv4 address.
    ["10.0.0.0/8", "::ffff:10.1.2.3", true],
    ["10.0.0.0/8", "::ffff:11.1.2.3", false],
    // ::/0 holds every address, so also the mapped ones. No other IPv6 network holds an IPv4 address.
    ["::/0", "10.0.0.1", true],
    ["2000::/3", "10.0.0.1", false],
  ])("%s holds %s: %s", (cidr, address, expected) => {
    expect(addressAllowed([cidr], address)).toBe(expected);
  });

  test("are an address, or an address with a prefix length, and nothing else", () => {
    for (const good of ["10.0.0.0/8", "10.0.0.1", "::1", "::/0", "2001:db8::/128", "0.0.0.0/0", "10.1.2.3/8"])
      expect(isCidr(good), good).toBe(true);
    for (const bad of [
      "",
      "10.0.0.0/33",
      "::/129",
      "10.0.0.0/",
      "10.0.0.0/-1",
      "10.0.0.0/8/8",
      "10.0.0",
      "localhost",
      "10.0.0.0/8 ",
      "fe80::1%eth0",
      "10.0.0.0/1e1",
      "010.0.0.0/8",
    ]) {
      expect(isCidr(bad), bad).toBe(false);
    }
  });

  test("an address is an IP address, without a zone", () => {
    expect(["10.0.0.1", "::1", "", "x", "fe80::1%eth0", "10.0.0.1/8"].map(isAddress)).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
  });
});

test("the decision is a pure function of snapshot, requirement and time: no other input can widen it", () => {
  const flags = fc.record({
    revoked: fc.boolean(),
    disabled: fc.boolean(),
    cut: fc.boolean(),
    expire: fc.option(fc.integer({ min: 900, max: 1100 }), { nil: undefined }),
    notBefore: fc.option(fc.integer({ min: 900, max: 1100 }), { nil: undefined }),
    principalState: fc.constantFrom("ACTIVE" as const, "DISABLED" as const, "DELETED" as const),
    tenantState: fc.constantFrom("ACTIVE" as const, "SUSPENDED" as const),
  });
  fc.assert(
    fc.property(flags, (over) => {
      const allowed = decide(of(over), NO_REQUIREMENT, HERE, NOW).verdict === "ALLOW";
      const should =
        !over.revoked &&
        !over.disabled &&
        !over.cut &&
        over.principalState === "ACTIVE" &&
        over.tenantState === "ACTIVE" &&
        (over.expire === undefined || over.expire > NOW.upper) &&
        (over.notBefore === undefined || over.notBefore <= NOW.lower);
      expect(allowed).toBe(should);
    }),
    { numRuns: 3000 },
  );
});

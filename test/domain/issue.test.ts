import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import { holds } from "../../src/domain/caller.ts";
import { AppError } from "../../src/domain/errors.ts";
import * as rules from "../../src/domain/issue.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import { BUILT_IN_PROFILES, type Profile } from "../../src/domain/profile.ts";
import { covers, coversAny } from "../../src/domain/scope.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";

const profile = (name: string): Profile => BUILT_IN_PROFILES.find((one) => one.name === name)!;
const caller = (scopes: readonly string[], over: Partial<Caller> = {}): Caller => ({
  kind: "token",
  provenance: "token:x",
  tenant: "acme",
  principal: "user:maker",
  scopes,
  address: "",
  direct: true,
  ...over,
});
const reason = (act: () => unknown): string => {
  try {
    act();
    return "OK";
  } catch (error) {
    return (error as AppError).reason;
  }
};
const fieldOf = (act: () => unknown) => {
  try {
    act();
  } catch (error) {
    if (error instanceof AppError) return error.violations[0]?.field;
  }
  return undefined;
};

const OURS = [
  "sallyport.operator",
  "sallyport.admin",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
  "sallyport.tokens.*",
  "sallyport.principals.write",
  "sallyport.roles.write",
  "sallyport.audit.read",
  "sallyport.validate",
  "sallyport.reasons",
  "sallyport.*",
  "sallyport.future",
];
const THEIRS = ["repo:read", "repo:write", "repo:*", "repo:a:*", "user.read", "user.*", "deploy", "bootstrap", "x:*"];
const scopes = fc.subarray([...OURS, ...THEIRS], { maxLength: 5 });

describe("rights only shrink: a lattice", () => {
  /** The permissions that a set of scopes opens: each permission, each exact scope of the world. */
  const WORLD = [...OURS, ...THEIRS, "repo:delete", "user.write", "sallyport.tokens.purge", "sallyport.x"];
  const power = (granted: readonly string[]) => new Set(WORLD.filter((one) => coversAny(granted, one)));

  test("a caller without sallyport.admin grants only rights that it has itself: over 10,000 cases", () => {
    let granted = 0;
    fc.assert(
      fc.property(scopes, scopes, fc.constantFrom(...BUILT_IN_PROFILES), (held, asked, kind) => {
        const by = caller(held);
        fc.pre(!holds(by, "sallyport.admin"));
        if (reason(() => rules.checkScopes(kind, by, asked)) !== "OK") return;
        granted += asked.length > 0 ? 1 : 0;
        for (const one of power(asked)) expect(coversAny(held, one), `${one} of ${asked} by ${held}`).toBe(true);
      }),
      { numRuns: 10_000 },
    );
    expect(granted).toBeGreaterThan(50);
  });

  test("only an operator grants a permission that it does not hold, and no caller grants one beyond its tenant: over 10,000 cases", () => {
    fc.assert(
      fc.property(scopes, scopes, fc.constantFrom(...BUILT_IN_PROFILES), (held, asked, kind) => {
        const by = caller(held);
        fc.pre(!holds(by, "sallyport.operator"));
        if (reason(() => rules.checkScopes(kind, by, asked)) !== "OK") return;
        const heir = caller(asked);
        for (const permission of OURS)
          if (holds(heir, permission)) expect(holds(by, permission), `${permission} of ${asked} by ${held}`).toBe(true);
        expect(holds(heir, "sallyport.operator")).toBe(false);
      }),
      { numRuns: 10_000 },
    );
  });

  test("rights never grow over generations of minted tokens", () => {
    fc.assert(
      fc.property(scopes, fc.array(scopes, { minLength: 1, maxLength: 5 }), (first, generations) => {
        let held: readonly string[] = first;
        for (const asked of generations) {
          if (reason(() => rules.checkScopes(profile("adm"), caller(held), asked)) === "OK") held = asked;
        }
        const heir = caller(held);
        for (const permission of OURS) if (holds(heir, permission)) expect(holds(caller(first), permission)).toBe(true);
      }),
      { numRuns: 5000 },
    );
  });

  test("operators and administrators grant application scopes freely, although they hold none of them", () => {
    for (const permission of ["sallyport.operator", "sallyport.admin"]) {
      expect(reason(() => rules.checkScopes(profile("pat"), caller([permission]), THEIRS))).toBe("OK");
    }
    expect(reason(() => rules.checkScopes(profile("pat"), caller(["sallyport.tokens.*"]), ["deploy"]))).toBe(
      "RIGHTS_EXCEEDED",
    );
  });

  test("only adm tokens hold sallyport. scopes other than validate, reasons and tokens", () => {
    const operator = caller(["sallyport.operator"]);
    for (const name of ["pat", "bot", "svc", "org"]) {
      for (const one of OURS) {
        const ordinary = /^sallyport\.(validate|reasons|tokens\.(\*|create|read|revoke))$/.test(one);
        expect(
          reason(() => rules.checkScopes(profile(name), operator, [one])),
          `${name} ${one}`,
        ).toBe(ordinary ? "OK" : "RIGHTS_EXCEEDED");
      }
    }
    for (const one of OURS) expect(reason(() => rules.checkScopes(profile("adm"), operator, [one]))).toBe("OK");
  });
});

describe("the minters of a profile", () => {
  test.each([
    ["a token for its own principal", caller([]), "acme", "user:maker", "token"],
    ["an administrator's token for its own principal", caller(["sallyport.operator"]), "acme", "user:maker", "token"],
    ["a session for itself", caller([], { kind: "session" }), "acme", "user:maker", "session"],
    [
      "a session with every permission of tokens for somebody else",
      caller(["sallyport.tokens.*"], { kind: "session" }),
      "acme",
      "user:other",
      "creator",
    ],
    [
      "a session for one of its name in another tenant",
      caller([], { kind: "session" }),
      "globex",
      "user:maker",
      "creator",
    ],
    [
      "an administrator's session for somebody else",
      caller(["sallyport.admin"], { kind: "session" }),
      "acme",
      "user:other",
      "admin",
    ],
    ["an administrator for somebody else", caller(["sallyport.admin"]), "acme", "user:other", "admin"],
    ["an operator for somebody else", caller(["sallyport.operator"]), "acme", "user:other", "admin"],
    ["break-glass", caller(["sallyport.operator"], { kind: "break-glass", principal: "" }), "acme", "user:x", "admin"],
    ["anybody else for somebody else", caller(["sallyport.tokens.*"]), "acme", "user:other", "creator"],
    ["for one of the same name in another tenant", caller([]), "globex", "user:maker", "creator"],
    ["one who is no principal", caller([], { kind: "mtls", principal: "" }), "acme", "user:maker", "creator"],
  ])("%s", (_, by, tenant, principal, expected) => {
    const all: Profile = { ...profile("bot"), mintedBy: ["session", "admin", "creator", "token"] };
    expect(rules.checkMinter(all, by, tenant, principal)).toBe(expected);
    const none: Profile = { ...all, mintedBy: all.mintedBy.filter((one) => one !== expected) };
    expect(reason(() => rules.checkMinter(none, by, tenant, principal))).toBe("RIGHTS_EXCEEDED");
  });

  test("an administrator's session mints for itself as a session, and as an administrator where sessions may not", () => {
    const by = caller(["sallyport.admin"], { kind: "session" });
    const of = (...mintedBy: Profile["mintedBy"]) => ({ ...profile("pat"), mintedBy });
    expect(rules.checkMinter(of("session", "admin"), by, "acme", "user:maker")).toBe("session");
    expect(rules.checkMinter(of("admin"), by, "acme", "user:maker")).toBe("admin");
    const plain = caller(["sallyport.tokens.*"], { kind: "session" });
    expect(reason(() => rules.checkMinter(of("admin", "creator"), plain, "acme", "user:maker"))).toBe(
      "RIGHTS_EXCEEDED",
    );
  });

  test("pat and adm tokens are never children; bot, svc and org tokens may be", () => {
    const may = BUILT_IN_PROFILES.filter(({ mintedBy }) => mintedBy.includes("token")).map(({ name }) => name);
    expect(may).toEqual(["bot", "svc", "org"]);
  });

  test("only administrators mint pat and adm tokens for somebody else", () => {
    const may = BUILT_IN_PROFILES.filter(({ mintedBy }) => mintedBy.includes("creator")).map(({ name }) => name);
    expect(may).toEqual(["bot", "svc", "org"]);
  });
});

describe("lifetimes", () => {
  test("a ttl is more than 0 and at most the profile's longest; NaN and infinity are refused", () => {
    const pat = profile("pat");
    for (const ttl of [1, 1000, pat.maxTtl]) expect(reason(() => rules.checkTtl(pat, ttl))).toBe("OK");
    for (const ttl of [0, -1, pat.maxTtl + 1, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      expect(
        fieldOf(() => rules.checkTtl(pat, ttl)),
        String(ttl),
      ).toBe("ttl");
    }
  });

  test("the built-in profiles have the lifetimes of the design", () => {
    const day = 86_400_000;
    expect(
      BUILT_IN_PROFILES.map(({ name, maxTtl, defaultTtl, allowNoExpiry }) => [
        name,
        maxTtl / day,
        defaultTtl / day,
        allowNoExpiry,
      ]),
    ).toEqual([
      ["pat", 3650, 90, true],
      ["bot", 3650, 90, true],
      ["svc", 3650, 90, true],
      ["org", 365, 90, false],
      ["adm", 365, 30, false],
    ]);
    expect(
      BUILT_IN_PROFILES.map(({ prefix, principals, allowEmptyName }) => [prefix, principals.join(), allowEmptyName]),
    ).toEqual([
      ["sp_pat", "user", false],
      ["sp_bot", "bot", true],
      ["sp_svc", "service", true],
      ["sp_org", "org", true],
      ["sp_adm", "user,bot,service,org", true],
    ]);
  });

  test("the ceiling is the shortest of all ceilings that the granted scopes cover", () => {
    const kind: Profile = {
      ...profile("pat"),
      scopeCeilings: { bootstrap: 1000, "deploy:prod": 500, "deploy:test": 2000 },
    };
    expect(rules.ceilingOf(kind, [])).toBeUndefined();
    expect(rules.ceilingOf(kind, ["deploy:dev", "boot"])).toBeUndefined();
    expect(rules.ceilingOf(kind, ["bootstrap"])).toBe(1000);
    expect(rules.ceilingOf(kind, ["deploy:test"])).toBe(2000);
    expect(rules.ceilingOf(kind, ["deploy:*"])).toBe(500);
    expect(rules.ceilingOf(kind, ["bootstrap", "deploy:*"])).toBe(500);
    fc.assert(
      fc.property(
        fc.subarray(["bootstrap", "deploy:prod", "deploy:*", "deploy:test", "x"]),
        fc.subarray(["deploy:*", "bootstrap", "y"]),
        (some, more) => {
          const few = rules.ceilingOf(kind, some) ?? Number.POSITIVE_INFINITY;
          const many = rules.ceilingOf(kind, [...some, ...more]) ?? Number.POSITIVE_INFINITY;
          expect(many).toBeLessThanOrEqual(few);
        },
      ),
    );
  });
});

describe("texts", () => {
  test("names are trimmed and have 1 to 100 characters, as people count them", () => {
    expect(rules.checkName("f", "  a b ", false)).toBe("a b");
    expect(rules.checkName("f", " ", true)).toBe("");
    expect(fieldOf(() => rules.checkName("f", " ", false))).toBe("f");
    expect(rules.checkName("f", "🎉".repeat(100), false)).toHaveLength(200);
    expect(fieldOf(() => rules.checkName("f", "🎉".repeat(101), false))).toBe("f");
  });

  test("no text holds a control, line-separating or direction character, inside or at its ends", () => {
    for (const code of [
      0x00, 0x07, 0x0a, 0x0d, 0x1b, 0x7f, 0x85, 0x9b, 0x2028, 0x2029, 0x202a, 0x202e, 0x2066, 0x2069, 0x200e, 0x200f,
      0x061c,
    ]) {
      expect(
        reason(() => rules.checkText("f", `a${String.fromCharCode(code)}b`, 500)),
        code.toString(16),
      ).toBe("INVALID_FIELD");
    }
    for (const text of ["ünïcode", "日本語", "👩‍👩‍👧", "a\u00a0b", "'; --", "<script>"])
      expect(
        reason(() => rules.checkText("f", text, 500)),
        text,
      ).toBe("OK");
  });

  test("no text, scope, audience or principal holds a token string of any prefix and kid", () => {
    const keyring = new Keyring("1", { "1": Buffer.alloc(32, 1).toString("base64") });
    for (const prefix of ["sp_pat", "ab", "a".repeat(16)]) {
      const secret = mintTokenString(prefix, keyring.current).tokenString.reveal();
      expect(reason(() => rules.checkText("f", `found: ${secret}!`, 500))).toBe("INVALID_FIELD");
      expect(fieldOf(() => rules.checkScopes(profile("pat"), caller(["sallyport.operator"]), [secret]))).toBe("scopes");
      expect(fieldOf(() => rules.checkAudiences([`https://a/${secret}`]))).toBe("audiences");
      expect(fieldOf(() => rules.checkPrincipal(profile("pat"), `user:${secret}`))).toBe("principal");
      expect(fieldOf(() => rules.checkAnnotations("annotations", { k: secret }))).toBe("annotations");
    }
  });

  test("an error never repeats the refused value", () => {
    const mark = "zq-marker";
    const acts = [
      () => rules.checkName("f", mark.repeat(50), false),
      () => rules.checkText("f", `${mark}\0`, 500),
      () => rules.checkAudiences([`${mark} x`]),
      () => rules.checkCidrs([mark]),
      () => rules.checkAnnotations("f", { [mark.repeat(10)]: "" }),
      () => rules.checkPrincipal(profile("pat"), mark),
      () => rules.checkScopes(profile("pat"), caller([]), [mark]),
      () => rules.checkScopes(profile("pat"), caller([]), [`${mark} x`]),
    ];
    for (const act of acts) {
      try {
        act();
        expect.unreachable();
      } catch (error) {
        const { message, violations, metadata } = error as AppError;
        expect(JSON.stringify([message, violations, metadata])).not.toContain(mark);
      }
    }
  });
});

test("a scope of the world that a wildcard covers begins with its text", () => {
  fc.assert(
    fc.property(fc.constantFrom(...THEIRS), fc.string(), (granted, required) => {
      if (covers(granted, required) && granted !== required)
        expect(required.startsWith(granted.slice(0, -1))).toBe(true);
    }),
  );
});

import { createHash } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ExchangeOutcome } from "../../src/domain/exchange.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import type { TrustRule } from "../../src/domain/trust-rule.ts";
import type { TokenManager } from "../../src/management/token-manager.ts";
import { TestIssuer } from "../sessions/issuer.ts";
import { loadPatched, type Patch } from "../support/patched.ts";
import { FORGERIES, type Forgery } from "./forged.ts";
import { AUDIENCE, PLATFORMS, TestPlatform } from "./platforms.ts";

type Product = typeof import("../../src/sessions/subject-tokens.ts") &
  typeof import("../../src/sessions/fetch-document.ts") &
  typeof import("../../src/management/exchange-manager.ts");

const FILES = ["sessions/subject-tokens.ts", "sessions/fetch-document.ts", "management/exchange-manager.ts"];
const load = async (patches: readonly Patch[]) =>
  (await loadPatched(["domain", "sessions", "management"], patches, FILES)) as Product;

let platform: TestPlatform;
beforeAll(async () => {
  platform = new TestPlatform(await TestIssuer.open());
});
afterAll(() => platform?.issuer.close());

/** The outcome of one exchange, by the program or a broken variant of it. `now`: milliseconds since 1970. */
async function outcomeIn(product: Product, { name, make }: Pick<Forgery, "name" | "make">): Promise<string> {
  const { rule } = PLATFORMS[name];
  const match = rule.match.map(({ claim, value }) => ({ claim, [value.case]: value.value }));
  const trusted: TrustRule = {
    ...{
      id: "trr_0000000000000000000000",
      tenant: "default",
      name: "r",
      issuer: "platform",
      audience: AUDIENCE,
      match,
    },
    kind: name.toUpperCase() as TrustRule["kind"],
    ...{ principal: "bot:ci", profile: "bot", scopes: ["deploy"], maxTtl: 60_000, maxTokenAge: 600_000 },
    ...{ singleUse: true, maxMintsPerHour: 600, disabled: false, state: "ACTIVE", createTime: 0, etag: "1" },
  };
  const { url } = platform.issuer;
  const issuer = { name: "platform", issuer: url, jwksUri: `${url}/keys`, caFile: undefined };
  const clock = { mono: () => 1e6, wall: () => Date.now() };
  const subjects = new product.IssuedSubjectTokens(
    [{ ...issuer, algorithms: ["RS256"], types: ["JWT"], clockSkew: 30_000 }],
    { clock, fetchDocument: product.documentFetcher(), events: { trouble: () => {} } },
  );
  let outcome: ExchangeOutcome | undefined;
  const minting = { fresh: {}, tokenString: () => ({}) } as Awaited<ReturnType<TokenManager["newString"]>>;
  const exchanges = new product.ExchangeManager({
    rules: {
      byId: async () => trusted,
      exchange: async ({ judge }) => {
        judge(trusted);
        return {} as never;
      },
    },
    tokens: { newString: async () => minting },
    ...{ subjects, profiles: new Map(BUILT_IN_PROFILES.map((one) => [one.name, one])), registeredTypes: [], clock },
    exchanged: (one) => (outcome = one),
  });
  const request = {
    rule: trusted.id,
    subjectToken: await make(platform),
    scope: undefined,
    address: "",
    requestId: "",
  };
  await exchanges.exchange(request).catch(() => undefined);
  return outcome!;
}

const CLAIMS = "domain/exchange.ts";
const RULES = "domain/trust-rule.ts";
const SUBJECTS = "sessions/subject-tokens.ts";
const MANAGER = "management/exchange-manager.ts";

/** The program without one of its checks, and the forgery that it then takes, or takes for another one. */
const MUTANTS: readonly [name: string, caughtBy: string, ...patches: [string, string, string][]][] = [
  ["any length", "more than 8 KiB", [SUBJECTS, 'if (jwt.length > LONGEST) throw new ExchangeRefused("too_long");', ""]],
  [
    "any form",
    "a signature with padding",
    [SUBJECTS, "JWT.test(jwt) ? unverified(jwt) : undefined", "unverified(jwt)"],
  ],
  [
    "critical headers",
    "a critical header",
    [SUBJECTS, 'if (header.crit !== undefined) throw new ExchangeRefused("critical_header");', ""],
  ],
  ["any typ", "another typ", [SUBJECTS, "isOneOf(issuer.types, typ)", "true"]],
  ["no typ needed", "no typ", [SUBJECTS, "UNTYPED.includes(kind)", "true"]],
  ["any algorithm", "an algorithm that is not configured", [SUBJECTS, "{ algorithms: [...issuer.algorithms] }", "{}"]],
  ["no signature needed", "another key under the same id", [MANAGER, "await subjects.verify(subject, rule);", ""]],
  ["any issuer", "another issuer", [CLAIMS, 'throw new ExchangeRefused("issuer");', "{}"]],
  ["no issuer needed", "no issuer", [CLAIMS, '!(rule.kind === "SPIFFE" && iss === undefined)', "iss !== undefined"]],
  [
    "any issuer for SPIFFE",
    "an issuer of another SPIFFE platform",
    [CLAIMS, '!(rule.kind === "SPIFFE" && iss === undefined)', 'rule.kind !== "SPIFFE"'],
  ],
  [
    "any audience",
    "another audience",
    [CLAIMS, 'if (!audiences.includes(rule.audience)) throw new ExchangeRefused("audience");', ""],
  ],
  [
    "no subject needed",
    "no subject",
    [CLAIMS, 'if (typeof sub !== "string" || sub === "") throw new ExchangeRefused("claim_missing");', ""],
  ],
  ["no end needed", "no end", [CLAIMS, "!isTime(exp) || ", ""]],
  ["no issue needed", "no time of issue", [CLAIMS, "!isTime(iat) || ", ""]],
  ["starts as text", "a start as text", [CLAIMS, " || (nbf !== undefined && !isTime(nbf))", ""]],
  [
    "ends that are over",
    "an end in the past",
    [CLAIMS, 'if (exp * 1000 + clockSkew <= now) throw new ExchangeRefused("expired");', ""],
  ],
  ["starts to come", "a start in the future", [CLAIMS, "nbf * 1000 - clockSkew > now", "false"]],
  [
    "issues to come",
    "made in the future",
    [CLAIMS, 'if (iat * 1000 - clockSkew > now) throw new ExchangeRefused("issued_at");', ""],
  ],
  ["any age", "made too long ago", [CLAIMS, "iat * 1000 + rule.maxTokenAge + clockSkew <= now", "false"]],
  [
    "any workload",
    "another repository",
    [CLAIMS, 'if (!matches(rule.match, claims)) throw new ExchangeRefused("claim_mismatch");', ""],
  ],
  ["one match of many", "another branch", [RULES, "return match.every((", "return match.some(("]],
  ["beginnings for equals", "a repository that begins so", [RULES, "value === equals", "value.startsWith(equals)"]],
  [
    "numbers as text",
    "a repository as number",
    [
      RULES,
      "const value = claimAt(claims, claim);",
      "const found = claimAt(claims, claim), value = found === undefined ? found : String(found);",
    ],
  ],
  [
    "booleans as text",
    "a protected ref as boolean",
    [
      RULES,
      "const value = claimAt(claims, claim);",
      "const found = claimAt(claims, claim), value = found === undefined ? found : String(found);",
    ],
  ],
  ["paths that climb", "a path that climbs", [RULES, " && !/(^|\\/)\\.\\.?(\\/|$)/.test(value)", ""]],
  ["any path", "a path beside the prefix", [RULES, "value.startsWith(prefix)", "true"]],
];

test.each(MUTANTS.map((mutant) => [mutant[0], mutant] as const))("catches the mutant: %s", async (_, mutant) => {
  const [, caughtBy, ...patches] = mutant;
  const forgery = FORGERIES.find(({ title }) => title === caughtBy)!;
  expect(forgery, caughtBy).toBeDefined();
  const product = await load(patches.map(([file, from, to]) => ({ file, from, to })));
  expect(await outcomeIn(product, forgery)).not.toBe(forgery.refused);
});

test("catches none where none is: every forgery has its outcome, and a good JWT is exchanged", async () => {
  const product = await load([]);
  for (const forgery of FORGERIES) expect(await outcomeIn(product, forgery), forgery.title).toBe(forgery.refused);
  for (const name of Object.keys(PLATFORMS) as (keyof typeof PLATFORMS)[]) {
    expect(await outcomeIn(product, { name, make: (of) => of.jwt(name) }), name).toBe("minted");
  }
});

test("a key whose use is jwt-svid verifies, and one for certificates does not", async () => {
  const keys = platform.issuer.published;
  const others = platform.issuer.alsoPublished;
  const published = await platform.issuer.keys();
  const make = (of: TestPlatform) => of.jwt("spiffe");
  try {
    for (const [use, outcome] of [
      ["jwt-svid", "minted"],
      ["x509-svid", "key_unknown"],
    ] as const) {
      platform.issuer.published = [];
      platform.issuer.alsoPublished = published.filter((key) => !others.includes(key)).map((key) => ({ ...key, use }));
      expect(await outcomeIn(await load([]), { name: "spiffe", make }), use).toBe(outcome);
    }
  } finally {
    platform.issuer.published = keys;
    platform.issuer.alsoPublished = others;
  }
});

test("a JWT is the same one by its id, else by what its signature covers", async () => {
  const { onceOf } = await import("../../src/domain/exchange.ts");
  const issuer = { issuer: "https://a" } as Parameters<typeof onceOf>[0];
  const key = (claims: object, signed: string, of = issuer) =>
    createHash("sha256")
      .update(onceOf(of, { exp: 1, iat: 1, ...claims }, signed).key)
      .digest("hex");
  expect(key({ jti: "1" }, "x")).toBe(key({ jti: "1" }, "y"));
  expect(key({ jti: "1" }, "x")).not.toBe(key({ jti: "2" }, "x"));
  expect(key({ jti: "1" }, "x")).not.toBe(key({ jti: "1" }, "x", { ...issuer, issuer: "https://b" }));
  for (const jti of [undefined, "", 7]) expect(key({ jti }, "x"), `${jti}`).not.toBe(key({ jti }, "y"));
  expect(key({}, "x")).toBe(key({}, "x"));
  expect(key({ jti: "x" }, "")).not.toBe(key({}, "x"));
});

import { createHmac, generateKeyPairSync } from "node:crypto";
import type { lookup } from "node:dns";
import { exportSPKI } from "jose";
import { expect } from "vitest";
import type { SessionIssuer } from "../../src/domain/session.ts";
import type { CallerStates } from "../../src/management/ports.ts";
import { issuerOf, type Made, TestIssuer } from "./issuer.ts";

/** The program's own code about sessions, or a broken variant of it. */
export type Product = typeof import("../../src/sessions/sessions.ts") &
  typeof import("../../src/sessions/fetch-document.ts");

type States = Awaited<ReturnType<CallerStates["callerStates"]>>;
type Authenticated = Awaited<ReturnType<InstanceType<Product["Sessions"]>["authenticate"]>>;

/** One `Sessions` with an issuer of its own, on a clock that the case sets. */
class Scene {
  readonly issuer: TestIssuer;
  readonly sessions: InstanceType<Product["Sessions"]>;
  readonly refused: string[] = [];
  readonly troubles: string[] = [];
  readonly asked: string[] = [];
  states: States = { inactiveTenants: [], inactivePrincipals: [], roleScopes: [] };
  /** Milliseconds. */
  now = Date.now();

  constructor(product: Product, issuer: TestIssuer, more: Partial<SessionIssuer>) {
    this.issuer = issuer;
    this.sessions = new product.Sessions({
      issuers: [issuerOf(issuer.url, more)],
      clock: { mono: () => this.now - start, wall: () => this.now },
      fetchDocument: product.documentFetcher(),
      states: {
        callerStates: async ({ tenant, roles }, tenants, principal) => {
          this.asked.push([tenants.join(","), principal, ...(roles.length > 0 ? [tenant, ...roles] : [])].join(" "));
          return this.states;
        },
      },
      events: {
        sessionRefused: (reason) => void this.refused.push(reason),
        trouble: (name, error) => void this.troubles.push(`${name} ${(error as { code?: string }).code}`),
      },
    });
  }

  async jwt(made: Made = {}): Promise<string> {
    return this.issuer.jwt({ now: this.now / 1000, ...made });
  }

  /** `OK`, or the error that the caller sees and the true reason. */
  async with(jwt: string, tenant: string | null = null): Promise<string> {
    const before = this.refused.length;
    try {
      await this.sessions.confirm(await this.sessions.authenticate(jwt, tenant));
      return "OK";
    } catch (error) {
      const { reason, message } = error as { reason: string; message: string };
      if (reason === "CALLER_UNAUTHENTICATED") expect(message).toBe("the credential is not good");
      return [reason, ...this.refused.slice(before)].join(" ");
    }
  }

  async made(made: Made, tenant?: string): Promise<string> {
    return this.with(await this.jwt(made), tenant);
  }

  async session(made: Made = {}, tenant: string | null = null): Promise<Authenticated> {
    const session = await this.sessions.authenticate(await this.jwt(made), tenant);
    await this.sessions.confirm(session);
    return session;
  }

  /** The scopes of the session's roles. */
  async roleScopes(made: Made = {}, tenant: string | null = null): Promise<readonly string[]> {
    const session = await this.sessions.authenticate(await this.jwt(made), tenant);
    return (await this.sessions.confirm(session)).roleScopes;
  }
}

/** Long before: monotonic time is never 0 where it counts. */
const start = Date.now() - 1_000_000;

interface Case {
  readonly title: string;
  readonly settings?: Partial<SessionIssuer>;
  run(scene: Scene, product: Product): Promise<void>;
}

const no = (reason: string) => `CALLER_UNAUTHENTICATED ${reason}`;
const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
const claims = (scene: Scene) => {
  const at = Math.floor(scene.now / 1000);
  return {
    iss: scene.issuer.url,
    aud: "sallyport",
    sub: "ann",
    iat: at,
    exp: at + 300,
    groups: ["staff"],
    kind: "access",
  };
};

/** A case that sends one JWT, with a change that makes it bad, and expects one refusal. */
function bad(
  title: string,
  made: Made | ((scene: Scene) => Made),
  expected: string,
  settings?: Partial<SessionIssuer>,
): Case {
  return {
    title,
    settings,
    async run(scene) {
      expect(await scene.made(typeof made === "function" ? made(scene) : made)).toBe(expected);
    },
  };
}

/** A case in which the claims are good, and the session has what the test expects. */
function good(title: string, made: Made, expected: object, settings?: Partial<SessionIssuer>): Case {
  return {
    title,
    settings,
    async run(scene) {
      expect(await scene.session(made)).toEqual(expect.objectContaining(expected));
    },
  };
}

const at = (scene: Scene, seconds: number) => Math.floor(scene.now / 1000) + seconds;

export const VERIFICATION: readonly Case[] = [
  {
    title: "a good JWT is a session: tenant, principal, provenance and scopes come from its claims",
    async run(scene) {
      expect(await scene.session()).toEqual({
        tenant: "acme",
        tenants: ["acme"],
        principal: "user:ann",
        provenance: "session:ann",
        scopes: ["sallyport.tokens.read", "repo:*"],
        roles: [],
        scopesIn: new Map([["acme", ["sallyport.tokens.read", "repo:*"]]]),
      });
      expect(scene.asked).toEqual(["acme user:ann"]);
    },
  },
  {
    title: "alg none is refused, with and without a signature",
    async run(scene) {
      const jwt = `${part({ alg: "none", typ: "at+jwt" })}.${part(claims(scene))}.`;
      expect(await scene.with(jwt)).toBe(no("algorithm"));
      expect(await scene.with(`${jwt}c2ln`)).toBe(no("algorithm"));
    },
  },
  {
    title: "HS256 with the public key as the secret is refused",
    async run(scene) {
      const pem = await exportSPKI(scene.issuer.publicKey());
      const text = `${part({ alg: "HS256", typ: "at+jwt", kid: "k1" })}.${part(claims(scene))}`;
      const signature = createHmac("sha256", pem).update(text).digest("base64url");
      expect(await scene.with(`${text}.${signature}`)).toBe(no("algorithm"));
    },
  },
  {
    title: "a good key with an algorithm that is not configured is refused",
    settings: { algorithms: ["PS256"] },
    async run(scene) {
      expect(await scene.made({})).toBe(no("algorithm"));
    },
  },
  {
    title: "a critical header is refused, known to the library or not",
    async run(scene) {
      expect(await scene.made({ header: { crit: ["b64"], b64: true } })).toBe(no("critical_header"));
      const text = `${part({ alg: "RS256", typ: "at+jwt", kid: "k1", crit: ["exp"], exp: 1 })}.${part(claims(scene))}`;
      expect(await scene.with(`${text}.c2ln`)).toBe(no("critical_header"));
    },
  },
  {
    title: "an issuer is compared byte for byte",
    async run(scene) {
      const { url } = scene.issuer;
      for (const iss of [
        `${url}/`,
        url.toUpperCase(),
        `${url} `,
        url.slice(0, -1),
        "",
        "constructor",
        [url],
        undefined,
      ])
        expect(await scene.made({ claims: { iss } }), String(iss)).toBe(no("issuer_unknown"));
    },
  },
  bad("another audience is refused", { claims: { aud: "other" } }, no("audience")),
  bad("no audience is refused", { without: ["aud"] }, no("claim_missing")),
  good("one audience of several is enough", { claims: { aud: ["x", "sallyport"] } }, { principal: "user:ann" }),
  bad("another typ is refused", { header: { typ: "JWT" } }, no("type")),
  bad("no typ is refused", { header: { typ: undefined } }, no("type")),
  good("each configured typ is accepted", { header: { typ: "jwt" } }, { tenant: "acme" }, { types: ["at+jwt", "JWT"] }),
  bad("a required claim of another value is refused", { claims: { kind: "id" } }, no("claim_required")),
  bad("a missing required claim is refused", { without: ["kind"] }, no("claim_required")),
  bad("a required claim in a list is refused", { claims: { kind: ["access"] } }, no("claim_required")),
  bad("no exp is refused", { without: ["exp"] }, no("claim_missing")),
  bad("no iat is refused", { without: ["iat"] }, no("claim_missing")),
  bad("no sub is refused", { without: ["sub"] }, no("claim_missing")),
  bad("exp in the past is refused", (scene) => ({ claims: { exp: at(scene, -31) } }), no("expired")),
  bad("an iat beyond max_age is refused", (scene) => ({ claims: { iat: at(scene, -3_640) } }), no("too_old")),
  bad(
    "an iat in the future is refused",
    (scene) => ({ claims: { iat: at(scene, 40), exp: at(scene, 90) } }),
    no("issued_at"),
  ),
  bad("nbf in the future is refused", (scene) => ({ claims: { nbf: at(scene, 40) } }), no("not_yet_valid")),
  {
    title: "times within clock_skew are accepted",
    async run(scene) {
      for (const times of [{ exp: at(scene, -20) }, { iat: at(scene, 20) }, { nbf: at(scene, 20) }])
        expect(await scene.made({ claims: times }), JSON.stringify(times)).toBe("OK");
    },
  },
  {
    title: "times are judged by the program's clock",
    async run(scene) {
      const jwt = await scene.jwt();
      expect(await scene.with(jwt)).toBe("OK");
      scene.now += 331_000;
      expect(await scene.with(jwt)).toBe(no("expired"));
    },
  },
  {
    title: "more than 8 KiB is refused before it is parsed, and 8 KiB is not",
    async run(scene) {
      const filled = async (length: number) => {
        const missing = length - (await scene.jwt({ claims: { x: "" } })).length;
        const jwt = await scene.jwt({ claims: { x: "x".repeat(Math.floor((missing * 3) / 4)) } });
        return jwt;
      };
      const fits = await filled(8_192);
      expect(fits.length).toBeGreaterThan(8_180);
      expect(await scene.with(fits)).toBe("OK");
      expect(await scene.with(await filled(8_200))).toBe(no("too_long"));
      expect(scene.sessions.tooLong().reason).toBe("CALLER_UNAUTHENTICATED");
      expect(scene.refused).toEqual(["too_long", "too_long"]);
    },
  },
  {
    title: "a changed claim, a cut signature and a signature by another key are refused",
    async run(scene) {
      const [header, , signature] = (await scene.jwt()).split(".") as [string, string, string];
      const body = part({ ...claims(scene), sub: "root" });
      expect(await scene.with(`${header}.${body}.${signature}`)).toBe(no("signature"));
      expect(await scene.with(`${header}.${body}.`)).toBe(no("signature"));
      expect(await scene.made({ key: 1 })).toBe(no("signature"));
    },
  },
  {
    title: "a header or claim of an odd type is a refusal, and never a fault of the program",
    settings: { tenant: undefined, tenantClaim: "org", tenants: { o1: "acme" }, types: ["at+jwt", "JWT"] },
    async run(scene) {
      const odd: unknown[] = [7, 0, -1, 1.5e308, true, false, null, "", "\ud800", [], [7], [[]], {}, { toString: 7 }];
      const header = { alg: "RS256", typ: "at+jwt", kid: "k1" };
      const body: Record<string, unknown> = { ...claims(scene), org: "o1" };
      const text = (of: object) => scene.with(`${part({ ...header, ...of })}.${part(body)}.c2ln`);
      for (const value of odd) {
        for (const name of ["alg", "typ", "kid", "crit", "b64", "jwk", "cty", "zip"]) {
          const answer = await text({ [name]: value });
          expect(answer, `${name} ${JSON.stringify(value)}`).toMatch(/^CALLER_UNAUTHENTICATED [a-z_]+$/);
        }
        expect(
          await scene.made({ claims: { org: "o1" }, header: { typ: value } }),
          `typ ${JSON.stringify(value)}`,
        ).toBe(no("type"));
        for (const name of ["iss", "aud", "sub", "exp", "iat", "nbf", "kind", "groups", "org", "_claim_names"]) {
          const made = { claims: { org: "o1", [name]: value } };
          const answer = await scene.made(made);
          expect(answer, `${name} ${JSON.stringify(value)}`).toMatch(
            /^(OK|CALLER_(UNAUTHENTICATED|FORBIDDEN) [a-z_]+)$/,
          );
        }
      }
      for (const one of [[], 7, null, "x"]) {
        expect(await scene.with(`${part(one as object)}.${part(body)}.c2ln`)).toBe(no("malformed"));
        expect(await scene.with(`${part(header)}.${part(one as object)}.c2ln`)).toBe(no("malformed"));
      }
    },
  },
  {
    title: "a published key that is too short or malformed refuses its JWTs, and no others",
    async run(scene) {
      const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 1024 });
      scene.issuer.alsoPublished = [
        { ...publicKey.export({ format: "jwk" }), kid: "short" },
        { kty: "RSA", kid: "bad", n: "AQAB" },
        { kty: "RSA", kid: "worse", n: "!", e: "AQAB" },
      ];
      for (const kid of ["short", "bad", "worse"])
        expect(await scene.made({ header: { kid } }), kid).toBe(no("key_unusable"));
      expect(await scene.made({})).toBe("OK");
    },
  },
  {
    title: "nonsense in the form of a JWT is refused",
    async run(scene) {
      for (const jwt of ["a.b.c", "..", "eyJ.eyJ.", `${part({ alg: "RS256" })}.bm8.c2ln`, `${part([])}.${part({})}.x`])
        expect(await scene.with(jwt), jwt).toBe(no("malformed"));
      expect(["a.b.c", "_-.b.", "a.."].map((text) => scene.sessions.owns(text))).toEqual([true, true, true]);
      expect(["a", "a.b", "a.b.c.d.e", "sp_pat_1x", "a.b.c="].map((text) => scene.sessions.owns(text))).toEqual([
        false,
        false,
        false,
        false,
        false,
      ]);
    },
  },
];

const GROUPS: SessionIssuer["groups"] = [
  { group: "staff", tenant: "acme", permissions: ["sallyport.tokens.read"], scopes: [], roles: ["deployer"] },
  { group: "ops", tenant: "globex", permissions: ["sallyport.admin"], scopes: [], roles: [] },
  { group: "ops", tenant: "acme", permissions: ["sallyport.audit.read"], scopes: [], roles: ["deployer", "oncall"] },
];
const BY_CLAIM = { tenant: undefined, tenantClaim: "org", tenants: { o1: "acme", o2: "globex" } } as const;

export const CLAIMS: readonly Case[] = [
  {
    title: "bytes outside the alphabet of principals are written +HH, so that no two subjects become one",
    async run(scene) {
      const names = new Map([
        ["auth0|x", "auth0+7Cx"],
        ["auth0+7Cx", "auth0+2B7Cx"],
        ["a b:c", "a+20b+3Ac"],
        ["jörg", "j+C3+B6rg"],
        ["a.b_c@d/e-F9", "a.b_c@d/e-F9"],
        ["\0", "+00"],
      ]);
      for (const [sub, id] of names) {
        const { principal, provenance } = await scene.session({ claims: { sub } });
        expect([principal, provenance]).toEqual([`user:${id}`, `session:${id}`]);
      }
    },
  },
  bad("broken surrogates are no principal", { claims: { sub: "\ud800" } }, no("principal_invalid")),
  bad("an empty subject is no principal", { claims: { sub: "" } }, no("principal_invalid")),
  bad("a number is no principal", { claims: { sub: 7 } }, no("principal_invalid")),
  bad("an id beyond 128 characters is no principal", { claims: { sub: "x".repeat(129) } }, no("principal_invalid")),
  bad("a token string is no principal", { claims: { sub: `sp_pat_${"1".repeat(58)}` } }, no("principal_invalid")),
  good(
    "sub_prefix stands before principal and provenance",
    { claims: { email: "ann@x.example", email_verified: true } },
    { principal: "user:corp/ann@x.example", provenance: "session:corp/ann" },
    { subPrefix: "corp/", principalClaim: "email" },
  ),
  bad("an email that is not verified is no principal", { claims: { email: "a@x.example" } }, no("email_unverified"), {
    principalClaim: "email",
  }),
  bad(
    "an email that only a text calls verified is no principal",
    { claims: { email: "a@x.example", email_verified: "true" } },
    no("email_unverified"),
    { principalClaim: "/email" },
  ),
  {
    title: "an issuer makes no id with the longer prefix of another issuer",
    settings: { foreignPrefixes: ["partner/"], principalClaim: "name" },
    async run(scene) {
      expect(await scene.made({ claims: { name: "partner/bob" } })).toBe(no("principal_invalid"));
      expect(await scene.made({ claims: { name: "bob", sub: "partner/bob" } })).toBe(no("principal_invalid"));
      expect(await scene.made({ claims: { name: "partner" } })).toBe("OK");
    },
  },
  good(
    "a claim may be a JSON pointer",
    { claims: { a: { "b/c": ["x", { "~d": "bob" }] }, realm: { roles: ["staff"] } }, without: ["groups"] },
    { principal: "user:bob", scopes: ["sallyport.tokens.read", "repo:*"] },
    { principalClaim: "/a/b~1c/1/~0d", groupsClaim: "/realm/roles" },
  ),
  good(
    "a name with slashes and dots inside is a plain name",
    { claims: { "x.y/z": "staff" }, without: ["groups"] },
    {},
    {
      groupsClaim: "x.y/z",
    },
  ),
  good("a string is one group", { claims: { groups: "staff" } }, { tenant: "acme" }),
  ...["staff ops", "staff,ops", "Staff", "staff "].map((groups) =>
    bad(
      `a string is never split nor folded: ${JSON.stringify(groups)}`,
      { claims: { groups } },
      "CALLER_FORBIDDEN groups_unmapped",
    ),
  ),
  ...[7, true, { staff: true }, ["staff", 7], null].map((groups) =>
    bad(`no list of names: ${JSON.stringify(groups)}`, { claims: { groups } }, "CALLER_FORBIDDEN groups_malformed"),
  ),
  ...[{ _claim_names: { groups: "src1" } }, { hasgroups: true }].map((claims) =>
    bad(
      `a pointer to a longer list: ${JSON.stringify(claims)}`,
      { claims, without: ["groups"] },
      "CALLER_FORBIDDEN groups_malformed",
      {
        groups: [{ group: "*", tenant: undefined, permissions: [], scopes: [], roles: [] }],
      },
    ),
  ),
  bad("no mapped group", { claims: { groups: ["x"] } }, "CALLER_FORBIDDEN groups_unmapped"),
  bad("no groups", { without: ["groups"] }, "CALLER_FORBIDDEN groups_unmapped"),
  bad("a group named * is no wildcard in the JWT", { claims: { groups: ["*"] } }, "CALLER_FORBIDDEN groups_unmapped"),
  good(
    "* in the mapping is everybody",
    { without: ["groups"] },
    { scopes: ["x"] },
    {
      groups: [{ group: "*", tenant: undefined, permissions: [], scopes: ["x"], roles: [] }],
    },
  ),
  {
    title: "a session in several tenants names one in each call, and has the rights of that one",
    settings: { tenant: undefined, groups: GROUPS },
    async run(scene) {
      const claims = { groups: ["ops", "staff"] };
      expect(await scene.made({ claims })).toBe("INVALID_FIELD");
      expect(await scene.made({ claims }, "")).toBe("INVALID_FIELD");
      for (const other of ["initech", "ACME", "acme, globex", "constructor"])
        expect(await scene.made({ claims }, other), other).toBe("TENANT_NOT_FOUND");
      expect((await scene.session({ claims }, "acme")).scopes).toEqual([
        "sallyport.tokens.read",
        "sallyport.audit.read",
      ]);
      expect(await scene.session({ claims }, "globex")).toMatchObject({
        tenant: "globex",
        scopes: ["sallyport.admin"],
      });
      expect(await scene.session()).toMatchObject({ tenant: "acme", scopes: ["sallyport.tokens.read"] });
      expect(await scene.made({}, "globex")).toBe("TENANT_NOT_FOUND");
    },
  },
  {
    title: "a claim that maps to tenants limits what groups give",
    settings: { ...BY_CLAIM, groups: GROUPS },
    async run(scene) {
      const claims = { groups: ["ops", "staff"], org: "o1" };
      expect(await scene.session({ claims })).toMatchObject({ tenant: "acme" });
      expect(await scene.made({ claims }, "globex")).toBe("TENANT_NOT_FOUND");
      expect(await scene.made({ claims: { ...claims, org: ["o1", "o2"] } })).toBe("INVALID_FIELD");
      for (const org of ["o3", "acme", 7, [7], {}, undefined, "constructor", "__proto__"])
        expect(await scene.made({ claims: { ...claims, org } }), String(org)).toBe("CALLER_FORBIDDEN tenant_unmapped");
    },
  },
  {
    title: "a tenant or a principal that is not active ends the session",
    async run(scene) {
      const { states } = scene;
      expect(await scene.made({})).toBe("OK");
      scene.states = { ...states, inactiveTenants: ["globex", "acme"] };
      expect(await scene.made({})).toBe(no("tenant_inactive"));
      scene.states = { ...states, inactivePrincipals: ["globex", "acme"] };
      expect(await scene.made({})).toBe(no("principal_inactive"));
    },
  },
  {
    title: "only an operator's session is ended by each of its tenants, because its rights reach all of them",
    settings: {
      tenant: undefined,
      groups: [...GROUPS, { group: "root", tenant: "acme", permissions: ["sallyport.*"], scopes: [], roles: [] }],
    },
    async run(scene) {
      await scene.session({ claims: { groups: ["ops"] } }, "globex");
      await scene.session({ claims: { groups: ["ops", "root"] } }, "globex");
      expect(scene.asked).toEqual(["globex user:ann", "globex user:ann"]);
      scene.states = { ...scene.states, inactiveTenants: ["globex"] };
      expect(await scene.made({ claims: { groups: ["ops"] } }, "acme")).toBe("OK");
      expect(await scene.made({ claims: { groups: ["ops", "root"] } }, "acme")).toBe(no("tenant_inactive"));
      expect(scene.asked.slice(2)).toEqual(
        Array.from({ length: 2 }, () => "globex,acme user:ann acme deployer oncall"),
      );
    },
  },
  {
    title: "a session has the roles of its groups in the tenant of the call, each once, and what they give now",
    settings: { tenant: undefined, groups: GROUPS },
    async run(scene) {
      scene.states = { ...scene.states, roleScopes: ["deploy"] };
      const claims = { groups: ["ops", "staff"] };
      expect(await scene.session({ claims }, "acme")).toMatchObject({ roles: ["deployer", "oncall"] });
      expect(await scene.session({ claims }, "globex")).toMatchObject({ roles: [] });
      expect(await scene.roleScopes({ claims }, "acme")).toEqual(["deploy"]);
      expect(scene.asked.at(-1)).toBe("acme,globex user:ann acme deployer oncall");
    },
  },
  {
    title: "a session that a role makes an operator's is ended by each of its tenants, and no other is",
    settings: { tenant: undefined, groups: GROUPS },
    async run(scene) {
      const made = { claims: { groups: ["ops", "staff"] } };
      for (const ended of [{ inactiveTenants: ["globex"] }, { inactivePrincipals: ["globex"] }]) {
        scene.states = { inactiveTenants: [], inactivePrincipals: [], roleScopes: ["deploy"], ...ended };
        expect(await scene.made(made, "acme")).toBe("OK");
        scene.states = { ...scene.states, roleScopes: ["sallyport.operator"] };
        expect(await scene.made(made, "acme")).toMatch(/^CALLER_UNAUTHENTICATED (tenant|principal)_inactive$/);
      }
    },
  },
  {
    title: "a session is verified without the database, which only an admitted call asks",
    async run(scene) {
      await scene.sessions.authenticate(await scene.jwt(), null);
      expect(scene.asked).toEqual([]);
    },
  },
];

const UNAVAILABLE = "ISSUER_UNAVAILABLE issuer_unavailable";
const resolvesTo = (...addresses: string[]) =>
  ((_host: string, _options: object, done: (error: null, all: object[]) => void) =>
    done(
      null,
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
    )) as unknown as typeof lookup;

export const KEYS: readonly Case[] = [
  {
    title: "a thousand unknown key ids cause one fetch in 30 seconds",
    async run(scene) {
      expect(await scene.made({})).toBe("OK");
      scene.now += 31_000;
      const forged = async (i: number) => {
        const header = part({ alg: "RS256", typ: "at+jwt", kid: `x${i}` });
        return (await scene.with(`${header}.${part(claims(scene))}.c2ln`)).split(" ")[0];
      };
      const answers = new Set(await Promise.all(Array.from({ length: 1_000 }, (_, i) => forged(i))));
      expect([...answers]).toEqual(["CALLER_UNAUTHENTICATED"]);
      expect([scene.refused.length, new Set(scene.refused)]).toEqual([1_000, new Set(["key_unknown"])]);
      expect(scene.issuer.requests).toHaveLength(2);
      scene.now += 29_000;
      await forged(0);
      expect(scene.issuer.requests).toHaveLength(2);
    },
  },
  {
    title: "a new key of the issuer works at its first use, and a withdrawn one ends",
    async run(scene) {
      const old = await scene.jwt();
      expect(await scene.with(old)).toBe("OK");
      scene.now += 31_000;
      scene.issuer.published = [{ kid: "k2", key: 1 }];
      expect(await scene.made({ key: 1, header: { kid: "k2" } })).toBe("OK");
      expect(await scene.with(old)).toBe(no("key_unknown"));
    },
  },
  {
    title: "keys of 10 minutes are fetched before they are used, so that a withdrawn key ends after any idle time",
    async run(scene) {
      expect(await scene.made({})).toBe("OK");
      scene.now += 599_000;
      expect(await scene.made({})).toBe("OK");
      expect(scene.issuer.requests).toHaveLength(1);
      scene.issuer.published = [];
      scene.now += 1_000;
      const answers = await Promise.all(Array.from({ length: 20 }, () => scene.made({})));
      expect(new Set(answers.map((answer) => answer.split(" ")[0]))).toEqual(new Set(["CALLER_UNAUTHENTICATED"]));
      expect(scene.refused).toEqual(Array.from({ length: 20 }, () => "key_unknown"));
      expect(scene.issuer.requests).toHaveLength(2);
      expect(scene.sessions.ages()).toEqual([{ issuer: "corp", seconds: 0 }]);
    },
  },
  {
    title: "calls that come together share one fetch",
    async run(scene) {
      const jwt = await scene.jwt();
      const answers = await Promise.all(Array.from({ length: 50 }, () => scene.with(jwt)));
      expect([new Set(answers), scene.issuer.requests]).toEqual([new Set(["OK"]), ["/realms/corp/keys"]]);
    },
  },
  {
    title: "the last good keys serve for 24 hours while the issuer is down, and not longer",
    async run(scene) {
      expect(scene.sessions.ages()).toEqual([]);
      expect(await scene.made({})).toBe("OK");
      scene.issuer.instead = (_, res) => res.writeHead(500).end();
      scene.now += 86_399_000;
      expect(await scene.made({})).toBe("OK");
      expect(scene.troubles).toEqual(["issuer_unreachable http_500"]);
      expect(scene.sessions.ages()).toEqual([{ issuer: "corp", seconds: 86_399 }]);
      expect(await scene.made({ header: { kid: "k9" } })).toBe(no("key_unknown"));
      expect(scene.troubles).toEqual(["issuer_unreachable http_500"]);
      expect(await scene.made({})).toBe("OK");
      scene.now += 1_000;
      expect(await scene.made({})).toBe(UNAVAILABLE);
      scene.issuer.instead = undefined;
      scene.now += 30_000;
      expect(await scene.made({})).toBe("OK");
    },
  },
  ...(
    [
      ["an error", "http_503", (_, res) => res.writeHead(503).end()],
      ["a redirect to itself", "http_302", (req, res) => res.writeHead(302, { location: `${req.url}/keys` }).end()],
      ["10 MB", "too_long", (_, res) => res.writeHead(200).end(`{"keys":[],"x":"${"x".repeat(10_000_000)}"}`)],
      ["no JSON", "not_json", (_, res) => res.writeHead(200).end("<html>")],
      ["no key set", "not_jwks", (_, res) => res.writeHead(200).end('{"keys":7}')],
      ["nothing for 3 seconds", "ABORT_ERR", () => {}],
      ["a cut connection", "ECONNRESET", (req) => req.socket.destroy()],
    ] as const satisfies [string, string, NonNullable<TestIssuer["instead"]>][]
  ).map(
    ([what, code, instead]): Case => ({
      title: `without keys, an issuer that answers with ${what} is unavailable, and is asked once`,
      async run(scene) {
        scene.issuer.instead = instead;
        expect(await scene.made({})).toBe(UNAVAILABLE);
        expect(await scene.made({})).toBe(UNAVAILABLE);
        expect(scene.issuer.requests).toHaveLength(1);
        expect(scene.troubles).toEqual([`issuer_unreachable ${code}`]);
      },
    }),
  ),
  {
    title: "discovery finds the keys of an issuer without jwks_uri",
    settings: { jwksUri: undefined },
    async run(scene) {
      expect(await scene.made({})).toBe("OK");
      expect(scene.issuer.requests).toEqual(["/realms/corp/.well-known/openid-configuration", "/realms/corp/keys"]);
    },
  },
  {
    title: "a discovery document of another issuer is refused",
    settings: { jwksUri: undefined },
    async run(scene) {
      const { url } = scene.issuer;
      scene.issuer.instead = (req, res) =>
        res.end(
          JSON.stringify(req.url!.endsWith("/keys") ? { keys: [] } : { issuer: `${url}/`, jwks_uri: `${url}/keys` }),
        );
      expect(await scene.made({})).toBe(UNAVAILABLE);
      expect(scene.troubles).toEqual(["issuer_unreachable discovery_invalid"]);
    },
  },
  {
    title: "no document comes from a link-local address, by HTTP from another machine, or by another scheme",
    async run(_, product) {
      const code = async (url: string, resolve?: typeof lookup) =>
        product
          .documentFetcher(resolve)(url, { caFile: undefined, signal: AbortSignal.timeout(500) })
          .then(
            () => "OK",
            (error: { code?: string }) => error.code,
          );
      for (const host of ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0xa9fea9fe"])
        expect(await code(`https://${host}/keys`), host).toBe("address_refused");
      for (const host of ["192.0.2.1", "169.254.169.254", "[2001:db8::1]"])
        expect(await code(`http://${host}/keys`), host).toBe("address_refused");
      for (const found of [["169.254.0.1"], ["192.0.2.1", "fe80::2%eth0"]])
        expect(await code("https://login.example/keys", resolvesTo(...found))).toBe("address_refused");
      expect(await code("http://localhost/keys", resolvesTo("192.0.2.1"))).toBe("address_refused");
      for (const url of ["file:///etc/passwd", "https://a:b@127.0.0.1/", "ftp://127.0.0.1/"])
        expect(await code(url), url).toBe("url_refused");
    },
  },
  {
    title: "a remote issuer does not make the program ask its own machine in cleartext",
    settings: { jwksUri: undefined },
    async run(scene, product) {
      const asked: string[] = [];
      const sessions = new product.Sessions({
        issuers: [issuerOf("https://login.example", { jwksUri: undefined })],
        clock: { mono: () => 1e6, wall: () => scene.now },
        // Answers as the issuer would, without a certificate for its name.
        fetchDocument: async (url) => {
          asked.push(url);
          return { issuer: "https://login.example", jwks_uri: "http://127.0.0.1:1/keys" };
        },
        states: { callerStates: async () => scene.states },
        events: { sessionRefused: () => {}, trouble: () => {} },
      });
      const jwt = await scene.jwt({ claims: { iss: "https://login.example" } });
      await expect(sessions.authenticate(jwt, null)).rejects.toMatchObject({ reason: "ISSUER_UNAVAILABLE" });
      expect(asked).toEqual(["https://login.example/.well-known/openid-configuration"]);
    },
  },
];

export const CASES: readonly Case[] = [...VERIFICATION, ...CLAIMS, ...KEYS];

/** Runs a case against the program or a variant of it. Rejects if it does not hold. */
export async function runCase(product: Product, { settings = {}, run }: Case): Promise<void> {
  const issuer = await TestIssuer.open();
  try {
    await run(new Scene(product, issuer, settings), product);
  } finally {
    await issuer.close();
  }
}

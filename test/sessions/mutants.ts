import { loadPatched, type Patch } from "../support/patched.ts";
import type { Product } from "./cases.ts";

/** A broken variant of the program: one check is missing. The case with this title must be red. */
export interface Mutant {
  readonly name: string;
  readonly patches: readonly Patch[];
  readonly caughtBy: string;
}

const SESSIONS = "sessions/sessions.ts";
const RULES = "domain/session.ts";
const KEYS = "sessions/issuer-keys.ts";
const FETCH = "sessions/fetch-document.ts";

function mutant(
  name: string,
  caughtBy: string,
  ...patches: readonly [file: string, from: string, to: string][]
): Mutant {
  return { name, caughtBy, patches: patches.map(([file, from, to]) => ({ file, from, to })) };
}

export const MUTANTS: readonly Mutant[] = [
  // ------------------------------------------------------------------------------------------- verification
  mutant(
    "an issuer that differs by a slash",
    "an issuer is compared byte for byte",
    [SESSIONS, "this.#issuers.get(claimed.iss)", 'this.#issuers.get(claimed.iss.replace(/\\/$/, ""))'],
    [SESSIONS, "issuer: issuer.issuer,", ""],
  ),
  mutant("no audience", "another audience is refused", [SESSIONS, "audience: [...issuer.audiences],", ""]),
  mutant("any algorithm", "a good key with an algorithm that is not configured is refused", [
    SESSIONS,
    "algorithms: [...issuer.algorithms],",
    "",
  ]),
  mutant("any typ", "another typ is refused", [SESSIONS, "typ: issuer.types", "cty: issuer.types"]),
  mutant("only the first typ", "each configured typ is accepted", [
    SESSIONS,
    "issuer.types.find(",
    "issuer.types.slice(0, 1).find(",
  ]),
  mutant("any type of typ", "a header or claim of an odd type is a refusal, and never a fault of the program", [
    SESSIONS,
    'typeof header.typ === "string" ? header.typ.toLowerCase() : undefined',
    "header.typ?.toLowerCase()",
  ]),
  mutant("no exp", "no exp is refused", [SESSIONS, '["exp", "iat", "sub"]', '["iat", "sub"]']),
  mutant("no sub", "no sub is refused", [SESSIONS, '["exp", "iat", "sub"]', '["exp", "iat"]']),
  mutant(
    "no iat",
    "no iat is refused",
    [SESSIONS, '["exp", "iat", "sub"]', '["exp", "sub"]'],
    [SESSIONS, "maxTokenAge: issuer.maxAge / 1000,", ""],
  ),
  mutant("no age, old", "an iat beyond max_age is refused", [SESSIONS, "maxTokenAge: issuer.maxAge / 1000,", ""]),
  mutant("no age, future", "an iat in the future is refused", [SESSIONS, "maxTokenAge: issuer.maxAge / 1000,", ""]),
  mutant("no tolerance", "times within clock_skew are accepted", [
    SESSIONS,
    "clockTolerance: issuer.clockSkew / 1000,",
    "",
  ]),
  mutant("skew in milliseconds", "exp in the past is refused", [
    SESSIONS,
    "issuer.clockSkew / 1000",
    "issuer.clockSkew",
  ]),
  mutant("another clock", "times are judged by the program's clock", [
    SESSIONS,
    "currentDate: new Date(this.#deps.clock.wall()),",
    "",
  ]),
  mutant("critical headers", "a critical header is refused, known to the library or not", [
    SESSIONS,
    'if (header.crit !== undefined) throw new SessionRefused("critical_header");',
    "",
  ]),
  mutant("required claims unread", "a required claim of another value is refused", [
    SESSIONS,
    "checkRequired(issuer, payload);",
    "",
  ]),
  mutant("required claims as text", "a required claim in a list is refused", [
    RULES,
    "claimAt(claims, claim) !== value",
    "String(claimAt(claims, claim)) !== value",
  ]),
  mutant("any length", "more than 8 KiB is refused before it is parsed, and 8 KiB is not", [
    SESSIONS,
    'if (jwt.length > LONGEST) throw new SessionRefused("too_long");',
    "",
  ]),
  mutant("tells the cause", "alg none is refused, with and without a signature", [
    RULES,
    '"the credential is not good"',
    "this.code",
  ]),
  mutant("unusable keys as bugs", "a published key that is too short or malformed refuses its JWTs, and no others", [
    SESSIONS,
    ".catch(refuseUnusable)",
    "",
  ]),
  // ------------------------------------------------------------------------------------------- claims
  mutant(
    "bytes as they are",
    "bytes outside the alphabet of principals are written +HH, so that no two subjects become one",
    [RULES, "/[^A-Za-z0-9._@/-]/gu", "/[^A-Za-z0-9._@/+-]/gu"],
  ),
  mutant("broken surrogates", "broken surrogates are no principal", [RULES, "!text.isWellFormed() ||", ""]),
  mutant("numbers as principals", "a number is no principal", [
    RULES,
    'typeof claim === "string" && claim !== "" ?',
    'claim !== undefined && claim !== "" ?',
  ]),
  mutant("empty subjects", "an empty subject is no principal", [
    RULES,
    'claim !== "" ? subPrefix + claim : ""',
    'true ? subPrefix + claim + "x" : ""',
  ]),
  mutant(
    "long ids",
    "an id beyond 128 characters is no principal",
    [RULES, "const LONGEST_ID = 128;", "const LONGEST_ID = 129;"],
    [RULES, 'principalType("principal", principal);', ""],
  ),
  mutant("token strings as principals", "a token string is no principal", [
    RULES,
    'principalType("principal", principal);',
    "",
  ]),
  mutant("foreign prefixes", "an issuer makes no id with the longer prefix of another issuer", [
    RULES,
    "foreignPrefixes.some((prefix) => text.startsWith(prefix))",
    "foreignPrefixes.length > 9",
  ]),
  mutant("no prefix", "sub_prefix stands before principal and provenance", [RULES, "subPrefix + claim", "claim"]),
  mutant("emails unverified", "an email that is not verified is no principal", [
    RULES,
    'claims["email_verified"] !== true',
    "false",
  ]),
  mutant("emails truthy", "an email that only a text calls verified is no principal", [
    RULES,
    'claims["email_verified"] !== true',
    '!claims["email_verified"]',
  ]),
  mutant("groups split", 'a string is never split nor folded: "staff ops"', [
    RULES,
    "return [value];",
    'return value.split(" ");',
  ]),
  mutant(
    "groups malformed",
    "no list of names: 7",
    [RULES, "texts === undefined || pointed", "pointed"],
    [RULES, "return texts;", 'return texts ?? ["staff"];'],
  ),
  mutant("groups pointed at", 'a pointer to a longer list: {"_claim_names":{"groups":"src1"}}', [
    RULES,
    "|| pointed ||",
    "||",
  ]),
  mutant("groups pointed at, shortly", 'a pointer to a longer list: {"hasgroups":true}', [
    RULES,
    '|| claims["hasgroups"] === true',
    "",
  ]),
  mutant("no groups needed", "no mapped group", [
    RULES,
    'if (rights.size === 0) throw new SessionRefused("groups_unmapped");',
    'if (rights.size === 0) return new Map([["acme", []]]);',
  ]),
  mutant("the wildcard in the JWT", "a group named * is no wildcard in the JWT", [
    RULES,
    'group !== "*" && !groups.includes(group)',
    'group !== "*" && !groups.includes(group) && !groups.includes("*")',
  ]),
  mutant("any tenant", "a session in several tenants names one in each call, and has the rights of that one", [
    RULES,
    'if (!rights.has(header)) throw new AppError("TENANT_NOT_FOUND", "no such tenant");',
    "if (!rights.has(header)) return [...rights.keys()][0]!;",
  ]),
  mutant("the first tenant", "a session in several tenants names one in each call, and has the rights of that one", [
    RULES,
    "if (rights.size > 1) {",
    "if (rights.size > 9) {",
  ]),
  mutant("groups beyond the tenant", "a claim that maps to tenants limits what groups give", [
    RULES,
    "within?.includes(tenant) === false ? [] : [tenant]",
    "[tenant]",
  ]),
  mutant("tenants of the prototype", "a claim that maps to tenants limits what groups give", [
    RULES,
    "Object.hasOwn(tenants, value)",
    "value in tenants",
  ]),
  mutant("suspended tenants", "a tenant or a principal that is not active ends the session", [
    SESSIONS,
    "inactiveTenants.some((tenant) => ending.includes(tenant))",
    "false",
  ]),
  mutant("disabled principals", "a tenant or a principal that is not active ends the session", [
    SESSIONS,
    "inactivePrincipals.some((tenant) => ending.includes(tenant))",
    "false",
  ]),
  mutant(
    "operators of other tenants",
    "only an operator's session is ended by each of its tenants, because its rights reach all of them",
    [RULES, "isOperator(of) ? of.tenants : [of.tenant]", "isOperator(of) ? [of.tenant] : [of.tenant]"],
  ),
  mutant(
    "no roles",
    "a session has the roles of its groups in the tenant of the call, each once, and what they give now",
    [RULES, "for (const role of roles) held.roles.add(role);", ""],
  ),
  mutant(
    "tenants of the mapping alone",
    "a session that a role makes an operator's is ended by each of its tenants, and no other is",
    [SESSIONS, "scopes: [...session.scopes, ...roleScopes]", "scopes: session.scopes"],
  ),
  mutant(
    "every tenant ends a session with roles",
    "a session that a role makes an operator's is ended by each of its tenants, and no other is",
    [SESSIONS, "inactiveTenants.some((tenant) => ending.includes(tenant))", "inactiveTenants.length > 0"],
  ),
  // ------------------------------------------------------------------------------------------- keys
  mutant("a fetch for each unknown id", "a thousand unknown key ids cause one fetch in 30 seconds", [
    KEYS,
    "if (now - this.#started < PAUSE_MS) return Promise.resolve();",
    "",
  ]),
  mutant("no flight together", "calls that come together share one fetch", [
    KEYS,
    "if (this.#fetching !== undefined) return this.#fetching;\n    if (now - this.#started < PAUSE_MS) return Promise.resolve();",
    "",
  ]),
  mutant("no look at newer keys", "a new key of the issuer works at its first use, and a withdrawn one ends", [
    SESSIONS,
    "await keys.newerThan(current)",
    "undefined as never",
  ]),
  mutant(
    "keys for ever",
    "keys of 10 minutes are fetched before they are used, so that a withdrawn key ends after any idle time",
    [KEYS, "|| age >= FRESH_MS", ""],
  ),
  mutant(
    "old keys while the new ones come",
    "keys of 10 minutes are fetched before they are used, so that a withdrawn key ends after any idle time",
    [
      KEYS,
      "if (this.#keys === undefined || age >= FRESH_MS) await",
      "if (this.#keys === undefined) await this.#fetch();\n    if (age >= FRESH_MS) void",
    ],
  ),
  mutant("keys beyond a day", "the last good keys serve for 24 hours while the issuer is down, and not longer", [
    KEYS,
    "if (age >= KEPT_MS) this.#keys = undefined;",
    "",
  ]),
  mutant(
    "keys lost with the issuer",
    "the last good keys serve for 24 hours while the issuer is down, and not longer",
    [KEYS, ".catch((error) => this.#deps", ".catch((error) => (this.#keys = undefined, this.#deps)"],
  ),
  mutant("endless documents", "without keys, an issuer that answers with 10 MB is unavailable, and is asked once", [
    FETCH,
    'if (size > LONGEST) request.destroy(failed("too_long"));',
    "if (size > 1e9) request.destroy();",
  ]),
  mutant(
    "any status",
    "without keys, an issuer that answers with a redirect to itself is unavailable, and is asked once",
    [FETCH, "if (status !== 200)", "if (status === 500)"],
  ),
  mutant(
    "link-local addresses",
    "no document comes from a link-local address, by HTTP from another machine, or by another scheme",
    [FETCH, 'const LINK_LOCAL = ["169.254.0.0/16", "fe80::/10"];', 'const LINK_LOCAL = ["fe80::/10"];'],
  ),
  mutant(
    "addresses unresolved",
    "no document comes from a link-local address, by HTTP from another machine, or by another scheme",
    [
      FETCH,
      "if (!addresses.every(({ address }) => allowed(address)))",
      "if (!addresses.some(({ address }) => allowed(address)))",
    ],
  ),
  mutant(
    "literal addresses",
    "no document comes from a link-local address, by HTTP from another machine, or by another scheme",
    [FETCH, "if (isIP(host) !== 0 && !allowed(host))", "if (isIP(host) === 9)"],
  ),
  mutant(
    "HTTP from elsewhere",
    "no document comes from a link-local address, by HTTP from another machine, or by another scheme",
    [
      FETCH,
      "const allowed = safe ? (address: string) => !within(LINK_LOCAL, address) : isLoopback;",
      "const allowed = (address: string) => safe ? !within(LINK_LOCAL, address) : address !== '' || isLoopback(address);",
    ],
  ),
  mutant("discovery of another issuer", "a discovery document of another issuer is refused", [
    KEYS,
    "found?.issuer !== issuer || typeof found.jwks_uri",
    "typeof found?.jwks_uri",
  ]),
  mutant("discovery that points here", "a remote issuer does not make the program ask its own machine in cleartext", [
    KEYS,
    'if (!found.jwks_uri.startsWith("https://") && !issuer.startsWith("http://")) throw failed("url_refused");',
    "",
  ]),
];

/** The program with changed text. Rejects if a text is not there exactly once. */
export async function loadMutant({ patches }: Mutant): Promise<Product> {
  return (await loadPatched(["domain", "sessions"], patches, [FETCH, SESSIONS])) as Product;
}

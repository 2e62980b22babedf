import { isOperator } from "./caller.ts";
import { AppError } from "./errors.ts";
import { principalType } from "./principal.ts";

/*
 * Sessions: callers that show a JWT of a configured issuer. The rules here take the claims of a verified JWT and decide
 * who calls, in which tenant, and with which rights. Pure.
 */

/** The rights of a group's members in a tenant. */
export interface GroupGrant {
  /** The group's name, byte for byte; `*` for every session of the issuer. */
  readonly group: string;
  /** Undefined: in every tenant of the session. */
  readonly tenant: string | undefined;
  readonly permissions: readonly string[];
  /** Scopes that the session may give to the tokens it makes. */
  readonly scopes: readonly string[];
  /** Names of roles. Those that exist in the tenant of a call add their scopes to that call. */
  readonly roles: readonly string[];
}

/** The rights of a session in one tenant. */
export interface TenantRights {
  /** Without those of its roles. */
  readonly scopes: readonly string[];
  /** The names of its roles. */
  readonly roles: readonly string[];
}

/** An issuer of session JWTs, and what its claims mean. Times are milliseconds. A claim is a name or a JSON pointer. */
export interface SessionIssuer {
  readonly name: string;
  readonly issuer: string;
  /** Undefined: the issuer's discovery document names it. */
  readonly jwksUri: string | undefined;
  readonly caFile: string | undefined;
  readonly audiences: readonly string[];
  readonly algorithms: readonly string[];
  /** The accepted values of the header `typ`. */
  readonly types: readonly string[];
  /** Claims that must have exactly this value. */
  readonly require: Readonly<Record<string, string>>;
  readonly maxAge: number;
  readonly clockSkew: number;
  /** The only tenant of its sessions. Undefined: `tenantClaim` or the groups say. */
  readonly tenant: string | undefined;
  readonly tenantClaim: string | undefined;
  /** From a value of `tenantClaim` to a tenant. */
  readonly tenants: Readonly<Record<string, string>>;
  readonly principalClaim: string;
  readonly subPrefix: string;
  /** Longer prefixes that belong to other issuers and begin with this one's. */
  readonly foreignPrefixes: readonly string[];
  readonly groupsClaim: string;
  readonly groups: readonly GroupGrant[];
}

/** The caller behind a session JWT. */
export interface Session {
  readonly tenant: string;
  /** The tenants in which it has rights, this one included. */
  readonly tenants: readonly string[];
  /** Its scopes in each of them. */
  readonly scopesIn: ReadonlyMap<string, readonly string[]>;
  readonly principal: string;
  readonly provenance: string;
  /** The scopes that the mapping itself gives. Those of the roles are read once the call is admitted. */
  readonly scopes: readonly string[];
  /** The names of its roles in the tenant of the call. */
  readonly roles: readonly string[];
}

export type Claims = Readonly<Record<string, unknown>>;

/** The faults of a JWT of an issuer. */
export type JwtFault =
  | "too_long"
  | "malformed"
  | "issuer_unknown"
  | "critical_header"
  | "algorithm"
  | "type"
  | "key_unknown"
  | "key_unusable"
  | "signature"
  | "audience"
  | "expired"
  | "not_yet_valid"
  | "too_old"
  | "issued_at"
  | "claim_missing"
  | "claim_required";

/** The true reason of a refusal. Log and metric have it; the caller gets one face. */
export type SessionRefusal =
  | JwtFault
  | "issuer_unavailable"
  | "email_unverified"
  | "principal_invalid"
  | "groups_malformed"
  | "groups_unmapped"
  | "tenant_unmapped"
  | "tenant_inactive"
  | "principal_inactive";

/** Carries the true reason to log and metric. It is never sent: the caller sees only `face`. */
export class SessionRefused extends Error {
  override readonly name = "SessionRefused";
  readonly code: SessionRefusal;

  constructor(code: SessionRefusal) {
    super(code);
    this.code = code;
  }

  /** The error that the caller sees. */
  get face(): AppError {
    switch (this.code) {
      case "groups_malformed":
      case "groups_unmapped":
      case "tenant_unmapped":
        return new AppError("CALLER_FORBIDDEN", "the session's groups and tenant give it no rights here", {
          cause: this,
        });
      default:
        return new AppError("CALLER_UNAUTHENTICATED", "the credential is not good", { cause: this });
    }
  }
}

/** The value of a claim: by its name, or by a JSON pointer (RFC 6901). Undefined if there is none. */
export function claimAt(claims: Claims, claim: string): unknown {
  const path = claim.startsWith("/")
    ? claim
        .slice(1)
        .split("/")
        .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    : [claim];
  let at: unknown = claims;
  for (const name of path) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Claims)[name];
  }
  return at;
}

/** Checks the claims that must have one exact value. */
export function checkRequired({ require }: SessionIssuer, claims: Claims): void {
  for (const [claim, value] of Object.entries(require)) {
    if (claimAt(claims, claim) !== value) throw new SessionRefused("claim_required");
  }
}

// ---------------------------------------------------------------------------------------------------- who

const LONGEST_ID = 128;
/** OpenID Connect Core bounds `sub` to 255 characters. */
const LONGEST_SUBJECT = 255;

/** The principal, and the provenance that audit rows and tokens record. */
export function identityOf(issuer: SessionIssuer, claims: Claims): { principal: string; provenance: string } {
  const claim = issuer.principalClaim;
  // Anybody can register somebody else's address with some issuers. Only a verified one names a person.
  if (/^\/?email$/.test(claim) && claims["email_verified"] !== true) throw new SessionRefused("email_unverified");
  const id = encodedId(issuer, claimAt(claims, claim), LONGEST_ID);
  const subject = encodedId(issuer, claims["sub"], LONGEST_SUBJECT);
  const principal = `user:${id}`;
  try {
    principalType("principal", principal);
  } catch {
    throw new SessionRefused("principal_invalid");
  }
  return { principal, provenance: `session:${subject}` };
}

/**
 * The prefix and the claim, with each byte outside `A-Za-z0-9._@/-` as `+HH`. Two different texts never become one, and
 * no issuer makes an id that begins with the longer prefix of another issuer.
 */
function encodedId({ subPrefix, foreignPrefixes }: SessionIssuer, claim: unknown, longest: number): string {
  const text = typeof claim === "string" && claim !== "" ? subPrefix + claim : "";
  // Broken surrogates would all become one replacement character.
  if (text === "" || !text.isWellFormed() || foreignPrefixes.some((prefix) => text.startsWith(prefix))) {
    throw new SessionRefused("principal_invalid");
  }
  const id = text.replace(/[^A-Za-z0-9._@/-]/gu, (character) =>
    [...Buffer.from(character, "utf8")].map((byte) => `+${byte.toString(16).toUpperCase().padStart(2, "0")}`).join(""),
  );
  if (id.length > longest) throw new SessionRefused("principal_invalid");
  return id;
}

// ---------------------------------------------------------------------------------------------------- where, what

/** The rights of the session in each tenant in which it has a mapped group. Refuses a session without one. */
export function rightsOf(issuer: SessionIssuer, claims: Claims): ReadonlyMap<string, TenantRights> {
  const within = tenantsOf(issuer, claims);
  const groups = groupsOf(issuer, claims);
  const rights = new Map<string, { scopes: Set<string>; roles: Set<string> }>();
  for (const { group, tenant, permissions, scopes, roles } of issuer.groups) {
    if (group !== "*" && !groups.includes(group)) continue;
    const tenants = tenant === undefined ? (within ?? []) : within?.includes(tenant) === false ? [] : [tenant];
    for (const one of tenants) {
      const held = rights.get(one) ?? { scopes: new Set(), roles: new Set() };
      for (const scope of [...permissions, ...scopes]) held.scopes.add(scope);
      for (const role of roles) held.roles.add(role);
      rights.set(one, held);
    }
  }
  if (rights.size === 0) throw new SessionRefused("groups_unmapped");
  return new Map([...rights].map(([tenant, held]) => [tenant, { scopes: [...held.scopes], roles: [...held.roles] }]));
}

/** The tenants to which the issuer limits the session; undefined if only its groups do. */
function tenantsOf({ tenant, tenantClaim, tenants }: SessionIssuer, claims: Claims): readonly string[] | undefined {
  if (tenant !== undefined) return [tenant];
  if (tenantClaim === undefined) return undefined;
  const values = textsOf(claimAt(claims, tenantClaim)) ?? [];
  const mapped = values.filter((value) => Object.hasOwn(tenants, value)).map((value) => tenants[value]!);
  if (mapped.length === 0) throw new SessionRefused("tenant_unmapped");
  return mapped;
}

/**
 * The session's groups. A string is one group and never split. An issuer that leaves out a long list and sends a
 * pointer to it has said nothing, so the session is refused.
 */
function groupsOf({ groupsClaim }: SessionIssuer, claims: Claims): readonly string[] {
  const value = claimAt(claims, groupsClaim);
  const texts = value === undefined ? [] : textsOf(value);
  const elsewhere = claims["_claim_names"];
  const pointed = typeof elsewhere === "object" && elsewhere !== null && Object.hasOwn(elsewhere, groupsClaim);
  if (texts === undefined || pointed || claims["hasgroups"] === true) throw new SessionRefused("groups_malformed");
  return texts;
}

function textsOf(value: unknown): readonly string[] | undefined {
  if (typeof value === "string") return [value];
  return Array.isArray(value) && value.every((one) => typeof one === "string") ? value : undefined;
}

/**
 * The tenants in which an inactive tenant or principal ends the session: that of the call. An operator's rights reach
 * every tenant, so it is ended in each of its own.
 */
export function endingTenants(of: Pick<Session, "tenant" | "tenants" | "scopes">): readonly string[] {
  return isOperator(of) ? of.tenants : [of.tenant];
}

/** The request header that names the tenant of a call. */
export const TENANT_HEADER = "x-sallyport-tenant";

/**
 * The tenant of one call: the one that the header names, else the session's only one. INVALID_FIELD if the session has
 * several and the header names none; TENANT_NOT_FOUND for any other tenant.
 */
export function tenantOfCall(rights: ReadonlyMap<string, TenantRights>, header: string | null): string {
  if (header !== null && header !== "") {
    if (!rights.has(header)) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    return header;
  }
  if (rights.size > 1) {
    const tenants = [...rights.keys()].sort();
    const description = `must name the tenant of the call: the session has ${tenants.join(", ")}`;
    throw new AppError("INVALID_FIELD", `${TENANT_HEADER} ${description}`, {
      violations: [{ field: TENANT_HEADER, description }],
      // For programs. Errors travel in headers, so not more.
      metadata: { tenants: tenants.slice(0, 40).join(" ") },
    });
  }
  return [...rights.keys()][0]!;
}

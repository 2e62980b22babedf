import { decodeJwt, decodeProtectedHeader, errors, type JWTVerifyGetKey, jwtVerify } from "jose";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import {
  type Claims,
  checkRequired,
  endingTenants,
  identityOf,
  type JwtFault,
  rightsOf,
  type Session,
  type SessionIssuer,
  SessionRefused,
  tenantOfCall,
} from "../domain/session.ts";
import type { CallerStates } from "../management/ports.ts";
import type { Telemetry } from "../telemetry/telemetry.ts";
import type { FetchDocument } from "./fetch-document.ts";
import { IssuerKeys } from "./issuer-keys.ts";

/** The longest JWT, in bytes. */
export const LONGEST = 8 * 1024;
/** The compact form of a signed JWT: header, claims, signature. Our own tokens in this form never get here. */
export const JWT = /^[\w-]+\.[\w-]*\.[\w-]*$/;

export interface SessionsDeps {
  readonly issuers: readonly SessionIssuer[];
  readonly states: CallerStates;
  readonly clock: Clock;
  readonly fetchDocument: FetchDocument;
  readonly events: Pick<Telemetry, "trouble" | "sessionRefused">;
}

interface Confirmed {
  readonly roleScopes: readonly string[];
}

interface Trusted {
  readonly issuer: SessionIssuer;
  readonly keys: IssuerKeys;
}

/**
 * Turns session JWTs into callers. Each call verifies its JWT, and reads its roles and the state of tenant and principal
 * once it is admitted; nothing is cached but the keys.
 */
export class Sessions {
  readonly #deps: SessionsDeps;
  readonly #issuers: ReadonlyMap<string, Trusted>;

  constructor(deps: SessionsDeps) {
    this.#deps = deps;
    this.#issuers = new Map(
      deps.issuers.map((issuer) => [issuer.issuer, { issuer, keys: new IssuerKeys(issuer, deps) }] as const),
    );
  }

  /** True if the credential has the form of a JWT. Then it is a session, good or not. */
  owns(bearer: string): boolean {
    return JWT.test(bearer);
  }

  /**
   * The session behind a JWT, in the tenant that the header names. CALLER_UNAUTHENTICATED for every JWT that is not
   * good, CALLER_FORBIDDEN for one without rights here, ISSUER_UNAVAILABLE while there are no keys to check it. It asks
   * no database: `confirm` does, once the call is admitted.
   */
  async authenticate(jwt: string, tenantHeader: string | null): Promise<Session> {
    try {
      const { issuer, claims } = await this.#verified(jwt);
      const identity = identityOf(issuer, claims);
      const rights = rightsOf(issuer, claims);
      const tenant = tenantOfCall(rights, tenantHeader);
      const scopesIn = new Map([...rights].map(([one, { scopes }]) => [one, scopes]));
      return { ...identity, tenant, tenants: [...rights.keys()], scopesIn, ...rights.get(tenant)! };
    } catch (thrown) {
      throw this.#refusal(thrown);
    }
  }

  /**
   * The scopes of the session's roles. A role that does not exist gives none. CALLER_UNAUTHENTICATED unless the session's
   * principal and tenants are active. One without a row is.
   */
  async confirm(session: Pick<Session, "tenant" | "tenants" | "principal" | "scopes" | "roles">): Promise<Confirmed> {
    try {
      const { tenants, principal, roles } = session;
      // A role can make it an operator's, which each of its tenants ends.
      const asked = roles.length > 0 ? tenants : endingTenants(session);
      const found = await this.#deps.states.callerStates(session, asked, principal);
      const { inactiveTenants, inactivePrincipals, roleScopes } = found;
      const ending = endingTenants({ ...session, scopes: [...session.scopes, ...roleScopes] });
      if (inactiveTenants.some((tenant) => ending.includes(tenant))) throw new SessionRefused("tenant_inactive");
      if (inactivePrincipals.some((tenant) => ending.includes(tenant))) throw new SessionRefused("principal_inactive");
      return { roleScopes };
    } catch (thrown) {
      throw this.#refusal(thrown);
    }
  }

  /** The refusal of a credential that is longer than any JWT that is accepted. */
  tooLong(): AppError {
    return this.#refusal(new SessionRefused("too_long"));
  }

  /** The age of the keys of each issuer in seconds, if it has any. */
  ages(): { readonly issuer: string; readonly seconds: number }[] {
    return [...this.#issuers.values()].flatMap(({ issuer, keys }) =>
      keys.age === undefined ? [] : [{ issuer: issuer.name, seconds: keys.age }],
    );
  }

  async #verified(jwt: string): Promise<{ issuer: SessionIssuer; claims: Claims }> {
    if (jwt.length > LONGEST) throw new SessionRefused("too_long");
    const parts = unverified(jwt);
    if (parts === undefined) throw new SessionRefused("malformed");
    const { header, claimed } = parts;
    const trusted = typeof claimed.iss === "string" ? this.#issuers.get(claimed.iss) : undefined;
    if (trusted === undefined) throw new SessionRefused("issuer_unknown");
    // No extension is known here, so none is understood.
    if (header.crit !== undefined) throw new SessionRefused("critical_header");
    const { issuer, keys } = trusted;
    // Unverified: the header can hold anything.
    const typ = typeof header.typ === "string" ? header.typ.toLowerCase() : undefined;
    const { payload } = await jwtVerify(jwt, keyOf(keys), {
      issuer: issuer.issuer,
      audience: [...issuer.audiences],
      algorithms: [...issuer.algorithms],
      typ: issuer.types.find((type) => type.toLowerCase() === typ) ?? issuer.types[0]!,
      requiredClaims: ["exp", "iat", "sub"],
      maxTokenAge: issuer.maxAge / 1000,
      clockTolerance: issuer.clockSkew / 1000,
      currentDate: new Date(this.#deps.clock.wall()),
    }).catch(refuseUnusable);
    checkRequired(issuer, payload);
    return { issuer, claims: payload };
  }

  /** Counts a refusal, and makes the error that the caller sees. */
  #refusal(thrown: unknown): AppError {
    const refused = thrown instanceof errors.JOSEError ? new SessionRefused(reasonOf(thrown)) : thrown;
    if (refused instanceof SessionRefused) {
      this.#deps.events.sessionRefused(refused.code);
      return refused.face;
    }
    if (refused instanceof AppError) {
      if (refused.reason === "ISSUER_UNAVAILABLE") this.#deps.events.sessionRefused("issuer_unavailable");
      return refused;
    }
    return new AppError("INTERNAL", "a session could not be checked", { cause: refused });
  }
}

/** A published key that cannot verify anything, such as a short one, must not look like a fault of this program. */
function refuseUnusable(error: unknown): never {
  throw isUnusable(error) ? new SessionRefused("key_unusable") : error;
}

/** True for the errors by which a published key turns out to be unusable. */
export function isUnusable(error: unknown): boolean {
  return error instanceof TypeError || error instanceof DOMException;
}

/** The JWT unverified; undefined if it is none. Nothing may depend on it but refusals and the choice of the issuer. */
export function unverified(jwt: string) {
  try {
    return { header: decodeProtectedHeader(jwt), claimed: decodeJwt(jwt) };
  } catch {
    return undefined;
  }
}

/** The key with the id in the header. An unknown id is worth one look at newer keys. */
export function keyOf(keys: IssuerKeys): JWTVerifyGetKey {
  return async (header, token) => {
    const current = await keys.current();
    try {
      return await current(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      const newer = await keys.newerThan(current);
      if (newer === undefined) throw error;
      return newer(header, token);
    }
  };
}

export function reasonOf(error: errors.JOSEError): JwtFault {
  if (error instanceof errors.JWTExpired) return error.claim === "exp" ? "expired" : "too_old";
  if (error instanceof errors.JWTClaimValidationFailed) {
    if (error.reason === "missing") return "claim_missing";
    const known = { aud: "audience", typ: "type", nbf: "not_yet_valid", iat: "issued_at" } as const;
    return known[error.claim as keyof typeof known] ?? "claim_missing";
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return "algorithm";
  if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys) {
    return "key_unknown";
  }
  if (error instanceof errors.JWSSignatureVerificationFailed) return "signature";
  return "malformed";
}

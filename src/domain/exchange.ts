import { createHash } from "node:crypto";
import type { Caller } from "./caller.ts";
import { AppError } from "./errors.ts";
import { ceilingOf, checkPrincipal, checkScopes, checkText } from "./issue.ts";
import type { LifetimeRule } from "./lifetime.ts";
import type { Profile } from "./profile.ts";
import { coversAny, isScope } from "./scope.ts";
import type { Claims } from "./session.ts";
import { matches, type TrustRule } from "./trust-rule.ts";

/*
 * The exchange of a workload's JWT for a token, by a trust rule. Pure. The claims are judged before the signature is
 * verified, and again on the rule's row under the lock of the transaction that mints.
 */

/** An issuer whose JWTs trust rules may name. Times are milliseconds. */
export interface WorkloadIssuer {
  readonly name: string;
  readonly issuer: string;
  /** Undefined: the issuer's discovery document names it. */
  readonly jwksUri: string | undefined;
  readonly caFile: string | undefined;
  readonly algorithms: readonly string[];
  /** The accepted values of the header `typ`. */
  readonly types: readonly string[];
  readonly clockSkew: number;
}

const REFUSALS = [
  "too_long",
  "malformed",
  "issuer_unknown",
  "issuer",
  "critical_header",
  "algorithm",
  "type",
  "key_unknown",
  "key_unusable",
  "signature",
  "audience",
  "expired",
  "not_yet_valid",
  "too_old",
  "issued_at",
  "claim_missing",
  "claim_mismatch",
  "rule_unknown",
  "rule_disabled",
  "rule_unfit",
  "replayed",
  "owner_inactive",
  "scope_exceeded",
] as const;

/** The true reason of a refusal. The metric has it; the caller gets one face. */
export type ExchangeRefusal = (typeof REFUSALS)[number];

export const EXCHANGE_OUTCOMES = [
  "minted",
  ...REFUSALS,
  "request_invalid",
  "limit_exceeded",
  "issuer_unavailable",
  "failed",
] as const;
export type ExchangeOutcome = (typeof EXCHANGE_OUTCOMES)[number];

/**
 * A refusal. The caller sees one face, whatever the JWT and the rule: only the holder of a JWT that the rule takes learns
 * that a scope is too wide. `code` and `cause` are for metric and log, and never sent.
 */
export class ExchangeRefused extends AppError {
  readonly code: ExchangeRefusal;

  constructor(code: ExchangeRefusal) {
    const cause = Object.assign(new Error(code), { code });
    if (code === "scope_exceeded")
      super("INVALID_SCOPE", "the rule does not give the scopes that were asked for", { cause });
    else super("INVALID_GRANT", "the subject token is not exchanged by this rule", { cause });
    this.code = code;
  }
}

/** The longest subject in an audit row, in characters. */
const LONGEST_SUBJECT = 256;

/** Refuses claims that the rule does not take at this time. `now` is milliseconds since 1970. */
export function checkClaims(rule: TrustRule, issuer: WorkloadIssuer, claims: Claims, now: number): void {
  const { iss, aud, sub, exp, iat, nbf } = claims;
  if (rule.state !== "ACTIVE") throw new ExchangeRefused("rule_unknown");
  if (rule.disabled) throw new ExchangeRefused("rule_disabled");
  // A JWT-SVID has no issuer: its keys are those of the trust domain.
  if (iss !== issuer.issuer && !(rule.kind === "SPIFFE" && iss === undefined)) throw new ExchangeRefused("issuer");
  const audiences: unknown[] = Array.isArray(aud) ? aud : [aud];
  if (!audiences.includes(rule.audience)) throw new ExchangeRefused("audience");
  if (typeof sub !== "string" || sub === "") throw new ExchangeRefused("claim_missing");
  if (!isTime(exp) || !isTime(iat) || (nbf !== undefined && !isTime(nbf))) throw new ExchangeRefused("claim_missing");
  const { clockSkew } = issuer;
  if (exp * 1000 + clockSkew <= now) throw new ExchangeRefused("expired");
  if (nbf !== undefined && nbf * 1000 - clockSkew > now) throw new ExchangeRefused("not_yet_valid");
  if (iat * 1000 - clockSkew > now) throw new ExchangeRefused("issued_at");
  if (iat * 1000 + rule.maxTokenAge + clockSkew <= now) throw new ExchangeRefused("too_old");
  if (!matches(rule.match, claims)) throw new ExchangeRefused("claim_mismatch");
}

function isTime(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

export interface Granted {
  readonly scopes: readonly string[];
  readonly lifetime: LifetimeRule;
}

/**
 * The rule's gift today: its scopes or the narrower ones that were asked for, within what the profile still allows.
 * `asked`: undefined for all.
 */
export function grantOf(rule: TrustRule, profile: Profile | undefined, asked: readonly string[] | undefined): Granted {
  const scopes = [...new Set(asked ?? rule.scopes)];
  if (!scopes.every((scope) => isScope(scope) && coversAny(rule.scopes, scope))) {
    throw new ExchangeRefused("scope_exceeded");
  }
  if (profile === undefined) throw new ExchangeRefused("rule_unfit");
  try {
    // The configuration may have changed since the rule was written. It gives what it gave, or nothing.
    checkPrincipal(profile, rule.principal);
    checkScopes(profile, giverOf(rule), scopes);
  } catch {
    throw new ExchangeRefused("rule_unfit");
  }
  const ttl = Math.min(rule.maxTtl, profile.maxTtl);
  return { scopes, lifetime: { ttl, maxTtl: profile.maxTtl, ceiling: ceilingOf(profile, scopes) } };
}

/** The rule as the one who gives: it holds exactly its scopes. */
function giverOf({ id, tenant, scopes }: TrustRule): Caller {
  return { kind: "token", provenance: `rule:${id}`, tenant, principal: "", scopes, address: "", direct: false };
}

/** The scopes of a request, in the form of RFC 6749; undefined for none. */
export function scopesOf(text: string | undefined): readonly string[] | undefined {
  const scopes = (text ?? "").split(" ").filter((scope) => scope !== "");
  return scopes.length === 0 ? undefined : scopes;
}

/** A JWT that is exchanged once: its key, and the time from which nobody takes it any more. */
export interface Once {
  readonly key: Uint8Array;
  readonly until: number;
}

/** JWTs are refused well before this time after their last use. Milliseconds. */
const MARGIN = 3_600_000;
const LONGEST_AGE = 86_400_000;

/**
 * The identity of a JWT: its issuer and id, else what its signature covers. The signature itself does not count,
 * because some can be written in more than one way.
 */
export function onceOf({ issuer }: WorkloadIssuer, { exp, iat, jti }: Claims, signed: string): Once {
  const named = typeof jti === "string" && jti !== "";
  const parts = named ? [issuer, "jti", jti] : [issuer, "jwt", signed];
  const key = createHash("sha256").update(JSON.stringify(parts)).digest();
  return { key, until: Math.min(Number(exp) * 1000, Number(iat) * 1000 + LONGEST_AGE) + MARGIN };
}

/** The subject of the JWT for an audit row; empty if it is no text for people. */
export function auditedSubject({ sub }: Claims): string {
  try {
    checkText("sub", String(sub), LONGEST_SUBJECT);
    return String(sub);
  } catch {
    return "";
  }
}

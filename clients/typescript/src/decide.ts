import type { Requirement } from "./requirement.ts";

/** The answer about a request's token. `NO_CREDENTIAL`: the request carries none. */
export type Verdict =
  | "ALLOW"
  | "NO_CREDENTIAL"
  | "INVALID_TOKEN"
  | "INSUFFICIENT_SCOPE"
  | "WRONG_AUDIENCE"
  | "WRONG_TENANT"
  | "ADDRESS_NOT_ALLOWED"
  | "RATE_LIMITED"
  | "UNDETERMINED";

/** What a cached token is judged by. Times are milliseconds since 1970 on the database's clock. */
export interface Facts {
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  /** Not set: it never expires. */
  readonly expire?: number | undefined;
  readonly notBefore?: number | undefined;
}

/** Two bounds of the database's time, in milliseconds since 1970. */
export interface TimeBounds {
  readonly lower: number;
  readonly upper: number;
}

export interface Decision {
  readonly verdict: Verdict;
  readonly missingScopes: readonly string[];
}

/**
 * Judges a token by its facts, as the server does: the same verdicts in the same order. Expiry is judged by the upper
 * bound and not-before by the lower, so a token ends early or begins late by milliseconds, never the other way round.
 */
export function decide(facts: Facts, requirement: Requirement, time: TimeBounds): Decision {
  if (facts.expire !== undefined && time.upper >= facts.expire) return refuse("INVALID_TOKEN");
  if (facts.notBefore !== undefined && time.lower < facts.notBefore) return refuse("INVALID_TOKEN");
  const { audiences } = facts;
  if (audiences.length > 0 && !audiences.includes(requirement.audience ?? "")) return refuse("WRONG_AUDIENCE");
  const missing = requirement.scopes?.filter((scope) => !facts.scopes.some((granted) => covers(granted, scope))) ?? [];
  return missing.length > 0 ? refuse("INSUFFICIENT_SCOPE", missing) : { verdict: "ALLOW", missingScopes: [] };
}

/** True if a granted scope covers an exact one: it is equal, or it ends in `.*` or `:*` and is its beginning. */
function covers(granted: string, required: string): boolean {
  if (granted === required) return true;
  if (!granted.endsWith(".*") && !granted.endsWith(":*")) return false;
  return required.length >= granted.length && required.startsWith(granted.slice(0, -1));
}

function refuse(verdict: Verdict, missingScopes: readonly string[] = []): Decision {
  return { verdict, missingScopes };
}

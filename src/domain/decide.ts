import { addressAllowed } from "./networks.ts";
import { missingScopes } from "./scope.ts";
import type { Attachment, Liveness, TokenSnapshot } from "./token-snapshot.ts";

/** The answer about a token. */
export type Verdict =
  | "ALLOW"
  | "INVALID_TOKEN"
  | "INSUFFICIENT_SCOPE"
  | "WRONG_AUDIENCE"
  | "WRONG_TENANT"
  | "ADDRESS_NOT_ALLOWED"
  | "RATE_LIMITED"
  | "UNDETERMINED";

/**
 * The reason why a token is not live, for metrics, the log, and callers with `sallyport.reasons`. The bearer never sees
 * it.
 */
export type RefusalReason =
  | "malformed"
  | "unknown"
  | "expired"
  | "not_yet_valid"
  | "disabled"
  | "revoked"
  | "principal_gone";

/** The requirement that a route places on a token. */
export interface Requirement {
  /** The token must have all of them. Exact scopes, no wildcards. */
  readonly scopes: readonly string[];
  /** The empty string requires no audience. */
  readonly audience: string;
  /** The token must be live in this tenant. The empty string: no such check. */
  readonly tenant: string;
}

/** The origin of the request. */
export interface RequestContext {
  /** An IP address without a port; the empty string if it is unknown. */
  readonly clientAddress: string;
  /** For the record of uses, never judged. It can read from a buffer that is reused, so it is valid only until the answer. */
  readonly target?: RequestTarget | undefined;
}

/** The target of the request, as its proxy or its caller reports it. An unknown part is the empty string. */
export interface RequestTarget {
  readonly method: string;
  readonly host: string;
  /** With its query, where the proxy sends one. */
  readonly path: string;
  readonly workload: string;
  /** A copy that costs less than the texts, where there is one. A keeper of a target keeps the copy, or else the texts. */
  copy?(): RequestTarget | undefined;
}

/**
 * Two bounds of the database's time, in milliseconds since 1970. Expiry is judged by the upper bound and not-before by
 * the lower: a token may end milliseconds early or begin milliseconds late, never the other way round.
 */
export interface TimeBounds {
  readonly lower: number;
  readonly upper: number;
}

export interface Decision {
  readonly verdict: Verdict;
  readonly reason?: RefusalReason;
  readonly missingScopes?: readonly string[];
  /** The snapshot of the token that was judged. Absent for INVALID_TOKEN and UNDETERMINED, which disclose none. */
  readonly snapshot?: TokenSnapshot;
}

export const NO_REQUIREMENT: Requirement = { scopes: [], audience: "", tenant: "" };

/** Returns the reason why the token is not live at this time; undefined if it is live. */
export function refusal(snapshot: TokenSnapshot, time: TimeBounds): RefusalReason | undefined {
  if (snapshot.principalState === "DELETED") return "principal_gone";
  const own = livenessRefusal(snapshot, time);
  if (own === "revoked") return own;
  if (snapshot.parent !== undefined && livenessRefusal(snapshot.parent, time) !== undefined) return "revoked";
  if (snapshot.tenantState !== "ACTIVE" || snapshot.principalState !== "ACTIVE") return "disabled";
  return own;
}

/** Judges a token by its snapshot. Pure: the same facts and the same time give the same decision. */
export function decide(
  snapshot: TokenSnapshot,
  requirement: Requirement,
  context: RequestContext,
  time: TimeBounds,
): Decision {
  const reason = refusal(snapshot, time);
  if (reason !== undefined) return { verdict: "INVALID_TOKEN", reason };
  const { parent } = snapshot;
  if (!goodFrom(snapshot.allowedCidrs, context) || (parent !== undefined && !goodFrom(parent.allowedCidrs, context))) {
    return { verdict: "ADDRESS_NOT_ALLOWED", snapshot };
  }
  if (!goodFor(snapshot.audiences, requirement) || (parent !== undefined && !goodFor(parent.audiences, requirement))) {
    return { verdict: "WRONG_AUDIENCE", snapshot };
  }
  if (requirement.tenant !== "" && !isLiveIn(snapshot, requirement.tenant)) {
    return { verdict: "WRONG_TENANT", snapshot };
  }
  if (requirement.scopes.length > 0) {
    const missing = missingScopes(snapshot.scopes, requirement.scopes);
    if (missing.length > 0) return { verdict: "INSUFFICIENT_SCOPE", snapshot, missingScopes: missing };
  }
  return { verdict: "ALLOW", snapshot };
}

/** The tenants in which a live token is live, its own left out. */
export function liveTenants({ attachments }: Pick<TokenSnapshot, "attachments">): readonly string[] {
  return attachments.length === 0 ? NO_TENANTS : attachments.filter(isLive).map(({ tenant }) => tenant);
}

const NO_TENANTS: readonly string[] = [];

function isLiveIn({ tenant, attachments }: TokenSnapshot, required: string): boolean {
  return tenant === required || attachments.some((one) => one.tenant === required && isLive(one));
}

function isLive({ tenantState, cut }: Attachment): boolean {
  return tenantState === "ACTIVE" && !cut;
}

function goodFrom(cidrs: readonly string[], { clientAddress }: RequestContext): boolean {
  return cidrs.length === 0 || addressAllowed(cidrs, clientAddress);
}

function goodFor(audiences: readonly string[], { audience }: Requirement): boolean {
  return audiences.length === 0 || audiences.includes(audience);
}

function livenessRefusal(of: Liveness, time: TimeBounds): RefusalReason | undefined {
  if (of.revoked || of.cut) return "revoked";
  if (of.disabled) return "disabled";
  if (of.expire !== undefined && time.upper >= of.expire) return "expired";
  if (of.notBefore !== undefined && time.lower < of.notBefore) return "not_yet_valid";
  return undefined;
}

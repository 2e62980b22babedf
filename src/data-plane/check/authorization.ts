import { liveTenants, type RequestTarget, type Verdict } from "../../domain/decide.ts";
import type { TokenSnapshot } from "../../domain/token-snapshot.ts";
import { addressOfHop } from "../../rpc/client-address.ts";
import type { Validate, ValidationResult } from "../../validation/validate.ts";
import type { Credential } from "../credentials.ts";
import { type AddressSource, ALL_TENANTS, headerOf, IDENTITY, type Policy } from "../policy.ts";

/** The facts about a request that proxies send, common to Check and the HTTP check. */
export interface AuthorizationQuery {
  readonly policy: Policy;
  readonly credential: Credential;
  /** The empty string if unknown. A token that is bound to networks is then refused. */
  readonly clientAddress: string;
  readonly target?: RequestTarget | undefined;
  /** A CORS preflight: OPTIONS with Origin and Access-Control-Request-Method. */
  readonly preflight: boolean;
}

/** A refusal in the form that the proxy's client sees. `code` is a google.rpc.Code. */
export interface Denial {
  readonly kind: "denied";
  /** The verdict, or the reason why the token was not validated. `docs/errors.md` lists all. */
  readonly verdict: Exclude<Verdict, "ALLOW"> | "MALFORMED" | "FORBIDDEN";
  readonly code: number;
  readonly status: 400 | 401 | 403 | 429 | 503;
  readonly title: string;
  /** `www-authenticate` values (RFC 6750 §3). */
  readonly challenges: readonly string[];
  readonly retryAfter?: number;
}

export type AuthorizationOutcome = { readonly kind: "allowed"; readonly snapshot: TokenSnapshot | undefined } | Denial;

/** Denials that need no policy. */
export const DENIED = {
  undetermined: denial("UNDETERMINED", 14, 503, "the token cannot be validated now", [], 1),
  peer: denial("FORBIDDEN", 7, 403, "this peer is not allowed"),
  policy: denial("FORBIDDEN", 7, 403, "no such policy"),
  tenant: denial("MALFORMED", 3, 400, "the header that names the tenant is missing or malformed"),
  undecodable: denial("MALFORMED", 3, 400, "the check request cannot be decoded"),
} as const;

/** Validates the credential of a request. Never rejects: every failure is a denial. */
export function ask(
  validate: Validate,
  question: AuthorizationQuery,
  deadline: number,
): AuthorizationOutcome | Promise<AuthorizationOutcome> {
  const { policy, credential } = question;
  if (question.preflight && policy.allowCorsPreflight) return { kind: "allowed", snapshot: undefined };
  if (credential.kind === "malformed") {
    return denial("MALFORMED", 3, 400, credential.why, bearerChallenge(policy, 'error="invalid_request"'));
  }
  if (credential.kind === "none") {
    return denial("INVALID_TOKEN", 16, 401, "a credential is required", challenges(policy));
  }
  const context = { clientAddress: question.clientAddress, target: question.target };
  const answer = validate(credential.tokenString, policy.requirement, context, deadline);
  return answer instanceof Promise ? answer.then((later) => outcomeOf(later, policy)) : outcomeOf(answer, policy);
}

/** The only table from verdicts to the answers that proxies get. */
export function outcomeOf(answer: ValidationResult, policy: Policy): AuthorizationOutcome {
  switch (answer.verdict) {
    case "ALLOW":
      return { kind: "allowed", snapshot: answer.snapshot };
    case "INVALID_TOKEN":
    case "WRONG_AUDIENCE": // RFC 9068, section 4
      return denial(
        answer.verdict,
        16,
        401,
        "the token is not valid here",
        challenges(policy, 'error="invalid_token"'),
      );
    case "INSUFFICIENT_SCOPE": {
      const scope = `error="insufficient_scope", scope="${policy.requirement.scopes.join(" ")}"`;
      return denial(answer.verdict, 7, 403, "the token lacks a scope", bearerChallenge(policy, scope));
    }
    case "ADDRESS_NOT_ALLOWED":
      return denial(answer.verdict, 7, 403, "the token is not accepted from this address");
    case "WRONG_TENANT":
      return denial(answer.verdict, 7, 403, "the token is not valid in this tenant");
    case "RATE_LIMITED":
      return denial(answer.verdict, 8, 429, "too many requests with this token", [], 1);
    case "UNDETERMINED":
      return DENIED.undetermined;
  }
}

const LONGEST_IDENTITY = 4_096;

/**
 * The identity headers of an accepted request: all of them, never empty. A header that the policy renames or omits is `removed` under its original name, so that no client can forge
 * it.
 */
export function identityOf(policy: Policy, snapshot: TokenSnapshot | undefined) {
  const values = [
    snapshot?.principal,
    snapshot && tenantFor(policy, snapshot),
    snapshot?.id,
    snapshot && scopesWithin(snapshot.scopes, LONGEST_IDENTITY - 512),
    snapshot?.profile,
  ];
  const set: [string, string][] = [];
  const removed: string[] = [];
  for (const [i, name] of IDENTITY.entries()) {
    const as = policy.headers[name] ?? name;
    if (as !== name) removed.push(name);
    if (as !== false) set.push([as, headerSafe(values[i] || "-")]);
  }
  const as = policy.headers[ALL_TENANTS] ?? false;
  if (as !== ALL_TENANTS) removed.push(ALL_TENANTS);
  if (as !== false)
    set.push([as, snapshot === undefined ? "-" : [snapshot.tenant, ...liveTenants(snapshot)].join(" ")]);
  return { set, removed };
}

/** The tenant that was required, else the token's own. */
function tenantFor({ requirement }: Policy, snapshot: TokenSnapshot): string {
  return requirement.tenant || snapshot.tenant;
}

/** The carriers of the policy. The upstream must not see them. */
export function credentialHeaders(policy: Policy): string[] {
  if (policy.keepCredential) return [];
  return [...new Set(policy.carriers.map(headerOf))];
}

/** The facts of a token for the proxy's log and filters. Never the token string. */
export function facts(policy: Policy, snapshot: TokenSnapshot | undefined): Record<string, string> {
  if (snapshot === undefined) return { verdict: "ALLOW" };
  const { principal, id, scopes, profile, hint } = snapshot;
  const tenant = tenantFor(policy, snapshot);
  return { verdict: "ALLOW", principal, tenant, "token-id": id, scopes: scopes.join(" "), profile, hint };
}

/**
 * The client's address by the policy's rule. `peer` is the address that the proxy reports. The empty string if the
 * address is unknown.
 */
export function addressBy(source: AddressSource, peer: string, header: (name: string) => readonly string[]): string {
  if (source === "peer") return peer;
  if (source === "x-envoy-external-address") {
    const values = header(source);
    return values.length === 1 ? addressOfHop(values[0]!) : "";
  }
  return addressOfHop(hopFromRight(header("x-forwarded-for"), Number(source.slice(4))));
}

/** The n-th comma-separated hop of all lines, counted from the right; the empty string if there is none. */
function hopFromRight(lines: readonly string[], n: number): string {
  let left = n;
  for (let i = lines.length - 1; i >= 0; i--) {
    const line = lines[i]!;
    for (let end = line.length; end >= 0; ) {
      const comma = end === 0 ? -1 : line.lastIndexOf(",", end - 1);
      if (--left === 0) return line.slice(comma + 1, end);
      end = comma;
    }
  }
  return "";
}

/** A problem document (RFC 9457) of at most 512 bytes. */
export function problem(denied: Denial): string {
  const { status, title, verdict } = denied;
  return JSON.stringify({ type: "about:blank", title: STATUS_TITLES[status], status, detail: title, verdict });
}

const STATUS_TITLES = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  429: "Too Many Requests",
  503: "Service Unavailable",
} as const;

function denial(
  verdict: Denial["verdict"],
  code: number,
  status: Denial["status"],
  title: string,
  challengeList: readonly string[] = [],
  retryAfter?: number,
): Denial {
  return { kind: "denied", verdict, code, status, title, challenges: challengeList, retryAfter };
}

/**
 * One challenge for each scheme that the policy accepts. `x-api-key` and other headers have no standard scheme. A policy
 * with no other carrier gets its own challenge, because a 401 must have one (RFC 9110 §15.5.2).
 */
function challenges(policy: Policy, error = ""): string[] {
  const list = bearerChallenge(policy, error);
  if (policy.carriers.includes("basic")) list.push(`Basic realm="${policy.realm}"`);
  return list.length > 0 ? list : [`ApiKey realm="${policy.realm}"`];
}

/** Only Bearer has parameters that describe the error (RFC 6750 §3). */
function bearerChallenge(policy: Policy, error: string): string[] {
  if (!policy.carriers.includes("bearer")) return [];
  return [`Bearer realm="${policy.realm}"${error === "" ? "" : `, ${error}`}`];
}

/** Cut at a whole scope, because rights only shrink. */
function scopesWithin(scopes: readonly string[], longest: number): string {
  let text = "";
  for (const scope of scopes) {
    const more = text === "" ? scope : `${text} ${scope}`;
    if (more.length > longest) break;
    text = more;
  }
  return text;
}

/** Visible ASCII and spaces; everything else is percent-encoded. */
function headerSafe(value: string): string {
  return /^[\x20-\x7e]*$/.test(value) ? value : encodeURI(value);
}

import { type Caller, holds, isAdministrator } from "./caller.ts";
import { AppError, invalidField } from "./errors.ts";
import { isCidr } from "./networks.ts";
import { type PrincipalType, principalType } from "./principal.ts";
import type { Minter, Profile } from "./profile.ts";
import { covers, coversAny, isScope } from "./scope.ts";
import { holdsTokenString } from "./token-string.ts";

/* The rules of issue: they decide what a caller may put into a token. Pure. Each refusal names the field and its bound, and never repeats the value. */

/** People read these texts, so they hold no character that could forge a line or change the text direction. */
const UNFIT = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
const AUDIENCE = /^[\x21-\x7e]{1,256}$/;

/**
 * Returns the name, trimmed. INVALID_FIELD unless it has 1 (or, with `allowEmpty`, 0) to 100 characters without control
 * characters.
 */
export function checkName(field: string, name: string, allowEmpty: boolean): string {
  const trimmed = name.trim();
  const length = lengthOf(trimmed, 100);
  if (length > 100 || (length === 0 && !allowEmpty)) {
    throw invalidField(field, `must have ${allowEmpty ? "at most 100" : "1 to 100"} characters`);
  }
  checkText(field, trimmed, 100);
  return trimmed;
}

/** INVALID_FIELD if a free text is too long or holds control characters or a token string. */
export function checkText(field: string, text: string, longest: number): void {
  if (lengthOf(text, longest) > longest) throw invalidField(field, `must have at most ${longest} characters`);
  if (UNFIT.test(text)) throw invalidField(field, "must not hold control, line-separating or direction characters");
  checkNoSecret(field, text);
}

/** The length in characters, each of one or two code units. A text that is too long in any case is not counted. */
function lengthOf(text: string, longest: number): number {
  return text.length > 2 * longest ? text.length : [...text].length;
}

function checkNoSecret(field: string, text: string): void {
  if (holdsTokenString(text)) throw invalidField(field, "must not hold a token string or a JWT");
}

export function checkAnnotations(field: string, annotations: Readonly<Record<string, string>>): void {
  const entries = Object.entries(annotations);
  if (entries.length > 32) throw invalidField(field, "must have at most 32 entries");
  for (const [key, value] of entries) {
    const keyBytes = Buffer.byteLength(key);
    if (keyBytes < 1 || keyBytes > 63) throw invalidField(field, "must have keys of 1 to 63 bytes");
    if (Buffer.byteLength(value) > 256) throw invalidField(field, "must have values of at most 256 bytes");
    checkText(field, key, 63);
    checkText(field, value, 256);
  }
}

export function checkAudiences(audiences: readonly string[]): void {
  if (audiences.length > 20) throw invalidField("audiences", "must have at most 20 entries");
  if (!audiences.every((audience) => AUDIENCE.test(audience))) {
    throw invalidField("audiences", "must each have 1 to 256 visible ASCII characters");
  }
  for (const audience of audiences) checkNoSecret("audiences", audience);
}

export function checkCidrs(cidrs: readonly string[]): void {
  if (cidrs.length > 50) throw invalidField("allowed_cidrs", "must have at most 50 entries");
  if (!cidrs.every(isCidr)) {
    throw invalidField("allowed_cidrs", "must each be an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32");
  }
}

/** INVALID_FIELD unless the principal is well-formed and of a type that the profile allows. */
export function checkPrincipal(profile: Profile, principal: string): PrincipalType {
  const type = principalType("principal", principal);
  if (!profile.principals.includes(type)) {
    throw invalidField("principal", `must be of type ${profile.principals.join(" or ")} for profile ${profile.name}`);
  }
  return type;
}

const ROLE_TEXT: Readonly<Record<Minter, string>> = {
  token: "a token for its own principal",
  session: "a session for its own principal",
  admin: "an administrator",
  creator: "a caller without sallyport.admin",
};

/**
 * Returns the role in which the caller mints for a principal. RIGHTS_EXCEEDED if the profile does not allow that role.
 */
export function checkMinter(profile: Profile, caller: Caller, tenant: string, principal: string): Minter {
  const minter = minterOf(profile, caller, tenant, principal);
  if (!profile.mintedBy.includes(minter)) {
    throw new AppError("RIGHTS_EXCEEDED", `profile ${profile.name} cannot be minted by ${ROLE_TEXT[minter]}`);
  }
  return minter;
}

function minterOf({ mintedBy }: Profile, caller: Caller, tenant: string, principal: string): Minter {
  const own = caller.tenant === tenant && caller.principal !== "" && caller.principal === principal;
  if (own && caller.kind === "token") return "token";
  const administrator = isAdministrator(caller);
  // A session is a person. An administrator's may mint for itself in either role.
  if (own && caller.kind === "session" && (mintedBy.includes("session") || !administrator)) return "session";
  return administrator ? "admin" : "creator";
}

/** The `sallyport.` scopes that a token of any profile may hold, if its minter holds them. */
const ORDINARY = new Set([
  "sallyport.validate",
  "sallyport.reasons",
  "sallyport.tokens.*",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
]);

/** INVALID_FIELD unless there are at most 100 scopes, each of the form of RFC 6749, and none holds a secret. */
export function checkScopeForms(scopes: readonly string[]): void {
  if (scopes.length > 100) throw invalidField("scopes", "must have at most 100 entries");
  if (!scopes.every(isScope)) {
    throw invalidField("scopes", 'must each have 1 to 128 visible ASCII characters without space, " and \\');
  }
  for (const scope of scopes) checkNoSecret("scopes", scope);
}

/**
 * Rights only shrink. A caller grants a scope under `sallyport.` only if it holds the scope, and most of them only to
 * administrative tokens. Operators and administrators grant other scopes freely; all other callers only their own.
 */
export function checkScopes(profile: Profile, caller: Caller, scopes: readonly string[]): void {
  checkScopeForms(scopes);
  checkGrants({ ...profile, what: `tokens of profile ${profile.name}` }, caller, scopes);
}

/** The same rule for anything that holds scopes, with scopes that are well-formed. `what` names it in a refusal. */
export function checkGrants(
  { administrative, what }: { readonly administrative: boolean; readonly what: string },
  caller: Caller,
  scopes: readonly string[],
): void {
  const free = isAdministrator(caller);
  for (const scope of scopes) {
    const ours = scope.startsWith("sallyport.");
    if (ours && !administrative && !ORDINARY.has(scope)) {
      throw new AppError("RIGHTS_EXCEEDED", `scopes: ${what} cannot hold administrative scopes`);
    }
    if (ours ? !holds(caller, scope) : !free && !coversAny(caller.scopes, scope)) {
      throw new AppError("RIGHTS_EXCEEDED", "scopes: a caller can only grant scopes that it holds itself");
    }
  }
}

/**
 * The shortest ceiling, in milliseconds, among the configured scopes that the granted ones cover; undefined if there is
 * none.
 */
export function ceilingOf(profile: Profile, scopes: readonly string[]): number | undefined {
  let least: number | undefined;
  for (const [scope, ceiling] of Object.entries(profile.scopeCeilings)) {
    if (scopes.some((granted) => covers(granted, scope))) least = Math.min(least ?? ceiling, ceiling);
  }
  return least;
}

/** INVALID_FIELD for a request id if the profile's strings cannot be made again: each ES256 signature is another one. */
export function checkRepeatable({ name, format, alg }: Profile, requestId: string): void {
  if (requestId !== "" && format === "jwt" && alg === "ES256") {
    throw invalidField("request_id", `must be empty for profile ${name}: an ES256 signature cannot be made again`);
  }
}

/** INVALID_FIELD unless 0 < ttl ≤ the profile's longest. Milliseconds. */
export function checkTtl(profile: Profile, ttl: number): void {
  if (!(ttl > 0 && ttl <= profile.maxTtl)) {
    throw invalidField("ttl", `must be more than 0s and at most ${profile.maxTtl / 1000}s for profile ${profile.name}`);
  }
}

export function checkNoExpiry(field: string, profile: Profile): void {
  if (!profile.allowNoExpiry) {
    throw invalidField(field, `profile ${profile.name} requires an expiry of at most ${profile.maxTtl / 1000}s`);
  }
}

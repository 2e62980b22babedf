import type { JwtHeader, Keyring, Keys } from "./keyring.ts";
import { headerOf } from "./keyring.ts";
import { Secret } from "./secret.ts";
import { isSigned, SIGNATURE_BYTES, type SigningKey, signed } from "./signing-keys.ts";
import type { Token } from "./token.ts";

/*
 * A token string in JWT form is `<header>.<claims>.<signature>` (RFC 7515, compact). It is checked online like any other
 * string, by the digest of all of it; its claims decide nothing. So no claim is read here, and no JSON is parsed: a
 * header is ours if it is one of those that we write, byte for byte.
 */

/** The longest string in JWT form. Client caches ask no server about a longer one. */
export const LONGEST_JWT = 4096;
/** No header of ours is longer: an id has at most 64 characters. */
const LONGEST_HEADER = 192;
const DOT = 0x2e;
/** 64 bytes in base64url. */
const SIGNATURE = 86;
const CLAIMS = /^[A-Za-z0-9_-]+$/;

/** The facts of a new token that its claims state. Times are milliseconds. */
export type ClaimedFacts = Pick<
  Token,
  "id" | "tenant" | "profile" | "principal" | "scopes" | "audiences" | "notBeforeTime" | "expireTime"
> & { readonly issueTime: number };

/** The part of a string in JWT form that is signed: header and claims. No `exp`: the token never expires. */
export function signingInput(facts: ClaimedFacts, issuer: string, signedBy: SigningKey, keys: Keys): string {
  const { id, tenant, profile, principal, scopes, audiences, notBeforeTime, expireTime } = facts;
  const claims = {
    iss: issuer,
    sub: principal,
    jti: id,
    typ: profile,
    iat: Math.floor(facts.issueTime / 1000),
    // Rounded so that the claims never promise more than the row.
    ...(notBeforeTime !== undefined && { nbf: Math.ceil(notBeforeTime / 1000) }),
    ...(expireTime !== undefined && { exp: Math.floor(expireTime / 1000) }),
    ...(audiences.length > 0 && { aud: audiences }),
    scope: scopes.join(" "),
    tenant,
  };
  return `${headerOf(signedBy, keys)}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
}

/** The length that a string has when this much of it is signed. */
export function jwtLength(input: string): number {
  return input.length + 1 + SIGNATURE;
}

/** Signs. Returns the string and its digest. */
export function signJwt(input: string, { signedBy, keys }: JwtHeader): { tokenString: Secret; digest: string } {
  const text = `${input}.${signed(input, signedBy)}`;
  return { tokenString: new Secret(text), digest: keys.digest.latin1(text) };
}

/** The hint of a token whose string has JWT form: the start of its id. The string itself shows the id. */
export function jwtHint(id: string): string {
  return id.slice(0, "tok_".length + 8);
}

/** The header that a signed part begins with, if it is ours. */
export function headerIn(text: string, keyring: Keyring): JwtHeader | undefined {
  const dot = text.indexOf(".");
  return dot < 0 || dot > LONGEST_HEADER ? undefined : keyring.header(text.slice(0, dot));
}

/** As `headerIn`, of the characters bytes[from, to). */
export function headerAt(bytes: Uint8Array, from: number, to: number, keyring: Keyring): JwtHeader | undefined {
  if (keyring.signing === undefined) return undefined;
  let dot = from;
  const last = Math.min(to, from + LONGEST_HEADER + 1);
  while (dot < last && bytes[dot] !== DOT) dot++;
  if (dot >= last) return undefined;
  return keyring.header(Buffer.from(bytes.buffer, bytes.byteOffset + from, dot - from).toString("latin1"));
}

/** True if a string with a header of ours has the form of a JWT: three parts in canonical base64url. */
export function hasJwtShape(text: string): boolean {
  const end = text.length - SIGNATURE - 1;
  const start = text.indexOf(".") + 1;
  if (text.charCodeAt(end) !== DOT || end <= start) return false;
  // The last character of a part has bits that a decoder ignores. Of the claims, the signature covers them.
  return CLAIMS.test(text.slice(start, end)) && isCanonical(text.slice(end + 1));
}

/** True if the signature of a string that `hasJwtShape` accepted is right. Takes about 0.1 ms. */
export function hasRightSignature(text: string, key: SigningKey): boolean {
  const dot = text.length - SIGNATURE - 1;
  return isSigned(text.slice(0, dot), Buffer.from(text.slice(dot + 1), "base64url"), key);
}

/** True if a signature is written in the one canonical way. */
function isCanonical(written: string): boolean {
  const bytes = Buffer.from(written, "base64url");
  return bytes.length === SIGNATURE_BYTES && bytes.toString("base64url") === written;
}

import { randomBytes, timingSafeEqual } from "node:crypto";
import { crc32 } from "node:zlib";
import { base62, base62Number, isBase62 } from "./base62.ts";
import { hasJwtShape, hasRightSignature, headerAt, headerIn, LONGEST_JWT } from "./jwt-string.ts";
import type { Keyring, Keys } from "./keyring.ts";
import { Secret } from "./secret.ts";
import type { SigningKey } from "./signing-keys.ts";

/*
 * A token string is `<prefix>_<kid><tag><secret><crc>`, or has JWT form (`jwt-string.ts`), which is longer.
 *   kid     1  names the pepper
 *   tag     8  truncated HMAC over all but itself and the crc, under its own key: a forged string is refused without
 *              I/O. It sheds load; the digest authenticates.
 *   secret 43  256 bits
 *   crc     6  CRC-32 over everything before it: secret scanners check a find offline
 */
const TAG = 8;
const SECRET = 43;
const CRC = 6;
const BODY = 1 + TAG + SECRET + CRC;
const LONGEST_PREFIX = 16;

/** A string in the form of a token string, with a known kid. */
export interface ParsedTokenString {
  readonly keys: Keys;
  /** HMAC-SHA256 of the whole string, as 32 characters of latin1. It is the look-up key everywhere inside. */
  readonly digest: string;
  /** The key that its header names, if it has JWT form. */
  readonly signedBy?: SigningKey;
}

/** Makes a token string. `secret` is 32 bytes, random by default. Returns the string, its digest and its hint. */
export function mintTokenString(prefix: string, keys: Keys, secret: Uint8Array = randomBytes(32)) {
  const secretDigits = base62(secret, SECRET);
  const head = `${prefix}_${keys.kid}`;
  const beforeCrc = head + tagOf(keys, head, secretDigits) + secretDigits;
  const text = beforeCrc + base62Number(crc32(beforeCrc), CRC);
  return { tokenString: new Secret(text), digest: keys.digest.latin1(text), hint: hintOf(text) };
}

/**
 * The look-up key of a string that may be a token string: the kid at its place names a pepper, and the string is ASCII,
 * since the MAC reads one byte a character. A string that is found by its digest is well-formed; for any other, call
 * `hasShape`.
 */
export function digestOf(text: string, keyring: Keyring): ParsedTokenString | undefined {
  const start = text.length - BODY;
  if (start < 3 || start > LONGEST_PREFIX + 1 || text.charCodeAt(start - 1) !== 0x5f) {
    return start > LONGEST_PREFIX + 1 ? jwtDigestOf(text, keyring) : undefined;
  }
  const keys = keyring.get(text[start]!);
  if (keys === undefined) return undefined;
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return undefined;
  return { keys, digest: keys.digest.latin1(text) };
}

function jwtDigestOf(text: string, keyring: Keyring): ParsedTokenString | undefined {
  if (keyring.signing === undefined || text.length > LONGEST_JWT) return undefined;
  const header = headerIn(text, keyring);
  if (header === undefined) return undefined;
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return undefined;
  return { ...header, digest: header.keys.digest.latin1(text) };
}

/** True if the header of a text is one of a token string in JWT form, whether the rest is good or not. */
export function hasJwtHeader(text: string, keyring: Keyring): boolean {
  return headerIn(text, keyring) !== undefined;
}

/** The digest that `digestOf` makes of the characters bytes[from, to), without building a string. */
export function digestAt(bytes: Uint8Array, from: number, to: number, keyring: Keyring): string | undefined {
  const start = to - from - BODY;
  if (start < 3 || start > LONGEST_PREFIX + 1 || bytes[from + start - 1] !== 0x5f) {
    const isJwt = start > LONGEST_PREFIX + 1 && to - from <= LONGEST_JWT;
    return isJwt ? headerAt(bytes, from, to, keyring)?.keys.digest.latin1At(bytes, from, to) : undefined;
  }
  return keyring.get(String.fromCharCode(bytes[from + start]!))?.digest.latin1At(bytes, from, to);
}

/** True if a string that `digestOf` accepted is well-formed: alphabet, prefix, CRC; or a JWT. No I/O. */
export function hasShape(text: string, parsed: ParsedTokenString): boolean {
  return parsed.signedBy === undefined ? hasOpaqueShape(text) : hasJwtShape(text);
}

/** True if a string that `hasShape` accepted was made with our keys: its tag, or its signature, is right. No I/O. */
export function isOurs(text: string, parsed: ParsedTokenString): boolean {
  return parsed.signedBy === undefined ? hasRightTag(text, parsed.keys) : hasRightSignature(text, parsed.signedBy);
}

function hasOpaqueShape(text: string): boolean {
  const start = text.length - BODY;
  if (!isBase62(text, start, text.length) || !isPrefix(text, start - 1)) return false;
  const crcAt = text.length - CRC;
  return text.slice(crcAt) === base62Number(crc32(text.slice(0, crcAt)), CRC);
}

/**
 * Parses a string: alphabet, length, CRC, known kid; then computes the digest. No I/O. Undefined for any other text, of
 * any length and any characters.
 */
export function parseTokenString(text: string, keyring: Keyring): ParsedTokenString | undefined {
  const parsed = digestOf(text, keyring);
  return parsed !== undefined && hasShape(text, parsed) ? parsed : undefined;
}

/** True if the tag of a string that `parseTokenString` accepted is right. Takes constant time. */
export function hasRightTag(text: string, keys: Keys): boolean {
  const start = text.length - BODY;
  const tag = text.slice(start + 1, start + 1 + TAG);
  const right = tagOf(keys, text.slice(0, start + 1), text.slice(start + 1 + TAG, text.length - CRC));
  return timingSafeEqual(Buffer.from(tag, "latin1"), Buffer.from(right, "latin1"));
}

/** The part of a token string after its prefix, of any kid, anywhere in a text. */
const BEHIND_PREFIX = /_[0-9A-Za-z]{58}/g;
const PREFIX_AT_END = /[a-z][a-z0-9_]{1,15}$/;

/** The claims of a JWT that is signed, between two dots, and the start of its signature. */
const CLAIMS = /^e[yw][\w-]{14,}$/;
const SIGNATURE = /^[\w-]{43}/;
const WORD = /[\w-]/;
/** The least length of the header of a JWT that is signed. */
const LEAST_HEADER = 16;

/**
 * True if a text holds something in the form of a token string, or of a JWT, which can be a session. Stored and displayed
 * texts must hold no secret.
 */
export function holdsTokenString(text: string): boolean {
  for (const { index } of text.matchAll(BEHIND_PREFIX)) {
    if (PREFIX_AT_END.test(text.slice(Math.max(0, index - LONGEST_PREFIX), index))) return true;
  }
  const parts = text.split(".");
  for (let at = 1; at + 1 < parts.length; at++) {
    if (!CLAIMS.test(parts[at]!) || !SIGNATURE.test(parts[at + 1]!)) continue;
    const before = parts[at - 1]!;
    let from = before.length;
    while (from > 0 && WORD.test(before[from - 1]!)) from--;
    // The base64url of an opening brace.
    const header = before.slice(from).search(/e[yw]/);
    if (header >= 0 && before.length - from - header >= LEAST_HEADER) return true;
  }
  return false;
}

/** The visible start of a token string, up to and including its tag. It holds no bit of the secret. */
export function hintOf(text: string): string {
  return text.slice(0, text.length - SECRET - CRC);
}

/** A new token id: `tok_` and 22 base62 characters of randomness. */
export function newTokenId(): string {
  return `tok_${base62(randomBytes(17), 22)}`;
}

/** True if the text has the form of a token id. */
export function isTokenId(text: string): boolean {
  return text.length === 26 && text.startsWith("tok_") && isBase62(text, 4, 26);
}

function tagOf(keys: Keys, head: string, secretDigits: string): string {
  return base62(Buffer.from(keys.tag.latin1(head + secretDigits).slice(0, 8), "latin1"), TAG);
}

function isPrefix(text: string, end: number): boolean {
  for (let i = 0; i < end; i++) {
    const code = text.charCodeAt(i);
    const letter = code >= 0x61 && code <= 0x7a;
    if (!letter && (i === 0 || (code !== 0x5f && (code < 0x30 || code > 0x39)))) return false;
  }
  return true;
}

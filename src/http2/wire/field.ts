import { STATIC_TABLE } from "./tables.ts";

// The role of a field in a request, decided once when the field enters the HPACK table.
export const OTHER = 0;
export const METHOD = 1;
export const SCHEME = 2;
export const PATH = 3;
export const AUTHORITY = 4;
/** Roles up to here are pseudo-header fields. */
export const LAST_PSEUDO = AUTHORITY;
export const CONTENT_TYPE = 5;
export const TE = 6;
export const GRPC_TIMEOUT = 7;
export const GRPC_ENCODING = 8;
export const CONTENT_LENGTH = 9;
export const HOST = 10;
/** A field that makes its request malformed whatever its value (RFC 9113 §8.2.2, §8.3). */
export const FORBIDDEN = 11;

const ROLES: ReadonlyMap<string, number> = new Map([
  [":method", METHOD],
  [":scheme", SCHEME],
  [":path", PATH],
  [":authority", AUTHORITY],
  ["content-type", CONTENT_TYPE],
  ["te", TE],
  ["grpc-timeout", GRPC_TIMEOUT],
  ["grpc-encoding", GRPC_ENCODING],
  ["content-length", CONTENT_LENGTH],
  ["host", HOST],
  ["connection", FORBIDDEN],
  ["keep-alive", FORBIDDEN],
  ["proxy-connection", FORBIDDEN],
  ["transfer-encoding", FORBIDDEN],
  ["upgrade", FORBIDDEN],
]);

/** One decoded field line. Shared by every request that refers to it, so nothing in it belongs to one request. */
export interface Field {
  readonly name: string;
  /** Octets as latin1, one character each. */
  readonly value: string;
  /** RFC 7541 §4.1: octets of name and value plus 32. */
  readonly size: number;
  readonly role: number;
  /** The name or the value breaks RFC 9113 §8.2.1. */
  readonly bad: boolean;
  readonly badName: boolean;
  /** In the static table, which all servers of the process share. */
  readonly shared: boolean;
  /** The parsed value, kept by the reader of its role; a shared field keeps none. */
  meaning: unknown;
}

const BAD_IN_NAME = 1;
const BAD_IN_VALUE = 2;
const OCTETS = new Uint8Array(256);
for (let octet = 0; octet < 256; octet++) {
  const character = String.fromCharCode(octet);
  if (!/[a-z0-9!#$%&'*+\-.^_`|~]/.test(character)) OCTETS[octet] = BAD_IN_NAME;
  if (octet === 0 || octet === 10 || octet === 13) OCTETS[octet]! |= BAD_IN_VALUE;
}

/** Makes a field of a name, or of another field's name, and the value text[from, from + length). */
export function newField(named: Field | string, text: Buffer, from: number, length: number): Field {
  const known = typeof named !== "string";
  const name = known ? named.name : named;
  const role = known ? named.role : (ROLES.get(name) ?? OTHER);
  const badName = known ? named.badName : role === FORBIDDEN || (role === OTHER && !isToken(name));
  return {
    name,
    value: text.toString("latin1", from, from + length),
    size: name.length + length + 32,
    role,
    bad: badName || !isFieldValue(text, from, length),
    badName,
    shared: false,
    meaning: undefined,
  };
}

/** Lower-case token, RFC 9113 §8.2.1. A pseudo-header name that has no role is refused with it: `:` is no token. */
function isToken(name: string): boolean {
  for (let i = 0; i < name.length; i++) if (OCTETS[name.charCodeAt(i)]! & BAD_IN_NAME) return false;
  return name.length > 0;
}

function isFieldValue(text: Buffer, from: number, length: number): boolean {
  if (length === 0) return true;
  const end = from + length;
  for (let i = from; i < end; i++) if (OCTETS[text[i]!]! & BAD_IN_VALUE) return false;
  return !isBlank(text[from]!) && !isBlank(text[end - 1]!);
}

function isBlank(octet: number): boolean {
  return octet === 0x20 || octet === 0x09;
}

/** RFC 7541 Appendix A as fields; index 0 is a hole. */
export const STATIC_FIELDS: readonly (Field | undefined)[] = [
  undefined,
  ...STATIC_TABLE.map(([name, value]): Field => {
    const role = ROLES.get(name) ?? (name.startsWith(":") ? FORBIDDEN : OTHER);
    const bad = role === FORBIDDEN;
    return {
      name,
      value,
      size: name.length + value.length + 32,
      role,
      bad,
      badName: bad,
      shared: true,
      meaning: undefined,
    };
  }),
];

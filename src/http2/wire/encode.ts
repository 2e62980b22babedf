import { STATIC_TABLE } from "./tables.ts";

// The encoding half of HPACK for prepared answers: literals without indexing and the static table, so that the same
// octets mean the same on every connection. Nothing is ever put into the peer's dynamic table.

const NAMES = new Map<string, number>();
const PAIRS = new Map<string, number>();
STATIC_TABLE.forEach(([name, value], at) => {
  if (!NAMES.has(name)) NAMES.set(name, at + 1);
  if (value !== "") PAIRS.set(`${name}\n${value}`, at + 1);
});
const NEVER_INDEXED: ReadonlySet<string> = new Set(["authorization", "set-cookie"]);

/**
 * One header block: `:status` when given, then the fields in order. Throws RangeError for a name or a value that may
 * not travel (RFC 9113 §8.2.1), so that a value from outside cannot break a frame or add a field.
 */
export function encodeFields(status: number | undefined, fields: readonly (readonly [string, string])[]): Buffer {
  const parts: Buffer[] = [];
  if (status !== undefined) parts.push(encodeField(":status", String(status)));
  for (const [name, value] of fields) {
    if (!/^[a-z0-9!#$%&'*+\-.^_`|~]+$/.test(name)) throw new RangeError("header name");
    if (!/^[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?$|^$/.test(value)) {
      throw new RangeError("header value");
    }
    parts.push(encodeField(name, value));
  }
  return Buffer.concat(parts);
}

function encodeField(name: string, value: string): Buffer {
  const pair = PAIRS.get(`${name}\n${value}`);
  if (pair !== undefined) return encodeInteger(pair, 7, 0x80);
  const kind = NEVER_INDEXED.has(name) ? 0x10 : 0;
  const index = NAMES.get(name);
  return index !== undefined
    ? Buffer.concat([encodeInteger(index, 4, kind), encodeString(value)])
    : Buffer.concat([Buffer.of(kind), encodeString(name), encodeString(value)]);
}

function encodeString(text: string): Buffer {
  return Buffer.concat([encodeInteger(text.length, 7, 0), Buffer.from(text, "latin1")]);
}

/** RFC 7541 §5.1. */
function encodeInteger(value: number, prefixBits: number, pattern: number): Buffer {
  const most = (1 << prefixBits) - 1;
  if (value < most) return Buffer.of(pattern | value);
  const octets = [pattern | most];
  let rest = value - most;
  for (; rest > 127; rest >>>= 7) octets.push((rest & 127) | 128);
  octets.push(rest);
  return Buffer.from(octets);
}

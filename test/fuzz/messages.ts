// Messages of the hot paths, field by field, as a client may send them.
import { many, one, type Pick, text } from "./pick.ts";

export function varint(n: number, pad = 0): Buffer {
  const bytes: number[] = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    const more = rest >= 128;
    bytes.push((rest % 128) | (more || pad > 0 ? 128 : 0));
    if (!more) break;
  }
  for (let i = pad; i > 0; i--) bytes.push(i > 1 ? 128 : 0);
  return Buffer.from(bytes);
}

export function delimited(pick: Pick, field: number, bytes: Uint8Array): Buffer {
  const pad = pick(20) === 0 ? pick(4) : 0;
  return Buffer.concat([varint((field << 3) | 2), varint(bytes.length, pad), bytes]);
}

function words(pick: Pick): Buffer {
  if (pick(12) === 0) return Buffer.from(many(pick, 9, () => pick(256)));
  return Buffer.from(pick(6) === 0 ? "x".repeat(100 + pick(300)) : text(pick));
}

/** A field that nobody knows. */
function unknown(pick: Pick): Buffer {
  const number = one(pick, [99, 300, 5_000]);
  return pick(2) === 0
    ? Buffer.concat([varint(number << 3), varint(pick(1_000))])
    : delimited(pick, number, words(pick));
}

/** A field that nobody knows, or something that is no field. */
function stray(pick: Pick): Buffer {
  return one(pick, [
    unknown(pick),
    delimited(pick, 5 + pick(40), words(pick)),
    Buffer.from([one(pick, [0x09, 0x0b, 0x0c, 0x0d, 0x0f, 0x08, 0x2b]), 1]),
    Buffer.from(many(pick, 6, () => pick(256))),
  ]);
}

/** The fields of a ValidateTokenRequest, in any order, repeated, with strays. */
export function questionFields(pick: Pick): Buffer[] {
  return many(pick, 8, () => {
    const kind = pick(12);
    if (kind === 0) return stray(pick);
    if (kind > 3) return delimited(pick, 1 + pick(3), words(pick));
    const inner = many(pick, 2, () => (pick(5) === 0 ? stray(pick) : delimited(pick, 1 + pick(5), words(pick))));
    return delimited(pick, 4, Buffer.concat(inner));
  });
}

/** A CheckRequest about as Envoy sends it: attributes with peer, request and extensions. */
export function checkRequest(pick: Pick): Buffer {
  const string = (field: number): Buffer => delimited(pick, field, words(pick));
  const some = (most: number, make: () => Buffer): Buffer => Buffer.concat(many(pick, most, make));
  const entry = (field: number, key: Buffer, value: Buffer): Buffer =>
    delimited(pick, field, Buffer.concat([delimited(pick, 1, key), delimited(pick, 2, value)]));
  // Of a map one key once: of more, the decoder knows but the last, and Envoy sends no such thing.
  const unused = [
    "authorization",
    "Authorization",
    "x-api-key",
    "private-token",
    ":path",
    "origin",
    "x-forwarded-for",
    "cookie",
  ];
  const fresh = (): Buffer => Buffer.from(unused.splice(pick(unused.length), 1)[0]!);
  const name = (): Buffer =>
    Buffer.from(one(pick, ["authorization", "Authorization", "x-api-key", "origin", "cookie"]));
  const headers = (): Buffer => {
    if (unused.length === 0 || pick(10) === 0) return unknown(pick);
    return entry(3, fresh(), words(pick));
  };
  const pair = (): Buffer =>
    delimited(
      pick,
      1,
      Buffer.concat([delimited(pick, 1, name()), string(2 + pick(2)), ...(pick(9) === 0 ? [unknown(pick)] : [])]),
    );
  const http = (): Buffer =>
    Buffer.concat([
      string(1),
      delimited(pick, 2, Buffer.from(one(pick, ["GET", "POST", "OPTIONS"]))),
      some(5, headers),
      ...(pick(3) === 0 ? [delimited(pick, 13, some(4, pair))] : []),
      string(4),
    ]);
  const address = (): Buffer => delimited(pick, 1, Buffer.concat([string(2), Buffer.from([0x18, pick(128)])]));
  const peer = (field: number): Buffer => delimited(pick, field, delimited(pick, 1, address()));
  const attributes = some(6, () =>
    one<() => Buffer>(pick, [
      () => peer(1),
      () => peer(2),
      () =>
        delimited(
          pick,
          4,
          some(2, () => delimited(pick, 2, http())),
        ),
      () => delimited(pick, 4, delimited(pick, 2, http())),
      () => entry(10, words(pick), words(pick)),
      () => unknown(pick),
    ])(),
  );
  return Buffer.concat([delimited(pick, 1, attributes), ...(pick(10) === 0 ? [unknown(pick)] : [])]);
}

import { create, type DescMessage, ScalarType, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type CheckFacts, decodeCheck } from "../../src/data-plane/check/check-request.ts";
import { CheckRequestScanner } from "../../src/data-plane/check/check-request-scanner.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { readCheck } from "./read-check.ts";

const NAMES = [
  "authorization",
  "Authorization",
  "x-api-key",
  "private-token",
  "content-type",
  "cookie",
  "x-forwarded-for",
  "origin",
  ":path",
  "ü",
];
const name = fc.constantFrom(...NAMES);
const value = fc.oneof(fc.string({ unit: "binary-ascii" }), fc.string({ unit: "grapheme" }));
const header = fc.record({ key: name, value, rawValue: fc.uint8Array({ maxLength: 8 }) });

const request = fc.record({
  source: fc.option(fc.record({ address: fc.constant("203.0.113.9") }), { nil: undefined }),
  http: fc.option(
    fc.record({
      method: fc.constantFrom("GET", "OPTIONS", "Ü"),
      headers: fc.dictionary(name, value),
      headerMap: fc.option(fc.array(header, { maxLength: 4 }), { nil: undefined }),
      size: fc.bigInt({ min: 0n, max: 1n << 62n }),
      path: value,
    }),
    { nil: undefined },
  ),
  extensions: fc.dictionary(fc.constantFrom("policy", "required_scopes", "x"), value),
});

function encode(of: typeof request extends fc.Arbitrary<infer T> ? T : never): Uint8Array {
  const { source, http, extensions } = of;
  return toBinary(
    CheckRequestSchema,
    create(CheckRequestSchema, {
      attributes: {
        source: source && {
          address: { address: { case: "socketAddress", value: { address: source.address, portValue: 1 } } },
          labels: { a: "b" },
        },
        request: http && {
          time: { seconds: 1n },
          http: { ...http, headerMap: http.headerMap && { headers: http.headerMap } },
        },
        contextExtensions: extensions,
      },
    }),
  );
}

const plain = (facts: CheckFacts) => ({
  ...facts,
  headers: Object.fromEntries(facts.headers),
  extensions: Object.fromEntries(facts.extensions),
});

/** True if every field has the wire type of its declaration and ends within its message, at every depth. */
function isWellFormed(bytes: Uint8Array, message: DescMessage): boolean {
  const reader = new BinaryReader(bytes);
  try {
    while (reader.pos < reader.len) {
      const [number, wireType] = reader.tag();
      const field = message.fields.find((one) => one.number === number);
      if (wireType !== WireType.LengthDelimited) {
        if (field !== undefined && (field.fieldKind !== "scalar" || wireType !== WireType.Varint)) return false;
        reader.skip(wireType, number);
        continue;
      }
      const inner = reader.bytes();
      if (field?.fieldKind === "scalar" && field.scalar !== ScalarType.STRING && field.scalar !== ScalarType.BYTES)
        return false;
      if (field?.fieldKind === "map") {
        // An entry has a string as its key; these maps have strings as their values, too.
        for (const entry = new BinaryReader(inner); entry.pos < entry.len; entry.bytes()) {
          if (entry.tag()[1] !== WireType.LengthDelimited) return false;
        }
      } else if (field?.message !== undefined && !isWellFormed(inner, field.message)) return false;
    }
    return true;
  } catch {
    return false;
  }
}

test("the scanner reads the same as the generated decoder", () => {
  fc.assert(
    fc.property(request, (of) => {
      const bytes = encode(of);
      expect(plain(readCheck(bytes))).toEqual(plain(decodeCheck(bytes)));
    }),
    { numRuns: 2_000 },
  );
});

test("the scanner and the decoder agree on truncated and damaged messages, or one of them refuses", () => {
  fc.assert(
    fc.property(request, fc.nat(), fc.nat(), fc.nat(255), (of, cut, at, byte) => {
      const bytes = encode(of).slice(0, cut % 400);
      if (bytes.length > 0) bytes[at % bytes.length] = byte;
      const attempt = (read: (bytes: Uint8Array) => CheckFacts) => {
        try {
          return plain(read(bytes));
        } catch {
          return "refused";
        }
      };
      const walked = attempt(readCheck);
      const decoded = attempt(decodeCheck);
      // The scanner skips damage inside fields that it does not use; the decoder refuses most of that. If an inner
      // length exceeds its message, the decoder reads on into the next field.
      if (decoded === "refused" || !isWellFormed(bytes, CheckRequestSchema)) return;
      if (walked === "refused") throw new Error("the walk refused what the decoder reads");
      const { headers, ...rest } = walked;
      expect({ ...rest, headers: undefined }).toEqual({ ...decoded, headers: undefined });
      // The decoder keeps one of two entries with the same key in a map. The scanner shows both, and two credentials
      // are refused.
      for (const [name, values] of Object.entries(decoded.headers)) {
        expect(headers[name]).toEqual(expect.arrayContaining([...values]));
      }
    }),
    { numRuns: 4_000 },
  );
});

test("context extensions are compared by their bytes: one entry is not two halves of it", () => {
  const rawOf = (...entries: number[][]) => {
    const inner = entries.flatMap((entry) => [0x52, entry.length, ...entry]);
    const view = new CheckRequestScanner();
    expect(view.read(Buffer.from([0x0a, inner.length, ...inner]))).toBe(true);
    return { raw: view.rawExtensions, extensions: [...view.extensions!] };
  };
  const [key, value] = [
    [0x0a, 1, 0x61],
    [0x12, 1, 0x62],
  ];
  const whole = rawOf([...key, ...value]);
  const halves = rawOf(key, value);
  expect(whole.extensions).toEqual([["a", "b"]]);
  expect(halves.extensions).toEqual([
    ["a", ""],
    ["", "b"],
  ]);
  expect(whole.raw).not.toBe(halves.raw);
});

test("the scanner stays within a message whose inner lengths exceed it", () => {
  const source = { address: "203.0.113.9" as const };
  const whole = encode({ source, http: undefined, extensions: { policy: "api" } });
  const bytes = Buffer.from(whole);
  const value = bytes.indexOf(Buffer.from([0x12, 1, 0x62])); // the label's value, "b"
  bytes[value + 1] = 5;
  expect(isWellFormed(whole, CheckRequestSchema)).toBe(true);
  expect(isWellFormed(bytes, CheckRequestSchema)).toBe(false);
  expect(plain(readCheck(bytes))).toEqual(plain(readCheck(whole)));
});

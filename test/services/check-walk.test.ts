import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { type CheckFacts, decodeCheck, readCheck } from "../../src/services/check-walk.ts";

const NAMES = [
  "authorization",
  "Authorization",
  "x-api-key",
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

test("the walk by hand reads what the generated decoder reads", () => {
  fc.assert(
    fc.property(request, (of) => {
      const bytes = encode(of);
      expect(plain(readCheck(bytes))).toEqual(plain(decodeCheck(bytes)));
    }),
    { numRuns: 2_000 },
  );
});

test("whatever is cut off or bent is read alike by both, or refused by both", () => {
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
      // The walk may read what the decoder refuses in fields that nobody looks at.
      if (decoded === "refused") return;
      if (walked === "refused") throw new Error("the walk refused what the decoder reads");
      const { headers, ...rest } = walked;
      expect({ ...rest, headers: undefined }).toEqual({ ...decoded, headers: undefined });
      // Of a key that stands twice in a map the decoder keeps one: the walk shows both, and two credentials are refused.
      for (const [name, values] of Object.entries(decoded.headers)) {
        expect(headers[name]).toEqual(expect.arrayContaining([...values]));
      }
    }),
    { numRuns: 4_000 },
  );
});

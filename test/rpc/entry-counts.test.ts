import { create, type DescMessage, toBinary, toJsonString } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import {
  CreateTokenRequestSchema,
  RevokeTokensRequestSchema,
  UpdateTokenRequestSchema,
} from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { overfull, overfullJson } from "../../src/rpc/entry-counts.ts";
import { requestValidator } from "../../src/rpc/validate-request.ts";

const many = (length: number, item = "") => Array.from({ length }, () => item);
const pairs = (length: number) => Object.fromEntries(Array.from({ length }, (_, i) => [`k${i}`, ""]));

const CASES: [string, DescMessage, string, (count: number) => object, number][] = [
  ["a list", RevokeTokensRequestSchema, "ids", (n) => ({ ids: many(n) }), 1000],
  [
    "a list behind others",
    RevokeTokensRequestSchema,
    "ids",
    (n) => ({ hints: many(1000, "sp_bot_1abcdefgh"), ids: many(n) }),
    1000,
  ],
  ["a short list", CreateTokenRequestSchema, "audiences", (n) => ({ audiences: many(n, "a,b]}") }), 20],
  ["a map", CreateTokenRequestSchema, "annotations", (n) => ({ annotations: pairs(n) }), 32],
  [
    "a list of a message inside",
    UpdateTokenRequestSchema,
    "token.scopes",
    (n) => ({ token: { scopes: many(n) } }),
    100,
  ],
  [
    "a map of a message inside",
    UpdateTokenRequestSchema,
    "token.annotations",
    (n) => ({ token: { annotations: pairs(n) } }),
    32,
  ],
];

describe("the entries of a request are counted before it is decoded:", () => {
  const check = requestValidator();

  test.each(CASES)("%s", (_, schema, field, init, most) => {
    for (const count of [0, 1, most, most + 1, most + 2, 20_000]) {
      const message = create(schema, init(count) as never);
      const found = [overfull(schema, toBinary(schema, message)), overfullJson(schema, toJsonString(schema, message))];
      if (count <= most) expect([count, ...found]).toEqual([count, undefined, undefined]);
      else {
        // In the same words as the check of decoded requests.
        let said: unknown;
        try {
          check(schema, message);
        } catch (error) {
          said = (error as { violations: { field: string }[] }).violations.find((one) => one.field === field);
        }
        expect(said).toBeDefined();
        expect([count, ...found]).toEqual([count, said, said]);
      }
    }
  });

  test("fields without a bound, and unknown ones, have a common one", () => {
    const mask = (length: number) =>
      create(UpdateTokenRequestSchema, { updateMask: { paths: many(length, "scopes") } });
    const json = (length: number) => `{"updateMask":"${many(length, "scopes").join(",")}"}`;
    for (const read of [
      (length: number) => overfull(UpdateTokenRequestSchema, toBinary(UpdateTokenRequestSchema, mask(length))),
      (length: number) => overfullJson(UpdateTokenRequestSchema, json(length)),
    ]) {
      expect(read(900)).toBeUndefined();
      expect(read(1_001)?.description).toBe("must contain no more than 1000 item(s)");
    }
    // Field 999 as a varint; a field that is given again and again; a list within a list.
    const unknown = Buffer.concat(many(1_001).map(() => Buffer.from([0xb8, 0x3e, 0x01])));
    expect(overfull(RevokeTokensRequestSchema, unknown)?.field).toBe("request");
    const again = Buffer.concat(many(1_001).map(() => Buffer.from([0x0a, 0x00])));
    expect(overfull(RevokeTokensRequestSchema, again)?.description).toContain("1000");
    expect(overfullJson(RevokeTokensRequestSchema, `{"ids":[[${many(1_001, '""').join()}]]}`)?.field).toBe("ids");
    // A message that is given in pieces is one message.
    const piece = toBinary(UpdateTokenRequestSchema, create(UpdateTokenRequestSchema, { token: { scopes: many(60) } }));
    expect(overfull(UpdateTokenRequestSchema, Buffer.concat([piece, piece]))?.field).toBe("token.scopes");
  });

  test("what cannot be read is left to the decoder", () => {
    for (const bytes of [[0x0a], [0x0a, 0xff], many(11).map(() => 0xff), [0x0f], [0x08], [0x09, 1, 2]]) {
      expect(overfull(RevokeTokensRequestSchema, Buffer.from(bytes as number[]))).toBeUndefined();
    }
    for (const text of ["", "nonsense", '{"ids":["', "]]]", '{"ids":', "[".repeat(100_000), "\\", '"\\', "{,,,}"]) {
      expect(overfullJson(RevokeTokensRequestSchema, text)).toBeUndefined();
    }
  });

  test("counting ends at the first entry too many", () => {
    const bytes = toBinary(RevokeTokensRequestSchema, create(RevokeTokensRequestSchema, { ids: many(500_000) }));
    let reads = 0;
    const watched = new Proxy(bytes, {
      get(of, key) {
        if (typeof key === "string" && /^\d+$/.test(key)) reads++;
        return Reflect.get(of, key);
      },
    });
    expect(overfull(RevokeTokensRequestSchema, watched)?.field).toBe("ids");
    expect(reads).toBe(2 * 1_000 + 1);
  });
});

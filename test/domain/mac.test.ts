import { createHmac } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Mac, sameSecret } from "../../src/domain/mac.ts";

const keys = fc.uint8Array({ minLength: 32, maxLength: 64 });
/** Strings of one-byte characters, some longer than the fast form accepts. */
const latin1 = fc.oneof(
  fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
  fc.nat(2000).map((n) => "x".repeat(n)),
);

describe("Mac", () => {
  test("is HMAC-SHA256 (RFC 2104) for every key of 32 to 64 bytes and every message", () => {
    fc.assert(
      fc.property(keys, fc.array(latin1, { minLength: 1, maxLength: 4 }), (key, messages) => {
        const mac = new Mac(key);
        // One object for several messages: no message may leave a trace for the next.
        for (const message of messages) {
          expect(mac.latin1(message)).toBe(createHmac("sha256", key).update(message, "latin1").digest("binary"));
        }
      }),
      { numRuns: 500 },
    );
  });

  test("of characters in the middle of bytes equals that of their string, and is absent for other characters", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 700 }), fc.nat(700), fc.nat(700), (bytes, a, b) => {
        const [from, to] = [Math.min(a, b, bytes.length), Math.min(Math.max(a, b), bytes.length)];
        const mac = new Mac(new Uint8Array(32).fill(3));
        const masked = bytes.map((byte) => byte & 0x7f);
        const text = Buffer.from(masked.subarray(from, to)).toString("latin1");
        expect(mac.latin1At(masked, from, to)).toBe(to - from > 512 ? undefined : mac.latin1(text));
        const isAscii = bytes.subarray(from, to).every((byte) => byte < 0x80);
        if (!isAscii) expect(mac.latin1At(bytes, from, to)).toBeUndefined();
      }),
      { numRuns: 500 },
    );
  });

  test("gives the value of RFC 4231, case 4 with its key made long enough, and of the boundary lengths", () => {
    const key = Buffer.alloc(64, 0xaa);
    for (const length of [0, 1, 63, 64, 65, 511, 512, 513, 1024]) {
      const message = "m".repeat(length);
      expect(new Mac(key).latin1(message)).toBe(createHmac("sha256", key).update(message).digest("binary"));
    }
  });

  test("refuses a key that is too short or too long, for which the two forms would differ", () => {
    for (const length of [0, 31, 65]) expect(() => new Mac(new Uint8Array(length))).toThrow(RangeError);
  });

  test("of fields is injective: no two lists of fields have the same MAC", () => {
    const mac = new Mac(new Uint8Array(32).fill(1));
    const lists = fc.array(fc.string({ maxLength: 6 }), { maxLength: 5 });
    fc.assert(
      fc.property(lists, lists, (a, b) => {
        const same = mac.fields(...a).equals(mac.fields(...b));
        expect(same).toBe(
          JSON.stringify(a.map((text) => Buffer.from(text).toString("hex"))) ===
            JSON.stringify(b.map((text) => Buffer.from(text).toString("hex"))),
        );
      }),
      { numRuns: 2000 },
    );
    const seen = [["ab", "c"], ["a", "bc"], ["abc"], ["", "abc"], ["abc", ""], []].map((list) =>
      mac.fields(...list).toString("hex"),
    );
    expect(new Set(seen).size).toBe(seen.length);
    expect(mac.fields("x".repeat(65_536))).toHaveLength(32);
  });
});

test("two secrets are equal only if every byte is", () => {
  const a = Buffer.from("a-secret");
  expect(sameSecret(a, Buffer.from("a-secret"))).toBe(true);
  for (const other of ["a-secreT", "a-secret ", "a-secre", ""]) expect(sameSecret(a, Buffer.from(other))).toBe(false);
});

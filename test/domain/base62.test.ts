import fc from "fast-check";
import { expect, test } from "vitest";
import { base62, base62Number, isBase62 } from "../../src/domain/base62.ts";

const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const value = (text: string) => [...text].reduce((sum, digit) => sum * 62n + BigInt(ALPHABET.indexOf(digit)), 0n);

test("the digits encode the number modulo 62 to the width, in exactly the width", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.integer({ min: 1, max: 50 }), (bytes, width) => {
      const text = base62(bytes, width);
      expect(text).toHaveLength(width);
      const number = BigInt(`0x0${Buffer.from(bytes).toString("hex")}`);
      expect(value(text)).toBe(number % 62n ** BigInt(width));
    }),
  );
});

test("a number below 2^53 has the same digits in both forms", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (number) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(BigInt(number));
      expect(base62Number(number, 9)).toBe(base62(bytes, 9));
    }),
  );
  expect(base62Number(0, 6)).toBe("000000");
  expect(base62Number(2 ** 32 - 1, 6)).toBe("4gfFC3");
});

test("only the 62 characters are digits, at every position", () => {
  for (let code = 0; code < 1000; code++) {
    const char = String.fromCharCode(code);
    expect(isBase62(`a${char}b`, 0, 3), `U+${code.toString(16)}`).toBe(ALPHABET.includes(char));
    expect(isBase62(`a${char}b`, 0, 1)).toBe(true);
    expect(isBase62(`a${char}b`, 2, 3)).toBe(true);
  }
  expect(isBase62("", 0, 0)).toBe(true);
  expect(isBase62("a", 0, 2)).toBe(false);
});

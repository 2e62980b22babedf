import { crc32 } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { base62Number } from "../../src/domain/base62.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import {
  digestAt,
  digestOf,
  hasRightTag,
  hintOf,
  holdsTokenString,
  isTokenId,
  mintTokenString,
  newTokenId,
  parseTokenString,
} from "../../src/domain/token-string.ts";

const pepper = (fill: number) => Buffer.alloc(32, fill).toString("base64");
const keyring = new Keyring("1", { "1": pepper(1), z: pepper(2) });
const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const mint = (prefix = "sp_pat", secret?: Uint8Array) =>
  mintTokenString(prefix, keyring.current, secret).tokenString.reveal();
/** The string with the CRC that matches its other characters. */
const sealed = (text: string) => text.slice(0, -6) + base62Number(crc32(text.slice(0, -6)), 6);

describe("a token string", () => {
  test("is its prefix, an underscore and 58 base62 characters, whatever the secret", () => {
    const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 });
    const prefixes = fc.stringMatching(/^[a-z][a-z0-9_]{1,15}$/);
    fc.assert(
      fc.property(secrets, prefixes, (secret, prefix) => {
        const { tokenString, digest, hint } = mintTokenString(prefix, keyring.current, secret);
        const text = tokenString.reveal();
        expect(text).toMatch(/^[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}$/);
        expect(text.startsWith(`${prefix}_1`)).toBe(true);
        expect(hint).toBe(text.slice(0, prefix.length + 10));
        expect(parseTokenString(text, keyring)?.digest).toBe(digest);
        expect(hasRightTag(text, keyring.current)).toBe(true);
        expect(holdsTokenString(`before ${text} after`)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("is found in a text, and so is a JWT, which can be a session", () => {
    const b64 = (value: object, space?: number) =>
      Buffer.from(JSON.stringify(value, null, space)).toString("base64url");
    const claims = { iss: "https://a.example", sub: "ann" };
    for (const [alg, length] of [
      ["HS256", 43],
      ["RS256", 342],
      ["ES256", 86],
    ] as const) {
      for (const space of [undefined, 1]) {
        const jwt = `${b64({ alg }, space)}.${b64(claims, space)}.${"aB3-_".repeat(99).slice(0, length)}`;
        for (const text of [jwt, `before ${jwt} after`, `session=${jwt}`, `x_${jwt}`, `a.b.${jwt}.c`, `(${jwt})`])
          expect(holdsTokenString(text), text).toBe(true);
      }
    }
    const long = "x".repeat(60);
    for (const text of [
      `keys.eyewear-shop.${long}`,
      `a.eyJhbGciOiJIUzI1NiJ9.${long}`,
      `key.eye.${long}`,
      `eyJ.eyJ.${long}`,
      "v1.eyes",
      "",
    ])
      expect(holdsTokenString(text), text).toBe(false);
    const began = performance.now();
    for (const text of [
      "ey".repeat(500_000),
      ".ey".repeat(300_000),
      `${"ey".repeat(400_000)}.${"ey".repeat(99_000)}.x`,
      `.eyJ${long}.`.repeat(20_000),
    ])
      expect(holdsTokenString(text)).toBe(false);
    expect(performance.now() - began).toBeLessThan(2_000);
  });

  test("encodes one secret as one string and another secret as another, also at the ends of the range", () => {
    const zero = mint("sp_pat", new Uint8Array(32));
    const ones = mint("sp_pat", new Uint8Array(32).fill(255));
    expect(zero).toBe(mint("sp_pat", new Uint8Array(32)));
    expect(zero.slice(16, 59)).toBe("0".repeat(43));
    expect(ones).not.toBe(zero);
    // 2^256 − 1 fits into 43 digits: none of the 256 bits is lost.
    const top = [...ones.slice(16, 59)].reduce((sum, digit) => sum * 62n + BigInt(ALPHABET.indexOf(digit)), 0n);
    expect(top).toBe(2n ** 256n - 1n);
  });

  test("is random if no secret is given: 10,000 are 10,000", () => {
    expect(new Set(Array.from({ length: 10_000 }, () => mint())).size).toBe(10_000);
  });

  test("never prints: not in templates, JSON, logs or errors", () => {
    const { tokenString } = mintTokenString("sp_pat", keyring.current);
    const seen = [
      `${tokenString}`,
      JSON.stringify({ tokenString }),
      String(tokenString),
      new Error(String(tokenString)).message,
    ];
    for (const text of seen) {
      expect(text).toContain("[secret]");
      expect(text).not.toContain(tokenString.reveal());
    }
  });
});

describe("a string that is not a token string is refused without a look-up", () => {
  const good = mint();

  test("the CRC detects every change of a single character", () => {
    for (let at = 0; at < good.length; at++) {
      for (const other of ["0", "z", "_", "-", "ü", "\0", " "]) {
        if (good[at] === other) continue;
        expect(
          parseTokenString(good.slice(0, at) + other + good.slice(at + 1), keyring),
          `${at} ${other}`,
        ).toBeUndefined();
      }
    }
  });

  test("the CRC detects two swapped neighbours, a missing or extra character, and white space around", () => {
    for (let at = 0; at + 1 < good.length; at++) {
      const swapped = good.slice(0, at) + good[at + 1] + good[at] + good.slice(at + 2);
      if (swapped !== good) expect(parseTokenString(swapped, keyring), String(at)).toBeUndefined();
      expect(parseTokenString(good.slice(0, at) + good.slice(at + 1), keyring)).toBeUndefined();
    }
    for (const text of [
      ` ${good}`,
      `${good} `,
      `${good}\n`,
      good.toUpperCase(),
      good.toLowerCase(),
      "",
      "_",
      good.repeat(2),
    ]) {
      expect(parseTokenString(text, keyring)).toBeUndefined();
    }
  });

  test("an unknown kid is refused, and no other key is tried", () => {
    const at = "sp_pat_".length;
    expect(parseTokenString(sealed(`${good.slice(0, at)}9${good.slice(at + 1)}`), keyring)).toBeUndefined();
    const otherKid = sealed(`${good.slice(0, at)}z${good.slice(at + 1)}`);
    const parsed = parseTokenString(otherKid, keyring);
    expect(parsed?.keys.kid).toBe("z");
    expect(hasRightTag(otherKid, parsed!.keys)).toBe(false);
  });

  test("a correct CRC does not make a tag correct: every changed character of kid, tag, secret and prefix is detected", () => {
    for (let at = 0; at < good.length - 6; at++) {
      if (good[at] === "_") continue;
      const other = good[at] === "a" ? "b" : "a";
      const forged = sealed(good.slice(0, at) + other + good.slice(at + 1));
      const parsed = parseTokenString(forged, keyring);
      if (parsed !== undefined) expect(hasRightTag(forged, parsed.keys), String(at)).toBe(false);
    }
  });

  test("any text gets an answer, never an error", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary", maxLength: 200 }),
          fc.stringMatching(/^[a-z_]{0,20}_?[0-9A-Za-z]{50,70}$/),
        ),
        (text) => {
          expect(parseTokenString(text, keyring)).toBeUndefined();
        },
      ),
      { numRuns: 2000 },
    );
    expect(parseTokenString("x".repeat(10_000_000), keyring)).toBeUndefined();
  });

  test("a string in the middle of bytes has the same digest as the string itself; text without a digest has none there either", () => {
    const good = mintTokenString("sp_pat", keyring.current).tokenString.reveal();
    const texts = fc.oneof(
      fc.string({ unit: "binary-ascii", maxLength: 100 }),
      fc.nat(good.length).map((cut) => good.slice(cut)),
      fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, code]) => {
        return good.slice(0, at) + String.fromCharCode(code) + good.slice(at + 1);
      }),
    );
    fc.assert(
      fc.property(texts, fc.nat(20), (text, before) => {
        const bytes = Buffer.concat([Buffer.alloc(before, "x"), Buffer.from(text, "latin1"), Buffer.from("yz")]);
        expect(digestAt(bytes, before, before + text.length, keyring)).toBe(digestOf(text, keyring)?.digest);
      }),
      { numRuns: 1_000 },
    );
  });

  test("a prefix is a letter and 1 to 15 of a-z 0-9 _, and is compared byte by byte", () => {
    for (const prefix of ["", "a", "_a", "1a", "A_b", "a-b", "a".repeat(17), "Sp_pat", "ѕp_pat"]) {
      expect(
        parseTokenString(mintTokenString(prefix, keyring.current).tokenString.reveal(), keyring),
        prefix,
      ).toBeUndefined();
    }
    for (const prefix of ["ab", "a_", "a".repeat(16), "a_b_c_1"]) {
      expect(
        parseTokenString(mintTokenString(prefix, keyring.current).tokenString.reveal(), keyring),
        prefix,
      ).toBeDefined();
    }
  });
});

test("the digest covers the whole string under the pepper of its kid, so no two strings and no two peppers share one", () => {
  const secret = new Uint8Array(32).fill(7);
  const other = new Keyring("1", { "1": pepper(3) });
  const digests = [
    mintTokenString("sp_pat", keyring.current, secret),
    mintTokenString("sp_bot", keyring.current, secret),
    mintTokenString("sp_pat", keyring.get("z")!, secret),
    mintTokenString("sp_pat", other.current, secret),
  ].map(({ digest }) => digest);
  expect(new Set(digests).size).toBe(4);
  for (const digest of digests) expect(Buffer.from(digest, "latin1")).toHaveLength(32);
});

test("a hint holds no bit of the secret: for other secrets only the tag differs", () => {
  const text = mint("sp_pat", new Uint8Array(32).fill(9));
  expect(hintOf(text)).toBe(text.slice(0, 16));
  expect(text.slice(16)).toHaveLength(49);
});

describe("a token id", () => {
  test("is tok_ and 22 base62 characters, new each time", () => {
    const ids = Array.from({ length: 1000 }, newTokenId);
    expect(new Set(ids).size).toBe(1000);
    expect(ids.every((id) => /^tok_[0-9A-Za-z]{22}$/.test(id) && isTokenId(id))).toBe(true);
    for (const id of [
      "",
      "tok_",
      `tok_${"0".repeat(21)}`,
      `tok_${"0".repeat(23)}`,
      `tik_${"0".repeat(22)}`,
      `tok_${"0".repeat(21)}-`,
      `tok_${"0".repeat(21)}ü`,
    ]) {
      expect(isTokenId(id), id).toBe(false);
    }
  });
});

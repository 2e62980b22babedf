import { randomBytes } from "node:crypto";
import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, it } from "vitest";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { entryName, open, seal } from "../../src/domain/sealed-entry.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";

const pepper = () => freshKeyring().keys["1"]!;
const keyring = new Keyring("1", { "1": pepper(), "2": pepper() });
const keys = keyring.current;
const TIME = Date.UTC(2030, 0, 1);

const digest = randomBytes(32).toString("latin1");
const parent = {
  digest: randomBytes(32).toString("latin1"),
  audiences: ["https://x", "https://y"],
  allowedCidrs: ["10.0.0.0/16"],
  revoked: false,
  disabled: true,
  cut: false,
  notBefore: undefined,
  expire: 9e12,
};
const full: TokenSnapshot = snapshot(42, {
  digest,
  scopes: ["a.*", "b"],
  attachments: [
    { tenant: "blue", tenantState: "ACTIVE", cut: true },
    { tenant: "red", tenantState: "SUSPENDED", cut: false },
  ],
  audiences: ["https://x"],
  allowedCidrs: ["10.0.0.0/8"],
  annotations: { __proto__x: "1", "": "ü🎉" },
  revoked: true,
  cut: true,
  notBefore: 0,
  expire: 1e12,
  rotated: true,
  principalState: "DISABLED",
  tenantState: "SUSPENDED",
  parent,
});
const name = entryName(keys, EPOCH, digest);
const wanted = { digest, epoch: EPOCH };

describe("a sealed entry", () => {
  it("gives back everything that was sealed, with the version", () => {
    expect(open(seal(full, name, keys, TIME), name, wanted, keyring)).toEqual(full);
    const bare = snapshot(0, { digest, notBefore: undefined, expire: undefined, parent: undefined });
    expect(open(seal(bare, name, keys, TIME), name, wanted, keyring)).toEqual(bare);
  });

  it("keeps an annotation named __proto__ as an annotation", () => {
    const odd = snapshot(1, { digest, annotations: JSON.parse('{"__proto__":"x"}') });
    const back = open(seal(odd, name, keys, TIME), name, wanted, keyring)!;
    expect(Object.entries(back.annotations)).toEqual([["__proto__", "x"]]);
  });

  it("shows only the position in clear text, at its start", () => {
    const value = seal(full, name, keys, TIME);
    expect(value.toString("latin1", 0, 16)).toBe("0000000000000042");
    for (const secret of [full.id, full.tenant, full.principal, full.hint, digest, EPOCH, "a.*"]) {
      expect(value.includes(Buffer.from(secret, "latin1"))).toBe(false);
    }
  });

  it("is different each time the same snapshot is sealed", () => {
    expect(seal(full, name, keys, TIME).equals(seal(full, name, keys, TIME))).toBe(false);
  });

  it("refuses every single flipped bit and every cut", () => {
    const value = seal(full, name, keys, TIME);
    for (let bit = 0; bit < value.length * 8; bit++) {
      const bad = Buffer.from(value);
      bad[bit >> 3]! ^= 1 << (bit & 7);
      expect(open(bad, name, wanted, keyring), `bit ${bit}`).toBeUndefined();
    }
    for (let length = 0; length < value.length; length++) {
      expect(open(value.subarray(0, length), name, wanted, keyring)).toBeUndefined();
    }
  });

  it("is refused under another name, digest or epoch", () => {
    const other = randomBytes(32).toString("latin1");
    const otherName = entryName(keys, EPOCH, other);
    const value = seal(full, name, keys, TIME);
    expect(open(value, otherName, wanted, keyring)).toBeUndefined();
    expect(open(value, name, { ...wanted, digest: other }, keyring)).toBeUndefined();
    expect(open(value, otherName, { digest: other, epoch: EPOCH }, keyring)).toBeUndefined();
    expect(open(value, name, { ...wanted, epoch: "1/i/101" }, keyring)).toBeUndefined();
  });

  it("is refused with another position, day, kid or schema", () => {
    const value = seal(full, name, keys, TIME);
    const younger = Buffer.from(value);
    younger.write("0000000000000043", "latin1");
    const otherKid = Buffer.from(value);
    otherKid[17] = "2".charCodeAt(0);
    const otherSchema = Buffer.from(value);
    otherSchema[16] = 1;
    const otherDay = Buffer.from(value);
    otherDay.writeUInt32BE(otherDay.readUInt32BE(18) + 1, 18);
    for (const bad of [younger, otherKid, otherSchema, otherDay]) {
      expect(open(bad, name, wanted, keyring)).toBeUndefined();
    }
  });

  it("is refused if another pepper sealed it under the same kid", () => {
    const stranger = new Keyring("1", { "1": pepper() });
    expect(open(seal(full, name, stranger.current, TIME), name, wanted, keyring)).toBeUndefined();
  });

  it("opens if an earlier day or an older pepper of the keyring sealed it", () => {
    expect(open(seal(full, name, keys, 0), name, wanted, keyring)).toEqual(full);
    expect(open(seal(full, name, keyring.get("2")!, TIME), name, wanted, keyring)).toEqual(full);
  });

  prop.prop([fc.uint8Array({ maxLength: 300 })])("returns undefined for any bytes, and never throws", (bytes) => {
    expect(open(bytes, name, wanted, keyring)).toBeUndefined();
  });

  prop.prop([
    fc.record({
      scopes: fc.array(fc.string({ unit: "grapheme" })),
      annotations: fc.dictionary(fc.string(), fc.string()),
      notBefore: fc.option(fc.maxSafeInteger(), { nil: undefined }),
      expire: fc.option(fc.maxSafeInteger(), { nil: undefined }),
      revoked: fc.boolean(),
      disabled: fc.boolean(),
      cut: fc.boolean(),
    }),
    fc.maxSafeNat(),
  ])("gives back what was sealed", (over, n) => {
    const sealed = snapshot(n, { digest, parent, ...over });
    expect(open(seal(sealed, name, keys, TIME), name, wanted, keyring)).toEqual(sealed);
  });
});

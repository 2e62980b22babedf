import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { StartError } from "../../src/domain/start-error.ts";

const pepper = (fill: number, length = 32) => Buffer.alloc(length, fill).toString("base64");

describe("a keyring", () => {
  test("accepts peppers of at least 32 bytes, each under one base62 character, one of them current", () => {
    const ring = new Keyring("b", { a: pepper(1), b: pepper(2, 64) });
    expect(ring.current.kid).toBe("b");
    expect(ring.kids()).toEqual(["a", "b"]);
    expect(ring.get("a")?.kid).toBe("a");
    for (const kid of ["c", "", "ab", "__proto__", "constructor"]) expect(ring.get(kid)).toBeUndefined();
  });

  test.each<[string, string, Record<string, string>]>([
    ["no key", "1", {}],
    ["a current that is not there", "2", { "1": pepper(1) }],
    ["a short pepper", "1", { "1": pepper(1, 31) }],
    ["an empty pepper", "1", { "1": "" }],
    ["a pepper that is no base64", "1", { "1": "%%%%" }],
    ["a kid of two characters", "12", { "12": pepper(1) }],
    ["a kid that is no base62", "_", { _: pepper(1) }],
  ])("refuses %s, without a byte of a key in what it says", (_, current, keys) => {
    try {
      new Keyring(current, keys);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(StartError);
      for (const key of Object.values(keys)) if (key.length > 4) expect((error as Error).message).not.toContain(key);
    }
  });

  test("derives keys that are independent by purpose and by pepper, and equal at every start", () => {
    const values = (ring: Keyring) =>
      ring
        .all()
        .flatMap(({ digest, tag, cacheKey, cacheSeal, mint, page, checkValue }) => [
          ...[digest, tag, cacheKey].map((mac) => Buffer.from(mac.latin1("same message"), "latin1").toString("hex")),
          ...[mint, page].map((mac) => mac.fields("same message").toString("hex")),
          Buffer.from(cacheSeal).toString("hex"),
          checkValue.toString("hex"),
        ]);
    const keys = { "1": pepper(1), "2": pepper(2) };
    const made = values(new Keyring("1", keys));
    expect(new Set(made).size).toBe(made.length);
    expect(values(new Keyring("2", keys))).toEqual(made);
  });

  test("has a check value that identifies pepper and kid, and reveals nothing about the pepper", () => {
    const check = (kid: string, fill: number) => new Keyring(kid, { [kid]: pepper(fill) }).current.checkValue;
    expect(check("1", 1)).toEqual(check("1", 1));
    expect(check("1", 1)).not.toEqual(check("1", 2));
    expect(check("1", 1)).not.toEqual(check("2", 1));
    expect(check("1", 1)).toHaveLength(16);
  });

  test("is replaced as a whole or not at all, and a known kid keeps its pepper", () => {
    const ring = new Keyring("1", { "1": pepper(1) });
    expect(() => ring.replace("2", { "1": pepper(9), "2": pepper(2) }, undefined)).toThrow(StartError);
    expect(() => ring.replace("3", { "1": pepper(1), "2": pepper(2) }, undefined)).toThrow(StartError);
    expect([ring.current.kid, ring.kids()]).toEqual(["1", ["1"]]);
    ring.replace("2", { "1": pepper(1), "2": pepper(2) }, undefined);
    expect([ring.current.kid, ring.kids()]).toEqual(["2", ["1", "2"]]);
    ring.replace("2", { "2": pepper(2) }, undefined);
    expect(ring.get("1")).toBeUndefined();
  });

  test("can be created fresh, with a random pepper of 32 bytes", () => {
    const [one, two] = [freshKeyring(), freshKeyring()];
    expect(one.keys["1"]).not.toBe(two.keys["1"]);
    expect(Buffer.from(one.keys["1"]!, "base64")).toHaveLength(randomBytes(32).length);
    expect(new Keyring(one.current, one.keys).current.kid).toBe("1");
  });
});

import { describe, expect, test } from "vitest";
import { Cached } from "../../src/domain/freshness.ts";
import { L1Cache } from "../../src/validation/l1-cache.ts";
import { snapshot } from "../support/token-snapshot.ts";

const entry = (digest: string) => new Cached(snapshot(1, { digest }));
const cache = (most: number, mostBytes = Number.POSITIVE_INFINITY) =>
  new L1Cache({ most, mostBytes, sizeOf: ({ digest }) => digest.length });
const LATE = 1_000_000;

describe("entries", () => {
  test("live until their time, however often they are used, and never longer", () => {
    const l1 = cache(10);
    l1.set(entry("a"), 1_005);
    for (let now = 0; now < 1_000; now += 50) expect(l1.get("a", now)).toBeDefined();
    expect(l1.get("a", 1_005)).toBeUndefined();
    expect(l1.size).toBe(0);
    expect(l1.get("a", 0)).toBeUndefined();
  });

  test("leave in order of arrival if none was used", () => {
    const l1 = cache(3);
    for (const digest of ["a", "b", "c", "d", "e"]) l1.set(entry(digest), LATE);
    expect(["a", "b", "c", "d", "e"].map((digest) => l1.get(digest, 0) !== undefined)).toEqual([
      false,
      false,
      true,
      true,
      true,
    ]);
  });

  test("that were used since the last round stay for one more", () => {
    const l1 = cache(3);
    for (const digest of ["a", "b", "c"]) l1.set(entry(digest), LATE);
    l1.get("a", 0);
    l1.set(entry("d"), LATE);
    expect(l1.get("b", 0)).toBeUndefined();
    expect(l1.get("a", 0)).toBeDefined();
  });

  test("leave even if all were used", () => {
    const l1 = cache(3);
    for (const digest of ["a", "b", "c"]) l1.set(entry(digest), LATE);
    for (const digest of ["a", "b", "c"]) l1.get(digest, 0);
    l1.set(entry("d"), LATE);
    expect(l1.size).toBe(3);
    expect(l1.get("d", 0)).toBeDefined();
  });

  test("have a limit in bytes, and one that exceeds it alone is not kept", () => {
    const l1 = cache(100, 10);
    l1.set(entry("aaaa"), LATE);
    l1.set(entry("bbbb"), LATE);
    l1.set(entry("cccc"), LATE);
    expect(l1.get("aaaa", 0)).toBeUndefined();
    expect(l1.size).toBe(2);
    l1.set(entry("d".repeat(11)), LATE);
    expect(l1.size).toBe(2);
  });

  test("replace the entry of the same token, and free its bytes", () => {
    const l1 = cache(100, 8);
    for (let i = 0; i < 100; i++) l1.set(entry("aaaa"), LATE);
    l1.set(entry("bbbb"), LATE);
    expect(l1.size).toBe(2);
    l1.clear();
    for (const digest of ["cccc", "dddd"]) l1.set(entry(digest), LATE);
    expect(l1.size).toBe(2);
  });

  test("a hundred thousand that pass through fill the cache to its limit and no further", () => {
    const l1 = cache(1_000);
    for (let i = 0; i < 100_000; i++) {
      l1.set(entry(`t${i}`), LATE);
      if (i % 3 === 0) l1.get(`t${i}`, 0);
    }
    expect(l1.size).toBe(1_000);
  });
});

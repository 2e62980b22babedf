import { describe, expect, it } from "vitest";
import { RecentChanges } from "../../src/feed/recent.ts";

/** The tag of a key is the number in it. */
const tag = (key: string) => BigInt(key.slice(1));
const page = (position: number, rows: [number, string][], over: object = {}) => ({
  ...{ position, floorN: 0, full: false, rows: rows.map(([at, key]) => ({ position: at, key })) },
  ...over,
});

describe("recent changes", () => {
  it("names each change above a position once, in one object for all that ask from there", () => {
    const recent = new RecentChanges();
    recent.add(page(3, [[3, "t3"], [2, "t2"], [1, "t1"]]), -1, tag); // biome-ignore format: one line
    recent.add(page(5, [[5, "t2"], [4, "t4"]]), 3, tag); // biome-ignore format: one line
    expect(recent.since(1)).toEqual({ position: 5, floor: 0, tags: [2n, 3n, 4n] });
    expect(recent.since(5)).toEqual({ position: 5, floor: 0, tags: [] });
    expect(recent.since(4)).toBe(recent.since(4));
    expect(recent.since(9)).toBe(recent.since(5));
  });

  it("gives a cache that has applied nothing a floor", () => {
    const recent = new RecentChanges();
    recent.add(page(0, []), -1, tag);
    expect(recent.since(-1)).toEqual({ position: 0, floor: 0, tags: [] });
    recent.add(page(2, [[2, "t2"]]), 0, tag);
    expect(recent.since(-1)).toEqual({ position: 2, floor: 2, tags: [] });
  });

  it.each<[string, number, (recent: RecentChanges) => void]>([
    ["a change of everything", 4, (recent) => recent.add(page(5, [[4, "*"]]), 3, tag)],
    [
      "a page that lacks its oldest rows",
      4,
      (recent) =>
        recent.add(
          page(
            5,
            [
              [5, "t5"],
              [4, "t4"],
            ],
            { full: true },
          ),
          3,
          tag,
        ),
    ],
    ["rows that are pruned", 4, (recent) => recent.add(page(5, [[5, "t5"]], { floorN: 4 }), 3, tag)],
    ["a poll from elsewhere", 4, (recent) => recent.add(page(5, [[5, "t5"]]), 4, tag)],
  ])("sets a floor in the place of %s", (_, whole, bring) => {
    const recent = new RecentChanges();
    recent.add(page(3, [[3, "t3"]]), -1, tag);
    bring(recent);
    expect(recent.since(whole - 1)).toEqual({ position: 5, floor: 5, tags: [] });
    expect(recent.since(whole).floor).toBe(0);
  });

  it("keeps 5,000 rows, and names at most 1,000 tags", () => {
    const recent = new RecentChanges();
    recent.add(page(0, []), -1, tag);
    for (let n = 1; n <= 6_000; n++) recent.add(page(n, [[n, `t${n % 10}`]]), n - 1, tag);
    expect(recent.since(4_999).floor).toBe(6_000);
    expect(recent.since(5_000)).toMatchObject({ floor: 0 });
    expect(recent.since(5_000).tags.length).toBe(10);
    const bulk = Array.from({ length: 1_001 }, (_, at): [number, string] => [6_001, `t${at}`]);
    recent.add(page(6_001, bulk), 6_000, tag);
    expect(recent.since(6_000)).toEqual({ position: 6_001, floor: 6_001, tags: [] });
  });
});

import { describe, expect, it } from "vitest";
import { Freshness } from "../../src/domain/freshness.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { entryOf } from "../../src/feed/entries.ts";
import { FeedNames } from "../../src/feed/names.ts";
import { snapshot } from "../support/token-snapshot.ts";

const EPOCH = "1/incarnation/2";
const names = new FeedNames();

function at(position: number, rows: { position: number; key: string }[] = []) {
  const freshness = new Freshness(1_500);
  freshness.begin(EPOCH, 0);
  const page = {
    inRecovery: false,
    epoch: EPOCH,
    position,
    dbTime: 0,
    ownRowLive: true,
    floorN: 0,
    rows,
    full: false,
    proven: true,
  };
  freshness.apply(page, 0, 0);
  return freshness;
}

const time = { lower: 0, upper: 0 };
const found = (over: Partial<TokenSnapshot> = {}) =>
  ({ kind: "found", snapshot: snapshot(5, over, EPOCH), time, tier: "l1" }) as const;
const entry = (
  freshness: Freshness,
  of: Parameters<typeof entryOf>[1],
  verdict: Parameters<typeof entryOf>[2],
  now = 1,
) => entryOf({ freshness, names, clock: { mono: () => now } }, of, verdict);

const PARENT = {
  ...{ digest: "p".repeat(32), revoked: false, disabled: false, cut: false },
  ...{ audiences: [], allowedCidrs: [] },
};

describe("entries", () => {
  it("carry the later of the row's position and the applied one, and the tags of everything the answer rests on", () => {
    const made = entry(at(7), found({ parent: PARENT, notBefore: 5 }), "ALLOW");
    expect(made).toMatchObject({ position: 7, notBefore: 5 });
    expect(made!.tags.length).toBe(4);
    expect(new Set(made!.tags).size).toBe(4);
    expect(entry(at(3), found(), "INSUFFICIENT_SCOPE")).toMatchObject({ position: 5 });
  });

  it("need the use rule: a row that changed since, another epoch and a lost lease have none", () => {
    const { digest } = found().snapshot;
    expect(entry(at(7, [{ position: 6, key: `t${digest}` }]), found(), "ALLOW")).toBeUndefined();
    expect(entry(at(7), found({ version: { epoch: "1/x/2", position: 9 } }), "ALLOW")).toBeUndefined();
    expect(entry(at(7), found(), "ALLOW", 1_500)).toBeUndefined();
    expect(entry(at(7), { kind: "unknown", tier: "store" }, "INVALID_TOKEN", 1_500)).toBeUndefined();
    expect(entry(at(7), { kind: "undetermined" }, "UNDETERMINED")).toBeUndefined();
  });

  it("are the same for every refusal: malformed, unknown, or of a known token", () => {
    const face = { position: 4, tags: [], notBefore: undefined };
    for (const of of [{ kind: "malformed" }, { kind: "unknown", tier: "store" }, found({ revoked: true })] as const)
      expect(entry(at(4), of, "INVALID_TOKEN")).toMatchObject(face);
  });

  it.each<[string, Partial<TokenSnapshot>]>([
    ["with addresses", { allowedCidrs: ["10.0.0.0/8"] }],
    ["whose parent has addresses", { parent: { ...PARENT, allowedCidrs: ["10.0.0.0/8"] } }],
    ["whose parent ends before it", { expire: 100, parent: { ...PARENT, expire: 99 } }],
    ["without end, whose parent has one", { parent: { ...PARENT, expire: 99 } }],
    ["for all audiences, whose parent is for some", { parent: { ...PARENT, audiences: ["a"] } }],
    ["for more audiences than its parent", { audiences: ["a", "b"], parent: { ...PARENT, audiences: ["a"] } }],
  ])("are not made for a token %s", (_, over) => {
    expect(entry(at(7), found(over), "ALLOW")).toBeUndefined();
  });

  it("are made for a child whose parent adds nothing", () => {
    const parent = { ...PARENT, audiences: ["a", "b"], expire: 100, notBefore: 3 };
    expect(entry(at(7), found({ audiences: ["a"], expire: 100, parent }), "ALLOW")).toMatchObject({ notBefore: 3 });
  });
});

describe("names of the feed", () => {
  it("depend on the incarnation and the epoch, and hide what they name", () => {
    const one = names.of(EPOCH);
    expect(one.epoch.length).toBe(16);
    expect(one.tag("tx")).toBe(new FeedNames().of(EPOCH).tag("tx"));
    expect(one.tag("tx")).toBe(names.of("1/incarnation/3").tag("tx"));
    expect(names.of("1/incarnation/3").epoch).not.toEqual(one.epoch);
    expect(names.of("1/other/2").tag("tx")).not.toBe(one.tag("tx"));
    expect(one.tag("tx")).not.toBe(one.tag("ty"));
  });
});

import { describe, expect, test } from "vitest";
import { compareWithJournal } from "../../src/revocation/journal-evidence.ts";
import type { JournalRecord, JournalState } from "../../src/revocation/ports.ts";

type Kept = Readonly<Record<string, readonly (readonly [position: number, nr?: number, of?: number])[]>>;

/** A journal with these records, in pages of two, and a log that has those of the epochs that `here` names. */
async function compared(
  kept: Kept,
  here: (epoch: string, position: number) => boolean,
  over: Partial<JournalState> = {},
) {
  const state = { database: "d", attached: true, floorN: 0, journaledN: 0, compared: "e1", waived: false, ...over };
  const of = (epoch: string): JournalRecord[] =>
    kept[epoch]!.map(([position, nr = 1, of = 1]) => ({ ...{ position, nr, of, key: epoch, at: 1 }, ...REVOKED }));
  const reported: string[] = [];
  const store = {
    epochs: async (since: string | undefined) => {
      const all = Object.keys(kept);
      if (since !== undefined && !all.includes(since)) return undefined;
      return since === undefined ? all : all.slice(all.indexOf(since));
    },
    newest: async (until: string | undefined) => {
      const all = Object.keys(kept);
      const counted = until === undefined ? all : all.slice(0, all.indexOf(until) + 1);
      return Math.max(-1, ...counted.flatMap((epoch) => of(epoch).map(({ position }) => position)));
    },
    page: async (epoch: string, { position, nr }: { position: number; nr: number }) =>
      of(epoch)
        .filter((one) => one.position > position || (one.position === position && one.nr > nr))
        .slice(0, 2),
    common: async (_: string, records: readonly JournalRecord[]) =>
      Math.max(-1, ...records.filter((one) => here(one.key, one.position)).map(({ position }) => position)),
  };
  const report = async (_: string, records: readonly { position: number; key: string }[]) => {
    for (const { position, key } of records) reported.push(`${key} ${position}`);
  };
  const why = await compareWithJournal({ store, report }, "e9", state);
  return { why, reported };
}

const REVOKED = { kind: "revoked", change: undefined } as const;
const positions = (...list: number[]) => list.map((n) => [n] as const);
const upTo = (last: number) => (_: string, position: number) => position <= last;
const GAP = "changes are missing between those that it has";

describe("what the journal must have before an epoch begins", () => {
  test("a journal that goes on where the database ended tells the rest", async () => {
    const { why, reported } = await compared({ e1: positions(1, 2, 3, 4, 5), e9: [] }, upTo(2));
    expect(why).toBeUndefined();
    expect(reported).toEqual(["e1 1", "e1 2", "e1 3", "e1 4", "e1 5"]);
  });

  test("below the position that the database knows to be there, it is not asked", async () => {
    const { why, reported } = await compared({ e1: positions(1, 2, 3, 4) }, upTo(3), { journaledN: 2 });
    expect([why, reported]).toEqual([undefined, ["e1 3", "e1 4"]]);
  });

  test("all of a later epoch is reported, also below that position: it may be another history", async () => {
    const kept = { e1: positions(1, 2, 3), e2: positions(2, 3, 4) };
    const { why, reported } = await compared(kept, (epoch) => epoch === "e1", { journaledN: 3 });
    expect([why, reported]).toEqual([undefined, ["e2 2", "e2 3", "e2 4"]]);
  });

  test.for<[string, Kept, number]>([
    ["a position", { e1: positions(1, 2, 3, 5) }, 2],
    ["the position after the last common one", { e1: positions(1, 2, 4) }, 2],
    ["a part of a position", { e1: [[1], [2], [3, 1, 3], [3, 3, 3], [4]] }, 2],
    ["the end of a position", { e1: [[1], [2], [3, 1, 2]] }, 2],
    ["the end of an epoch", { e1: positions(1, 2, 3), e2: positions(5, 6) }, 2],
    ["everything above", { e1: [], e2: positions(4) }, 2],
  ])("%s that is missing above the last common one is a gap", async ([, kept, last]) => {
    expect((await compared(kept, upTo(last))).why).toBe(GAP);
  });

  test("what is missing below the last common one is in the log", async () => {
    expect((await compared({ e1: positions(1, 4, 5), e2: positions(7, 8) }, upTo(7))).why).toBeUndefined();
  });

  test("a journal without the database's last epoch, or without what it had, is not whole", async () => {
    expect((await compared({ e2: positions(1) }, upTo(9))).why).toMatch("last epoch");
    expect((await compared({ e1: positions(1, 2) }, upTo(9), { journaledN: 3 })).why).toMatch("newest");
    expect((await compared({ e1: [] }, upTo(9), { journaledN: 3 })).why).toMatch("newest");
    expect((await compared({ e1: [] }, upTo(9))).why).toBeUndefined();
  });

  test("what an epoch has appended that was not compared hides nothing that is missing below", async () => {
    const kept = { e1: positions(1, 2), e2: positions(4), e9: positions(5) };
    expect((await compared(kept, upTo(9), { journaledN: 3 })).why).toMatch("newest");
    // Not all of the compared history is of the epoch that was compared last.
    expect((await compared(kept, upTo(9), { compared: "e2", journaledN: 3 })).why).toBeUndefined();
  });
});

import { describe, expect, it } from "vitest";
import type { LogRecord } from "../../src/revocation/ports.ts";
import { RememberedChanges } from "../../src/revocation/remembered-changes.ts";

const DB_MS = 1.7e12;

function record(position: number, over: Partial<LogRecord> = {}): LogRecord {
  return { position, key: `t${position}`, at: DB_MS * 1000 + position, kind: "revoked", change: undefined, ...over };
}

function records(from: number, to: number, over: Partial<LogRecord> = {}): LogRecord[] {
  return Array.from({ length: to - from + 1 }, (_, i) => record(from + i, over));
}

function page(rows: LogRecord[], over: { full?: boolean; floorN?: number; dbTime?: number } = {}) {
  const position = Math.max(0, ...rows.map((row) => row.position));
  return { rows, position, full: false, floorN: 0, dbTime: DB_MS, ...over };
}

/** A process that has seen these rows, in an epoch that is over. */
function survivor(rows: LogRecord[]): RememberedChanges {
  const remembered = new RememberedChanges();
  remembered.add(page(rows));
  remembered.begin();
  return remembered;
}

const positions = (rows: readonly LogRecord[]) => rows.map(({ position }) => position);

describe("remembered changes", () => {
  it("miss nothing where the log is the same, and what is after its end where it is shorter", () => {
    expect(survivor(records(1, 9)).missing(page(records(1, 9)))).toEqual([]);
    expect(positions(survivor(records(1, 9)).missing(page(records(1, 6))))).toEqual([7, 8, 9]);
  });

  it("compare contents: another time or key at the same position hides nothing, however far the log has got", () => {
    const log = [...records(1, 6), ...records(7, 30, { at: 5 })];
    expect(positions(survivor(records(1, 9)).missing(page(log)))).toEqual([7, 8, 9]);
    const others = [...records(1, 6), ...records(7, 30, { key: "x" })];
    expect(positions(survivor(records(1, 9)).missing(page(others)))).toEqual([7, 8, 9]);
  });

  it("leave to the database what a full page does not reach, unless the histories meet in the page", () => {
    const log = page(records(11, 15), { full: true });
    expect(survivor(records(1, 15)).missing(log)).toEqual([]);
    expect(positions(survivor(records(1, 12, { at: 5 })).missing(log))).toEqual(positions(records(1, 12)));
  });

  it("below the floor suspect final changes only", () => {
    const rows = [record(1, { kind: "lowered" }), record(2, { kind: "cut" }), record(3), record(4, { kind: "other" })];
    expect(positions(survivor(rows).missing(page([], { floorN: 9 })))).toEqual([2, 3]);
  });

  it("stay in doubt over several epochs, each history for itself, until they are settled", () => {
    const remembered = survivor(records(1, 3));
    remembered.add(page(records(1, 2, { at: 5 })));
    remembered.begin();
    expect(positions(remembered.missing(page(records(1, 2, { at: 5 }))))).toEqual([1, 2, 3]);
    expect(remembered.doubtful).toBe(true);
    remembered.settle();
    expect(remembered.doubtful).toBe(false);
    remembered.begin();
    expect(remembered.doubtful).toBe(false);
  });

  it("are those of the last ten minutes and of the newest 1,000 positions, within a bound", () => {
    const remembered = new RememberedChanges(1_500);
    remembered.add(page(records(1, 1_200)));
    expect(remembered.size).toBe(1_200);
    remembered.add(page([], { dbTime: DB_MS + 601_000 }));
    expect(remembered.size).toBe(1_200);
    remembered.add({ ...page([record(1_201)]), dbTime: DB_MS + 601_000 });
    expect(remembered.size).toBe(1_000);
    remembered.add(page(records(1_202, 3_000)));
    expect(remembered.size).toBe(1_500);
  });

  it("of epochs that are never settled are bounded together, and the newest stay", () => {
    const remembered = new RememberedChanges(5);
    for (let epoch = 1; epoch <= 4; epoch++) {
      remembered.add(page(records(1, 2, { at: epoch })));
      remembered.begin();
    }
    const missing = remembered.missing(page([]));
    expect(missing.map(({ at, position }) => [at, position])).toEqual([
      [2, 2],
      [3, 1],
      [3, 2],
      [4, 1],
      [4, 2],
    ]);
  });
});

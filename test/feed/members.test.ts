import { describe, expect, it } from "vitest";
import { Members } from "../../src/feed/members.ts";

describe("members", () => {
  it("acknowledges what every cache with a lease has applied, and no more than the process itself", () => {
    const members = new Members();
    expect(members.acknowledged(7, 0)).toBe(7);
    members.answered("a", 5, 7, 1_000, 0);
    members.answered("b", 9, 7, 1_000, 0);
    expect(members.acknowledged(7, 1)).toBe(5);
    members.reported("a", 7);
    expect(members.acknowledged(7, 1)).toBe(7);
  });

  it("takes a cache at its last word, also if it said more before", () => {
    const members = new Members();
    members.answered("a", 7, 7, 1_000, 0);
    members.reported("a", -1);
    expect(members.acknowledged(7, 1)).toBe(-1);
  });

  it("waits for a cache until its lease is over on every clock, counted from the answer, and forgets it then", () => {
    const members = new Members();
    members.answered("a", 3, 7, 1_000, 100);
    const end = 100 + 1_000 * 1.2 + 50;
    expect([members.leased(end - 1), members.nextEnd(end - 1)]).toEqual([1, end]);
    expect(members.acknowledged(7, end - 1)).toBe(3);
    expect(members.acknowledged(7, end)).toBe(7);
    expect([members.has("a"), members.leased(end), members.nextEnd(end)]).toEqual([false, 0, undefined]);
  });

  it("does not shorten the wait by a shorter lease, or by an answer without one", () => {
    const members = new Members();
    members.answered("a", 3, 7, 1_000, 0);
    members.answered("a", 3, 7, 10, 1);
    members.answered("a", 3, 8, undefined, 2);
    expect(members.nextEnd(3)).toBe(1_250);
  });

  it("gives no further lease to a cache that has not applied the last answer", () => {
    const members = new Members();
    expect(members.mayHaveLease("a")).toBe(true);
    members.answered("a", -1, 7, 1_000, 0);
    expect(members.mayHaveLease("a")).toBe(false);
    members.reported("a", 6);
    expect(members.mayHaveLease("a")).toBe(false);
    members.reported("a", 7);
    expect(members.mayHaveLease("a")).toBe(true);
  });

  it("waits for no cache that never got a lease, or that left", () => {
    const members = new Members();
    members.answered("a", 3, 7, undefined, 0);
    members.answered("b", 3, 7, 1_000, 0);
    members.left("b");
    expect([members.acknowledged(7, 1), members.size]).toEqual([7, 0]);
  });
});

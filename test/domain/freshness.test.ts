import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, it } from "vitest";
import { Cached, Freshness, type LogPage } from "../../src/domain/freshness.ts";
import { dependencies } from "../../src/domain/token-snapshot.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";

function page(n: number, rows: { position: number; key: string }[] = [], over: Partial<LogPage> = {}): LogPage {
  return {
    inRecovery: false,
    epoch: EPOCH,
    position: n,
    dbTime: 1e12,
    ownRowLive: true,
    proven: true,
    floorN: 0,
    rows,
    full: false,
    ...over,
  };
}

function fresh(denyLimit?: number): Freshness {
  const state = new Freshness(1500, denyLimit);
  state.begin(EPOCH, 0);
  return state;
}

const [tokenKey, principalKey, tenantKey] = dependencies(snapshot(0)) as [string, string, string];

describe("freshness › the use rule", () => {
  it("admits nothing before the first poll", () => {
    expect(fresh().usable(new Cached(snapshot(5)), 0)).toBe(false);
  });

  it("counts the lease from before the send, to the millisecond", () => {
    const state = fresh();
    expect(state.apply(page(5), 100, 550)).toBe("granted");
    const entry = new Cached(snapshot(5));
    expect(state.usable(entry, 1599.9)).toBe(true);
    expect(state.usable(entry, 1600)).toBe(false);
  });

  it("never shortens a lease by a poll that was sent earlier", () => {
    const state = fresh();
    state.apply(page(5), 100, 120);
    state.apply(page(5), 50, 130);
    expect(state.leaseUntil).toBe(1600);
  });

  it.each([
    ["token", tokenKey],
    ["principal", principalKey],
    ["tenant", tenantKey],
    ["parent", `t${"p".repeat(32)}`],
  ])("refuses a row older than a change of its %s", (_, key) => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    const parent = {
      digest: "p".repeat(32),
      revoked: false,
      disabled: false,
      cut: false,
      audiences: [],
      allowedCidrs: [],
    };
    const old = new Cached(snapshot(5, { parent }));
    expect(state.usable(old, 2)).toBe(true);
    state.apply(page(6, [{ position: 6, key }]), 3, 4);
    expect(state.usable(old, 5)).toBe(false);
    expect(state.usable(new Cached(snapshot(6, { parent })), 5)).toBe(true);
  });

  it("refuses every older row after a change of everything", () => {
    const state = fresh();
    state.apply(page(7, [{ position: 7, key: "*" }]), 0, 1);
    expect(state.usable(new Cached(snapshot(6)), 2)).toBe(false);
    expect(state.usable(new Cached(snapshot(7)), 2)).toBe(true);
  });

  it("refuses rows older than the lowest row of a full page, and older than pruned rows", () => {
    const state = fresh();
    state.apply(
      page(
        100,
        [
          { position: 40, key: "tx" },
          { position: 99, key: "ty" },
        ],
        { full: true, floorN: 10 },
      ),
      0,
      1,
    );
    expect(state.floor).toBe(40);
    state.apply(page(100, [], { floorN: 60 }), 2, 3);
    expect(state.floor).toBe(60);
    state.apply(page(100, [], { floorN: 0 }), 4, 5);
    expect(state.floor).toBe(60);
  });

  it("refuses rows of another epoch", () => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    expect(state.usable(new Cached(snapshot(9, {}, "2/i/200")), 2)).toBe(false);
  });

  it.each([
    ["recovery", { inRecovery: true }],
    ["unregistered", { ownRowLive: false }],
    ["backwards", { position: 4 }],
  ] as const)("loses its lease by a poll that says %s", (outcome, over) => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    expect(state.apply(page(5, [], over), 2, 3)).toBe(outcome);
    expect(state.usable(new Cached(snapshot(5)), 4)).toBe(false);
    expect(state.halted).toBe(outcome === "backwards");
  });

  it("stays refused after history went backwards, until another incarnation begins", () => {
    const state = fresh();
    state.begin("1/i/100", 0);
    state.apply(page(5, [], { epoch: "1/i/100" }), 0, 1);
    for (const [n, epoch] of [
      [4, "1/i/100"],
      [9, "1/i/100"],
      [9, "2/i/200"],
      [9, "2/i/200~"],
    ] as const) {
      expect(state.apply(page(n, [], { epoch }), 2, 3)).toBe("backwards");
      expect([state.halted, state.holdsLease(3)]).toEqual([true, false]);
    }
    expect(state.apply(page(4, [], { epoch: "1/j/100" }), 4, 5)).toBe("epoch");
    state.begin("1/j/100", 5);
    expect(state.apply(page(4, [], { epoch: "1/j/100" }), 6, 7)).toBe("granted");
    expect([state.halted, state.holdsLease(8)]).toEqual([false, true]);
  });

  it("loses its lease by a poll that shows rows that a restore put back, in any epoch", () => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    expect(state.apply(page(5, [], { epoch: "2/i/200~" }), 2, 3)).toBe("unsealed");
    expect([state.halted, state.holdsLease(3)]).toEqual([false, false]);
  });

  it("applies nothing from a poll of another epoch, and forgets everything when that epoch begins", () => {
    const state = fresh();
    state.apply(page(5, [{ position: 5, key: "tx" }]), 0, 1);
    expect(state.apply(page(2, [], { epoch: "2" }), 2, 3)).toBe("epoch");
    expect(state.applied).toBe(5);
    state.begin("2", 3);
    expect([state.applied, state.floor, state.denied, state.holdsLease(3)]).toEqual([-1, 0, 0, false]);
  });
});

describe("revocation › races of the state", () => {
  it("R44: a poll in flight gives no lease once the process stops", () => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    state.stop();
    expect(state.apply(page(5), 2, 3)).toBe("stopped");
    expect(state.holdsLease(4)).toBe(false);
  });

  it("R45: a refusal by the process's own read counts at once, although `applied` is the same", () => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    const entry = new Cached(snapshot(5));
    expect(state.usable(entry, 2)).toBe(true);
    state.refused(tokenKey, { epoch: EPOCH, position: 6 });
    expect(state.usable(entry, 2)).toBe(false);
  });

  it("R33: a refusal by the process's own read outlives later polls and disappears only below a floor", () => {
    const state = fresh();
    state.apply(page(5), 0, 1);
    state.refused(tokenKey, { epoch: EPOCH, position: 8 });
    state.apply(page(6), 2, 3);
    expect(state.usable(new Cached(snapshot(7)), 4)).toBe(false);
    state.refused(tokenKey, { epoch: "another", position: 99 });
    expect(state.usable(new Cached(snapshot(8)), 4)).toBe(true);
  });

  it("R40: bounds database time by the send and the receipt of the last good poll", () => {
    const state = fresh();
    state.apply(page(5, [], { dbTime: 10_000 }), 100, 160);
    expect(state.time(260)).toEqual({ lower: 10_100, upper: 10_160 });
  });
});

describe("freshness › properties", () => {
  const keys = ["*", tokenKey, principalKey, tenantKey, "ta", "tb", "tc", "td"];
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("poll" as const),
      ahead: fc.integer({ min: 0, max: 6 }),
      picks: fc.array(fc.nat(keys.length - 1), { maxLength: 6 }),
      pageSize: fc.integer({ min: 1, max: 8 }),
      prune: fc.integer({ min: 0, max: 20 }),
    }),
    fc.record({
      kind: fc.constant("refuse" as const),
      key: fc.nat(keys.length - 2),
      ahead: fc.integer({ min: -3, max: 4 }),
    }),
  );

  prop.prop([fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 5 })])(
    "is never laxer than an unbounded memory of the log, never lowers its floor, never admits again, never throws",
    (steps, limit) => {
      const state = fresh(limit);
      const log: { position: number; key: string }[] = [];
      const truth = new Map<string, number>();
      const note = (key: string, n: number) => truth.set(key, Math.max(truth.get(key) ?? 0, n));
      const refused = new Set<number>();
      let n = 0;
      let pruned = 0;
      let floor = 0;
      for (const s of steps) {
        if (s.kind === "refuse") {
          const key = keys[s.key + 1]!;
          const at = Math.max(0, n + s.ahead);
          state.refused(key, { epoch: EPOCH, position: at });
          note(key, at);
        } else {
          for (let i = 0; i < s.ahead; i++) {
            const key = keys[s.picks[i % Math.max(1, s.picks.length)] ?? 4]!;
            log.push({ position: ++n, key });
            note(key, n);
          }
          if (s.prune < n) pruned = Math.max(pruned, s.prune);
          const rows = log.filter((row) => row.position > Math.max(state.applied, pruned));
          const newest = rows.slice(-s.pageSize).reverse();
          state.apply(page(n, newest, { floorN: pruned, full: newest.length === s.pageSize }), 0, 1);
        }
        expect(state.denied).toBeLessThanOrEqual(limit);
        expect(state.floor).toBeGreaterThanOrEqual(floor);
        floor = state.floor;
        if (state.applied < n && state.applied >= 0) throw new Error("the poll applies all it saw");
        for (let at = 0; at <= n + 5; at++) {
          const usable = state.usable(new Cached(snapshot(at)), 2);
          const needed = Math.max(...[tokenKey, principalKey, tenantKey, "*"].map((key) => truth.get(key) ?? 0));
          if (usable) expect(at).toBeGreaterThanOrEqual(needed);
          if (usable) expect(refused.has(at)).toBe(false);
          if (!usable && state.holdsLease(2)) refused.add(at);
        }
      }
    },
  );

  prop.prop([fc.array(fc.tuple(fc.nat(5), fc.nat(6)), { maxLength: 30 })])(
    "answers the same with the generation shortcut as without",
    (events) => {
      const state = fresh(3);
      const kept = [0, 2, 4, 6, 8].map((n) => new Cached(snapshot(n)));
      let n = 0;
      for (const [what, key] of events) {
        if (what < 4) state.apply(page(++n, [{ position: n, key: keys[key]! }]), 0, 1);
        else state.refused(keys[key + 1]!, { epoch: EPOCH, position: n + what - 4 });
        for (const entry of kept) {
          expect(state.usable(entry, 2)).toBe(state.usable(new Cached(entry.snapshot), 2));
        }
      }
    },
  );

  it("keeps 200,000 keys in bounded memory and time, and moves the oldest below the floor", () => {
    const state = fresh();
    let n = 0;
    let worst = 0;
    const before = performance.now();
    for (let pageNo = 0; pageNo < 100; pageNo++) {
      const rows: { position: number; key: string }[] = [];
      for (let i = 0; i < 5000; i++) rows.push({ position: ++n, key: `t${n.toString().padStart(32, "0")}` });
      const t = performance.now();
      state.apply(page(n, rows), pageNo, pageNo);
      worst = Math.max(worst, performance.now() - t);
    }
    expect(state.denied).toBeLessThanOrEqual(200_000);
    expect(state.denied).toBeGreaterThan(180_000);
    expect(state.floor).toBe(500_000 - state.denied);
    expect(performance.now() - before).toBeLessThan(10_000);
    expect(worst).toBeLessThan(1000);
  });
});

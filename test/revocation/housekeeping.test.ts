import { describe, expect, it } from "vitest";
import { Freshness } from "../../src/domain/freshness.ts";
import { Housekeeping } from "../../src/revocation/housekeeping.ts";
import type { RevocationLog, ValidatorRow } from "../../src/revocation/ports.ts";
import { ReapedValidators } from "../../src/revocation/reaped-validators.ts";
import { HandTime, recordedEvents } from "../support/hand-time.ts";

function fixture(mode: "full" | "validate" = "full") {
  const time = new HandTime();
  const { events, happened } = recordedEvents();
  const calls: string[] = [];
  const server = { epoch: "e1", settled: "e1" as string | undefined, rows: [] as ValidatorRow[], inRecovery: false };
  const audit = { months: 12 as number | undefined };
  const log: Partial<RevocationLog> = {
    ack: async (me, epoch, applied) => void calls.push(`ack ${me} ${epoch} ${applied}`),
    validators: async () => ({ ...server, position: 5, dbTime: 1e12 }),
    reap: async (ids) => void calls.push(`reap ${ids}`),
    deleteReaped: async (ids, epoch) => void calls.push(`bury ${ids} ${epoch}`),
    markSettled: async (epoch, names) => void calls.push(`settle ${epoch} ${names}`),
    prune: async () => {
      calls.push("prune");
      return audit.months === undefined ? undefined : { auditMonths: audit.months };
    },
    reconnect: () => void calls.push("reconnect"),
  };
  const named = { names: "n1", since: time.clock.mono() };
  const follower = { me: "me", acked: 5, maxBoundMs: 1500, named, wake: () => void calls.push("wake") };
  const freshness = new Freshness(1500);
  freshness.begin("e1", time.clock.mono());
  const page = {
    inRecovery: false,
    epoch: "e1",
    position: 5,
    dbTime: 1e12,
    ownRowLive: true,
    proven: true,
    floorN: 0,
    rows: [],
    full: false,
  };
  freshness.apply(page, time.clock.mono(), time.clock.mono());
  const housekeeping = new Housekeeping(
    {
      log: log as RevocationLog,
      freshness,
      follower,
      reaped: new ReapedValidators(),
      clock: time.clock,
      timers: time.timers,
      events,
    },
    { mode, leaseMs: 1500 },
  );
  housekeeping.start();
  return { time, calls, happened, audit, server, follower, housekeeping };
}

const row = (id: string, over: Partial<ValidatorRow> = {}): ValidatorRow => ({
  ...{ id, boundMs: 1500, reaped: false, silentMs: 0 },
  ...over,
});

describe("housekeeping", () => {
  it("sends a sign of life every 10 s, with the acknowledged position", async () => {
    const { time, calls, follower } = fixture();
    await time.advance(10_500);
    // A client cache holds it back: the applied position is 5.
    follower.acked = 4;
    await time.advance(11_000);
    expect(calls.filter((call) => call.startsWith("ack"))).toEqual(["ack me e1 5", "ack me e1 4"]);
  });

  it("reaps rows unseen for 30 s, never its own", async () => {
    const { time, calls, server } = fixture();
    server.rows = [
      row("me", { silentMs: 40_000 }),
      row("dead", { silentMs: 30_001 }),
      row("alive", { silentMs: 29_000 }),
    ];
    await time.advance(1000);
    expect(calls).toEqual(["reap dead"]);
  });

  it("deletes a row once it has itself seen it reaped for two bounds", async () => {
    const { time, calls, server } = fixture();
    server.rows = [row("dead", { reaped: true })];
    await time.advance(3999);
    expect(calls).toEqual([]);
    await time.advance(1);
    expect(calls).toEqual(["bury dead e1"]);
  });

  it("settles an epoch only when every lease of earlier ones is over", async () => {
    const { time, calls, server } = fixture();
    server.settled = "e0";
    await time.advance(1800);
    expect(calls).toEqual([]);
    await time.advance(300);
    expect(calls).toEqual(["settle e1 n1"]);
  });

  it("settles again only when every lease of what had the names meanwhile is over", async () => {
    const { time, calls, server, follower } = fixture();
    await time.advance(10_500);
    calls.length = 0;
    server.settled = undefined;
    follower.named = { names: "n2", since: time.clock.mono() };
    await time.advance(1800);
    expect(calls).toEqual([]);
    await time.advance(1000);
    expect(calls).toContain("settle e1 n2");
  });

  it("ignores an answer of another epoch or of a standby", async () => {
    const { time, calls, server } = fixture();
    server.rows = [row("dead", { silentMs: 40_000 })];
    server.epoch = "e2";
    await time.advance(1000);
    server.inRecovery = true;
    await time.advance(1000);
    expect(calls).toEqual(["wake", "reconnect"]);
  });

  it("prunes each minute", async () => {
    const { time, calls } = fixture();
    await time.advance(125_000);
    expect(calls.filter((call) => call === "prune")).toHaveLength(2);
  });

  it("tells of fewer than three months of the audit ahead, once for each run that could not make more", async () => {
    const { time, happened, audit } = fixture();
    const told = async (months: number | undefined) => {
      audit.months = months;
      const before = happened.length;
      await time.advance(61_000);
      return happened.slice(before).filter((one) => one.startsWith("alarm"));
    };
    for (const enough of [12, 3, undefined]) expect(await told(enough), `${enough}`).toEqual([]);
    for (const few of [2, 0]) expect(await told(few), `${few}`).toEqual(["alarm:audit_partitions_low"]);
  });

  it("keeps only its own row alive in a validating process", async () => {
    const { time, calls, server } = fixture("validate");
    server.rows = [row("dead", { silentMs: 40_000, reaped: true })];
    await time.advance(70_000);
    expect(new Set(calls)).toEqual(new Set(["ack me e1 5"]));
  });

  it("stops", async () => {
    const { time, calls, housekeeping } = fixture();
    await housekeeping.stop();
    await time.advance(20_000);
    expect(calls).toEqual([]);
  });
});

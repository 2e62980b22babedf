import { describe, expect, it } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { Freshness } from "../../src/domain/freshness.ts";
import { Follower } from "../../src/revocation/follower.ts";
import type { FedCaches, PollResult, RevocationLog } from "../../src/revocation/ports.ts";
import { HandTime, recordedEvents } from "../support/hand-time.ts";

/** A follower of a log whose answers the test controls. */
function fixture(feed?: FedCaches) {
  const time = new HandTime();
  const recorded = recordedEvents();
  const { happened } = recorded;
  const calls: string[] = [];
  const page: PollResult = {
    ...{ inRecovery: false, epoch: "e1", position: 4, dbTime: 1e12, ownRowLive: true, floorN: 0, maxBoundMs: 1500 },
    ...{ names: "n1", settled: undefined, proven: true, pending: false, regressed: false, rows: [], full: false },
  };
  const server = {
    page,
    admits: true,
    away: false,
    ackFails: false,
    registerFails: false,
    kids: ["1"],
    deaf: false,
    drawFails: false,
    /** The registry has processes that are not in this epoch yet. */
    others: false,
    /** Says that the epoch is proven, and its polls do not. */
    claims: false,
  };
  const events = new Proxy(recorded.events, {
    get(target, name) {
      if (server.deaf && name === "alarm") throw new Error("no log");
      return Reflect.get(target, name);
    },
  });
  const announced: string[] = [];
  let held: Promise<void> | undefined;
  const at = () => time.clock.mono() - 1000;
  const reply = <T>(value: T) =>
    server.away ? Promise.reject(new AppError("STORE_UNAVAILABLE", "away")) : Promise.resolve(value);
  let wakeUp = () => {};
  const log: Partial<RevocationLog> = {
    readEpoch: () => reply({ ...server.page, maxBoundMs: 1500 }),
    poll: (me, epoch, applied) => {
      calls.push(`poll ${me} ${epoch} ${applied} @${at()}`);
      return reply(server.page);
    },
    register: async ({ old, mark, me, epoch, kids }) => {
      calls.push(`register ${me} for ${old} ${epoch}${mark ? " marked" : ""}`);
      announced.push(kids.join());
      await held;
      if (server.registerFails) return Promise.reject(new AppError("STORE_UNAVAILABLE", "away"));
      return reply(server.admits);
    },
    ack: (me, _epoch, applied, clients) => {
      calls.push(`ack ${me} ${applied}${clients === undefined ? "" : ` for ${clients}`}`);
      return server.ackFails ? Promise.reject(new AppError("STORE_UNAVAILABLE", "away")) : reply(undefined);
    },
    draw: (epoch) => {
      calls.push(`draw ${epoch}`);
      if (server.drawFails) return Promise.reject(new AppError("STORE_UNAVAILABLE", "refused"));
      server.page = { ...server.page, epoch: `${epoch.replace(/~$/, "")}+` };
      return reply(undefined);
    },
    reportLost: (epoch, records) => {
      calls.push(`report ${epoch} ${records.map(({ position }) => position).join()}`);
      server.page = { ...server.page, pending: true };
      return reply(undefined);
    },
    redoLost: (epoch) => {
      calls.push(`redo ${epoch}`);
      const { pending } = server.page;
      server.page = { ...server.page, pending: false };
      return reply(pending ? { state: "applied", late: false } : undefined);
    },
    prove: (epoch, waited) => {
      calls.push(`prove ${epoch} ${waited}`);
      if (server.claims) return reply(true);
      const proven = waited || !server.others;
      if (proven) server.page = { ...server.page, proven };
      return reply(proven);
    },
    deregister: (me) => {
      calls.push(`leave ${me}`);
      return reply(undefined);
    },
    reconnect: () => void calls.push("reconnect log"),
    onWakeUp: (listener) => {
      wakeUp = listener;
    },
  };
  const freshness = new Freshness(1500);
  let ids = 0;
  const follower = new Follower(
    {
      log: log as RevocationLog,
      freshness,
      lookup: { forget: () => void calls.push("forget") },
      reader: { reconnect: () => void calls.push("reconnect reader") },
      clock: time.clock,
      timers: time.timers,
      events,
      newId: () => `v${++ids}`,
      random: () => 0.5,
      ...(feed && { feed }),
    },
    { leaseMs: 1500, pollMs: 400, readerVersion: 1, redoes: true, kids: () => server.kids },
  );
  const holds = () => freshness.holdsLease(time.clock.mono());
  /** Registrations are answered when the returned function is called. */
  const holdRegistrations = () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    held = promise;
    return () => {
      held = undefined;
      resolve();
    };
  };
  return {
    ...{ time, happened, calls, server, freshness, follower, holds, announced, holdRegistrations },
    wakeUp: () => wakeUp(),
  };
}

describe("follower", () => {
  it("tells since when it knows the log's tables by their present names", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(2000);
    const first = f.follower.named!;
    expect(first).toMatchObject({ names: "n1" });
    f.server.page = { ...f.server.page, names: "n2" };
    const before = f.time.clock.mono();
    await f.time.advance(2000);
    expect(f.follower.named?.names).toBe("n2");
    expect(f.follower.named!.since).toBeGreaterThanOrEqual(before);
    expect(first.since).toBeLessThan(before);
  });

  it("registers first, then polls, then acknowledges, and is ready with the first lease", async () => {
    const f = fixture();
    let ready = false;
    void f.follower.start().then(() => {
      ready = true;
    });
    await f.time.advance(1);
    expect(f.calls).toEqual(["register v1 for undefined e1", "poll v1 e1 -1 @0", "ack v1 4"]);
    expect([ready, f.holds()]).toEqual([true, true]);
  });

  it("polls every 400 ms, sooner after a wake-up, never less than 20 ms apart", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(5);
    f.wakeUp();
    f.wakeUp();
    await f.time.advance(20);
    f.wakeUp();
    await f.time.advance(500);
    const polls = f.calls.filter((call) => call.startsWith("poll")).map((call) => Number(call.split("@")[1]));
    expect(polls).toEqual([0, 20, 40, 440]);
  });

  it("keeps trying until a primary answers", async () => {
    const f = fixture();
    f.server.away = true;
    void f.follower.start();
    await f.time.advance(1000);
    f.server.away = false;
    f.server.page = { ...f.server.page, inRecovery: true };
    await f.time.advance(1000);
    expect(f.holds()).toBe(false);
    f.server.page = { ...f.server.page, inRecovery: false };
    await f.time.advance(500);
    expect(f.holds()).toBe(true);
  });

  it("does not start on a database that does not admit it, and answers nothing", async () => {
    const f = fixture();
    f.server.admits = false;
    const started = f.follower.start().catch((error: AppError) => error.reason);
    await f.time.advance(1);
    expect(await started).toBe("NOT_DONE");
    expect([f.freshness.halted, f.holds()]).toEqual([true, false]);
    f.server.admits = true;
    await f.time.advance(500);
    expect([f.freshness.halted, f.holds()]).toEqual([false, true]);
  });

  it("keeps its lease until it runs out, and no longer, if polls fail", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(100);
    f.server.away = true;
    await f.time.advance(1399);
    expect(f.holds()).toBe(true);
    await f.time.advance(1);
    expect(f.holds()).toBe(false);
  });

  it("registers under a new id, without a lease meanwhile, when its row is gone", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, ownRowLive: false };
    await f.time.advance(400);
    expect(f.holds()).toBe(false);
    f.server.page = { ...f.server.page, ownRowLive: true };
    await f.time.advance(30);
    expect(f.calls).toContain("register v2 for v1 e1");
    expect(f.holds()).toBe(true);
  });

  it("deletes the rows of registrations that were never acknowledged, once one is", async () => {
    const f = fixture();
    f.server.registerFails = true;
    void f.follower.start();
    await f.time.advance(500);
    f.server.registerFails = false;
    await f.time.advance(500);
    expect(f.calls.filter((call) => call.startsWith("leave"))).toEqual(["leave v1", "leave v2"]);
    expect(f.holds()).toBe(true);
  });

  it("begins anew when another epoch appears: no cached rows, no old connection, a new row", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, epoch: "e2", position: 2 };
    f.calls.length = 0;
    await f.time.advance(430);
    expect(f.calls.map((call) => call.split(" @")[0])).toEqual([
      "poll v1 e1 4",
      "forget",
      "reconnect reader",
      "register v2 for v1 e2",
      "poll v2 e2 -1",
      "ack v2 2",
    ]);
    expect(f.happened).toContain("alarm:history_regressed_new_server");
  });

  it("redoes what the next epoch lacks, and has no lease before it is proven", async () => {
    const f = fixture();
    const row = { position: 4, key: "ta", at: 7, kind: "revoked", change: "{}" } as const;
    f.server.page = { ...f.server.page, rows: [row] };
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, epoch: "e2", position: 3, rows: [], proven: false };
    f.calls.length = 0;
    await f.time.advance(1500);
    const calls = f.calls.map((call) => call.split(" @")[0]!);
    expect(calls.slice(calls.indexOf("register v2 for v1 e2"), calls.indexOf("prove e2 false") + 3)).toEqual([
      "register v2 for v1 e2",
      "poll v2 e2 -1",
      "report e2 4",
      "ack v2 3",
      "redo e2",
      "redo e2",
      "poll v2 e2 3",
      "prove e2 false",
      "poll v2 e2 3",
      calls[calls.indexOf("prove e2 false") + 2],
    ]);
    expect(f.holds()).toBe(true);
    expect(f.happened).toContain("alarm:lost_changes_replayed");
  });

  it("proves an epoch after one that it followed itself only with the others, or after all their leases", async () => {
    const f = fixture();
    f.server.others = true;
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, epoch: "e2", proven: false };
    await f.time.advance(1500);
    expect(f.calls).toContain("prove e2 false");
    expect(f.calls).not.toContain("prove e2 true");
    expect(f.holds()).toBe(false);
    f.server.others = false;
    await f.time.advance(600);
    expect(f.calls).not.toContain("prove e2 true");
    expect(f.holds()).toBe(true);
  });

  it("proves an epoch that it begins in only after all leases of earlier ones, if others may remember more", async () => {
    const f = fixture();
    f.server.others = true;
    f.server.page = { ...f.server.page, proven: false };
    void f.follower.start();
    await f.time.advance(1800);
    expect(f.calls.filter((call) => call.startsWith("prove")).every((call) => call === "prove e1 false")).toBe(true);
    expect(f.holds()).toBe(false);
    await f.time.advance(600);
    expect(f.calls).toContain("prove e1 true");
    expect(f.holds()).toBe(true);
  });

  it("rests between polls, whatever the database says of the proof", async () => {
    const f = fixture();
    f.server.page = { ...f.server.page, proven: false, regressed: true };
    f.server.claims = true;
    void f.follower.start();
    await f.time.advance(2000);
    expect(f.calls.filter((call) => call.startsWith("poll")).length).toBeLessThan((8 * 2000) / 320 + 8);
    expect(f.holds()).toBe(false);
  });

  it("repeats an acknowledgement until it is stored", async () => {
    const f = fixture();
    f.server.ackFails = true;
    void f.follower.start();
    await f.time.advance(500);
    f.server.ackFails = false;
    await f.time.advance(1500);
    expect(f.calls.filter((call) => call === "ack v1 4")).toHaveLength(3);
  });

  it("leaves a history that went backwards by itself: alarm, a new incarnation, and a new start", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, position: 3 };
    f.calls.length = 0;
    await f.time.advance(399);
    expect([f.freshness.halted, f.holds()]).toEqual([true, false]);
    await f.time.advance(60);
    expect(f.calls.map((call) => call.split(" @")[0])).toEqual([
      "poll v1 e1 4",
      "draw e1",
      "poll v1 e1 4",
      "forget",
      "reconnect reader",
      "register v2 for v1 e1+",
      "poll v2 e1+ -1",
      "ack v2 3",
    ]);
    expect([f.freshness.halted, f.holds()]).toEqual([false, true]);
    expect(f.happened.filter((what) => what === "alarm:history_regressed")).toHaveLength(1);
  });

  it("refuses until there is a new incarnation, however high the position climbs, and reports why once a minute", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    f.server.drawFails = true;
    f.server.page = { ...f.server.page, position: 3 };
    await f.time.advance(500);
    f.server.page = { ...f.server.page, position: 9 };
    f.happened.length = 0;
    await f.time.advance(300_000);
    expect([f.freshness.halted, f.holds()]).toEqual([true, false]);
    expect(f.calls).not.toContain("ack v1 9");
    const said = (what: string) => f.happened.filter((line) => line.startsWith(what)).length;
    expect([said("note:awaiting_incarnation"), said("trouble:incarnation_draw_failed"), said("alarm")]).toEqual([
      5, 5, 0,
    ]);
  });

  it("begins no epoch on rows that a restore put back before it draws a new incarnation, also at start", async () => {
    const f = fixture();
    f.server.page = { ...f.server.page, epoch: "e1~" };
    void f.follower.start();
    await f.time.advance(500);
    expect(f.calls.filter((call) => !call.startsWith("poll")).slice(0, 2)).toEqual([
      "draw e1~",
      "register v1 for undefined e1+",
    ]);
    expect(f.holds()).toBe(true);
    f.server.drawFails = true;
    f.server.page = { ...f.server.page, epoch: "e9~" };
    await f.time.advance(500);
    expect(f.holds()).toBe(false);
    expect(f.freshness.epoch).toBe("e1+");
    f.server.drawFails = false;
    await f.time.advance(1000);
    expect([f.freshness.epoch, f.holds()]).toEqual(["e9+", true]);
  });

  it("drops its lease at once, polls no more and deletes its row when it stops", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    const stopped = f.follower.stop();
    expect(f.holds()).toBe(false);
    await f.time.advance(1);
    await stopped;
    const calls = f.calls.length;
    expect(f.calls[calls - 1]).toBe("leave v1");
    await f.time.advance(2000);
    expect(f.calls).toHaveLength(calls);
  });

  it("raises an alarm, drops its lease and begins again with back-off under a new row after an error of this program", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    const good = f.server.page;
    f.server.page = { ...good, rows: undefined as never };
    await f.time.advance(480);
    expect(f.holds()).toBe(false);
    expect(f.happened.filter((one) => one === "alarm:follower_failed")).toHaveLength(1);
    f.calls.length = 0;
    for (let i = 0; i < 10; i++) {
      f.wakeUp();
      await f.time.advance(1000);
    }
    // 0.1 s, 0.2 s, 0.4 s, 0.8 s, 1.6 s, 3.2 s, then 5 s. Wake-ups do not make it a busy loop.
    const tries = f.calls.filter((call) => call.startsWith("register")).length;
    expect(tries).toBeGreaterThan(4);
    expect(tries).toBeLessThan(9);
    expect(f.holds()).toBe(false);
    f.server.page = good;
    await f.time.advance(5500);
    expect(f.holds()).toBe(true);
  });

  it("continues even if the error cannot be reported, and a stop does not wait for the back-off", async () => {
    const f = fixture();
    void f.follower.start();
    await f.time.advance(1);
    f.server.page = { ...f.server.page, rows: undefined as never };
    f.server.deaf = true;
    await f.time.advance(3000);
    expect(f.happened).not.toContain("alarm:follower_failed");
    expect(f.calls.filter((call) => call.startsWith("register")).length).toBeGreaterThan(3);
    let stopped = false;
    void f.follower.stop().then(() => (stopped = true));
    await f.time.advance(0);
    expect(stopped).toBe(true);
  });

  it("registers again if it was renewed during a registration, and has no lease before", async () => {
    const f = fixture();
    const answer = f.holdRegistrations();
    void f.follower.start();
    await f.time.advance(1);
    f.server.kids = ["1", "2"];
    f.follower.renew();
    answer();
    await f.time.advance(1);
    expect(f.holds()).toBe(false);
    await f.time.advance(25);
    expect(f.announced).toEqual(["1", "1,2"]);
    expect(f.calls.slice(0, 3)).toEqual(["register v1 for undefined e1", "register v2 for v1 e1", "poll v2 e1 -1 @20"]);
    expect(f.holds()).toBe(true);
  });
});

/** Client caches, of which the test says what they have applied and when their last lease ends. */
function fedCaches() {
  const state = { applied: 4, end: Number.NEGATIVE_INFINITY, calls: [] as string[] };
  const leased = (now: number) => (state.end > now ? 1 : 0);
  const feed: FedCaches = {
    applied: ({ position }, from) => void state.calls.push(`applied ${from} to ${position}`),
    acknowledged: (applied, now) => (leased(now) > 0 ? Math.min(applied, state.applied) : applied),
    leased,
    nextEnd: (now) => (state.end > now ? state.end : undefined),
    forget: () => {
      state.calls.push("forget");
      state.end = Number.NEGATIVE_INFINITY;
    },
    stop: () => void state.calls.push("stop"),
  };
  return { state, feed };
}

describe("follower of a process that feeds caches", () => {
  it("acknowledges what all of them have applied, and says meanwhile that it waits", async () => {
    const { state, feed } = fedCaches();
    const f = fixture(feed);
    void f.follower.start();
    await f.time.advance(1);
    expect(state.calls).toEqual(["forget", "applied -1 to 4"]);
    state.end = f.time.clock.mono() + 5_000;
    f.server.page = { ...f.server.page, position: 5 };
    f.calls.length = 0;
    await f.time.advance(1_000);
    const acks = () => f.calls.filter((call) => call.startsWith("ack"));
    expect(acks().length).toBeGreaterThanOrEqual(2);
    expect(new Set(acks())).toEqual(new Set(["ack v1 4 for 1"]));
    expect(f.follower.acked).toBe(4);
    state.applied = 5;
    f.follower.acknowledge();
    await f.time.advance(0);
    expect([acks().at(-1), f.follower.acked]).toEqual(["ack v1 5 for 1", 5]);
    expect(f.happened.some((event) => event.startsWith("feedHeld:"))).toBe(true);
  });

  it("acknowledges as soon as the lease of a silent cache is over", async () => {
    const { state, feed } = fedCaches();
    const f = fixture(feed);
    void f.follower.start();
    await f.time.advance(1);
    state.end = f.time.clock.mono() + 1_610;
    f.server.page = { ...f.server.page, position: 5 };
    await f.time.advance(1_600);
    expect(f.follower.acked).toBe(4);
    await f.time.advance(10);
    expect(f.follower.acked).toBe(5);
  });

  it("marks its old row at a new registration while a lease may be held under it, and replaces it otherwise", async () => {
    const { state, feed } = fedCaches();
    const f = fixture(feed);
    void f.follower.start();
    await f.time.advance(1);
    state.end = f.time.clock.mono() + 1_000;
    f.follower.renew();
    await f.time.advance(100);
    f.follower.renew();
    await f.time.advance(100);
    const registrations = f.calls.filter((call) => call.startsWith("register"));
    expect(registrations.slice(1)).toEqual(["register v2 for v1 e1 marked", "register v3 for v2 e1"]);
  });

  it("goes on until no lease can be held under its row, and deletes it then", async () => {
    const { state, feed } = fedCaches();
    const f = fixture(feed);
    void f.follower.start();
    await f.time.advance(1);
    state.end = f.time.clock.mono() + 1_000;
    state.applied = 9;
    void f.follower.stop();
    expect(state.calls.at(-1)).toBe("stop");
    f.server.page = { ...f.server.page, position: 5 };
    await f.time.advance(990);
    expect(f.follower.acked).toBe(5);
    expect(f.calls).not.toContain("leave v1");
    await f.time.advance(50);
    expect(f.calls).toContain("leave v1");
  });
});

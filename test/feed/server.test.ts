import { describe, expect, it } from "vitest";
import { Freshness } from "../../src/domain/freshness.ts";
import { FeedNames } from "../../src/feed/names.ts";
import { Feed, type FeedAnswer } from "../../src/feed/server.ts";
import type { PollResult } from "../../src/revocation/ports.ts";
import { HandTime, turn } from "../support/hand-time.ts";

const EPOCH = "1/incarnation/2";
const names = new FeedNames();
const NONE = new Uint8Array(0);

function fixture({ maxClients = 100 } = {}) {
  const time = new HandTime();
  const freshness = new Freshness(1_500);
  const later: (() => void)[] = [];
  const may = { lease: true };
  const follower = { me: "row" as string | undefined, asked: 0, acknowledge: () => void follower.asked++ };
  const feed = new Feed(
    {
      ...{ freshness, names, clock: time.clock, timers: time.timers, instanceId: "i", mayLease: () => may.lease },
      follower: () => follower,
      later: (run) => void later.push(run),
    },
    { leaseMs: 1_500, feedLeaseMs: 1_300, maxClients },
  );
  freshness.begin(EPOCH, time.clock.mono());
  /** A good poll that was sent `age` ago, with these log rows. */
  const granted = (position: number, rows: { position: number; key: string }[] = [], age = 0) => {
    const page: PollResult = {
      ...{ inRecovery: false, epoch: EPOCH, position, dbTime: 1e12, ownRowLive: true, floorN: 0, maxBoundMs: 1_500 },
      ...{ names: "n", settled: EPOCH, full: false, proven: true, pending: false, regressed: false },
      rows: rows.map((row) => ({ ...row, at: 0, kind: "revoked" as const, change: undefined })),
    };
    const from = freshness.applied;
    freshness.apply(page, time.clock.mono() - age, time.clock.mono());
    feed.applied(page, from);
  };
  const connection = {};
  const poll = (
    cacheId: string,
    position: number,
    more: { epoch?: Uint8Array; on?: object; signal?: AbortSignal } = {},
  ) => {
    const { epoch = position < 0 ? NONE : names.of(EPOCH).epoch, on = { connection }, signal } = more;
    const call = {
      connection: on,
      deadline: time.clock.mono() + 1_950,
      signal: signal ?? new AbortController().signal,
    };
    const got: { answer?: FeedAnswer } = {};
    void feed.poll({ cacheId, epoch, position: Math.max(0, position), leaving: false }, call).then((answer) => {
      got.answer = answer;
    });
    return got;
  };
  granted(4);
  return { time, may, freshness, later, follower, feed, granted, poll };
}

describe("feed", () => {
  it("answers a cache that is behind at once, and any other with the next good poll, in its tick", async () => {
    const f = fixture();
    const joining = f.poll("a", -1);
    await turn();
    expect(joining.answer).toMatchObject({ changes: { position: 4, floor: 4, tags: [] } });
    const waiting = f.poll("a", 4);
    await f.time.advance(300);
    expect(waiting.answer).toBeUndefined();
    f.granted(5, [{ position: 5, key: "tx" }]);
    await turn();
    expect(waiting.answer).toMatchObject({ changes: { position: 5, floor: 0, tags: [names.of(EPOCH).tag("tx")] } });
  });

  it("gives the rest of the lease, counted from the send of its own last good poll", async () => {
    const f = fixture();
    f.granted(4, [], 200);
    const first = f.poll("a", -1);
    await turn();
    // The poll before was sent later.
    expect(first.answer?.leaseMs).toBe(1_300);
    const second = f.poll("a", 4);
    await f.time.advance(600);
    expect(second.answer?.leaseMs).toBe(700);
    const third = f.poll("a", 4);
    await f.time.advance(600);
    expect(third.answer?.leaseMs).toBe(100);
    const fourth = f.poll("a", 4);
    await f.time.advance(600);
    expect(fourth.answer).toMatchObject({ leaseMs: undefined });
  });

  it("gives no lease while its row is not registered, and after it stops", async () => {
    const f = fixture();
    f.follower.me = undefined;
    const one = f.poll("a", -1);
    await turn();
    expect(one.answer).toMatchObject({ leaseMs: undefined, changes: { position: 4 } });
    f.follower.me = "row";
    const waiting = f.poll("a", 4);
    f.feed.stop();
    await turn();
    expect(waiting.answer).toMatchObject({ leaseMs: undefined });
    expect(f.feed.leased(f.time.clock.mono())).toBe(0);
  });

  it("gives no lease before the primary knows that this worker feeds caches", async () => {
    const f = fixture();
    f.may.lease = false;
    const one = f.poll("a", -1);
    await turn();
    expect(one.answer).toMatchObject({ leaseMs: undefined, changes: { position: 4 } });
    expect(f.feed.leased(f.time.clock.mono())).toBe(0);
    f.may.lease = true;
    const next = f.poll("a", 4);
    f.granted(4);
    await turn();
    expect(next.answer?.leaseMs).toBe(1_300);
  });

  it("holds back what a cache with a lease has not reported, and asks for an acknowledgement at each report", async () => {
    const f = fixture();
    f.poll("a", -1);
    await turn();
    const now = f.time.clock.mono();
    expect(f.feed.acknowledged(4, now)).toBe(-1);
    const asked = f.follower.asked;
    f.poll("a", 4);
    expect(f.follower.asked).toBe(asked + 1);
    expect(f.feed.acknowledged(4, now)).toBe(4);
    f.granted(5, [{ position: 5, key: "tx" }]);
    expect(f.feed.acknowledged(5, now)).toBe(4);
    f.poll("a", 5);
    expect(f.feed.acknowledged(5, now)).toBe(5);
  });

  it("remembers a cache whose connection broke, until its lease is over", async () => {
    const f = fixture();
    f.poll("a", -1);
    await turn();
    const gone = new AbortController();
    const waiting = f.poll("a", 4, { signal: gone.signal });
    gone.abort();
    await turn();
    // Nobody reads it. It would change nothing.
    expect(waiting.answer).toMatchObject({ leaseMs: undefined, changes: { position: 4, floor: 0, tags: [] } });
    f.granted(5);
    expect(f.feed.acknowledged(5, f.time.clock.mono())).toBe(4);
    await f.time.advance(1_610);
    expect(f.feed.acknowledged(5, f.time.clock.mono())).toBe(5);
  });

  it("lets a connection bring one cache a second; the next one waits without a lease, and holds nothing back", async () => {
    const f = fixture();
    f.poll("a", 4, { on: f });
    f.poll("b", 4, { on: f });
    f.granted(4);
    expect(f.feed.leased(f.time.clock.mono())).toBe(1);
    const again = f.poll("b", -1, { on: f });
    await f.time.advance(100);
    expect(again.answer).toBeUndefined();
    await f.time.advance(900);
    f.granted(4);
    const third = f.poll("b", 4, { on: f });
    f.granted(4);
    await turn();
    expect(third.answer?.leaseMs).toBeGreaterThan(0);
  });

  it("answers 64 polls in a turn of the loop, and the others in the next ones", async () => {
    const f = fixture();
    const polls = Array.from({ length: 100 }, (_, at) => f.poll(`c${at}`, 4, { on: {} }));
    f.granted(4);
    await turn();
    const answered = () => polls.filter(({ answer }) => answer !== undefined).length;
    expect(answered()).toBe(64);
    f.later.shift()!();
    await turn();
    expect(answered()).toBe(100);
  });

  it("answers in another epoch as to a cache that knows nothing", async () => {
    const f = fixture();
    const other = f.poll("a", 9, { epoch: Buffer.alloc(16, 1) });
    await turn();
    expect(other.answer).toMatchObject({ epoch: names.of(EPOCH).epoch, changes: { position: 4, floor: 4 } });
  });

  it("refuses one cache too many, and has room again when a lease is over", async () => {
    const f = fixture({ maxClients: 1 });
    f.poll("a", 4, { on: {} });
    f.granted(4);
    await turn();
    const call = { connection: {}, deadline: f.time.clock.mono() + 1_950, signal: new AbortController().signal };
    const more = () => f.feed.poll({ cacheId: "b", epoch: NONE, position: 0, leaving: false }, call);
    expect(more).toThrow("feed.max_clients");
    await f.time.advance(1_610);
    f.granted(4);
    expect(await more()).toMatchObject({ changes: { position: 4 } });
  });
});

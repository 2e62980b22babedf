import { describe, expect, it } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import { ChangeAuthority } from "../../src/revocation/change-authority.ts";
import type { Committed, RevocationLog, Unacknowledged } from "../../src/revocation/ports.ts";
import { ReapedValidators } from "../../src/revocation/reaped-validators.ts";
import { HandTime, recordedEvents } from "../support/hand-time.ts";

const DB_TIME = 1.7e12;

type Answer = Partial<Unacknowledged> | "away";

/** The path above a store and a registry whose answers the test controls. */
function fixture(answer: (nth: number) => Answer | Promise<Answer>, written?: () => Promise<boolean>) {
  const time = new HandTime();
  const { events, happened } = recordedEvents();
  const asked: { epoch: string; position: number | undefined; at: number }[] = [];
  const reaped: string[] = [];
  const log = {
    unacknowledged: async (epoch: string, position: number | undefined) => {
      asked.push({ epoch, position, at: time.clock.mono() });
      const given = await answer(asked.length);
      if (given === "away") throw new AppError("STORE_UNAVAILABLE", "away");
      const base = {
        inRecovery: false,
        epoch: "e1",
        position: 7,
        dbTime: DB_TIME,
        settled: "e1",
        maxBoundMs: 1500,
        validators: 3,
        missing: [],
      };
      return { ...base, ...given };
    },
    reap: async (ids: readonly string[]) => void reaped.push(...ids),
    reconnect: () => {},
  };
  let commits = 0;
  const commit =
    (over: Partial<Committed<string>> = {}) =>
    async () => {
      commits++;
      return { value: "done", epoch: "e1", maxBoundMs: 1500, dbTime: DB_TIME, ...over };
    };
  const authority = new ChangeAuthority({
    store: {} as AuthorityStore,
    log: log as unknown as RevocationLog,
    reaped: new ReapedValidators(),
    clock: time.clock,
    timers: time.timers,
    events,
    wake: () => void happened.push("wake"),
    ...(written && { journal: { written } }),
  });
  const outcome = (promise: Promise<{ effect: { mode: string } }>) => {
    const seen: { mode?: string; at?: number } = {};
    promise.then(
      ({ effect }) => Object.assign(seen, { mode: effect.mode, at: time.clock.mono() }),
      (error: AppError) => Object.assign(seen, { mode: error.reason, at: time.clock.mono() }),
    );
    return seen;
  };
  return { time, happened, asked, reaped, commit, authority, outcome, commits: () => commits };
}

const missingRow = { id: "v1", boundMs: 1500, reaped: false, appliedN: 3 };
const WAIT = { noWait: false };

describe("change-authority", () => {
  it("returns when all have acknowledged the position, and reports it", async () => {
    const f = fixture((nth) => (nth < 3 ? { missing: [missingRow] } : {}));
    const promise = f.authority.change(f.commit(), WAIT);
    await f.time.advance(20);
    const { value, effect } = await promise;
    expect(value).toBe("done");
    expect(effect).toMatchObject({ mode: "ACKED", position: 7 });
    expect(effect.waitedMs).toBeLessThan(20);
    expect(f.happened).toEqual(["wake", "authorityChanged:ACKED"]);
  });

  it("reports that an earlier call made the change only when that is in force", async () => {
    const f = fixture((nth) => (nth < 3 ? { missing: [missingRow] } : {}));
    const refusal = new AppError("TOKEN_ROTATED", "rotated before");
    const work = async () => ({ value: refusal, epoch: "e1", maxBoundMs: 1500, dbTime: DB_TIME });
    let outcome: unknown;
    f.authority.change(work, WAIT).catch((error) => (outcome = error));
    await f.time.advance(1);
    expect(outcome).toBeUndefined();
    await f.time.advance(20);
    expect(outcome).toBe(refusal);
    expect(f.asked.length).toBeGreaterThanOrEqual(3);
  });

  it("returns OK only when the journal has the change, too", async () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const f = fixture(
      () => ({}),
      () => promise,
    );
    const [waits, noWait] = [WAIT, { noWait: true }].map((how) => f.outcome(f.authority.change(f.commit(), how)));
    await f.time.advance(200);
    expect([waits?.mode, noWait?.mode]).toEqual([undefined, undefined]);
    resolve(true);
    await f.time.advance(1);
    expect([waits?.mode, noWait?.mode]).toEqual(["ACKED", "ACCEPTED"]);
  });

  it.for([
    ["that fails", () => Promise.resolve(false)],
    ["that does not answer in time", () => new Promise<boolean>(() => {})],
  ] as const)("says that the outcome is unknown with a journal %s, however it is waited for", async ([, written]) => {
    const f = fixture(() => ({}), written);
    for (const noWait of [false, true]) {
      const failure = f.authority
        .change(f.commit(), { noWait, deadline: f.time.clock.mono() + 900 })
        .catch((error) => error);
      await f.time.advance(1000);
      expect(await failure).toMatchObject({ reason: "OUTCOME_UNKNOWN", metadata: { journal: "pending" } });
    }
  });

  it.for([
    ["does not have the change", () => Promise.resolve(false), "OUTCOME_UNKNOWN"],
    ["has not answered", () => new Promise<boolean>(() => {}), "OUTCOME_UNKNOWN"],
    ["has it", () => Promise.resolve(true), "EFFECT_PENDING"],
  ] as const)("at the deadline, with a journal that %s", async ([, written, reason]) => {
    const f = fixture(() => ({ missing: [missingRow] }), written);
    const deadline = f.time.clock.mono() + 300;
    const failure = f.authority.change(f.commit(), { noWait: false, deadline }).catch((error) => error);
    await f.time.advance(250);
    expect(await failure).toMatchObject({ reason });
  });

  it("asks the journal once for each commit", async () => {
    let asked = 0;
    const f = fixture(
      () => ({}),
      async () => ++asked > 0,
    );
    await f.authority.change(f.commit(), { noWait: true });
    await f.time.advance(50);
    expect(f.asked).toHaveLength(1);
    expect(asked).toBe(1);
  });

  it("returns by time if a validator stays silent, and has its row reaped after 600 ms", async () => {
    const f = fixture(() => ({ missing: [missingRow] }));
    const seen = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(590);
    expect(f.reaped).toEqual([]);
    await f.time.advance(30);
    expect(f.reaped[0]).toBe("v1");
    await f.time.advance(1200);
    expect(seen.mode).toBeUndefined();
    await f.time.advance(60);
    expect(seen.mode).toBe("LEASE_EXPIRED");
    expect(seen.at! - 1000).toBeGreaterThanOrEqual(1850);
  });

  it("does not wait for a row that it has seen reaped for a whole lease", async () => {
    const f = fixture(() => ({ missing: [{ ...missingRow, reaped: true }] }));
    const first = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(1900);
    expect(first.mode).toBe("ACKED");
    const begun = f.time.clock.mono();
    const second = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(50);
    expect(second).toEqual({ mode: "ACKED", at: begun });
  });

  it("believes no acknowledgement before the epoch is settled", async () => {
    const f = fixture(() => ({ settled: "e0" }));
    const seen = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(1840);
    expect(seen.mode).toBeUndefined();
    await f.time.advance(60);
    expect(seen.mode).toBe("LEASE_EXPIRED");
  });

  it("returns by its own clock if the server is away, or accepts statements and answers none", async () => {
    for (const answer of ["away", new Promise<Answer>(() => {})] as const) {
      const f = fixture(() => answer);
      const seen = f.outcome(f.authority.change(f.commit(), WAIT));
      await f.time.advance(1845);
      expect(seen.mode).toBeUndefined();
      await f.time.advance(60);
      expect(seen.mode).toBe("LEASE_EXPIRED");
    }
  });

  it("makes the change again if the epoch is another one", async () => {
    const f = fixture((nth) => (nth === 1 ? { epoch: "e2" } : {}));
    const seen = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(30);
    expect(seen.mode).toBe("ACKED");
    expect(f.commits()).toBe(2);
  });

  it("never says NOT_DONE once a commit was acknowledged", async () => {
    const f = fixture(() => ({ epoch: "e2" }));
    let runs = 0;
    const work = async () => {
      if (++runs === 2) throw new AppError("NOT_DONE", "lock timeout");
      return f.commit()();
    };
    const seen = f.outcome(f.authority.change(work, WAIT));
    await f.time.advance(30);
    expect(seen.mode).toBe("OUTCOME_UNKNOWN");
  });

  it.each(["NOT_DONE", "OUTCOME_UNKNOWN", "TOKEN_NOT_FOUND"] as const)(
    "passes on %s of the first run",
    async (reason) => {
      const f = fixture(() => ({}));
      const work = () => Promise.reject(new AppError(reason, "no"));
      const seen = f.outcome(f.authority.change<string>(work, WAIT));
      await f.time.advance(1);
      expect(seen.mode).toBe(reason);
      expect(f.asked).toEqual([]);
    },
  );

  it("says OUTCOME_UNKNOWN at the deadline of a commit that hangs", async () => {
    const f = fixture(() => ({}));
    const work = () => new Promise<Committed<string>>(() => {});
    const seen = f.outcome(f.authority.change(work, { noWait: false, deadline: f.time.clock.mono() + 2000 }));
    await f.time.advance(2000);
    expect(seen).toEqual({ mode: "OUTCOME_UNKNOWN", at: 3000 });
  });

  it("says EFFECT_PENDING 50 ms before a deadline that is too short, with the time at which it is in force", async () => {
    const f = fixture(() => ({ missing: [missingRow] }));
    const deadline = f.time.clock.mono() + 300;
    const error = f.authority.change(f.commit(), { noWait: false, deadline }).catch((reason: AppError) => reason);
    await f.time.advance(250);
    const pending = (await error) as AppError;
    expect(pending.reason).toBe("EFFECT_PENDING");
    expect(Date.parse(pending.metadata["effective_by"]!)).toBe(DB_TIME + 1850);
  });

  it("with no_wait answers after the commit, and goes on waiting", async () => {
    const f = fixture(() => ({ missing: [missingRow] }));
    const { effect } = await f.authority.change(f.commit(), { noWait: true });
    expect(effect).toEqual({
      mode: "ACCEPTED",
      position: 0,
      acknowledged: 0,
      validators: 0,
      waitedMs: 0,
      effectiveBy: DB_TIME + 1850,
    });
    await f.time.advance(700);
    expect(f.reaped).toContain("v1");
  });

  it("runs one statement at a time for all waiting calls, always after their commits, and judges each by its own position", async () => {
    let applied = 3;
    let n = 7;
    const f = fixture(() => ({ position: n, missing: applied < n ? [{ ...missingRow, appliedN: applied }] : [] }));
    const first = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(5);
    n = 9;
    const second = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(20);
    const { length } = f.asked;
    expect(length).toBeLessThan(14);
    applied = 7;
    await f.time.advance(11);
    expect([first.mode, second.mode]).toEqual(["ACKED", undefined]);
    applied = 9;
    await f.time.advance(11);
    expect(second.mode).toBe("ACKED");
    expect(f.asked.map(({ position }) => position).slice(0, 2)).toEqual([undefined, 7]);
  });

  it("raises an alarm and continues after an error of this program; meanwhile waiting calls end by time", async () => {
    let faulty = true;
    const f = fixture(() => (faulty ? { missing: [null as never] } : {}));
    const first = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(1849);
    expect(first.mode).toBeUndefined();
    await f.time.advance(60);
    expect(first.mode).toBe("LEASE_EXPIRED");
    expect(f.happened).toContain("alarm:ack_wait_failed");
    // 50 ms, then twice as long each time: no busy loop.
    expect(f.asked.length).toBeLessThan(9);
    const second = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(100);
    faulty = false;
    await f.time.advance(1700);
    const third = f.outcome(f.authority.change(f.commit(), WAIT));
    await f.time.advance(100);
    expect([second.mode, third.mode]).toEqual(["ACKED", "ACKED"]);
  });
});

describe("the counts of an effect", () => {
  it("come from the answer that ends the wait", async () => {
    const f = fixture((nth) => (nth < 3 ? { missing: [missingRow] } : {}));
    const promise = f.authority.change(f.commit(), WAIT);
    await f.time.advance(20);
    expect((await promise).effect).toMatchObject({ mode: "ACKED", acknowledged: 3, validators: 3 });
    expect(f.authority.last).toMatchObject({ mode: "ACKED", acknowledged: 3 });
  });

  it("leave out the instance whose lease is over", async () => {
    const f = fixture(() => ({ missing: [missingRow] }));
    const promise = f.authority.change(f.commit(), WAIT);
    await f.time.advance(3_000);
    expect((await promise).effect).toMatchObject({ mode: "LEASE_EXPIRED", acknowledged: 2, validators: 3 });
  });

  it("are 0 if no answer showed them", async () => {
    const f = fixture(() => "away");
    const promise = f.authority.change(f.commit(), WAIT);
    await f.time.advance(3_000);
    expect((await promise).effect).toMatchObject({ mode: "LEASE_EXPIRED", acknowledged: 0, validators: 0 });
  });
});

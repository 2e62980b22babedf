import type { Clock, Timers } from "../domain/clock.ts";
import { leaseOver } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import type { Committed, RevocationLog, Unacknowledged } from "./ports.ts";
import type { ReapedValidators } from "./reaped-validators.ts";

export interface AckWaitDeps {
  readonly log: RevocationLog;
  readonly reaped: ReapedValidators;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
}

/** The result of a wait: the change is in force everywhere, and the proof. `position` is 0 if no answer showed one. */
export interface InForce {
  readonly mode: "ACKED" | "LEASE_EXPIRED";
  readonly position: number;
  /** Of the last answer: the rows that had acknowledged, of those that count. */
  readonly acknowledged: number;
  readonly validators: number;
}

interface Waiter {
  readonly epoch: string;
  /** The time of the commit's acknowledgement, on this process's clock. */
  readonly since: number;
  maxBoundMs: number;
  position: number | undefined;
  acknowledged: number;
  validators: number;
  cancel: () => void;
  readonly settle: (outcome: Pick<InForce, "mode" | "position"> | "again") => void;
}

/**
 * A validator that has not acknowledged for this long counts as dead and is reaped, so that later changes need not wait
 * for it.
 */
const PATIENCE_MS = 600;
/** If a statement has been out for this long when the time bound is over, the server does not answer. */
const GRACE_MS = 50;
/** The pause of the loop after an error of this program, and the pause after many errors in a row. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

/**
 * Waits until committed changes are in force everywhere (`docs/protocol.md` §4.5): one loop and one statement at a time
 * for all waiting calls.
 */
export class AckWait {
  readonly #deps: AckWaitDeps;
  readonly #waiters = new Set<Waiter>();
  readonly #reaping = new Set<string>();
  #running = false;

  constructor(deps: AckWaitDeps) {
    this.#deps = deps;
  }

  /**
   * Resolves when the change is in force. Resolves with `again` if the server's epoch changed, because the commit may
   * be lost with the old primary. `since` was read after the commit's acknowledgement. Never rejects; takes little
   * longer than the longest lease.
   */
  wait(commit: Pick<Committed<unknown>, "epoch" | "maxBoundMs">, since: number): Promise<InForce | "again"> {
    const { promise, resolve } = Promise.withResolvers<InForce | "again">();
    const waiter: Waiter = {
      epoch: commit.epoch,
      since,
      maxBoundMs: commit.maxBoundMs,
      position: undefined,
      acknowledged: 0,
      validators: 0,
      cancel: () => {},
      settle: (outcome) => {
        waiter.cancel();
        this.#waiters.delete(waiter);
        const { acknowledged, validators } = waiter;
        resolve(outcome === "again" ? outcome : { ...outcome, acknowledged, validators });
      },
    };
    this.#waiters.add(waiter);
    this.#watchTime(waiter);
    if (!this.#running) void this.#run();
    return promise;
  }

  /** A server that accepts statements and answers none must not prolong the wait. */
  #watchTime(waiter: Waiter): void {
    const { clock, timers } = this.#deps;
    const left = waiter.since + leaseOver(waiter.maxBoundMs) + GRACE_MS - clock.mono();
    waiter.cancel = timers.after(Math.max(0, left), () => {
      if (this.#isOver(waiter, waiter.maxBoundMs, clock.mono())) this.#expire(waiter);
      else this.#watchTime(waiter);
    });
  }

  /** An error of this program must not end the loop. While it pauses, waiting calls end by time. */
  async #run(): Promise<void> {
    this.#running = true;
    for (let faults = 0; this.#waiters.size > 0; ) {
      try {
        await this.#round();
        faults = 0;
      } catch (error) {
        const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** faults++);
        this.#report(error, pauseMs);
        await new Promise<void>((resume) => this.#deps.timers.after(pauseMs, resume));
      }
    }
    this.#running = false;
  }

  /** Even an error in reporting does not end the loop. */
  #report(error: unknown, pauseMs: number): void {
    try {
      this.#deps.events.alarm("ack_wait_failed", { pauseMs });
      this.#deps.events.trouble("ack_wait_failed", error);
    } catch {
      // Nothing is left that could report it.
    }
  }

  async #round(): Promise<void> {
    const { clock, timers } = this.#deps;
    // Only calls that already wait: the statement is sent after their commits.
    const round = [...this.#waiters];
    const { epoch } = round[round.length - 1]!;
    const answer = await this.#ask(round, epoch);
    const now = clock.mono();
    for (const row of answer?.missing ?? []) this.#deps.reaped.see(answer!.epoch, row, now);
    for (const waiter of round) if (this.#waiters.has(waiter)) this.#judge(waiter, answer, epoch, now);
    const oldest = now - round[0]!.since;
    await new Promise<void>((resume) => timers.after(Math.min(10, Math.max(2, oldest / 20)), resume));
  }

  async #ask(round: readonly Waiter[], epoch: string): Promise<Unacknowledged | undefined> {
    const { log } = this.#deps;
    const position = round.some((waiter) => waiter.position === undefined)
      ? undefined
      : Math.max(...round.map((waiter) => waiter.position!));
    try {
      const answer = await log.unacknowledged(epoch, position);
      if (!answer.inRecovery) return answer;
      log.reconnect();
    } catch {
      // Without an answer, time decides. The adapter reports the reason.
    }
    return undefined;
  }

  #judge(waiter: Waiter, answer: Unacknowledged | undefined, asked: string, now: number): void {
    if (answer === undefined) {
      if (this.#isOver(waiter, waiter.maxBoundMs, now)) this.#expire(waiter);
      return;
    }
    if (answer.epoch !== waiter.epoch) {
      waiter.settle("again");
      return;
    }
    if (asked !== waiter.epoch) return;
    // The position in the first answer is at or above the change's own.
    waiter.position ??= answer.position;
    waiter.maxBoundMs = Math.max(waiter.maxBoundMs, answer.maxBoundMs);
    const settled = answer.settled === waiter.epoch;
    const behind = answer.missing.filter((row) => row.appliedN < waiter.position!);
    // A row that was reaped for long does not count, because its cache is dead.
    const missing = behind.filter((row) => !this.#longReaped(row, now));
    waiter.validators = answer.validators - (behind.length - missing.length);
    waiter.acknowledged = waiter.validators - missing.length;
    if (settled && missing.length === 0) {
      waiter.settle({ mode: "ACKED", position: waiter.position });
      return;
    }
    const bound = settled ? Math.max(...missing.map((row) => row.boundMs)) : waiter.maxBoundMs;
    const over = this.#isOver(waiter, bound, now);
    if (over || now - waiter.since >= PATIENCE_MS) this.#reap(missing);
    if (over) this.#expire(waiter);
  }

  #isOver(waiter: Waiter, boundMs: number, now: number): boolean {
    return now - waiter.since >= leaseOver(boundMs);
  }

  #longReaped(row: Unacknowledged["missing"][number], now: number): boolean {
    return row.reaped && this.#deps.reaped.reapedFor(row.id, now) >= leaseOver(row.boundMs);
  }

  #expire(waiter: Waiter): void {
    waiter.settle({ mode: "LEASE_EXPIRED", position: waiter.position ?? 0 });
  }

  /** Not awaited: it only makes later changes faster. */
  #reap(missing: Unacknowledged["missing"]): void {
    const ids = missing.filter((row) => !row.reaped && !row.held && !this.#reaping.has(row.id)).map((row) => row.id);
    if (ids.length === 0) return;
    for (const id of ids) this.#reaping.add(id);
    this.#deps.events.reaped(ids.length);
    const done = () => {
      for (const id of ids) this.#reaping.delete(id);
    };
    void this.#deps.log.reap(ids).then(done, done);
  }
}

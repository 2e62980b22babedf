import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";

/**
 * The classes of work that compete for slots. Revocations share the slots of `admin`, and have some that no other call
 * gets.
 */
export type AdmissionClass = "validate" | "admin" | "revoke" | "health";

export interface AdmissionOptions {
  readonly clock: Pick<Clock, "mono">;
  /** Units of work at a time. A batch weighs as much as its entries. */
  readonly concurrency?: Partial<Record<"validate" | "admin" | "health", number>>;
  /** Counts a refusal. */
  onShed(klass: AdmissionClass): void;
  /**
   * Event loop utilization since the last call, 0 to 1. Shed only when the event loop is both late and busy (above
   * 0.7); a busy loop that keeps up is at capacity, not overloaded.
   */
  readonly utilization?: () => number;
  /** Memory in use as a share of the cap, 0 to 1. Above 0.85 calls are shed. */
  readonly memory?: () => number;
}

export interface Admission {
  /**
   * Takes `weight` units, at once or from the queue, and returns the function that returns them (once). Throws or
   * rejects with OVERLOADED within 50 ms if there is no room; the call did nothing then. `leftMs` is the time until the
   * call's deadline.
   */
  enter(klass: AdmissionClass, weight: number, leftMs: number): (() => void) | Promise<() => void>;
  /** Stops the sampling. */
  close(): void;
}

const DEFAULTS = { validate: 256, admin: 64, health: 16 };
const RESERVED_FOR_REVOCATION = 0.1;
const QUEUE_MAX = 50;
const QUEUE_MS = 50;
/**
 * If the oldest call has waited this long, the newest goes first: callers that waited longest have most likely left.
 */
const OLD_MS = 20;
const SAMPLE_MS = 20;
const SAMPLES = 50;
const LAG_MS = 100;
/** Two late samples in a second are overload; one is a pause. */
const LATE_SAMPLES = 2;
/**
 * The number of samples between two reads of the loop's utilization, and the utilization above which the loop itself
 * causes the lateness.
 */
const LOOK_EVERY = 10;
const BUSY = 0.7;
const LEAST_LEFT_MS = 5;
const RETRY_AFTER_MS = 1_000;

interface Waiting {
  readonly klass: AdmissionClass;
  readonly weight: number;
  readonly since: number;
  readonly start: () => void;
  readonly shed: () => void;
}

/** Admission by class: slots, a short queue, and a gate that closes when the event loop or the memory is full. */
export function createAdmission(options: AdmissionOptions): Admission {
  const { clock } = options;
  const gate = loopGate(options);
  const size = { ...DEFAULTS, ...options.concurrency };
  const pools = {
    validate: new Pool(size.validate, 0, clock),
    admin: new Pool(size.admin, Math.max(1, Math.ceil(size.admin * RESERVED_FOR_REVOCATION)), clock),
    health: new Pool(size.health, 0, clock),
  };
  const shed = (klass: AdmissionClass): AppError => {
    options.onShed(klass);
    return new AppError("OVERLOADED", "the server is overloaded; nothing was done", { retryAfterMs: RETRY_AFTER_MS });
  };
  const enter: Admission["enter"] = (klass, weight, leftMs) => {
    const gated = klass === "validate" || klass === "admin";
    if (leftMs < LEAST_LEFT_MS || (gated && gate.closed())) throw shed(klass);
    const pool = pools[klass === "revoke" ? "admin" : klass];
    const units = Math.min(weight, pool.largest(klass));
    if (pool.take(klass, units)) return once(() => pool.give(units));
    return new Promise((resolve, reject) => {
      pool.wait({
        klass,
        weight: units,
        since: clock.mono(),
        start: () => resolve(once(() => pool.give(units))),
        shed: () => reject(shed(klass)),
      });
    });
  };
  return { enter, close: gate.close };
}

/** Slots of one kind, some of them only for revocations, and the short queue for them. */
class Pool {
  #used = 0;
  readonly #size: number;
  readonly #reserved: number;
  readonly #clock: Pick<Clock, "mono">;
  #queue: Waiting[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(size: number, reserved: number, clock: Pick<Clock, "mono">) {
    this.#size = size;
    this.#reserved = reserved;
    this.#clock = clock;
  }

  largest(klass: AdmissionClass): number {
    return klass === "revoke" ? this.#size : this.#size - this.#reserved;
  }

  take(klass: AdmissionClass, weight: number): boolean {
    if (this.#used + weight > this.largest(klass)) return false;
    this.#used += weight;
    return true;
  }

  give(weight: number): void {
    this.#used -= weight;
    this.#next();
  }

  wait(entry: Waiting): void {
    if (this.#queue.length >= QUEUE_MAX) {
      const revocation = entry.klass === "revoke" ? this.#queue.findIndex((one) => one.klass !== "revoke") : -1;
      if (revocation < 0) {
        entry.shed();
        return;
      }
      this.#queue.splice(revocation, 1)[0]!.shed();
    }
    this.#queue.push(entry);
    this.#timer ??= setTimeout(() => this.#expire(), QUEUE_MS);
  }

  #next(): void {
    const oldest = this.#queue[0];
    if (oldest === undefined) return;
    const newestFirst = this.#clock.mono() - oldest.since > OLD_MS;
    const order = newestFirst ? [...this.#queue].reverse() : [...this.#queue];
    for (const entry of [
      ...order.filter((one) => one.klass === "revoke"),
      ...order.filter((one) => one.klass !== "revoke"),
    ]) {
      if (!this.take(entry.klass, entry.weight)) continue;
      this.#queue.splice(this.#queue.indexOf(entry), 1);
      entry.start();
    }
  }

  #expire(): void {
    const before = this.#clock.mono() - QUEUE_MS + 1; // timers may fire a little early
    const dead = this.#queue.filter((one) => one.since <= before);
    this.#queue = this.#queue.filter((one) => one.since > before);
    for (const one of dead) one.shed();
    const oldest = this.#queue[0];
    this.#timer =
      oldest && setTimeout(() => this.#expire(), Math.max(1, QUEUE_MS - (this.#clock.mono() - oldest.since)));
  }
}

/** Closed while the event loop is late and busy, or memory is short. */
function loopGate({ clock, utilization, memory }: AdmissionOptions): { closed(): boolean; close(): void } {
  const late: boolean[] = Array.from({ length: SAMPLES }, () => false);
  let at = 0;
  let lateCount = 0;
  let busy = false;
  // If other processes keep this one from running, it is late, too, but has nothing to shed: its loop is idle when it
  // runs.
  let used = 1;
  let expected = clock.mono() + SAMPLE_MS;
  const timer = setInterval(() => {
    const now = clock.mono();
    const isLate = now - expected > LAG_MS;
    lateCount += Number(isLate) - Number(late[at]);
    late[at] = isLate;
    at = (at + 1) % SAMPLES;
    expected = now + SAMPLE_MS;
    if (at % LOOK_EVERY !== 0) return;
    used = utilization?.() ?? 1;
    busy = (memory?.() ?? 0) > 0.85;
  }, SAMPLE_MS).unref();
  return { closed: () => busy || (lateCount >= LATE_SAMPLES && used > BUSY), close: () => clearInterval(timer) };
}

function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}

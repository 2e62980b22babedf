import type { Clock, Timers } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Freshness } from "../domain/freshness.ts";
import { withDeadline } from "../domain/with-deadline.ts";
import type { Events } from "../telemetry/events.ts";
import type { Reading, TokenReader } from "./ports.ts";

export interface SingleFlightOptions {
  /** The most reads of the store at a time. */
  readonly maxReads: number;
  /** The most reads that wait for a free place. Beyond it, calls are shed. */
  readonly maxQueuedReads: number;
  /** The longest time of one read, in milliseconds. */
  readonly readTimeoutMs: number;
}

export interface SingleFlightDeps {
  readonly reader: TokenReader;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
  readonly freshness: Pick<Freshness, "applied">;
}

/** One read of one token, shared by all calls that may share it. */
export interface SharedRead<T> {
  readonly digest: string;
  /** Once it is sent, a call that joins cannot know that the read was sent after it started. */
  sent: boolean;
  /** The latest deadline of the calls that joined before it was sent. */
  deadline: number;
  /** The result of the read; undefined if it failed, or if no call waited for it any more. Never rejects. */
  readonly result: Promise<T | undefined>;
}

interface Waiting<T> extends SharedRead<T> {
  readonly settle: (found: T | undefined) => void;
}

/**
 * Reads of tokens: one at a time per token, a bounded number at a time, a bounded number in the queue. `arrived` is
 * called once per reading, in the tick of its arrival, with the position that was applied here when it was sent. Its
 * result goes to all calls that share the read.
 */
export class SingleFlight<T> {
  readonly #deps: SingleFlightDeps;
  readonly #options: SingleFlightOptions;
  readonly #arrived: (reading: Reading, applied: number) => T;
  /** The latest read of each token. */
  readonly #flights = new Map<string, Waiting<T>>();
  readonly #queue: Waiting<T>[] = [];
  #active = 0;
  #pumping = false;

  constructor(deps: SingleFlightDeps, options: SingleFlightOptions, arrived: (reading: Reading, applied: number) => T) {
    this.#deps = deps;
    this.#options = options;
    this.#arrived = arrived;
  }

  /**
   * Returns a read of this token: the latest one or, if that is already sent and the caller needs its own, a new one.
   * Undefined if too many wait.
   */
  request(digest: string, deadline: number, own: boolean): SharedRead<T> | undefined {
    const latest = this.#flights.get(digest);
    if (latest !== undefined && !(own && latest.sent)) {
      if (!latest.sent) latest.deadline = Math.max(latest.deadline, deadline);
      return latest;
    }
    if (this.#queue.length >= this.#options.maxQueuedReads) {
      this.#deps.events.shed("read");
      return undefined;
    }
    const { promise: result, resolve: settle } = Promise.withResolvers<T | undefined>();
    const flight: Waiting<T> = { digest, sent: false, deadline, result, settle };
    this.#flights.set(digest, flight);
    this.#queue.push(flight);
    this.#pumpSoon();
    return flight;
  }

  /** Waits for a read, until the deadline. Undefined if it failed or the deadline came first. */
  wait(flight: SharedRead<T>, deadline: number): Promise<T | undefined> {
    return withDeadline(this.#deps, flight.result, deadline);
  }

  /** Runs after the tick, so that calls of the same tick still find the read unsent, and share it. */
  #pumpSoon(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      while (this.#active < this.#options.maxReads) {
        const next = this.#queue.shift();
        if (next === undefined) return;
        void this.#send(next);
      }
    });
  }

  async #send(flight: Waiting<T>): Promise<void> {
    const { reader, clock, events } = this.#deps;
    flight.sent = true;
    if (flight.deadline <= clock.mono()) return this.#finish(flight, undefined);
    this.#active++;
    let found: T | undefined;
    const applied = this.#deps.freshness.applied;
    try {
      // Bounded by its own limit, not by the waiting call's deadline, because a late read costs a connection that
      // others share.
      found = this.#arrived(await reader.read(flight.digest, this.#options.readTimeoutMs), applied);
    } catch (error) {
      if (!(error instanceof AppError && error.reason === "STORE_UNAVAILABLE"))
        events.trouble("token_read_failed", error);
    }
    this.#active--;
    this.#finish(flight, found);
    if (this.#queue.length > 0) this.#pumpSoon();
  }

  #finish(flight: Waiting<T>, found: T | undefined): void {
    if (this.#flights.get(flight.digest) === flight) this.#flights.delete(flight.digest);
    flight.settle(found);
  }
}

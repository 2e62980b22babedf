import type { Clock, Timers } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Freshness } from "../domain/freshness.ts";
import { withDeadline } from "../domain/with-deadline.ts";
import type { Events } from "../telemetry/events.ts";
import type { Reading, TokenReader } from "./ports.ts";

export interface SingleFlightOptions {
  /** Reads at the store at once. */
  readonly maxReads: number;
  /** Reads that wait for one of those places; beyond it, calls are shed. */
  readonly maxQueuedReads: number;
  /** The longest that one read may take, milliseconds. */
  readonly readTimeoutMs: number;
}

export interface SingleFlightDeps {
  readonly reader: TokenReader;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
  readonly freshness: Pick<Freshness, "applied">;
}

/** One read of one token, shared by all who may share it. */
export interface SharedRead<T> {
  readonly digest: string;
  /** From here on, a call that joins can not know that the read was sent after it started. */
  sent: boolean;
  /** The latest deadline of those who joined before it was sent. */
  deadline: number;
  /** What the read found; undefined if it failed, or nobody waited for it any more. Never rejects. */
  readonly result: Promise<T | undefined>;
}

interface Waiting<T> extends SharedRead<T> {
  readonly settle: (found: T | undefined) => void;
}

/**
 * Reads of tokens: one at a time per token, a bounded number at once, a bounded number waiting. `arrived` is called
 * once per reading, in the tick in which it arrives, with the position that was applied here when it was sent, and gives
 * what all who share it are handed.
 */
export class SingleFlight<T> {
  readonly #deps: SingleFlightDeps;
  readonly #options: SingleFlightOptions;
  readonly #arrived: (reading: Reading, applied: number) => T;
  /** The latest flight of each token. */
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
   * A read of this token: the latest one, or, if that is already sent and the caller wants its own, a new one.
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

  /** Waits for a flight, until the deadline. Undefined: it failed, or the deadline came first. */
  wait(flight: SharedRead<T>, deadline: number): Promise<T | undefined> {
    return withDeadline(this.#deps, flight.result, deadline);
  }

  /** After the tick: those who ask in the same tick still find the read unsent, and share it freely. */
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
      // Its own bound, not that of who waits: a late read costs a connection that others share.
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

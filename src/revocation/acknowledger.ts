import type { Clock, Timers } from "../domain/clock.ts";
import type { Freshness } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import type { FedCaches, RevocationLog } from "./ports.ts";

export interface AcknowledgerDeps {
  readonly log: Pick<RevocationLog, "ack">;
  readonly freshness: Pick<Freshness, "applied" | "epoch">;
  readonly clock: Pick<Clock, "mono">;
  readonly timers: Timers;
  readonly events: Pick<Events, "trouble" | "feedHeld">;
  /** The client caches that this process acknowledges for. */
  readonly feed?: FedCaches | undefined;
}

/** While client caches hold the acknowledgement back, the row says so at this interval. */
const HOLD_EVERY_MS = 200;
/** A timer may fire this much early, by another rounding of the time. */
const SLACK_MS = 5;

/**
 * Stores in this process's row what the process and every cache that it feeds have applied (`docs/protocol.md` §4.2,
 * §4.8). One statement runs at a time.
 */
export class Acknowledger {
  readonly #deps: AcknowledgerDeps;
  #row: string | undefined;
  #acked = -1;
  #running: Promise<void> | undefined;
  #again = false;
  /** The time at which the row was last written, and the number of fed caches that it shows. */
  #signed = Number.NEGATIVE_INFINITY;
  #fed = 0;
  #heldSince: number | undefined;
  #cancel: (() => void) | undefined;

  constructor(deps: AcknowledgerDeps) {
    this.#deps = deps;
  }

  /** The position in the row, as far as this process knows; -1 if there is none. */
  get acked(): number {
    return this.#acked;
  }

  /** The process has a new row. */
  begin(row: string): void {
    // A hold of the row before must not write this one.
    this.#cancel?.();
    this.#cancel = undefined;
    this.#row = row;
    this.#acked = -1;
    this.#fed = 0;
    this.#heldSince = undefined;
  }

  /** Acknowledges what can be. A failure is not repeated here: the next poll tries again. Resolves when it is done. */
  run(): Promise<void> {
    this.#again = true;
    this.#running ??= this.#all().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  stop(): void {
    this.#cancel?.();
    this.#row = undefined;
  }

  /** A report that comes during a statement counts in the next one. */
  async #all(): Promise<void> {
    while (this.#again) {
      this.#again = false;
      await this.#one();
    }
  }

  async #one(): Promise<void> {
    const { log, freshness, events, feed, clock } = this.#deps;
    const { applied, epoch } = freshness;
    const row = this.#row;
    if (row === undefined || epoch === undefined) return;
    const now = clock.mono();
    const fed = feed?.leased(now) ?? 0;
    const position = feed === undefined ? applied : feed.acknowledged(applied, now);
    const due = fed > 0 && this.#acked < applied && now - this.#signed >= HOLD_EVERY_MS - SLACK_MS;
    if (this.#acked < position || due) {
      try {
        const clients = fed > 0 || this.#fed > 0 ? fed : undefined;
        await log.ack(row, epoch, Math.max(position, this.#acked), clients);
      } catch (error) {
        return events.trouble("ack_failed", error);
      }
      if (row !== this.#row) return;
      this.#acked = Math.max(this.#acked, position);
      this.#signed = now;
      this.#fed = fed;
    }
    this.#hold(applied);
  }

  /** While client caches hold it back, says so in the row, and looks again when a lease of theirs is over. */
  #hold(applied: number): void {
    const { clock, timers, events, feed } = this.#deps;
    if (feed === undefined) return;
    const now = clock.mono();
    this.#cancel?.();
    this.#cancel = undefined;
    if (this.#acked >= applied) {
      if (this.#heldSince !== undefined) events.feedHeld((now - this.#heldSince) / 1000);
      this.#heldSince = undefined;
      return;
    }
    this.#heldSince ??= now;
    const wait = Math.min(HOLD_EVERY_MS, (feed.nextEnd(now) ?? now) - now);
    this.#cancel = timers.after(Math.max(1, wait), () => void this.run());
  }
}

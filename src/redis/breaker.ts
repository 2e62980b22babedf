import type { Clock } from "../domain/clock.ts";

/**
 * Lets one attempt in a while through where the last one failed, and all where it did not: what hangs costs one
 * time-out per `restMs`, not one per call.
 */
export class Breaker {
  readonly #clock: Pick<Clock, "mono">;
  readonly #restMs: number;
  #until: number | undefined;

  constructor(clock: Pick<Clock, "mono">, restMs: number) {
    this.#clock = clock;
    this.#restMs = restMs;
  }

  /** Whether an attempt would be let through now. */
  get closed(): boolean {
    return this.#until === undefined || this.#clock.mono() >= this.#until;
  }

  /** Lets an attempt through, or not. While it is under way after a failure, no other is. */
  admit(): boolean {
    if (!this.closed) return false;
    if (this.#until !== undefined) this.failed();
    return true;
  }

  failed(): void {
    this.#until = this.#clock.mono() + this.#restMs;
  }

  succeeded(): void {
    this.#until = undefined;
  }
}

import type { Clock } from "../domain/clock.ts";

/**
 * Lets all attempts through while the last one succeeded. After a failure it lets one attempt through per `restMs`, so
 * that a hanging server costs one time-out per period and not one per call.
 */
export class Breaker {
  readonly #clock: Pick<Clock, "mono">;
  readonly #restMs: number;
  #until: number | undefined;

  constructor(clock: Pick<Clock, "mono">, restMs: number) {
    this.#clock = clock;
    this.#restMs = restMs;
  }

  /** True if an attempt would be let through now. */
  get closed(): boolean {
    return this.#until === undefined || this.#clock.mono() >= this.#until;
  }

  /** Returns true if an attempt may start. After a failure, only one attempt may run at a time. */
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

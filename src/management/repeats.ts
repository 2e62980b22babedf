import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Access } from "./access.ts";

/** Repeats that one principal may make at once, and how often another is free. */
const MOST = 10;
const EVERY_MS = 1_000;
const MOST_PRINCIPALS = 10_000;

/**
 * Limits changes that change nothing. Each one is a commit with an audit row of its own, so that a repeat after a lost
 * answer is as good as the first; without a limit, a token without any permission could fill the log with them.
 */
export class Repeats {
  readonly #clock: Pick<Clock, "mono">;
  /** By principal: when all that it took will be free again. */
  readonly #until = new Map<string, number>();

  constructor(clock: Pick<Clock, "mono">) {
    this.#clock = clock;
  }

  /** LIMIT_EXCEEDED for a caller that reaches only its own tokens and repeats too often. */
  admit({ caller, reach }: Access): void {
    if (reach !== "own") return;
    const key = `${caller.tenant} ${caller.principal}`;
    const now = this.#clock.mono();
    const until = Math.max(now, this.#until.get(key) ?? 0) + EVERY_MS;
    if (until - now > MOST * EVERY_MS) {
      throw new AppError("LIMIT_EXCEEDED", "the token is revoked already, and this was said often enough", {
        retryAfterMs: EVERY_MS,
      });
    }
    if (this.#until.size >= MOST_PRINCIPALS) this.#until.clear();
    this.#until.set(key, until);
  }
}

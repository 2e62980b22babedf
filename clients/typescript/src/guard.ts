import type { Entry } from "./cache.ts";
import type { Check, Checker, Origin } from "./checker.ts";
import type { Verdict } from "./decide.ts";
import { decide } from "./decide.ts";
import type { Requirement } from "./requirement.ts";

/** The longest time for which messages wait for a new check. */
const HOLD_MS = 500;
/** The pause before a check is repeated whose answer is older than a known change, or which had no answer. */
const AGAIN_MS = 20;
/** The time between the checks of a stream whose token has no usable entry: no cache, or a token that has none. */
const EVERY_MS = 1_000;

/** What a guard takes from a checker. */
export type GuardChecker = Pick<Checker, "check" | "cache" | "hooks">;

/** The timers and the clock of a guard, in milliseconds. */
export interface GuardClock {
  mono(): number;
  /** Calls `then` after a time. Returns the function that prevents it. */
  after(ms: number, then: () => void): () => void;
}

export interface GuardOptions {
  readonly checker: GuardChecker;
  readonly token: string;
  readonly requirement: Requirement;
  readonly origin?: Origin;
  /** The check that opened the stream: ALLOW. */
  readonly opened: Check;
  /** Ends the stream for its client. Called at most once. */
  readonly end: (verdict: Verdict) => void;
  readonly clock?: GuardClock;
}

const REAL: GuardClock = {
  mono: () => performance.now(),
  after: (ms, then) => {
    const timer = setTimeout(then, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/**
 * Keeps a stream as fresh as a unary call: no message passes, in either direction, on a token that is no longer usable.
 * Such a stream is suspended and checked again; it then goes on or ends.
 */
export class StreamGuard {
  readonly #options: GuardOptions;
  readonly #clock: GuardClock;
  readonly #held: (() => void)[] = [];
  readonly #unwatch: (() => void) | undefined;
  #entry: Entry | undefined;
  #state: "open" | "suspended" | "closed" = "open";
  #cancel: (() => void) | undefined;

  constructor(options: GuardOptions) {
    this.#options = options;
    this.#clock = options.clock ?? REAL;
    this.#entry = options.opened.entry;
    // Called in the step that applies an answer, so before the acknowledgement: a suspended stream needs no acknowledgement.
    this.#unwatch = options.checker.cache?.watch(() => this.#look());
    this.#look();
  }

  /** Lets a message pass now, or once a new check admits it. It never passes if the stream ends. */
  pass(message: () => void): void {
    if (this.#state === "open" && this.#entry !== undefined && !this.#good()) this.#suspend();
    if (this.#state === "open") message();
    else if (this.#state === "suspended") this.#held.push(message);
  }

  /** The stream is over. */
  close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#held.length = 0;
    this.#cancel?.();
    this.#unwatch?.();
  }

  /** True if the entry is usable and still admits the stream. Without an entry only the timer asks. */
  #good(): boolean {
    const { checker, requirement } = this.#options;
    const { cache } = checker;
    if (cache === undefined || this.#entry === undefined) return false;
    return cache.usable(this.#entry) && decide(this.#entry.facts, requirement, cache.time()).verdict === "ALLOW";
  }

  /** Suspends the stream if its entry is not good, and otherwise looks again when the entry can first cease to be. */
  #look(): void {
    if (this.#state !== "open") return;
    if (this.#entry === undefined) {
      this.#cancel ??= this.#clock.after(EVERY_MS, () => this.#suspend());
      return;
    }
    if (!this.#good()) {
      this.#suspend();
      return;
    }
    const cache = this.#options.checker.cache!;
    const [lease, time] = [cache.lease, cache.time()];
    const { expire } = this.#entry.facts;
    const soonest = Math.min(lease, expire === undefined ? lease : expire - time.upper);
    this.#cancel?.();
    this.#cancel = this.#clock.after(Math.max(1, Math.ceil(soonest)), () => this.#look());
  }

  #suspend(): void {
    if (this.#state !== "open") return;
    this.#state = "suspended";
    this.#cancel?.();
    this.#cancel = undefined;
    const begun = this.#clock.mono();
    // The limit holds for a check without an answer too.
    const limit = this.#clock.after(HOLD_MS, () => this.#end("UNDETERMINED"));
    void this.#recheck(begun).finally(limit);
  }

  async #recheck(begun: number): Promise<void> {
    const { checker, token, requirement, origin } = this.#options;
    while (this.#state === "suspended") {
      const check = await checker.check(token, requirement, origin);
      if (this.#state !== "suspended") return;
      if (check.verdict !== "ALLOW" && check.verdict !== "UNDETERMINED") return this.#end(check.verdict);
      this.#entry = check.entry;
      if (check.verdict === "ALLOW" && (check.entry === undefined || this.#good() || this.#unleased())) {
        return this.#resume();
      }
      if (this.#clock.mono() - begun >= HOLD_MS) return this.#end("UNDETERMINED");
      await new Promise<void>((resolve) => this.#clock.after(AGAIN_MS, resolve));
    }
  }

  /**
   * True if only the lease is missing. The answer was made after the suspension, so the held messages may pass; without
   * a lease the entry is worth nothing more, and the stream is checked by time.
   */
  #unleased(): boolean {
    if (this.#options.checker.cache!.lease > 0) return false;
    this.#entry = undefined;
    return true;
  }

  #resume(): void {
    this.#state = "open";
    // Each of them looks again: one may arrive in the same step as a change.
    for (const message of this.#held.splice(0)) this.pass(message);
    this.#look();
  }

  #end(verdict: Verdict): void {
    if (this.#state === "closed") return;
    this.close();
    this.#options.checker.hooks.stream_ended?.(verdict);
    this.#options.end(verdict);
  }
}

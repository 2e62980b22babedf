import type { Clock, Timers } from "../domain/clock.ts";
import type { RequestContext } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import { isAddress } from "../domain/networks.ts";
import type { Events } from "../telemetry/events.ts";
import type { LastUseStore } from "./ports.ts";

/** The tokens in memory. When there are more, they are stored at once. */
const MOST = 50_000;

/** The entries of one write. */
const AT_ONCE = 1000;

export interface LastUseDeps {
  readonly store: LastUseStore;
  readonly timers: Timers;
  readonly events: Events;
  readonly clock: Pick<Clock, "mono">;
  /** The database's time, as this process knows it: milliseconds since 1970. */
  readonly now: () => number;
}

interface Use {
  at: number;
  address: string;
  count: number;
}

/**
 * The uses of each token: their count, and the time and address of the last. They are kept in memory, one entry a token,
 * and stored at intervals. A validation never waits for it. No use is counted twice: a write that failed is tried again
 * with the next one, but a write whose outcome is unknown is not. A crash loses what is in memory.
 */
export class LastUse {
  readonly #deps: LastUseDeps;
  readonly #everyMs: number;
  #uses = new Map<string, Use>();
  #cancel: (() => void) | undefined;
  #flushing: Promise<void> | undefined;
  /** After a failure, only the timer tries again. */
  #failed = false;
  #dropped = false;

  constructor(deps: LastUseDeps, everyMs: number) {
    this.#deps = deps;
    this.#everyMs = everyMs;
  }

  /** `at` is a monotonic time. */
  used(tokenId: string, { clientAddress }: RequestContext, at: number): void {
    const use = this.#uses.get(tokenId) ?? this.#add(tokenId, at);
    if (use === undefined) return;
    use.at = at;
    use.count++;
    // A caller may send any text as the address. Other texts are not kept.
    if (clientAddress !== use.address && clientAddress !== "" && isAddress(clientAddress)) use.address = clientAddress;
  }

  #add(tokenId: string, at: number): Use | undefined {
    if (this.#uses.size >= MOST && !this.#failed) void this.flush();
    // A flush takes all entries in its first tick, unless another one still runs.
    if (this.#uses.size >= MOST) {
      this.#dropped = true;
      return undefined;
    }
    const use = { at, address: "", count: 0 };
    this.#uses.set(tokenId, use);
    return use;
  }

  start(): void {
    this.#cancel = this.#deps.timers.after(this.#everyMs, () => {
      void this.flush().then(() => {
        if (this.#cancel !== undefined) this.start();
      });
    });
  }

  /** Stores the collected uses. A failure is reported. */
  flush(): Promise<void> {
    this.#flushing ??= this.#store().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #store(): Promise<void> {
    const { store, now, clock, events } = this.#deps;
    const taken = this.#uses;
    this.#uses = new Map();
    let some: [string, Use][] = [];
    try {
      // Of the oldest entry too: the two clocks differ by what they differ by now.
      const offset = now() - clock.mono();
      while (taken.size > 0) {
        some = [];
        for (const entry of taken) if (some.push(entry) === AT_ONCE) break;
        for (const [tokenId] of some) taken.delete(tokenId);
        await store.flush(
          some.map(([tokenId, { at, address, count }]) => ({ tokenId, time: at + offset, address, count })),
        );
      }
      this.#failed = false;
    } catch (error) {
      this.#failed = true;
      if (!(error instanceof AppError && error.reason === "OUTCOME_UNKNOWN")) this.#keep(some);
      this.#keep(taken);
      events.trouble("last_use_write_failed", error);
    }
    if (this.#dropped) events.trouble("last_use_write_failed", new Error(`more than ${MOST} tokens wait to be stored`));
    this.#dropped = false;
  }

  /** Puts entries back that were not stored, beside what was used since. */
  #keep(entries: Iterable<readonly [string, Use]>): void {
    for (const [tokenId, use] of entries) {
      const since = this.#uses.get(tokenId);
      if (since !== undefined) {
        since.count += use.count;
        since.address ||= use.address;
      } else if (this.#uses.size < MOST) {
        this.#uses.set(tokenId, use);
      } else {
        this.#dropped = true;
      }
    }
  }

  async stop(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    // One that runs has not seen what was used since its start.
    await this.#flushing;
    await this.flush();
  }
}

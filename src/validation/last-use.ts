import type { Clock, Timers } from "../domain/clock.ts";
import type { RequestContext } from "../domain/decide.ts";
import { isAddress } from "../domain/networks.ts";
import type { Events } from "../telemetry/events.ts";
import type { LastUseStore } from "./ports.ts";

const MOST = 50_000;

export interface LastUseDeps {
  readonly store: LastUseStore;
  readonly timers: Timers;
  readonly events: Events;
  readonly clock: Pick<Clock, "mono">;
  /** The database's time, as this process knows it: milliseconds since 1970. */
  readonly now: () => number;
}

/**
 * The time and address of each token's last use: kept in memory, one entry a token, and stored at intervals. A
 * validation never waits for it. Entries that do not fit, or that a crash loses, are lost, because they are only hints
 * for people.
 */
export class LastUse {
  readonly #deps: LastUseDeps;
  readonly #everyMs: number;
  #uses = new Map<string, { at: number; address: string }>();
  #cancel: (() => void) | undefined;
  #flushing: Promise<void> | undefined;

  constructor(deps: LastUseDeps, everyMs: number) {
    this.#deps = deps;
    this.#everyMs = everyMs;
  }

  /** `at` is a monotonic time. */
  used(tokenId: string, { clientAddress }: RequestContext, at: number): void {
    let use = this.#uses.get(tokenId);
    if (use === undefined) {
      if (this.#uses.size >= MOST) return;
      this.#uses.set(tokenId, (use = { at, address: "" }));
    }
    use.at = at;
    // A caller may send any text as the address. Other texts are not kept.
    if (clientAddress !== use.address && clientAddress !== "" && isAddress(clientAddress)) use.address = clientAddress;
  }

  start(): void {
    this.#cancel = this.#deps.timers.after(this.#everyMs, () => {
      void this.flush().then(() => {
        if (this.#cancel !== undefined) this.start();
      });
    });
  }

  /** Stores the collected uses. Uses that cannot be stored are dropped, and reported. */
  flush(): Promise<void> {
    this.#flushing ??= this.#store().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #store(): Promise<void> {
    try {
      const offset = this.#deps.now() - this.#deps.clock.mono();
      const uses = [...this.#uses].map(([tokenId, { at, address }]) => ({ tokenId, time: at + offset, address }));
      this.#uses = new Map();
      for (let i = 0; i < uses.length; i += 1000) await this.#deps.store.flush(uses.slice(i, i + 1000));
    } catch (error) {
      this.#deps.events.trouble("last_use_write_failed", error);
    }
  }

  async stop(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    await this.flush();
  }
}

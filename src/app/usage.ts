import { isAddress, type RequestContext } from "../domain/decide.ts";
import type { Events, Timers, UsageStore } from "../ports.ts";

const MOST = 50_000;

export interface UsageDeps {
  readonly store: UsageStore;
  readonly timers: Timers;
  readonly events: Events;
  /** The database's clock, as this process knows it: milliseconds since 1970. */
  readonly now: () => number;
}

/**
 * When and from where tokens were last used: kept in memory, one entry a token, and stored at intervals. A validation
 * waits for nothing; what does not fit, or is not stored before a crash, is lost: it is a hint for people.
 */
export class Usage {
  readonly #deps: UsageDeps;
  readonly #everyMs: number;
  #uses = new Map<string, { tokenId: string; time: number; address: string }>();
  #cancel: (() => void) | undefined;
  #flushing: Promise<void> | undefined;

  constructor(deps: UsageDeps, everyMs: number) {
    this.#deps = deps;
    this.#everyMs = everyMs;
  }

  used(tokenId: string, context: RequestContext): void {
    const known = this.#uses.get(tokenId);
    if (known === undefined && this.#uses.size >= MOST) return;
    // What the asker calls an address can be any text: one that is none is not kept.
    const address = isAddress(context.clientAddress) ? context.clientAddress : (known?.address ?? "");
    if (known === undefined) {
      this.#uses.set(tokenId, { tokenId, time: this.#deps.now(), address });
    } else {
      known.time = this.#deps.now();
      known.address = address;
    }
  }

  start(): void {
    this.#cancel = this.#deps.timers.after(this.#everyMs, () => {
      void this.flush().then(() => {
        if (this.#cancel !== undefined) this.start();
      });
    });
  }

  /** Stores what has gathered. What can not be stored is dropped, and said. */
  flush(): Promise<void> {
    this.#flushing ??= this.#store().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #store(): Promise<void> {
    const uses = [...this.#uses.values()];
    this.#uses = new Map();
    try {
      for (let i = 0; i < uses.length; i += 1000) await this.#deps.store.flush(uses.slice(i, i + 1000));
    } catch (error) {
      this.#deps.events.trouble("last use could not be stored", error);
    }
  }

  async stop(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    await this.flush();
  }
}

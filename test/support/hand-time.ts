import type { Clock, Timers } from "../../src/domain/clock.ts";
import type { Events } from "../../src/telemetry/events.ts";

/** Time that moves only when a test moves it. */
export class HandTime {
  #now = 1000;
  #due: { at: number; run: () => void }[] = [];

  readonly clock: Clock = { mono: () => this.#now, wall: () => 1.7e12 + this.#now };
  readonly timers: Timers = {
    after: (ms, run) => {
      const entry = { at: this.#now + ms, run };
      this.#due.push(entry);
      return () => {
        this.#due = this.#due.filter((one) => one !== entry);
      };
    },
  };

  /** Moves on, stops at each due timer on the way, and lets all waiting code run. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await turn();
    for (;;) {
      const next = this.#due.filter((one) => one.at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#due = this.#due.filter((one) => one !== next);
      this.#now = Math.max(this.#now, next.at);
      next.run();
      await turn();
    }
    this.#now = end;
    await turn();
  }
}

/** Every microtask has run when it resolves. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Recorded events: `name:first argument`. */
export function recordedEvents(): { events: Events; happened: string[] } {
  const happened: string[] = [];
  const events = new Proxy({} as Events, {
    get: (_, name) => (first: unknown) => void happened.push(`${String(name)}:${String(first)}`),
  });
  return { events, happened };
}

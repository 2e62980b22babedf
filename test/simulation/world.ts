import type { Clock, Timers } from "../../src/domain/clock.ts";
import type { Random } from "./random.ts";

interface Event {
  readonly time: number;
  readonly order: number;
  readonly run: () => void;
  readonly machine: Machine | undefined;
  cancelled: boolean;
}

/**
 * True time, and all future events. Events of one moment come in random order. After an event that runs code of a
 * machine, that code runs on until it waits for something else.
 */
export class World {
  now = 0;
  readonly random: Random;
  readonly #heap: Event[] = [];

  constructor(random: Random) {
    this.random = random;
  }

  /**
   * `machine`: the machine whose code the event runs. The event waits while the machine is paused, and never happens
   * once it is dead.
   */
  at(time: number, run: () => void, machine?: Machine): () => void {
    const event: Event = { time, order: this.random.next(), run, machine, cancelled: false };
    this.#push(event);
    return () => {
      event.cancelled = true;
    };
  }

  after(ms: number, run: () => void, machine?: Machine): () => void {
    return this.at(this.now + ms, run, machine);
  }

  async runUntil(end: number): Promise<void> {
    await turn();
    for (;;) {
      const event = this.#heap[0];
      if (event === undefined || event.time > end) break;
      this.#pop();
      if (event.cancelled) continue;
      this.now = Math.max(this.now, event.time);
      const { machine } = event;
      if (machine === undefined) {
        event.run();
      } else if (machine.dead) {
        // No machine is left.
      } else if (machine.pausedUntil > this.now) {
        this.#push({ ...event, time: machine.pausedUntil, order: this.random.next() });
      } else {
        event.run();
        await turn();
      }
    }
    this.now = Math.max(this.now, end);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (!before(event, heap[up]!)) break;
      heap[at] = heap[up]!;
      at = up;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: Event, b: Event): boolean {
  return a.time < b.time || (a.time === b.time && a.order < b.order);
}

/** One turn of the real event loop. Every microtask has run afterwards. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The place of one process: a monotonic clock with its own rate, a wall clock that steps, pauses, and an end. */
export class Machine {
  dead = false;
  pausedUntil = 0;
  /** The database cannot be reached from here. */
  cutOff = false;
  wallStep = 0;
  readonly rate: number;
  readonly clock: Clock;
  readonly timers: Timers;

  constructor(world: World, rate: number) {
    this.rate = rate;
    const offset = 1e6 * (1 + world.random.next());
    this.clock = {
      mono: () => offset + rate * world.now,
      wall: () => 1.6e12 + world.now + this.wallStep,
    };
    this.timers = {
      after: (ms, run) => world.after(ms / rate + world.random.between(0, 1), run, this),
    };
  }
}

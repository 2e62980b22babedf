import { setTimeout as delay } from "node:timers/promises";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import { victim } from "./instance-faults.ts";
import { ask } from "./load.ts";
import { print } from "./report.ts";
import type { Fault } from "./round.ts";
import type { World } from "./world.ts";

const POOL = /^sallyport$/;

interface Cut {
  readonly up?: number;
  readonly down?: number;
}

/** Every place where the connection of one revocation can be cut. A round continues where the one before ended. */
class Sweep {
  readonly #up: number;
  readonly #all: number;
  readonly #stride: number;
  #at = Math.floor(Math.random() * 1_000_000);
  #met = 0;

  constructor(carried: Required<Cut>) {
    this.#up = carried.up + 1;
    this.#all = this.#up + carried.down + 1;
    // Wide steps, so that a few spread over all places, and coprime to their number, so that all are reached in the
    // end.
    this.#stride = Math.round(this.#all * 0.618);
    while (divisor(this.#stride, this.#all) > 1) this.#stride++;
  }

  next(): Cut {
    this.#met++;
    this.#at = (this.#at + this.#stride) % this.#all;
    return this.#at < this.#up ? { up: this.#at } : { down: this.#at - this.#up };
  }

  toString(): string {
    return `${Math.min(this.#met, this.#all)} of ${this.#all}`;
  }
}

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

let sweep: Sweep | undefined;

/** Cuts the connection that changes authority at every byte of one revocation, from its first byte. */
export const CUT_SWEEP: Fault = {
  name: "cut-sweep",
  long: 20,
  async run(world, seconds) {
    const { pg } = victim(world);
    const until = performance.now() + seconds * 1500;
    const before = pg.seen.cuts;
    let cells: Cell[] = [];
    const next = async () => {
      if (cells.length === 0) cells = await world.mint((mint) => mint.cells(100, { revoke: 1 }));
      return cells.pop()!;
    };
    await cut(world, await next(), {});
    sweep ??= new Sweep(pg.carried(POOL));
    const enough = () => pg.seen.cuts - before > 3 || performance.now() > until + 20_000;
    while (performance.now() < until || !enough()) await cut(world, await next(), sweep.next());
    print(`cut-sweep: ${sweep} places`);
    world.probe("connections were cut", pg.seen.cuts - before > 3);
  },
};

async function cut(world: World, cell: Cell, where: Cut): Promise<void> {
  const instance = world.instances[1]!;
  instance.pg.reset(POOL);
  await delay(5);
  instance.pg.set({ cut: where }, POOL);
  const { outcome } = await end(cell, instance, world);
  instance.pg.clear();
  if (outcome !== "OK") await end(cell, instance, world);
  await ask(world.history, instance, cell.subjects);
}

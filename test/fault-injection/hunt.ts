import { startServer } from "../support/postgres.ts";
import { bounded } from "./bounded.ts";
import { Load } from "./load.ts";
import { build, MUTANTS, type Mutant } from "./mutants.ts";
import { print } from "./report.ts";
import { LOAD } from "./round.ts";
import { World } from "./world.ts";

const TRIES = 8;
const SECONDS = 2;

export interface Hunted {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Runs every mutant under its fault. Each must be caught with a wrong answer. */
export async function hunt(only: readonly string[] | undefined): Promise<Hunted> {
  const server = await startServer({ settings: { max_connections: "80" } });
  let failed = 0;
  const mutants = MUTANTS.filter(({ name }) => only?.includes(name.split(" ")[0]!) ?? true);
  try {
    for (const mutant of mutants) {
      const begun = performance.now();
      const caught = await bounded(caughtBy(mutant, server), 150_000, "the hunt").catch((error: Error) => {
        print(`${mutant.name}: ${error.message}`);
        return undefined;
      });
      if (caught === undefined) failed++;
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      print(
        `${mutant.name.padEnd(36)} ${mutant.fault.name.padEnd(18)} ${seconds.padStart(5)} s  ${caught ?? "NOT CAUGHT"}`,
      );
    }
  } finally {
    await server.remove();
  }
  return { passed: mutants.length - failed, failed, skipped: 0 };
}

async function caughtBy(mutant: Mutant, server: World["server"]): Promise<string | undefined> {
  const source = await build(mutant);
  const world = await World.start({ instances: 2, cells: 700, server, source, ...mutant.world });
  try {
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      await world.calm(5_000);
      world.history.turn();
      if (world.left < 300) await world.stock(400);
      const load = await Load.start(world, { ...LOAD, ...mutant.fault.load });
      await bounded(mutant.fault.run(world, mutant.seconds ?? SECONDS), 40_000, mutant.fault.name);
      world.spared.clear();
      await bounded(load.stop(), 40_000, "the load");
      const { violations, afterOk } = world.history.turn();
      const first = violations.find((violation) => (mutant.shows ?? /^\([AB]\)/).test(violation));
      if (first !== undefined) return `caught in try ${attempt}: ${afterOk} accepted after OK; ${first.slice(0, 110)}`;
    }
    return undefined;
  } finally {
    await world.stop("SIGKILL");
  }
}

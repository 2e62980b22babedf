import { describe, expect, it } from "vitest";
import { HARMLESS, MUTANTS, type Mutant } from "./mutants.ts";
import { loadMutant, type Product } from "./product.ts";
import { RACES } from "./races.ts";
import { runScenario } from "./scenario.ts";
import { Simulation } from "./simulation.ts";

/**
 * The number of random histories after which a mutant counts as survived: several times the number that the most hidden
 * one needs.
 */
const PATIENCE = 600;
const HARMLESS_RUNS = 120;

/** The title of a race, or the seed of a history, in which the mutant breaks a promise. */
async function catches(product: Product, { databaseFaults }: Mutant, runs: number): Promise<string | undefined> {
  for (const race of RACES) {
    const sim = new Simulation(product, { seed: 1, ...race.settings, databaseFaults });
    const held = await race.run(sim).then(
      () => true,
      () => false,
    );
    if (!held || sim.checker.violations.length > 0) return race.title;
  }
  for (let seed = 1; seed <= runs; seed++) {
    const { violations } = await runScenario(product, seed, databaseFaults);
    if (violations.length > 0) return `seed ${seed}`;
  }
  return undefined;
}

describe("simulation › mutants", () => {
  it.for(MUTANTS.map((mutant) => [mutant.name, mutant] as const))(
    "catches %s",
    { timeout: 60_000 },
    async ([, mutant]) => {
      const product = await loadMutant(mutant.patches ?? []);
      expect(await catches(product, mutant, PATIENCE), "it survives").toBeDefined();
    },
  );

  it.for(HARMLESS.map((mutant) => [mutant.name, mutant] as const))(
    "lets pass, as the proof does: %s",
    { timeout: 60_000 },
    async ([, mutant]) => {
      const product = await loadMutant(mutant.patches ?? []);
      expect(await catches(product, mutant, HARMLESS_RUNS)).toBeUndefined();
    },
  );
});

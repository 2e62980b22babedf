import { describe, expect, it } from "vitest";
import { FEED_MUTANTS } from "./mutants.ts";
import { loadMutant, loadProduct } from "./product.ts";
import { runScenario } from "./scenario.ts";

const FIRST = Number(process.env["SIMULATION_SEED"] ?? 1);
const RUNS = Number(process.env["SIMULATION_RUNS"] ?? 150);
/** Several times the number of histories that the most hidden mutant needs. */
const PATIENCE = 2500;

describe("simulation › client caches", () => {
  it(`${RUNS} histories: no cache that follows the feed answers by a state older than a change that returned`, async () => {
    const product = await loadProduct();
    const totals: Record<string, number> = {};
    for (let seed = FIRST; seed < FIRST + RUNS; seed++) {
      const { violations, counts } = await runScenario(product, seed, {}, {});
      expect(violations, `seed ${seed}`).toEqual([]);
      for (const [what, times] of Object.entries(counts)) totals[what] = (totals[what] ?? 0) + times;
    }
    // The caches were used, and the faults did happen.
    const happened = [
      "ALLOW feed",
      "INVALID_TOKEN feed",
      "INSUFFICIENT_SCOPE feed",
      "ACKED",
      "LEASE_EXPIRED",
      "new_epoch",
    ];
    for (const what of [...happened, "feed gave up"]) expect(totals[what] ?? 0, what).toBeGreaterThan(RUNS / 2);
  }, 600_000);

  it.for(FEED_MUTANTS.map((mutant) => [mutant.name, mutant] as const))(
    "catches %s",
    { timeout: 600_000 },
    async ([, { patches = [], clientFaults = {} }]) => {
      const product = await loadMutant(patches);
      let caught: number | undefined;
      for (let seed = 1; seed <= PATIENCE && caught === undefined; seed++) {
        const { violations } = await runScenario(product, seed, {}, clientFaults);
        if (violations.length > 0) caught = seed;
      }
      expect(caught, "it survives").toBeDefined();
    },
  );
});

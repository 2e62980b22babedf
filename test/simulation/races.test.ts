import { describe, expect, it } from "vitest";
import { loadProduct } from "./product.ts";
import { RACES } from "./races.ts";
import { Simulation } from "./simulation.ts";

describe("revocation", () => {
  it.for(RACES.map((race) => [race.title, race] as const))("%s", async ([, race]) => {
    const product = await loadProduct();
    // Delays differ by seed; the interleaving that the race is about does not.
    for (let seed = 1; seed <= 5; seed++) {
      const sim = new Simulation(product, { seed, ...race.settings });
      await race.run(sim);
      expect(sim.checker.violations, `seed ${seed}`).toEqual([]);
    }
  });
});

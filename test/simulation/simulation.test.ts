import { describe, expect, it } from "vitest";
import { loadProduct } from "./product.ts";
import { runScenario } from "./scenario.ts";
import { Simulation, type TokenName } from "./simulation.ts";

// Another range of seeds: SIMULATION_SEED=5000 SIMULATION_RUNS=20000. One seed by hand: node test/simulation/run.ts 4711
const FIRST = Number(process.env["SIMULATION_SEED"] ?? 1);
const RUNS = Number(process.env["SIMULATION_RUNS"] ?? 400);

describe("simulation", () => {
  it(`${RUNS} histories of the real code: no answer older than a change that returned, none of a process older than its refusals, no refusal without a cause`, async () => {
    const product = await loadProduct();
    const totals: Record<string, number> = {};
    for (let seed = FIRST; seed < FIRST + RUNS; seed++) {
      const { violations, counts } = await runScenario(product, seed);
      expect(violations, `seed ${seed}: node test/simulation/run.ts ${seed}`).toEqual([]);
      for (const [what, times] of Object.entries(counts)) totals[what] = (totals[what] ?? 0) + times;
    }
    // The faults did happen.
    const happened = [
      ...["l1", "l2", "store"].flatMap((tier) => [
        `ALLOW ${tier}`,
        `INVALID_TOKEN ${tier}`,
        `INSUFFICIENT_SCOPE ${tier}`,
      ]),
      ...["UNDETERMINED none", "ACKED", "LEASE_EXPIRED", "ACCEPTED", "EFFECT_PENDING", "OUTCOME_UNKNOWN", "NOT_DONE"],
      ...["poll_failed", "registration_failed", "deregistration_failed", "new_epoch"],
    ];
    for (const what of happened) expect(totals[what] ?? 0, what).toBeGreaterThan(RUNS / 100);
  }, 600_000);

  it("is determined by its seed", async () => {
    const product = await loadProduct();
    for (const seed of [3, 17, 99]) expect(await runScenario(product, seed)).toEqual(await runScenario(product, seed));
  });

  it("acknowledges every change within 50 ms without faults, leaves nothing undetermined, and reads a token once", async () => {
    const sim = new Simulation(await loadProduct(), { seed: 1, cache: false });
    for (const place of [0, 1, 2]) sim.boot(place);
    await sim.advance(200);
    const names: TokenName[] = ["a", "b", "c", "still"];
    for (let round = 0; round < 20; round++) {
      for (const one of sim.instances) for (const name of names) void sim.ask(one, name);
      await sim.advance(100);
    }
    expect(sim.counts["ALLOW store"]).toBe(names.length * 3);
    expect(sim.counts["ALLOW l1"]).toBe(names.length * 3 * 19);
    for (const name of ["a", "b", "c"] as const) {
      const begun = sim.world.now;
      let ended = 0;
      void sim.revoke(sim.instances[0]!, name).then(() => {
        ended = sim.world.now;
      });
      await sim.advance(200);
      expect(ended - begun).toBeGreaterThan(0);
      expect(ended - begun).toBeLessThan(50);
    }
    expect(sim.counts["ACKED"]).toBe(3);
    expect(sim.counts["UNDETERMINED none"]).toBeUndefined();
    expect(sim.checker.violations).toEqual([]);
  });
});

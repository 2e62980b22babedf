import { expect, test } from "vitest";
import { CASES, runCase } from "./cases.ts";
import { loadMutant, MUTANTS } from "./mutants.ts";

test.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))("catches the mutant: %s", async (_, mutant) => {
  const one = CASES.find(({ title }) => title === mutant.caughtBy);
  expect(one, mutant.caughtBy).toBeDefined();
  const product = await loadMutant(mutant);
  const survived = await runCase(product, one!).then(
    () => true,
    () => false,
  );
  expect(survived).toBe(false);
});

// node test/simulation/run.ts [first seed] [count] [mutant]: runs the simulation by hand.
import { MUTANTS } from "./mutants.ts";
import { loadMutant, loadProduct } from "./product.ts";
import { runScenario } from "./scenario.ts";

const [first = "1", count = "1", name] = process.argv.slice(2);
const mutant = MUTANTS.find((one) => one.name === name);
const product = mutant === undefined ? await loadProduct() : await loadMutant(mutant.patches ?? []);
const totals: Record<string, number> = {};
let bad = 0;
const begun = performance.now();
for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const { violations, counts } = await runScenario(product, seed, mutant?.databaseFaults);
  for (const [what, times] of Object.entries(counts)) totals[what] = (totals[what] ?? 0) + times;
  if (violations.length > 0) {
    bad++;
    process.stdout.write(`seed ${seed}: ${violations.length} violations, first: ${violations[0]}\n`);
    if (bad >= 10) break;
  }
}
process.stdout.write(`${JSON.stringify(totals, null, 1)}\n${bad} bad, ${Math.round(performance.now() - begun)} ms\n`);

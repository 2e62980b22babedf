// Structured damage for every parser of foreign input: node scripts/fuzz.ts [--minutes N] [--target name] [--seed N]
// [--cases N]. Without a target all share the time. Exits with 1 at the first broken promise.
import { parseArgs } from "node:util";
import { Found, fuzz } from "../test/fuzz/run.ts";
import { targets } from "../test/fuzz/targets.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    target: { type: "string" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    cases: { type: "string", default: "Infinity" },
  },
});
const seed = Number(values.seed);
const chosen = Object.entries(targets).filter(([name]) => values.target === undefined || values.target === name);
if (chosen.length === 0 || Number.isNaN(seed)) {
  console.error(`targets: ${Object.keys(targets).join(", ")}`);
  process.exit(64);
}
const each = (Number(values.minutes) * 60_000) / chosen.length;
console.log(`seed ${seed}`);
try {
  for (const [name, target] of chosen) {
    const end = performance.now() + each;
    const cases = fuzz(name, target, seed, (done) => done >= Number(values.cases) || performance.now() > end);
    const memory = Math.round(process.memoryUsage.rss() / 1_048_576);
    console.log(`${name}: ${cases} cases, 0 failed, ${memory} MiB`);
  }
} catch (error) {
  if (!(error instanceof Found)) throw error;
  console.error(error.message);
  console.error((error.cause as Error).stack);
  process.exit(1);
}

// npm run prove: immediate revocation on real processes under real faults.
//   --minutes N     for so long, faults in random order; without it each fault once
//   --faults a,b    only these
//   --mutants       broken variants instead, each of which must be caught
//   --figures       latencies of healthy deployments instead
//   --history FILE  every answer and every change, a JSON line each
import { parseArgs } from "node:util";
import { strayChanges } from "./audit.ts";
import { hunt } from "./hunt.ts";
import { INSTANCE_FAULTS } from "./instance-faults.ts";
import { NETWORK_FAULTS } from "./network-faults.ts";
import { POSTGRES_FAULTS } from "./postgres-faults.ts";
import { REDIS_FAULTS } from "./redis-faults.ts";
import { header, print, printRow } from "./report.ts";
import { round } from "./round.ts";
import { World } from "./world.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    faults: { type: "string" },
    mutants: { type: "boolean", default: false },
    figures: { type: "boolean", default: false },
    history: { type: "string" },
    seconds: { type: "string", default: "2" },
  },
});

if (values.mutants) {
  const { passed, failed } = await hunt(values.faults?.split(","));
  print(`${passed} passed, ${failed} failed, 0 skipped`);
  process.exit(failed > 0 ? 1 : 0);
}

const wanted = values.faults?.split(",");
const faults = [...INSTANCE_FAULTS, ...NETWORK_FAULTS, ...REDIS_FAULTS, ...POSTGRES_FAULTS].filter(
  ({ name }) => wanted?.includes(name) ?? true,
);
const world = await World.start({ instances: 3, redis: "own", badClocks: true, historyFile: values.history });
const totals = { passed: 0, failed: 0, skipped: 0, allows: 0 };
try {
  print("settling");
  print(`calm after ${await world.calm(15_000)} ms`);
  world.history.turn();
  header();
  for (const fault of faults) {
    const row = await round(world, fault, Number(values.seconds));
    printRow(row);
    totals.allows += row.tally.allows;
    if (row.problems.length > 0) totals.failed++;
    else totals.passed++;
  }
  const stray = await strayChanges(world);
  for (const problem of stray) print(problem);
} finally {
  await world.stop();
}
print(`${totals.allows} ALLOWs checked`);
print(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed > 0 ? 1 : 0;

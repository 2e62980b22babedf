// npm run prove: immediate revocation on real processes under real faults.
//   --minutes N     for so long, faults in random order; without it each fault once
//   --faults a,b    only these
//   --mutants       broken variants instead, each of which must be caught
//   --ha            a cluster of Patroni instead, whose leaders are killed
//     --kills N     so many of them; 3 by default, the first 3 of them whole hosts
//     --short       only what the gate runs
//   --figures       latencies of healthy deployments instead
//   --history FILE  every answer and every change, a JSON line each
import { parseArgs } from "node:util";
import { figures } from "./figures.ts";
import { proveHa } from "./ha.ts";
import { hunt } from "./hunt.ts";
import { prove } from "./prove.ts";
import { print } from "./report.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    faults: { type: "string" },
    mutants: { type: "boolean", default: false },
    ha: { type: "boolean", default: false },
    kills: { type: "string", default: "3" },
    short: { type: "boolean", default: false },
    figures: { type: "boolean", default: false },
    history: { type: "string" },
    seconds: { type: "string", default: "1.6" },
  },
});
const only = values.faults?.split(",");
const begun = performance.now();
const { passed, failed, skipped } = values.mutants
  ? await hunt(only)
  : values.figures
    ? await figures()
    : values.ha
      ? await proveHa({ only, kills: Number(values.kills), short: values.short, historyFile: values.history })
      : await prove({
          only,
          seconds: Number(values.seconds),
          minutes: values.minutes === undefined ? undefined : Number(values.minutes),
          historyFile: values.history,
        });
print(`${((performance.now() - begun) / 60_000).toFixed(1)} minutes`);
print(`${passed} passed, ${failed} failed, ${skipped} skipped`);
// A handle that a library keeps open must not keep the process.
process.exit(failed > 0 ? 1 : 0);

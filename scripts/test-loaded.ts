// `npm run test:loaded -- --runs 10 [arguments of npm test]`: runs `npm test` again and again beside a busy loop on each
// core, and stops at the first red run. A test that waits for a time, not for an event, fails here.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

/** A busy loop ends by itself after this time, so that none is left behind by a killed script. */
const LONGEST_MS = 60 * 60_000;
const LOOP = `const end = Date.now() + ${LONGEST_MS}; const parent = process.ppid;
for (let n = 0; Date.now() < end && (n++ % 4096 > 0 || process.ppid === parent); );`;
/** The last line of `npm test`. */
const SUMMARY = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m;

const { runs, rest } = wanted(process.argv.slice(2));
let red = false;
for (let run = 1; run <= runs && !red; run++) {
  const from = performance.now();
  const loops = Array.from({ length: availableParallelism() }, () =>
    spawn(process.execPath, ["-e", LOOP], { stdio: "ignore" }),
  );
  const stop = () => stopAll(loops);
  process.once("exit", stop);
  const { code, output } = await tested(rest);
  stop();
  process.off("exit", stop);
  await Promise.all(loops.map(ended));
  const [, passed = "0", failed = "?"] = SUMMARY.exec(output) ?? [];
  red = code !== 0;
  const minutes = ((performance.now() - from) / 60_000).toFixed(1);
  console.log(`run ${run} of ${runs}: ${minutes} minutes, ${passed} passed, ${failed} failed${red ? ": red" : ""}`);
}
if (red) process.exitCode = 1;

/** `--runs N`; the other arguments go to `npm test`. */
function wanted(args: readonly string[]): { runs: number; rest: string[] } {
  const at = args.findIndex((arg) => arg === "--runs" || arg.startsWith("--runs="));
  const own = at < 0 ? [] : args.slice(at, args[at] === "--runs" ? at + 2 : at + 1);
  const { values } = parseArgs({ args: own, options: { runs: { type: "string", default: "10" } } });
  const runs = Number(values.runs);
  if (!Number.isSafeInteger(runs) || runs < 1) {
    console.error("--runs must be a whole number of at least 1");
    process.exit(2);
  }
  return { runs, rest: args.toSpliced(Math.max(at, 0), own.length) };
}

/** One run, with its output shown as it comes. */
async function tested(args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const test = spawn(process.execPath, ["scripts/test.ts", ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const forward = (signal: NodeJS.Signals) => void test.kill(signal);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, forward);
  let output = "";
  test.stdout.setEncoding("utf8").on("data", (text: string) => {
    process.stdout.write(text);
    output = (output + text).slice(-4096);
  });
  const [code, signal] = (await once(test, "close")) as [number | null, NodeJS.Signals | null];
  for (const name of ["SIGINT", "SIGTERM"] as const) process.off(name, forward);
  return { code: signal === null ? code : 1, output };
}

function stopAll(children: readonly ChildProcess[]): void {
  for (const child of children) if (child.exitCode === null) child.kill("SIGKILL");
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

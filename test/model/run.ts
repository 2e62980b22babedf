// Runs the Spin models: node test/model/run.ts [--full] [--only NAME[,NAME]]
// The last line is "N passed, N failed, N skipped"; the exit code is 1 when something failed, 2 on a usage error.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { AFTER_OK, AFTER_REFUSAL, LARGE_MODELS, MUTANTS, type Run, SMALL_MODELS, WITNESSES } from "./runs.ts";

const HERE = import.meta.dirname;
const CACHE = join(HERE, "../../.cache/spin");

interface Limits {
  readonly seconds: number;
  readonly megabytes: number;
  /** -DCOLLAPSE: half the memory for twice the time. */
  readonly collapse: boolean;
}
type Outcome = { readonly verdict: "passed" | "failed" | "skipped"; readonly text: string };

interface Result {
  readonly code: number;
  readonly out: string;
  readonly timedOut: boolean;
}

/** Runs one program; never rejects. It is killed after `seconds`. */
function command(file: string, args: readonly string[], cwd: string, seconds: number): Promise<Result> {
  const options = { cwd, timeout: seconds * 1000, killSignal: "SIGKILL", maxBuffer: 64 * 2 ** 20 } as const;
  return new Promise((resolve) => {
    execFile(file, args, options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 127;
      resolve({ code, out: stdout + stderr, timedOut: error?.killed === true });
    });
  });
}

/** The path of spin: from PATH, the cache, or fetched into the cache by apt-get without installing it; or a reason. */
async function findSpin(): Promise<{ spin: string } | { missing: string }> {
  if ((await command("gcc", ["--version"], HERE, 20)).code !== 0) return { missing: "gcc is not installed" };
  if ((await command("spin", ["-V"], HERE, 20)).code === 0) return { spin: "spin" };
  const spin = join(CACHE, "usr/bin/spin");
  if (existsSync(spin)) return { spin };
  await mkdir(CACHE, { recursive: true });
  let got = await command("apt-get", ["download", "spin"], CACHE, 60);
  if (got.code !== 0) {
    await command("apt-get", ["update"], CACHE, 120);
    got = await command("apt-get", ["download", "spin"], CACHE, 60);
  }
  const deb = (await readdir(CACHE)).find((name) => name.endsWith(".deb"));
  if (deb !== undefined) await command("dpkg", ["-x", deb, "."], CACHE, 60);
  if (existsSync(spin)) return { spin };
  return { missing: `spin is not installed and apt-get download failed: ${got.out.trim().split("\n").at(-1)}` };
}

/** Control points that the verifier never visited, except the ends of endless processes. */
function unreached(report: string): string[] {
  return [...report.matchAll(/^\t.*\.pml:(\d+), state \d+, "(.*)"$/gm)]
    .filter((match) => match[2] !== "-end-")
    .map((match) => `line ${match[1]}: ${match[2]}`);
}

function judge(run: Run, report: string, end: Pick<Result, "timedOut">, limits: Limits): Outcome {
  const states = Number(/^\s*(\S+) states, stored/m.exec(report)?.[1] ?? Number.NaN);
  const seconds = /elapsed time (\S+) seconds/.exec(report)?.[1] ?? "?";
  const size = `${states} states, ${seconds} s`;
  const violated = /assertion violated (.*) \(at depth/.exec(report)?.[1]?.trim();
  if (violated !== undefined) {
    const broken = violated === AFTER_OK[run.model] || violated === AFTER_REFUSAL;
    const wanted = run.expect === "reached" ? !broken : run.expect !== "holds" && run.expect.violated === violated;
    const text = run.expect === "reached" ? `reached in ${size}` : `violates ${violated} in ${size}`;
    return { verdict: wanted ? "passed" : "failed", text };
  }
  if (end.timedOut || /-DMEMLIM|out of memory/.test(report)) {
    const limit = end.timedOut ? `${limits.seconds} s` : `${limits.megabytes} MB`;
    // Only runs with the large bounds may end unfinished. They have shown nothing then.
    const large = LARGE_MODELS.includes(run);
    return { verdict: large ? "skipped" : "failed", text: `no error within ${limit}, but not exhaustive` };
  }
  if (!/errors: 0$/m.test(report) || /max search depth too small|not completed/.test(report)) {
    return { verdict: "failed", text: `no exhaustive search: ${report.trim().split("\n").slice(0, 3).join(" | ")}` };
  }
  if (run.expect === "reached") return { verdict: "failed", text: `NOT reachable, so the model is vacuous (${size})` };
  if (run.expect !== "holds") return { verdict: "failed", text: `SURVIVED: ${size}, no violation` };
  const idle = run.covers ? unreached(report) : [];
  if (idle.length > 0) return { verdict: "failed", text: `never visited: ${idle.join("; ")}` };
  return { verdict: "passed", text: `holds, exhaustive: ${size}` };
}

async function check(spin: string, run: Run, limits: Limits): Promise<Outcome> {
  const dir = await mkdtemp(join(tmpdir(), "sallyport-model-"));
  try {
    const defines = run.defines.map((define) => `-D${define}`);
    const generated = await command(spin, ["-a", ...defines, join(HERE, run.model)], dir, 30);
    if (!existsSync(join(dir, "pan.c"))) return { verdict: "failed", text: `spin: ${generated.out.trim()}` };
    const flags = ["-O2", "-w", "-DSAFETY", "-DNOFAIR", "-DNOBOUNDCHECK", `-DMEMLIM=${limits.megabytes}`];
    if (limits.collapse) flags.push("-DCOLLAPSE");
    const built = await command("gcc", [...flags, "-o", "pan", "pan.c"], dir, 60);
    if (built.code !== 0) return { verdict: "failed", text: `gcc: ${built.out.trim().split("\n")[0]}` };
    const depth = limits.collapse ? "-m20000000" : "-m1000000";
    const result = await command("./pan", [depth], dir, limits.seconds);
    return judge(run, result.out, result, limits);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

const { values } = parseArgs({ options: { full: { type: "boolean" }, only: { type: "string" } } });
const only = values.only?.split(",");
const all = [...SMALL_MODELS, ...WITNESSES, ...MUTANTS, ...(values.full ? LARGE_MODELS : [])];
const runs = all.filter((run) => only === undefined || only.includes(run.name));
if (runs.length === 0) {
  process.stderr.write(`no such run; there are: ${all.map((run) => run.name).join(" ")}\n`);
  process.exit(2);
}

const count = { passed: 0, failed: 0, skipped: 0 };
function record(run: Run, outcome: Outcome): void {
  count[outcome.verdict]++;
  print(`${outcome.verdict.padEnd(7)} ${run.model} ${run.name} (${run.why}): ${outcome.text}`);
}

const found = await findSpin();
if ("missing" in found) {
  for (const run of runs) record(run, { verdict: "skipped", text: found.missing });
} else {
  const queue = runs.filter((run) => !LARGE_MODELS.includes(run));
  const worker = async (): Promise<void> => {
    for (let run = queue.shift(); run !== undefined; run = queue.shift()) {
      record(run, await check(found.spin, run, { seconds: 100, megabytes: 2000, collapse: false }));
    }
  };
  await Promise.all([worker(), worker()]);
  for (const run of runs.filter((run) => LARGE_MODELS.includes(run))) {
    const megabytes = Math.floor((freemem() / 2 ** 20) * 0.7);
    record(run, await check(found.spin, run, { seconds: 7200, megabytes, collapse: true }));
  }
}
print(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
process.exitCode = count.failed > 0 ? 1 : 0;

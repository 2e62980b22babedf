// `npm run bench`: the cost of a call, in the server's CPU time by the kernel's accounting, beside peers in the same
// run.
//   --short     a minute: fails if ratios are far out of bounds, for the gate
//   --write     renews docs/performance.md
//   --profile   a CPU profile of the server under ValidateToken
//   --only RE   rows whose table, title or server matches;  --rounds N;  --seconds S
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Judgement, judge, type Outcome } from "./budget.ts";
import { decisionTable, measureDecision } from "./decision.ts";
import { behindEnvoy } from "./envoy.ts";
import { idleKiB } from "./idle.ts";
import { machine, stayAside, whyUnpinned } from "./machine.ts";
import { measure, type Sample, TierMissing, warm } from "./measure.ts";
import { isSubject, type PeerName, peer } from "./peers.ts";
import { probe } from "./probe.ts";
import { Product, type Tokens } from "./product.ts";
import { hottest, profileClock } from "./profile.ts";
import { digits, judgements, tables } from "./report.ts";
import {
  allRows,
  BEHIND_ENVOY,
  PRODUCTS,
  type ProductName,
  type ProxiedName,
  type Row,
  type SubjectName,
  shortRows,
  VALIDATE,
} from "./rows.ts";
import type { Maybe } from "./subject.ts";

const CACHE = join(import.meta.dirname, "../.cache/bench");
const MANY_TOKENS = 2_048;

const { values } = parseArgs({
  options: {
    short: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    profile: { type: "boolean", default: false },
    only: { type: "string" },
    rounds: { type: "string" },
    seconds: { type: "string", default: "1" },
  },
});
const rounds = Math.min(Number(values.rounds ?? (values.short || values.profile ? 3 : 5)), 50);
const seconds = Math.min(Number(values.seconds), 10);

const loadBefore = loadavg()[0]!;
const whole = !values.short && !values.profile && values.only === undefined;

process.exitCode = await main();

async function main(): Promise<number> {
  mkdirSync(CACHE, { recursive: true });
  stayAside();
  const folder = mkdtempSync(join(tmpdir(), "sallyport-bench-"));
  const profile = values.profile ? `--cpu-prof --cpu-prof-dir=${CACHE} --cpu-prof-name=sallyport.cpuprofile` : "";
  const running: Maybe[] = [];
  const product = await Product.start(folder, profile);
  try {
    const { outcomes, idle, warmSince } = await run(product, running, folder);
    const judged = judge(outcomes, values.short ? "broken" : "most");
    if (values.profile) {
      await product.stop();
      console.log(`\n${hottest(join(CACHE, "sallyport.cpuprofile"), warmSince, 40)}`);
    }
    if (values.short) return conclude(outcomes, judged);
    publish(outcomes, judged, idle);
    return outcomes.some((outcome) => failed(outcome) !== undefined) ? 1 : 0;
  } finally {
    await Promise.allSettled(running.filter(isSubject).map((subject) => subject.stop()));
    await product.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(product: Product, running: Maybe[], folder: string) {
  const rows = chosenRows();
  const subjects = new Map<SubjectName, Maybe>();
  subjects.set("sallyport", await product.instance("sallyport", "tcp"));
  const tokens = await product.mint(
    rows.some(({ title }) => title.includes("in turn") || title.includes("batch")) ? MANY_TOKENS : 16,
  );
  const subjectOf = async (name: SubjectName): Promise<Maybe> => {
    const known = subjects.get(name);
    if (known !== undefined) return known;
    const made =
      name in BEHIND_ENVOY ? await proxied(name as ProxiedName, subjectOf) : await start(product, name, tokens);
    subjects.set(name, made);
    if (!(name in PRODUCTS)) running.push(made);
    return made;
  };
  for (const { subject } of rows) await subjectOf(subject);
  const outcomes = await Promise.all(rows.map(async (row) => prepare(row, subjects.get(row.subject)!, tokens)));
  let warmSince = 0;
  for (let round = 0; round <= rounds; round++) {
    say(round === 0 ? "warming up" : `round ${round} of ${rounds}`);
    if (round === 1) warmSince = profileClock();
    for (const outcome of outcomes) {
      const subject = subjects.get(outcome.row.subject)!;
      if (outcome.missing !== undefined || !isSubject(subject)) continue;
      const way = [outcome.row, subject, tokens, folder, seconds] as const;
      try {
        if (round === 0) await warm(...way);
        else outcome.samples.push(await measure(...way));
      } catch (error) {
        const why = (error as Error).message.split("\n")[0]!;
        if (error instanceof TierMissing) outcome.missing = why;
        else if (round > 0) {
          outcome.samples.push(undefined);
          outcome.failures.push(why);
        }
      }
    }
  }
  return { outcomes, warmSince, idle: whole ? await idleConnections(product, running) : [] };
}

/** On fresh processes, because memory that earlier load left in the heap would hide it. */
async function idleConnections(product: Product, running: Maybe[]): Promise<string[]> {
  const echo = await peer("own http2 echo", "", CACHE);
  running.push(echo);
  const lines: string[] = [];
  const subjects = [await product.instance("sallyport", "wide"), ...(isSubject(echo) ? [echo] : [])];
  for (const subject of subjects) {
    const count = 10_000;
    const found = await idleKiB(subject, count).then(
      (kib) => `**${digits(kib)}** KiB each`,
      (error: Error) => error.message,
    );
    lines.push(`| ${subject.name} | ${count.toLocaleString("en")} | ${found} |`);
  }
  return lines;
}

function chosenRows(): Row[] {
  if (values.short) return shortRows();
  const only = new RegExp(values.only ?? (values.profile ? `^${VALIDATE}, 4 × 32, sallyport$` : ""));
  return allRows().filter(({ table, title, subject }) => only.test(`${table}, ${title}, ${subject}`));
}

async function start(product: Product, name: SubjectName, tokens: Tokens): Promise<Maybe> {
  if (!(name in PRODUCTS)) return peer(name as PeerName, tokens.live, CACHE);
  const variant = PRODUCTS[name as ProductName];
  return product.instance(name, variant);
}

async function proxied(name: ProxiedName, subjectOf: (name: SubjectName) => Promise<Maybe>): Promise<Maybe> {
  const asked = BEHIND_ENVOY[name];
  const authorizer = asked === undefined ? undefined : await subjectOf(asked);
  if (authorizer === undefined || isSubject(authorizer)) return behindEnvoy(name, authorizer);
  return { name, missing: authorizer.missing };
}

interface Running extends Outcome {
  samples: (Sample | undefined)[];
  missing?: string;
  failures: string[];
}

/** Sends one request to check that the server answers it correctly. */
async function prepare(row: Row, subject: Maybe, tokens: Tokens): Promise<Running> {
  const none = { row, samples: [], failures: [] };
  if (!isSubject(subject)) return { ...none, missing: subject.missing };
  const missing = await probe(subject.address, row.requests(tokens)[0]!).catch(
    (error: Error) => `failed: ${error.message}`,
  );
  return { ...none, missing };
}

/** True if more rounds failed than succeeded, or if none ran although the server can answer. */
function failed({ samples, missing, failures }: Outcome): string | undefined {
  if (missing !== undefined) return missing.startsWith("failed") ? missing : undefined;
  return failures.length * 2 > samples.length ? failures[0] : undefined;
}

function publish(outcomes: readonly Outcome[], judged: readonly Judgement[], idle: readonly string[]): void {
  const decision = whole ? measureDecision() : undefined;
  const text = [
    "# Performance",
    "",
    `Made by \`npm run bench -- --write\`. ${machine()}; medians of ${rounds} alternating rounds of ${seconds} s; load average of the machine before the run ${loadBefore.toFixed(1)}. ${whyUnpinned ?? "The server has a core to itself, load generator and database another."} CPU is utime + stime of the server process from /proc; a *cores* far below 1 says that the generator was the limit. Compare ratios, not machines. *n × m*: n connections with m requests in flight on each.`,
    "",
    tables(outcomes),
    "",
    judgements(judged),
    ...(decision === undefined ? [] : ["", decisionTable(decision)]),
    ...(idle.length === 0
      ? []
      : [
          "",
          "## Idle connections (budget: 20 KiB)",
          "",
          "| | connections | resident memory |",
          "|---|---|---|",
          ...idle,
        ]),
    ...(whole ? ["", readFileSync(join(import.meta.dirname, "notes.md"), "utf8").trimEnd()] : []),
    "",
  ].join("\n");
  console.log(`\n${text}`);
  writeFileSync(join(CACHE, "result.md"), text);
  writeFileSync(
    join(CACHE, "result.json"),
    JSON.stringify({ machine: machine(), rounds, seconds, outcomes, judged, decision, idle }, null, 2),
  );
  if (!values.write) return;
  const docs = join(import.meta.dirname, "../docs");
  mkdirSync(docs, { recursive: true });
  writeFileSync(join(docs, "performance.md"), text);
}

/**
 * The verdict of the short form. A failed row, or a ratio far out of bounds, fails; a missing row is skipped and
 * reported.
 */
function conclude(outcomes: readonly Outcome[], judged: readonly Judgement[]): number {
  console.log(`\n${tables(outcomes)}\n\n${judgements(judged)}\n`);
  let [passed, broken, skipped] = [0, 0, 0];
  for (const outcome of outcomes) {
    const why = failed(outcome);
    if (why === undefined) continue;
    broken++;
    console.log(`failed: ${outcome.row.table}, ${outcome.row.title}, ${outcome.row.subject}: ${why}`);
  }
  for (const { budget, missing, met, ratio } of judged) {
    const what = `${budget.table}, ${budget.title} against ${budget.peers.join(" or ")}`;
    if (ratio === undefined) {
      skipped++;
      console.log(`skipped: ${what}: ${missing}`);
    } else if (met) passed++;
    else {
      broken++;
      console.log(`failed: ${what}: ${ratio.toFixed(3)} is more than ${budget.broken}`);
    }
  }
  console.log(`${passed} passed, ${broken} failed, ${skipped} skipped`);
  return broken === 0 && passed > 0 ? 0 : 1;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

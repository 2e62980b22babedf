import { redisProgram } from "../support/redis.ts";
import { ASKERS } from "./askers.ts";
import { strayChanges } from "./audit.ts";
import { CLIENT_COMMANDS } from "./client-program.ts";
import { FAULTS } from "./faults.ts";
import { header, print, printRow } from "./report.ts";
import { type Fault, type Row, round } from "./round.ts";
import { TOPOLOGIES, type Topology } from "./topologies.ts";
import { World } from "./world.ts";

export interface ProveOptions {
  readonly only: readonly string[] | undefined;
  /** The approximate duration of a fault. */
  readonly seconds: number;
  /** Undefined: every fault once. */
  readonly minutes: number | undefined;
  readonly historyFile: string | undefined;
}

/** Fewer checked ALLOWs than this, over every fault, prove nothing. */
const LEAST_ALLOWS = 100_000;
/** The minimum for each method, and for refusals, which come after the OK. */
const LEAST_ANSWERS = 100;
const SETTLE_MS = 20_000;

export class Score {
  passed = 0;
  failed = 0;
  skipped = 0;
  allows = 0;
  afterOk = 0;
  nearest = Number.POSITIVE_INFINITY;
  readonly byAsker = new Map<string, { allows: number; refusals: number }>();
  /** The failures, printed once more at the end, because the table is long. */
  readonly problems: string[] = [];

  judge(what: string, problems: readonly string[]): void {
    if (problems.length === 0) this.passed++;
    else this.failed++;
    for (const problem of problems.slice(0, 8)) this.problems.push(`${what}: ${problem}`);
  }

  skip(what: string, why: string): void {
    this.skipped++;
    print(`${what}: skipped, ${why}`);
  }
}

/** Every fault under load with all checks; one line each. */
export async function prove(options: ProveOptions): Promise<Score> {
  const { only, seconds } = options;
  const wanted = (name: string) => only?.includes(name) ?? true;
  const score = new Score();
  const all = new Set([...FAULTS.map(({ name }) => name), ...TOPOLOGIES.flatMap(({ faults }) => faults)]);
  for (const name of only ?? []) if (!all.has(name)) score.judge(name, [`there is no fault ${name}`]);
  header();
  if (FAULTS.some(({ name }) => wanted(name))) await onMain(options, wanted, score);
  for (const { faults: names, lacks, start } of TOPOLOGIES.filter(({ faults }) => faults.some(wanted))) {
    const reason = await lacks();
    if (reason === undefined) await onTopology(await start(), wanted, seconds, score);
    else for (const name of names.filter(wanted)) score.skip(name, reason);
  }
  sumUp(score);
  if (only === undefined) score.judge("load", score.allows < LEAST_ALLOWS ? [`only ${score.allows} ALLOWs`] : []);
  const clients = Object.keys(CLIENT_COMMANDS).filter((name) => score.byAsker.has(name));
  for (const name of [...ASKERS.map(({ name }) => name), ...clients]) {
    const { allows, refusals } = score.byAsker.get(name) ?? { allows: 0, refusals: 0 };
    print(`${name.padEnd(30)} ${String(allows).padStart(9)} ALLOWs ${String(refusals).padStart(8)} refusals`);
    if (only !== undefined) continue;
    score.judge(name, Math.min(allows, refusals) < LEAST_ANSWERS ? [`${allows} ALLOWs, ${refusals} refusals`] : []);
  }
  for (const problem of score.problems) print(problem);
  return score;
}

export function sumUp({ allows, afterOk, nearest }: Score): void {
  const start = Number.isFinite(nearest) ? `${nearest.toFixed(2)} ms before the OK` : "-";
  print(`${allows} ALLOWs checked, ${afterOk} accepted after OK, the nearest started ${start}`);
}

/** Three instances with Redis, for most faults. */
async function onMain(options: ProveOptions, wanted: (name: string) => boolean, score: Score): Promise<void> {
  const { seconds, minutes, historyFile } = options;
  const redis = await redisProgram().then(
    () => true,
    () => false,
  );
  const world = await World.start({ instances: 3, redis: redis ? "own" : undefined, badClocks: true, historyFile });
  try {
    await world.calm(SETTLE_MS);
    world.history.turn();
    print(
      "three instances; the last has a monotonic clock that is 15 % slow; wall clocks are three days behind and ahead",
    );
    const faults = FAULTS.filter(({ name }) => wanted(name));
    for (const { name } of faults.filter(({ needs }) => needs === "redis" && !redis)) score.skip(name, "no Redis");
    const able = faults.filter(({ needs }) => needs !== "redis" || redis);
    const over = minutes === undefined ? undefined : performance.now() + minutes * 60_000;
    for (const fault of order(able, over)) {
      await one(world, fault, over === undefined ? seconds : seconds * (fault.long ?? 1), score);
    }
    score.judge("audit", await strayChanges(world));
    if (options.only === undefined) score.judge("mint", mintedTooFew(world));
  } finally {
    const ends = await world.stop();
    score.judge(
      "stop",
      ends.filter((how) => how !== "0").map((how) => `an instance ended with ${how}`),
    );
  }
}

/** Tokens by CreateToken, and children by their parents. A caller that is always refused proves nothing. */
function mintedTooFew({ history }: World): string[] {
  const count = (what: string) => history.attempts.filter(({ op, outcome }) => op === what && outcome === "OK").length;
  return ["create", "create child"].filter((what) => count(what) === 0).map((what) => `no ${what} was OK`);
}

/** Each once, in the given order; or again and again in random order, until the time is over. */
function* order(faults: readonly Fault[], over: number | undefined): Generator<Fault> {
  if (over === undefined) return yield* faults;
  while (performance.now() < over) {
    const shuffled = faults.map((fault) => ({ fault, at: Math.random() })).sort((a, b) => a.at - b.at);
    for (const { fault } of shuffled) if (performance.now() < over) yield fault;
  }
}

export async function one(world: World, fault: Fault, seconds: number, score: Score): Promise<Row> {
  const row = await round(world, fault, seconds);
  printRow(row);
  for (const problem of row.problems.slice(0, 8)) print(`  ${problem}`);
  score.judge(fault.name, row.problems);
  score.allows += row.tally.allows;
  score.afterOk += row.tally.afterOk;
  score.nearest = Math.min(score.nearest, row.tally.nearest);
  for (const [asker, { allows, refusals }] of row.tally.byAsker) {
    const sum = score.byAsker.get(asker) ?? { allows: 0, refusals: 0 };
    score.byAsker.set(asker, { allows: sum.allows + allows, refusals: sum.refusals + refusals });
  }
  return row;
}

async function onTopology(
  topology: Topology,
  wanted: (name: string) => boolean,
  seconds: number,
  score: Score,
): Promise<void> {
  const { faults, lacking = [] } = topology;
  for (const [name, reason] of lacking) score.skip(name, reason);
  const world = await World.start({ instances: 2, cells: 700, ...topology.world });
  try {
    await world.calm(SETTLE_MS);
    await topology.join?.(world);
    world.history.turn();
    for (const fault of faults.filter(({ name }) => wanted(name))) await one(world, fault, seconds, score);
  } finally {
    await world.stop();
    await topology.stop();
  }
}

import { setTimeout as delay } from "node:timers/promises";
import { auditProblems } from "./audit.ts";
import { bounded } from "./bounded.ts";
import type { Cell } from "./cells.ts";
import { BY_HAND_MS } from "./changes.ts";
import type { Subject, Tally } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ask, Load, type LoadOptions } from "./load.ts";
import { UNDETERMINED } from "./wire.ts";
import type { World } from "./world.ts";

/** A fault in the environment, and the probes that show it happened. */
export interface Fault {
  readonly name: string;
  /** Its needs besides the database. If one is missing, the fault is skipped and the output shows it. */
  readonly needs?: "redis";
  /** PostgreSQL begins another life: changes may run again, and leave an audit row each time. */
  readonly newEpoch?: boolean;
  /** Injects, holds and heals. */
  run(world: World, seconds: number): Promise<void>;
  readonly load?: Partial<LoadOptions>;
  /** This many times as long, if there is time. */
  readonly long?: number;
  /** It fails if it takes longer than this. */
  readonly boundMs?: number;
}

export interface Row {
  readonly name: string;
  readonly tally: Tally;
  readonly times: readonly { ms: number; mode: string }[];
  readonly changes: { ok: number; notDone: number; unknown: number };
  readonly healedMs: number | undefined;
  readonly problems: readonly string[];
}

export const LOAD: LoadOptions = { revokers: 5, batchRestMs: 25, changeRestMs: 40 };
const HEAL_MS = 12_000;

/** One fault under load, then its end: heal, check the state of every ended token, check the audit. */
export async function round(world: World, fault: Fault, seconds: number): Promise<Row> {
  const { history } = world;
  world.probes = [];
  if (world.left < 600) await world.stock(800);
  const first = history.attempts.length;
  const load = await Load.start(world, { ...LOAD, ...fault.load });
  const problems: string[] = [];
  await delay(200);
  try {
    await bounded(fault.run(world, seconds), fault.boundMs ?? 90_000, fault.name);
  } catch (error) {
    problems.push(`the fault failed: ${String((error as Error).stack ?? error).slice(0, 600)}`);
  }
  world.spared.clear();
  world.release();
  await bounded(load.stop(), 40_000, "the load").catch((error: Error) => problems.push(error.message));
  const healedMs = await world.calm(HEAL_MS);
  if (healedMs === undefined) problems.push(`not as before within ${HEAL_MS} ms`);
  problems.push(...(await sweep(world, load.ended)));
  const attempts = history.attempts.slice(first);
  problems.push(...(await auditProblems(world, attempts, fault.newEpoch ?? false)));
  problems.push(...world.probes.map((what) => `probe: ${what}`));
  const count = (outcome: string) => attempts.filter((attempt) => attempt.outcome === outcome).length;
  const changes = { ok: count("OK"), notDone: count("NOT_DONE"), unknown: count("UNKNOWN") };
  const tally = history.turn();
  return {
    name: fault.name,
    tally,
    times: load.times,
    changes,
    healedMs,
    problems: [...tally.violations, ...problems],
  };
}

/** Every instance must give the same answer about every token, whatever the callers received. */
async function sweep(world: World, cells: readonly Cell[]): Promise<string[]> {
  const subjects = cells.flatMap((cell) => cell.subjects);
  const open = subjects.flatMap(({ deadFrom, attempts }) => {
    const last = attempts.at(-1)?.returned;
    return deadFrom > performance.now() && last !== undefined ? [last + BY_HAND_MS + 200] : [];
  });
  // Changes that were committed without an OK are in force by then.
  if (open.length > 0) await delay(Math.max(0, Math.max(...open) - performance.now()));
  const problems: string[] = [];
  for (let at = 0; at < subjects.length; at += 100) {
    const some = subjects.slice(at, at + 100);
    const all = await Promise.all(world.instances.map((instance) => answers(world, instance, some)));
    for (const [i, subject] of some.entries()) {
      const said = new Set(all.map((verdicts) => verdicts[i]));
      if (said.size === 1 && !said.has(UNDETERMINED) && !said.has(undefined)) continue;
      problems.push(`${subject.id}: after the fault the instances say ${[...said].join(" and ")}`);
    }
  }
  return problems;
}

/** An instance with much to catch up may shed a call. */
async function answers(world: World, at: Instance, subjects: readonly Subject[]): Promise<number[]> {
  for (let left = 4; ; left--) {
    const verdicts = await ask(world.history, at, subjects);
    if (verdicts.length > 0 || left === 0) return verdicts;
    await delay(200);
  }
}

import { fetchProgram } from "../../scripts/fetch.ts";
import { hasPostgres, type ThrowawayServer } from "../support/postgres.ts";
import { haFaults } from "./ha-faults.ts";
import { HA_RESTORES, haRestore } from "./ha-restores.ts";
import { CannotRun, Cluster } from "./patroni.ts";
import { POSTGRES_15 } from "./patroni-member.ts";
import { type PrimaryProxy, startPrimaryProxy } from "./primary-proxy.ts";
import { one, Score, sumUp } from "./prove.ts";
import { header, print } from "./report.ts";
import type { Fault } from "./round.ts";
import { World } from "./world.ts";

interface HaOptions {
  readonly only: readonly string[] | undefined;
  readonly kills: number;
  /** Only the kills, and the cluster that loses changes. */
  readonly short: boolean;
  readonly historyFile: string | undefined;
}

/** A failover by the death of a host takes as long as its lock, so that only so many kills are of this kind. */
const MOST_HOSTS = 3;
const SETTLE_MS = 30_000;
const SECONDS = 1;
/** With fewer of them in a cell, it shows nothing. */
const LEAST_ALLOWS = 2_000;
const LEAST_CHANGES = 10;
/** Real failovers: two instances behind a proxy that follows the primary of a cluster of Patroni. */
export async function proveHa(options: HaOptions): Promise<Score> {
  const score = new Score();
  const wanted = (name: string) => options.only?.includes(name) ?? true;
  const all = planOf(options);
  const plan = all.filter(wanted);
  for (const name of options.only?.filter((one) => !all.includes(one)) ?? []) {
    score.judge(name, [`this run has no cell ${name}, but ${[...new Set(all)].join(", ")}`]);
  }
  header();
  const reason = plan.length === 0 ? undefined : ((await lacks()) ?? (await onCluster(plan, options, score)));
  if (reason !== undefined) for (const name of plan) score.skip(name, reason);
  sumUp(score);
  for (const problem of score.problems) print(problem);
  return score;
}

function planOf({ kills, short }: HaOptions): string[] {
  const hosts = Array<string>(Math.min(kills, MOST_HOSTS)).fill("ha-kill");
  const servers = Array<string>(Math.max(short ? 0 : 1, kills - MOST_HOSTS)).fill("ha-server-kill");
  return [
    ...hosts,
    ...servers,
    ...(short ? [] : ["ha-pause", "ha-patroni-kill"]),
    "ha-async",
    ...(short ? [] : HA_RESTORES),
  ];
}

/** The reason why it cannot run here; undefined if it can. */
async function lacks(): Promise<string | undefined> {
  if (!hasPostgres(15)) return "no PostgreSQL 15 of the system";
  const missing = await Promise.allSettled([fetchProgram("etcd"), fetchProgram("patroni")]);
  return missing.flatMap((one) => (one.status === "rejected" ? [(one.reason as Error).message] : []))[0];
}

/** Returns the reason if it cannot run here. */
async function onCluster(plan: readonly string[], options: HaOptions, score: Score): Promise<string | undefined> {
  const begun = performance.now();
  const cluster = await Cluster.start().catch((error: Error) => {
    if (error instanceof CannotRun) return error.message;
    throw error;
  });
  if (typeof cluster === "string") return cluster;
  print(`three members of Patroni after ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  const { historyFile } = options;
  try {
    const failovers = plan.filter((name) => !HA_RESTORES.includes(name));
    if (failovers.length > 0) {
      await withWorld(cluster, historyFile, score, async (world, proxy) => {
        const { faults, lateness } = haFaults(cluster, proxy);
        for (const name of failovers) await cell(world, faults.get(name)!, score);
        if (failovers.some((name) => name !== "ha-async")) score.judge("decisions", lateness());
      });
    }
    for (const name of plan.filter((one) => HA_RESTORES.includes(one))) {
      await withWorld(cluster, historyFile, score, async (world, proxy, after) => {
        const { fault, stop } = haRestore(name, cluster, proxy);
        after.push(stop);
        await cell(world, fault, score);
      });
    }
    return undefined;
  } finally {
    await cluster.stop();
  }
}

/** Two instances behind a proxy. What `work` adds to `after` is done once they have stopped. */
async function withWorld(
  cluster: Cluster,
  historyFile: string | undefined,
  score: Score,
  work: (world: World, proxy: PrimaryProxy, after: (() => Promise<void>)[]) => Promise<void>,
): Promise<void> {
  const proxy = await startPrimaryProxy(cluster.members);
  const after: (() => Promise<void>)[] = [];
  let world: World | undefined;
  try {
    world = await World.start({ instances: 2, cells: 900, server: behind(proxy), historyFile });
    await world.calm(SETTLE_MS);
    world.history.turn();
    await work(world, proxy, after);
  } finally {
    const ends = (await world?.stop()) ?? [];
    await proxy.stop();
    for (const stop of after) await stop();
    score.judge(
      "stop",
      ends.filter((how) => how !== "0").map((how) => `an instance ended with ${how}`),
    );
  }
}

async function cell(world: World, fault: Fault, score: Score): Promise<void> {
  const { tally, changes } = await one(world, fault, SECONDS, score);
  const idle = tally.allows < LEAST_ALLOWS || changes.ok < LEAST_CHANGES;
  score.judge(`${fault.name}, load`, idle ? [`only ${tally.allows} ALLOWs and ${changes.ok} changes`] : []);
}

/** The cluster manager starts and stops the servers behind it. */
function behind({ port }: PrimaryProxy): ThrowawayServer {
  const never = () => Promise.reject(new Error("that is the cluster's own work"));
  return {
    url: `postgres://sallyport@127.0.0.1:${port}/postgres`,
    port,
    dataDir: "",
    binDir: POSTGRES_15,
    pid: () => 0,
    signal: () => {},
    kill9: never,
    stop: never,
    restart: never,
    standby: never,
    remove: never,
  };
}

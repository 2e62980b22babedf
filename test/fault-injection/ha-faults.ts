import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { until } from "./bounded.ts";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import type { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ask } from "./load.ts";
import type { Cluster } from "./patroni.ts";
import { type Member, signal } from "./patroni-member.ts";
import type { PrimaryProxy } from "./primary-proxy.ts";
import { print } from "./report.ts";
import type { Fault } from "./round.ts";
import { ALLOW, UNDETERMINED } from "./wire.ts";
import { onServer, urlOf, type World } from "./world.ts";

/** Decisions come back within this time once the new leader takes commits: half of the times, and each time. */
const AFTER_FAILOVER_MS = 2_000;
const AT_MOST_MS = 6_000;
const BACK_MS = 20_000;
const PAUSE_MS = 30_000;
const ROUND_MS = 180_000;
/** The changes that are lost, and the others that lift the new leader's position above the old one. */
const LOST = 20;
const OTHERS = 25;

/** Asks every instance about one living token, all the time. */
class Watch {
  readonly #verdicts = new Map<Instance, number | undefined>();
  #lastRefusal = 0;
  #running = true;
  readonly #loops: Promise<void>[];

  constructor(world: World, cell: Cell) {
    this.#loops = world.instances.map(async (at) => {
      while (this.#running && !at.ended) {
        const asked = performance.now();
        const [verdict] = await ask(world.history, at, cell.subjects);
        this.#verdicts.set(at, verdict);
        if (verdict !== ALLOW) this.#lastRefusal = Math.max(this.#lastRefusal, asked);
        await delay(20);
      }
    });
  }

  /** True if the last answer of each instance was this one. */
  all(verdict: number): boolean {
    return this.#verdicts.size === this.#loops.length && [...this.#verdicts.values()].every((one) => one === verdict);
  }

  any(verdict: number): boolean {
    return [...this.#verdicts.values()].includes(verdict);
  }

  /** The start of the last call that was not answered with ALLOW. */
  async end(): Promise<number> {
    this.#running = false;
    await Promise.all(this.#loops);
    return this.#lastRefusal;
  }
}

/** What happens to a leader, and what must be true once another one has taken its place. */
interface Harm {
  readonly name: string;
  harm(old: Member): Promise<void>;
  after?(world: World, old: Member, leader: Member, there: Cell): Promise<void>;
}

const HARMS: readonly Harm[] = [
  { name: "ha-kill", harm: (old) => old.crash() },
  {
    // Patroni does not wait for it, so that another leader is there within seconds.
    name: "ha-server-kill",
    harm: async (old) => signal(old.processes()[0], "SIGKILL"),
  },
  {
    name: "ha-pause",
    async harm(old) {
      const pids = old.processes();
      const all = (name: NodeJS.Signals) => {
        old.signalPatroni(name);
        for (const pid of pids) signal(pid, name);
      };
      all("SIGSTOP");
      setTimeout(all, PAUSE_MS, "SIGCONT");
      if ((await old.roleBySql()) !== undefined) throw new Error("the leader does not stand still");
    },
    // It continues as a primary, until its Patroni sees that the lock is another's.
    after: async (world, old) => {
      world.probe("the old leader steps down", await until(async () => (await old.roleBySql()) === "standby", 60_000));
    },
  },
  {
    // No watchdog ends its server, which goes on as a second primary. The proxy has reset all connections to it.
    name: "ha-patroni-kill",
    harm: async (old) => old.signalPatroni("SIGKILL"),
    async after(world, old, leader, there) {
      const both = await Promise.all([old.isPrimary(), leader.isPrimary()]);
      world.probe("there are two primaries", both[0]! && both[1]!);
      world.probe("a token is revoked at the new one", await untilOk(world, there));
      for (const at of world.instances) await ask(world.history, at, there.subjects);
      // An instance that nobody took from it would still allow the token.
      world.probe("the old one does not know of it", (await livingOf(world, old.sql, there.subjects)) === 1);
      world.probe("the old one is still a primary", await old.isPrimary());
    },
  },
];

/** A leader that is gone or cut off in strict synchronous mode: no change that was OK is lost. */
function failover({ name, harm, after }: Harm, cluster: Cluster, late: number[]): Fault {
  return {
    name,
    newEpoch: true,
    boundMs: ROUND_MS,
    async run(world, seconds) {
      const old = await leaderOf(cluster);
      const [there] = await world.mint((mint) => mint.cells(1, { revoke: 1 }));
      world.probe("all allow before", await allAllow(world, there!));
      await delay(seconds * 1000);
      const watch = new Watch(world, there!);
      const began = performance.now();
      await harm(old);
      const { leader, promotedAt, writesAt } = await cluster.another(old);
      world.probe("all allow again", await until(() => watch.all(ALLOW), BACK_MS));
      const back = await watch.end();
      await after?.(world, old, leader, there!);
      const times = [promotedAt, writesAt, back].map((at) => `${((at - began) / 1000).toFixed(1)} s`);
      print(
        `  ${name}: ${old.name} to ${leader.name}, leader after ${times[0]}, commits ${times[1]}, decisions ${times[2]}`,
      );
      const ms = Math.round(back - writesAt);
      late.push(ms);
      world.probe(`decisions come back in time, not after ${ms} ms`, ms <= AT_MOST_MS);
      world.probe("there was an outage", back > began);
      await delay(seconds * 1000);
      await cluster.whole();
    },
  };
}

/**
 * The leader dies with changes that no standby has. The instances remember them, and redo them before the first ALLOW,
 * although other changes have taken their positions.
 */
function lossy(cluster: Cluster, proxy: PrimaryProxy): Fault {
  return {
    name: "ha-async",
    newEpoch: true,
    boundMs: ROUND_MS,
    async run(world) {
      const { history } = world;
      await cluster.synchronous(false);
      const old = await leaderOf(cluster);
      const [there, ...cells] = await world.mint((mint) => mint.cells(1 + LOST + OTHERS, { revoke: 1 }));
      const [lost, others] = [cells.slice(0, LOST), cells.slice(LOST)];
      for (const cell of [there!, ...lost]) world.probe("all allow before", await allAllow(world, cell));
      await world.hold();
      const senders = await stopSenders(old);
      world.probe("both standbys are cut off", senders.length === cluster.members.length - 1);
      for (const cell of lost) world.probe("it was ended", await untilOk(world, cell));
      const subjects = lost.flatMap((cell) => cell.subjects);
      history.lost(subjects);
      const before = await head(world, old.sql);
      const asked = askAll(world, subjects);
      await proxy.hold();
      await old.crash();
      const { leader } = await cluster.another(old);
      world.probe("all of them are lost", (await livingOf(world, leader.sql, subjects)) === LOST);
      const by = await changerOn(world, leader);
      for (const cell of others) await end({ ...cell, kind: "sql" }, world.instances[0]!, by);
      world.probe("others have their positions", (await head(world, leader.sql)) > before);
      await redoneFirst(world, leader.sql, there!, subjects, async () => proxy.follow());
      await asked.end();
      print(`  ha-async: ${old.name} to ${leader.name}, ${LOST} changes lost`);
      await by.close();
      world.release();
      await cluster.whole();
      await cluster.synchronous(true);
    },
  };
}

export function haFaults(cluster: Cluster, proxy: PrimaryProxy) {
  const late: number[] = [];
  const all = [...HARMS.map((harm) => failover(harm, cluster, late)), lossy(cluster, proxy)];
  return {
    faults: new Map(all.map((fault) => [fault.name, fault])),
    /** The median of the failovers so far: one alone may meet a busy machine. */
    lateness(): string[] {
      const median = late.sort((a, b) => a - b)[Math.floor(late.length / 2)];
      if (median === undefined) return ["no failover was measured"];
      return median <= AFTER_FAILOVER_MS ? [] : [`decisions come back ${median} ms after a failover`];
    },
  };
}

/** `open` leads the instances to a server that lacks the ends of these tokens. `there` lives on it. */
export async function redoneFirst(
  world: World,
  port: number,
  there: Cell,
  subjects: readonly Subject[],
  open: () => Promise<void>,
): Promise<void> {
  const watch = new Watch(world, there);
  world.probe("nobody decides", await until(() => watch.all(UNDETERMINED), BACK_MS));
  world.probe("all of them are lost", (await livingOf(world, port, subjects)) === subjects.length);
  const before = await replays(world, port);
  await open();
  world.probe("one allows", await until(() => watch.any(ALLOW), BACK_MS, 1));
  const redone = (await replays(world, port)) - before;
  world.probe(`all are redone before the first ALLOW, ${redone} of ${subjects.length}`, redone === subjects.length);
  world.probe("all allow again", await until(() => watch.all(ALLOW), BACK_MS));
  await watch.end();
  world.probe("none lives", (await livingOf(world, port, subjects)) === 0);
  world.probe("none is redone twice", (await replays(world, port)) - before === subjects.length);
}

export async function leaderOf(cluster: Cluster): Promise<Member> {
  const leader = await cluster.leader();
  if (leader === undefined) throw new Error("there is no leader");
  return leader;
}

/** Once the standbys have everything, they get no more. Returns the processes that stand still. */
async function stopSenders(leader: Member): Promise<number[]> {
  return onServer(leader.sql, "postgres", async (sql) => {
    const behind = "select from pg_stat_replication where replay_lsn is distinct from pg_current_wal_lsn()";
    if (!(await until(async () => (await sql.query(behind)).rowCount === 0))) throw new Error("the standbys lag");
    const { rows } = await sql.query<{ pid: number }>("select pid from pg_stat_replication where state = 'streaming'");
    const pids = rows.map(({ pid }) => pid);
    for (const pid of pids) signal(pid, "SIGSTOP");
    return pids;
  });
}

/** Asks about them everywhere and all the time. The judge knows that they have ended. */
export function askAll(world: World, subjects: readonly Subject[]): { end(): Promise<unknown> } {
  let running = true;
  const loops = world.instances.map(async (at) => {
    for (; running && !at.ended; await delay(10)) await ask(world.history, at, subjects);
  });
  return {
    end: () => {
      running = false;
      return Promise.all(loops);
    },
  };
}

/** SQL by hand on one member, past the proxy. */
async function changerOn(world: World, member: Member) {
  const sql = new pg.Client(urlOf(member.sql, world.database));
  sql.on("error", () => {});
  await sql.connect();
  const { history, adminToken } = world;
  return { history, adminToken, sql: async () => sql, close: () => sql.end() };
}

function count(world: World, port: number, query: string, values: unknown[] = []): Promise<number> {
  return onServer(port, world.database, async (sql) => {
    return (await sql.query<{ n: number }>(query, values)).rows[0]!.n;
  });
}

const head = (world: World, port: number) => count(world, port, "select n::int from sallyport.rev_head");

const replays = (world: World, port: number) =>
  count(world, port, "select count(*)::int as n from sallyport.audit where metadata ->> 'replayed' = 'true'");

const livingOf = (world: World, port: number, subjects: readonly Subject[]) =>
  count(world, port, "select count(*)::int as n from sallyport.tokens where id = any($1) and revoke_time is null", [
    subjects.map(({ id }) => id),
  ]);

export async function untilOk(world: World, cell: Cell): Promise<boolean> {
  const made = async () => (await end(cell, world.instances[0]!, world)).outcome === "OK";
  return until(made, BACK_MS);
}

export async function allAllow(world: World, cell: Cell): Promise<boolean> {
  return until(async () => {
    const answers = await Promise.all(world.instances.map((at) => ask(world.history, at, cell.subjects)));
    return answers.every(([verdict]) => verdict === ALLOW);
  }, BACK_MS);
}

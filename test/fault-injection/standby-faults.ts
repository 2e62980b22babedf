import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { ThrowawayServer } from "../support/postgres.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";
import { onServer, type World } from "./world.ts";

/** A standby that confirms every commit, and the link by which it follows. */
interface Pair {
  readonly standby: ThrowawayServer;
  readonly link: TcpProxy;
}

let pair: Pair | undefined;

/** Creates one if there is none. */
async function paired(world: World): Promise<Pair> {
  if (pair !== undefined) return pair;
  const standby = await world.standby();
  const link = await startTcpProxy({ port: world.server.port });
  const source = `host=127.0.0.1 port=${link.port} user=sallyport application_name=second`;
  await settings(standby.port, { primary_conninfo: source, wal_retrieve_retry_interval: "200ms" });
  await settings(world.server.port, { synchronous_standby_names: "second" });
  pair = { standby, link };
  await inSync(world);
  await world.calm(10_000);
  return pair;
}

async function settings(port: number, values: Readonly<Record<string, string>>): Promise<void> {
  await onServer(port, "postgres", async (sql) => {
    for (const [name, value] of Object.entries(values)) await sql.query(`alter system set ${name} = '${value}'`);
    await sql.query("select pg_reload_conf()");
  });
}

async function inSync(world: World): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const found = await onServer(world.server.port, "postgres", (sql) =>
      sql.query("select from pg_stat_replication where application_name = 'second' and sync_state = 'sync'"),
    ).catch(() => ({ rowCount: 0 }));
    if (found.rowCount === 1) return;
    await delay(50);
  }
  throw new Error("the standby does not follow");
}

const healthy: Fault = {
  name: "sync-standby",
  newEpoch: true,
  async run(world, seconds) {
    await paired(world);
    await delay(seconds * 1000);
    await inSync(world);
  },
};

/** It is cut off and comes back: waiting commits are confirmed after all. */
const frozen: Fault = {
  name: "sync-frozen",
  newEpoch: true,
  async run(world, seconds) {
    const { link } = await paired(world);
    await link.set({ kind: "blackhole" });
    await delay(seconds * 1000);
    world.probe("commits waited", (await waiting(world)) > 0);
    await joinAgain(world, link);
  },
};

async function joinAgain(world: World, link: TcpProxy): Promise<void> {
  // Swallowed bytes stay lost, so such a connection must not continue.
  await link.set({ kind: "reset" });
  await link.set({ kind: "pass" });
  await inSync(world);
}

/** Backends that wait for the standby's confirmation. */
async function waiting(world: World): Promise<number> {
  return onServer(world.server.port, "postgres", async (sql) => {
    const { rowCount } = await sql.query("select from pg_stat_activity where wait_event = 'SyncRep'");
    return rowCount ?? 0;
  });
}

const KINDS = ["revoke", "rotate", "oauth", "disable", "cut", "narrow"] as const;
const TRY_MS = 1_500;

/**
 * Changes while the standby is cut off, each repeated by another caller. Then the primary is fenced and the standby
 * takes over. A change that returned OK before is in force afterwards: no repeat may return OK for rows that only the
 * first call wrote.
 */
function failover(name: string, more: Readonly<Record<string, string>>): Fault {
  return {
    name,
    newEpoch: true,
    async run(world, seconds) {
      const { link } = await paired(world);
      await settings(world.server.port, more);
      await world.hold();
      const cells = (
        await world.mint((mint) => mint.cells(12, Object.fromEntries(KINDS.map((kind) => [kind, 1]))))
      ).map((cell): Cell => (cell.kind === "rotate" ? { ...cell, requestId: randomUUID() } : cell));
      for (const cell of cells) for (const at of world.instances) await ask(world.history, at, cell.subjects);
      await inSync(world);
      await link.set({ kind: "blackhole" });
      const [first, second] = world.instances;
      const firsts = Promise.all(cells.map((cell) => end(cell, first!, world, TRY_MS)));
      world.probe("commits waited", (await cancelled(world, firsts)) > 0);
      for (const at of [second!, first!]) await Promise.all(cells.map((cell) => end(cell, at, world, TRY_MS)));
      await takeOver(world, link);
      world.release();
      await delay(seconds * 700);
      for (const cell of cells) for (const at of world.instances) await ask(world.history, at, cell.subjects);
    },
  };
}

/** Ends each wait for the standby until those are done. The commit stands only on the primary, and is visible there. */
async function cancelled(world: World, work: Promise<unknown>): Promise<number> {
  let over = false;
  void work.finally(() => (over = true));
  let count = 0;
  for (let waited = 1; !over || waited > 0; await delay(150)) {
    waited = await onServer(world.server.port, "postgres", async (sql) => {
      const { rowCount } = await sql.query(
        "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'",
      );
      return rowCount ?? 0;
    });
    count += waited;
  }
  return count;
}

/** The primary never comes back. The standby has all confirmed rows, and maybe more. */
async function takeOver(world: World, link: TcpProxy): Promise<void> {
  const { standby } = pair!;
  pair = undefined;
  await world.server.kill9();
  await link.stop();
  await onServer(standby.port, "postgres", async (sql) => {
    const { rows } = await sql.query<{ done: boolean }>("select pg_promote(true, 20) as done");
    world.probe("the standby was promoted", rows[0]!.done);
  });
  await settings(standby.port, { synchronous_standby_names: "" });
  await world.promoted();
  await world.calm(10_000);
}

export async function synchronous(): Promise<Topology> {
  const faults = [
    healthy,
    frozen,
    failover("sync-failover", {}),
    failover("sync-local", { synchronous_commit: "local" }),
  ];
  const stop = async () => {
    await pair?.link.stop();
    pair = undefined;
  };
  return { world: {}, faults, stop };
}

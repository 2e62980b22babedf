import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { startServer } from "../support/postgres.ts";
import { end } from "./changes.ts";
import { ask } from "./load.ts";
import { caughtUp } from "./postgres-faults.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";
import { onServer, type World } from "./world.ts";

/** The pooler may ask for TLS first, and has no name then. */
const ANY = /^/;

const healthy: Fault = {
  name: "pooler",
  async run(world, seconds) {
    const before = await transactions(world);
    await delay(seconds * 1000);
    world.probe("reads and changes go by the pooler", (await transactions(world)) - before > 10);
    world.probe(
      "polls do not",
      world.instances.every(({ pg }) => pg.count(/^sallyport-poll$/) > 0),
    );
  },
};

/** Transactions that it has carried, as its console counts them. */
async function transactions(world: World): Promise<number> {
  return onServer(world.pooler!.program.port, "pgbouncer", async (sql: pg.Client) => {
    const { rows } = await sql.query<{ database: string; total_xact_count: string }>("show stats");
    return Number(rows.find(({ database }) => database === world.database)?.total_xact_count ?? 0);
  });
}

const paused: Fault = {
  name: "pooler-pause",
  async run(world, seconds) {
    const { program } = world.pooler!;
    await program.command(`pause ${world.database}`);
    await delay(Math.max(2_000, seconds * 1000));
    await program.command(`resume ${world.database}`);
    await delay(300);
  },
};

const killed: Fault = {
  name: "pooler-kill",
  async run(world, seconds) {
    const { program, upstream } = world.pooler!;
    const before = upstream.seen.connections;
    await program.kill9();
    await delay(seconds * 500);
    await program.restart();
    await delay(seconds * 700);
    world.probe("it is used again", upstream.seen.connections > before);
  },
};

/**
 * The pooler leads to a standby that stands still, while polls see the primary. A decision on rows of the standby would
 * rest on old rows.
 */
const toStandby: Fault = {
  name: "pooler-standby",
  newEpoch: true,
  async run(world, seconds) {
    const { program, upstream } = world.pooler!;
    const standby = await world.standby();
    await world.calm(5_000);
    await caughtUp(world, standby.port);
    await onServer(standby.port, "postgres", (sql) => sql.query("select pg_wal_replay_pause()"));
    await world.hold();
    // Some that the standby will never know, and a caller must not take them for unknown tokens.
    const kinds = ["revoke", "oauth", "cut", "filter", "bulk", "disable"] as const;
    const cells = await world.mint((mint) => mint.cells(12, Object.fromEntries(kinds.map((kind) => [kind, 1]))));
    for (const cell of cells) for (const at of world.instances) await ask(world.history, at, cell.subjects);
    const before = upstream.seen.connections;
    upstream.set({ port: standby.port }, ANY);
    upstream.reset(ANY);
    await delay(100);
    await Promise.all(cells.map((cell, i) => end(cell, world.instances[i % world.instances.length]!, world, 4_000)));
    world.probe("it was led to the standby", upstream.seen.connections > before);
    world.release();
    await delay(seconds * 500);
    upstream.clear();
    upstream.reset(ANY);
    await program.command("reconnect").catch(() => {});
    await onServer(standby.port, "postgres", (sql) => sql.query("select pg_wal_replay_resume()"));
    await world.calm(8_000);
    for (const cell of cells) for (const at of world.instances) await ask(world.history, at, cell.subjects);
  },
};

export async function pooled(): Promise<Topology> {
  const server = await startServer({ settings: { max_connections: "80" } });
  return { world: { server, pooled: true }, faults: [healthy, paused, killed, toStandby], stop: () => server.remove() };
}

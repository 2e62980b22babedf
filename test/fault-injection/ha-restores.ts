import { execFile as execFileWithCallback } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { startServer } from "../support/postgres.ts";
import { allAllow, askAll, leaderOf, redoneFirst, untilOk } from "./ha-faults.ts";
import type { Cluster } from "./patroni.ts";
import { POSTGRES_15 } from "./patroni-member.ts";
import type { PrimaryProxy } from "./primary-proxy.ts";
import type { Fault } from "./round.ts";
import { onServer, type World } from "./world.ts";

const execFile = promisify(execFileWithCallback);
const LOST = 10;

interface Restored {
  readonly port: number;
  stop(): Promise<void>;
}

/** Keeps the present state; the function brings it back on another server. */
type Keep = (cluster: Cluster, world: World) => Promise<() => Promise<Restored>>;

const KEEPS: Readonly<Record<string, Keep>> = {
  "ha-base-backup": async (cluster) => cluster.baseBackup(await leaderOf(cluster)),
  "ha-dump": dump,
};

export const HA_RESTORES: readonly string[] = Object.keys(KEEPS);

/**
 * The cluster is given up, and an older state of it comes back on another server. The instances run through it, and redo
 * what they remember. Each needs its own instances, and leaves a server to stop.
 */
export function haRestore(name: string, cluster: Cluster, proxy: PrimaryProxy) {
  let restored: Restored | undefined;
  const fault: Fault = {
    name,
    newEpoch: true,
    boundMs: 120_000,
    async run(world, seconds) {
      const [there, ...lost] = await world.mint((mint) => mint.cells(1 + LOST, { revoke: 1 }));
      for (const cell of [there!, ...lost]) world.probe("all allow before", await allAllow(world, cell));
      await world.hold();
      const bringBack = await KEEPS[name]!(cluster, world);
      for (const cell of lost) world.probe("it was ended", await untilOk(world, cell));
      const subjects = lost.flatMap((cell) => cell.subjects);
      world.history.lost(subjects);
      const asked = askAll(world, subjects);
      await proxy.hold();
      const server = await bringBack();
      restored = server;
      await redoneFirst(world, server.port, there!, subjects, () => proxy.leadTo(server.port));
      await asked.end();
      world.release();
      await delay(seconds * 1000);
    },
  };
  return { fault, stop: async () => restored?.stop() };
}

/** As an operator does it, with the roles of the old server. */
async function dump(_: Cluster, world: World): Promise<() => Promise<Restored>> {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-dump-"));
  const [roles, data] = [join(folder, "roles"), join(folder, "data")];
  const run = (program: string, port: number, ...words: string[]) =>
    execFile(join(POSTGRES_15, program), ["-h", "127.0.0.1", "-p", String(port), "-U", "sallyport", ...words]);
  const { database, server: old } = world;
  await run("pg_dumpall", old.port, "-l", "postgres", "--roles-only", "--file", roles);
  await run("pg_dump", old.port, "--format=custom", "--file", data, database);
  return async () => {
    const { port, remove } = await startServer({ major: 15, settings: { max_connections: "80" } });
    await onServer(port, "postgres", (sql) => sql.query(`create database ${database}`));
    // One of them is there already.
    await run("psql", port, "--quiet", "--dbname=postgres", "--file", roles);
    await run("pg_restore", port, "--dbname", database, data);
    await rm(folder, { recursive: true });
    return { port, stop: remove };
  };
}

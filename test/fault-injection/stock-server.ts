import { setTimeout as delay } from "node:timers/promises";
import { startServer } from "../support/postgres.ts";
import { end } from "./changes.ts";
import { revocable } from "./instance-faults.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";

/** The defaults of a system package, where the server of the test suites has others. */
const STOCK = { jit: "on", shared_buffers: "128MB", max_wal_size: "1GB", max_connections: "100" };
const TIMES = 8;

/** An untuned server, with tables that were never analysed. No statement of ours may trigger JIT compilation there. */
const stockServer: Fault = {
  name: "stock-server",
  async run(world, seconds) {
    let acked = 0;
    for (let i = 0; i < TIMES; i++) {
      const { detail } = await end(await revocable(world), world.instances[0]!, world);
      if (detail === "ACKED") acked++;
    }
    await delay(seconds * 1000);
    const [compiled] = await world.rows<{ n: number; worst: string | null }>(
      `select coalesce(sum(jit_functions), 0)::int as n, max(left(query, 60)) as worst from pg_stat_statements
       where query like '%pg_is_in_recovery%' and jit_functions > 0`,
    );
    world.probe(`changes are acknowledged, ${acked} of ${TIMES}`, acked > TIMES / 2);
    world.probe(`nothing is compiled: ${compiled!.n} functions of ${compiled!.worst?.trim()}`, compiled!.n === 0);
  },
};

export async function stock(): Promise<Topology> {
  const settings = { ...STOCK, shared_preload_libraries: "pg_stat_statements" };
  const server = await startServer({ major: 15, settings });
  return {
    world: { server, prepare: ["create extension pg_stat_statements"] },
    faults: [stockServer],
    stop: () => server.remove(),
  };
}

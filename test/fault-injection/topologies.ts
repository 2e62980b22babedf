import { existsSync } from "node:fs";
import { fetchProgram } from "../../scripts/fetch.ts";
import { hasPostgres } from "../support/postgres.ts";
import { redisProgram } from "../support/redis.ts";
import { CLIENT_FAULT_NAMES, clients } from "./client-faults.ts";
import { pooled } from "./pooler-faults.ts";
import { cluster, sentinel } from "./redis-topologies.ts";
import { DUMP_FAULTS, dumps } from "./restore-faults.ts";
import type { Fault } from "./round.ts";
import { synchronous } from "./standby-faults.ts";
import { stock } from "./stock-server.ts";
import type { World, WorldOptions } from "./world.ts";

/** A deployment of another kind, with its own faults. */
export interface Topology {
  readonly world: Partial<WorldOptions>;
  readonly faults: readonly Fault[];
  /** Parts of it that cannot run here, each with its reason. */
  readonly lacking?: readonly (readonly [name: string, reason: string])[];
  /** What joins the instances before the first fault. */
  join?(world: World): Promise<void>;
  stop(): Promise<void>;
}

interface Plan {
  /** The names of its faults, for selection. */
  readonly faults: readonly string[];
  /** The reason why it cannot run here; undefined if it can. */
  lacks(): Promise<string | undefined>;
  start(): Promise<Topology>;
}

const lacksRedis = () => reasonOf(redisProgram());
const lacksPooler = () => reasonOf(fetchProgram("pgbouncer"));
const lacksStock = async () => {
  if (!hasPostgres(15)) return "no PostgreSQL 15 of the system";
  return existsSync("/usr/lib/postgresql/15/lib/llvmjit.so") ? undefined : "that PostgreSQL has no JIT";
};

export const TOPOLOGIES: readonly Plan[] = [
  { faults: ["cluster", "cluster-node-kill"], lacks: lacksRedis, start: cluster },
  { faults: ["sentinel-failover"], lacks: lacksRedis, start: sentinel },
  {
    faults: DUMP_FAULTS.map(({ name }) => name),
    lacks: async () => (hasPostgres(15) ? undefined : "no PostgreSQL 15 of the system"),
    start: dumps,
  },
  { faults: ["stock-server"], lacks: lacksStock, start: stock },
  {
    faults: ["pooler", "pooler-pause", "pooler-kill", "pooler-standby"],
    lacks: lacksPooler,
    start: pooled,
  },
  { faults: CLIENT_FAULT_NAMES, lacks: async () => undefined, start: clients },
  {
    faults: ["sync-standby", "sync-frozen", "sync-failover", "sync-local"],
    lacks: async () => undefined,
    start: synchronous,
  },
];

function reasonOf(program: Promise<unknown>): Promise<string | undefined> {
  return program.then(
    () => undefined,
    (error: Error) => error.message,
  );
}

import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { giveTo, type Runner, start } from "../../src/embedded/runner.ts";
import { bounded } from "./bounded.ts";
import { onServer } from "./world.ts";

export const POSTGRES_15 = "/usr/lib/postgresql/15/bin";
/** The least that Patroni allows. A dead leader's lock lasts this long. */
const TTL_S = 20;
const ANSWER_MS = 1_000;

/** What the members of a cluster share. */
export interface Home {
  readonly folder: string;
  readonly sockets: string;
  readonly starter: string;
  readonly runner: Runner;
}

interface Place extends Home {
  readonly name: string;
  /** Ports. */
  readonly etcd: number;
  readonly sql: number;
  readonly api: number;
}

/** One Patroni and its server. */
export class Member {
  readonly name: string;
  readonly sql: number;
  readonly dataDir: string;
  log = "";
  readonly #place: Place;
  #child: ChildProcess | undefined;

  constructor(place: Place) {
    this.#place = place;
    this.name = place.name;
    this.sql = place.sql;
    this.dataDir = join(place.folder, place.name);
  }

  get runs(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.#place.api}/${path}`;
  }

  async start(): Promise<void> {
    const { folder, name, starter, runner } = this.#place;
    const file = join(folder, `${name}.yaml`);
    await writeFile(file, JSON.stringify(configOf(this.#place, this.dataDir)), { mode: 0o644 });
    await mkdir(this.dataDir, { mode: 0o700, recursive: true });
    await giveTo(runner, this.dataDir);
    const child = start(runner, starter, [file]);
    child.on("error", () => {});
    child.stderr!.setEncoding("utf8").on("data", (text: string) => (this.log = (this.log + text).slice(-20_000)));
    this.#child = child;
  }

  async isPrimary(): Promise<boolean> {
    return (await this.roleBySql()) === "primary";
  }

  /** Undefined while its server does not answer. */
  async roleBySql(): Promise<"primary" | "standby" | undefined> {
    const answer = onServer(this.sql, "postgres", (sql) => sql.query("select pg_is_in_recovery() as standby"));
    const known = await bounded(answer, ANSWER_MS, this.name).catch(() => undefined);
    return known && (known.rows[0].standby ? "standby" : "primary");
  }

  /** The server's processes, the postmaster first. The file of a dead one may name a stranger. */
  processes(): number[] {
    try {
      const [pid] = readFileSync(join(this.dataDir, "postmaster.pid"), "latin1").split("\n").map(Number);
      if (!readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(`\0${this.dataDir}\0`)) return [];
      const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim();
      return [pid!, ...(children === "" ? [] : children.split(" ").map(Number))];
    } catch {
      return [];
    }
  }

  signalPatroni(name: NodeJS.Signals): void {
    signal(this.#child?.pid, name);
  }

  signalServer(name: NodeJS.Signals): void {
    for (const pid of this.processes()) signal(pid, name);
  }

  /** Both at once, like a host that loses its power. */
  async crash(): Promise<void> {
    const gone = this.#child !== undefined && this.runs ? once(this.#child, "exit") : undefined;
    const pids = this.processes();
    this.signalPatroni("SIGKILL");
    // Those that must send nothing more stand still, and end first.
    for (const pid of pids.toReversed()) signal(pid, "SIGKILL");
    await gone;
  }

  /** A new copy of the leader's data. */
  async renew(): Promise<void> {
    const body = JSON.stringify({ force: true });
    await fetch(this.url("reinitialize"), { method: "POST", body, signal: AbortSignal.timeout(5_000) }).catch(() => {});
  }

  /** For good, and at once. The server cleans up after itself. */
  end(): void {
    this.signalPatroni("SIGKILL");
    this.signalServer("SIGCONT");
    signal(this.processes()[0], "SIGQUIT");
  }
}

/** YAML is a superset of JSON. */
function configOf({ name, etcd, api, sql, sockets }: Place, dataDir: string): object {
  const here = (port: number) => `127.0.0.1:${port}`;
  const settings = { max_connections: 100, shared_buffers: "32MB", max_wal_size: "256MB", wal_keep_size: "128MB" };
  const trusted = ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"];
  return {
    scope: "ha",
    name,
    restapi: { listen: here(api), connect_address: here(api) },
    etcd3: { host: here(etcd) },
    bootstrap: {
      dcs: {
        ttl: TTL_S,
        loop_wait: 2,
        retry_timeout: 5,
        // Which standby is behind must not decide: commits are lost on purpose.
        maximum_lag_on_failover: 1 << 30,
        // A server that crashed is not waited for.
        primary_start_timeout: 0,
        synchronous_mode: true,
        synchronous_mode_strict: true,
        postgresql: { use_pg_rewind: true, parameters: settings },
      },
      initdb: [{ encoding: "UTF8" }, { locale: "C.UTF-8" }, { auth: "trust" }, "data-checksums"],
    },
    postgresql: {
      listen: here(sql),
      connect_address: here(sql),
      data_dir: dataDir,
      bin_dir: POSTGRES_15,
      pgpass: join(sockets, `${name}.pgpass`),
      authentication: {
        superuser: { username: "sallyport", password: "x" },
        replication: { username: "replicator", password: "x" },
      },
      parameters: { unix_socket_directories: sockets },
      pg_hba: trusted,
      // A new copy of a member otherwise waits for a checkpoint that takes minutes after much load.
      basebackup: [{ checkpoint: "fast" }],
    },
    watchdog: { mode: "off" },
  };
}

export function signal(pid: number | undefined, name: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}

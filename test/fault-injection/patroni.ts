import { type ChildProcess, execFile as execFileWithCallback } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { fetchProgram } from "../../scripts/fetch.ts";
import { firstWorking, giveTo, runners, runToEnd, start } from "../../src/embedded/runner.ts";
import { launch, type Server } from "../../src/embedded/server.ts";
import { until } from "./bounded.ts";
import { type Home, Member, POSTGRES_15, signal } from "./patroni-member.ts";
import { onServer } from "./world.ts";

/** Within this time a cluster is there. Idle it takes about ten seconds. */
const START_MS = 90_000;
/** A member that has not caught up by then gets a new copy: after a rewind it may stay in the state `starting`. */
const REWIND_MS = 25_000;
const AGAIN_MS = 40_000;

/** What it is told about a member by any other one. */
interface Seen {
  readonly name: string;
  readonly role: string;
  readonly state: string;
  readonly timeline?: number;
}

/** This machine has no way to run it. The message says why. */
export class CannotRun extends Error {}

/** PostgreSQL 15 under Patroni: three members, and one etcd that they agree by. */
export class Cluster {
  readonly members: readonly Member[];
  readonly #home: Home;
  readonly #etcd: ChildProcess;
  readonly #forget: () => void;
  #strict = true;

  private constructor(members: readonly Member[], home: Home, etcd: ChildProcess) {
    this.members = members;
    this.#home = home;
    this.#etcd = etcd;
    const end = () => {
      this.#end();
      const clock = new Int32Array(new SharedArrayBuffer(4));
      for (let look = 0; look < 100 && this.#alive().length > 0; look++) Atomics.wait(clock, 0, 0, 50);
      for (const pid of this.#alive()) signal(pid, "SIGKILL");
      rmSync(home.folder, { recursive: true, force: true, maxRetries: 5 });
    };
    const interrupted = () => process.exit(130);
    process.once("exit", end).once("SIGINT", interrupted).once("SIGTERM", interrupted);
    this.#forget = () => process.off("exit", end).off("SIGINT", interrupted).off("SIGTERM", interrupted);
  }

  /** In strict synchronous mode. */
  static async start(): Promise<Cluster> {
    const [etcd, patroni] = await Promise.all([fetchProgram("etcd"), fetchProgram("patroni")]);
    const folder = await mkdtemp(join(tmpdir(), "sallyport-ha-"));
    const sockets = join(folder, "run");
    await mkdir(sockets, { mode: 0o700 });
    const starter = join(folder, "patroni");
    const python = (await promisify(execFileWithCallback)("python3", ["-c", "import sys; print(sys.executable)"]))
      .stdout;
    await writeFile(starter, `#!/bin/sh\nPYTHONPATH='${patroni}' exec '${python.trim()}' -m patroni "$@"\n`);
    await chmod(starter, 0o755);
    const way = await firstWorking(await runners(undefined), starter, folder, sockets);
    if (!("runner" in way)) {
      await rm(folder, { recursive: true });
      throw new CannotRun(`Patroni cannot run here: ${way.reason}`);
    }
    const { runner } = way;
    const home = { folder, sockets, starter, runner };
    const [client, peer, ...ports] = await freePorts(8);
    const store = join(folder, "etcd");
    await mkdir(store, { mode: 0o700 });
    await giveTo(runner, store);
    const at = (port: number | undefined) => `http://127.0.0.1:${port}`;
    const words = {
      name: "one",
      "data-dir": store,
      "listen-client-urls": at(client),
      "advertise-client-urls": at(client),
      "listen-peer-urls": at(peer),
      "initial-advertise-peer-urls": at(peer),
      "initial-cluster": `one=${at(peer)}`,
    };
    const args = Object.entries(words).map(([name, value]) => `--${name}=${value}`);
    const agreed = start(runner, etcd, args);
    agreed.on("error", () => {});
    agreed.stderr!.resume();
    const members = ["m1", "m2", "m3"].map(
      (name, i) => new Member({ ...home, name, etcd: client!, sql: ports[i]!, api: ports[i + 3]! }),
    );
    const cluster = new Cluster(members, home, agreed);
    try {
      if (!(await until(() => healthy(`${at(client)}/health`), START_MS))) throw new Error("etcd does not start");
      for (const member of members) await member.start();
      await cluster.whole(START_MS);
      return cluster;
    } catch (error) {
      const logs = members.map(({ name, log }) => `${name}: ${log.slice(-600)}`).join("\n");
      await cluster.stop();
      throw new Error(`${(error as Error).message}\n${logs}`);
    }
  }

  /** The member that is the primary by its own SQL: by its web interface one in recovery may be, too. */
  async leader(): Promise<Member | undefined> {
    const primaries = await Promise.all(this.members.map((member) => member.isPrimary()));
    return this.members[primaries.indexOf(true)];
  }

  /** Waits for another leader than `old`. Returns it, and the time by which it took a commit in its own mode. */
  async another(old: Member): Promise<{ leader: Member; promotedAt: number; writesAt: number }> {
    let leader: Member | undefined;
    const others = this.members.filter((member) => member !== old);
    const found = await until(async () => {
      const primaries = await Promise.all(others.map((member) => member.isPrimary()));
      leader = others[primaries.indexOf(true)];
      return leader !== undefined;
    }, 60_000);
    if (!found || leader === undefined) throw new Error("no other member became the leader");
    const promotedAt = performance.now();
    await onServer(leader.sql, "postgres", async (sql) => {
      // In strict mode a commit counts once a standby confirms it. A new leader has none for a moment.
      const confirmed = "select from pg_stat_replication where sync_state = 'sync' and state = 'streaming'";
      if (this.#strict) await until(async () => (await sql.query(confirmed)).rowCount !== 0, 30_000);
      await sql.query("select pg_logical_emit_message(true, 'ha', '')");
    });
    return { leader, promotedAt, writesAt: performance.now() };
  }

  /** Waits until all follow one leader and, in strict mode, one of them confirms its commits. Starts the missing ones. */
  async whole(withinMs = REWIND_MS): Promise<void> {
    for (const member of this.members) if (!member.runs) await member.start();
    if (await until(() => this.#isWhole(), withinMs, 200)) return;
    for (const member of await this.#behind()) await member.renew();
    if (await until(() => this.#isWhole(), AGAIN_MS, 200)) return;
    throw new Error(`the cluster is not whole: ${JSON.stringify(await this.#seen())}`);
  }

  /** A base backup of a member, and a function that starts it as a server of its own. */
  async baseBackup({ sql }: Member): Promise<() => Promise<Server>> {
    const { folder, sockets, runner } = this.#home;
    const copy = join(folder, "copy");
    await mkdir(copy, { mode: 0o700 });
    await giveTo(runner, copy);
    const from = ["-h", "127.0.0.1", "-p", String(sql), "-U", "sallyport"];
    const program = join(POSTGRES_15, "pg_basebackup");
    await runToEnd(runner, program, [...from, "-D", copy, "--checkpoint=fast", "--wal-method=stream"]);
    const settings = { synchronous_standby_names: "" };
    const postgres = join(POSTGRES_15, "postgres");
    return () => launch({ runner, postgres, pgDir: copy, socketDir: sockets, settings, log: () => {} });
  }

  /** Commits wait for a standby, or for nobody. */
  async synchronous(strict: boolean): Promise<void> {
    this.#strict = strict;
    const [leader] = (await this.#seen()).filter(({ role }) => role === "leader");
    const member = this.members.find(({ name }) => name === leader?.name);
    if (member === undefined) throw new Error("there is no leader");
    const body = JSON.stringify({ synchronous_mode: strict, synchronous_mode_strict: strict });
    const answer = await fetch(member.url("config"), { method: "PATCH", body, signal: AbortSignal.timeout(5_000) });
    if (!answer.ok) throw new Error(`Patroni answered ${answer.status}`);
    const done = await until(() =>
      onServer(member.sql, "postgres", async (sql) => {
        const { rows } = await sql.query<{ names: string }>(
          "select current_setting('synchronous_standby_names') as names",
        );
        return (rows[0]!.names !== "") === strict;
      }),
    );
    if (!done) throw new Error("Patroni does not apply the mode");
    await this.whole();
  }

  async #isWhole(): Promise<boolean> {
    const seen = await this.#seen();
    const leader = seen.find(({ role }) => role === "leader");
    if (leader === undefined || seen.length !== this.members.length) return false;
    const rest = seen.filter((other) => other !== leader);
    const follows = rest.every(({ state, timeline }) => state === "streaming" && timeline === leader.timeline);
    const confirmed = !this.#strict || rest.some(({ role }) => role === "sync_standby");
    return follows && confirmed && (await this.leader())?.name === leader.name;
  }

  async #behind(): Promise<Member[]> {
    const seen = await this.#seen();
    const good = seen.filter(({ role, state }) => role === "leader" || state === "streaming");
    return this.members.filter(({ name }) => good.length > 0 && !good.some((other) => other.name === name));
  }

  async #seen(): Promise<readonly Seen[]> {
    const answers = this.members.map(async (member) => {
      const answer = await fetch(member.url("cluster"), { signal: AbortSignal.timeout(2_000) });
      return ((await answer.json()) as { members?: Seen[] }).members ?? [];
    });
    return Promise.any(answers).catch(() => []);
  }

  #end(): void {
    for (const member of this.members) member.end();
    signal(this.#etcd.pid, "SIGKILL");
  }

  /** The processes of all servers. */
  #alive(): number[] {
    return this.members.flatMap((member) => member.processes());
  }

  async stop(): Promise<void> {
    this.#end();
    await until(() => this.#alive().length === 0);
    for (const pid of this.#alive()) signal(pid, "SIGKILL");
    this.#forget();
    await rm(this.#home.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function healthy(url: string): Promise<boolean> {
  return fetch(url, { signal: AbortSignal.timeout(1_000) }).then(
    ({ ok }) => ok,
    () => false,
  );
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => server.listening || once(server, "listening")));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  await delay(0);
  return ports;
}

import { existsSync } from "node:fs";
import { appendFile, cp, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { hydrate, packagedInstallation } from "../../src/embedded/binaries.ts";
import { firstWorking, giveTo, type Runner, runners, runToEnd } from "../../src/embedded/runner.ts";
import { launch } from "../../src/embedded/server.ts";

export type ThrowawayServer = Readonly<{
  /** Stays the same over restarts. */
  url: string;
  port: number;
  dataDir: string;
  /** The folder with initdb, postgres and, for major 15, the client programs. */
  binDir: string;
  /** The process id of the present postmaster. */
  pid(): number;
  signal(name: "SIGSTOP" | "SIGCONT"): void;
  /** Ends the postmaster like a crash; its backends notice and follow. */
  kill9(): Promise<void>;
  stop(): Promise<void>;
  /** Starts it again on the same port, after stopping it if it runs. */
  restart(): Promise<void>;
  /** A streaming replica of it, from a copy made while it is stopped; `select pg_promote()` makes it a primary. */
  standby(): Promise<ThrowawayServer>;
  /** Stops it and deletes its files. */
  remove(): Promise<void>;
}>;

type Place = Readonly<{ folder: string; dataDir: string; socketDir: string; binDir: string; runner: Runner }>;

/** True if this machine has that PostgreSQL: for `test.skipIf`, so that the output shows a missing one. */
export function hasPostgres(major: 15 | 18): boolean {
  return major === 18 || existsSync("/usr/lib/postgresql/15/bin/postgres");
}

/** A server for one test, which may harm it. Superuser and database `sallyport`, no password. */
export async function startServer(
  options: { major?: 15 | 18; fsync?: boolean; settings?: Record<string, string> } = {},
): Promise<ThrowawayServer> {
  const { major = 18, fsync = true, settings = {} } = options;
  const place = await makePlace(major);
  const cluster = [
    "-D",
    place.dataDir,
    "-U",
    "sallyport",
    "-E",
    "UTF8",
    "--locale=C.UTF-8",
    "-A",
    "trust",
    "--no-sync",
  ];
  await runToEnd(place.runner, join(place.binDir, "initdb"), cluster);
  const durability: Record<string, string> = fsync ? {} : { fsync: "off", full_page_writes: "off" };
  const server = await serve(place, major, { ...durability, ...settings });
  const admin = new pg.Client(server.url.replace(/sallyport$/, "postgres"));
  await admin.connect();
  await admin.query("create database sallyport");
  await admin.end();
  return server;
}

async function makePlace(major: 15 | 18): Promise<Place> {
  const installation = major === 18 ? await packagedInstallation() : "/usr/lib/postgresql/15";
  await hydrate(installation);
  const binDir = join(installation, "bin");
  const folder = await mkdtemp(join(tmpdir(), "sallyport-pg-"));
  const socketDir = join(folder, "run");
  const dataDir = join(folder, "pg");
  for (const path of [socketDir, dataDir]) await mkdir(path, { mode: 0o700 });
  const way = await firstWorking(await runners(undefined), join(binDir, "postgres"), folder, socketDir);
  if (!("runner" in way)) throw new Error(`PostgreSQL ${major} cannot run here: ${way.reason}`);
  await giveTo(way.runner, dataDir);
  return { folder, dataDir, socketDir, binDir, runner: way.runner };
}

async function serve(place: Place, major: 15 | 18, settings: Record<string, string>): Promise<ThrowawayServer> {
  const { folder, dataDir, socketDir, binDir, runner } = place;
  const postgres = join(binDir, "postgres");
  const up = (at?: number) =>
    launch({ runner, postgres, pgDir: dataDir, socketDir, port: at, settings, log: () => {} });
  let server = await up();
  let paused = false;
  const { port } = server;

  const stop = () => {
    if (paused) process.kill(server.pid, "SIGCONT");
    paused = false;
    return server.stop();
  };
  const restart = async () => {
    await stop();
    // After kill9 the last backends may hold the shared memory, or the port, for a moment.
    for (let attempt = 1; ; attempt++) {
      const next = await up(port).catch((error) => {
        if (attempt === 50) throw error;
      });
      if (next) return void (server = next);
      await delay(100);
    }
  };
  const standby = async () => {
    const copy = await makePlace(major);
    await stop();
    await cp(dataDir, copy.dataDir, { recursive: true, verbatimSymlinks: true });
    await restart();
    await appendFile(join(copy.dataDir, "standby.signal"), "");
    await appendFile(
      join(copy.dataDir, "postgresql.auto.conf"),
      `primary_conninfo = 'host=127.0.0.1 port=${port} user=sallyport'\n`,
    );
    if (copy.runner.owner) await runToEnd(asWeAre, "chown", ["-R", String(copy.runner.owner.uid), copy.dataDir]);
    return serve(copy, major, settings);
  };

  return {
    url: `postgres://sallyport@127.0.0.1:${port}/sallyport`,
    port,
    dataDir,
    binDir,
    pid: () => server.pid,
    signal: (name) => {
      process.kill(server.pid, name);
      paused = name === "SIGSTOP";
    },
    kill9: () => {
      paused = false;
      process.kill(server.pid, "SIGKILL");
      return server.exited;
    },
    stop,
    restart,
    standby,
    remove: async () => {
      await stop();
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

const asWeAre: Runner = { prefix: [], diesWithUs: false };

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { StartError } from "../../src/domain/start-error.ts";
import { copyInstallation, hydrate, packagedInstallation } from "../../src/embedded/binaries.ts";
import { type Embedded, runningEmbedded, startEmbedded } from "../../src/embedded/embedded.ts";
import { firstWorking, runners, runToEnd } from "../../src/embedded/runner.ts";
import { launch } from "../../src/embedded/server.ts";

const MODULE = new URL("../../src/embedded/embedded.ts", import.meta.url).href;
const isRoot = process.getuid?.() === 0;
const linux = process.platform === "linux";

/** Runs the rest of the command line where user namespaces cannot be created. Only root can arrange that. */
const WITHOUT_UNSHARE = [
  ...["unshare", "-m", "sh", "-c", 'mount --bind /bin/false /usr/bin/unshare && exec "$@"', "sh"],
];
const canHide = isRoot && linux && spawnSync(WITHOUT_UNSHARE[0]!, [...WITHOUT_UNSHARE.slice(1), "true"]).status === 0;

/** A program that starts PostgreSQL on a folder, reports it in one line of JSON, and stops it on SIGTERM. */
const OWNER_PROGRAM = `
  const { startEmbedded } = await import(${JSON.stringify(MODULE)});
  const { url, pid } = await startEmbedded({ dataDir: process.argv[1], log: () => {}, fsync: false });
  process.stdout.write(JSON.stringify({ url, pid }) + "\\n");
  process.once("SIGTERM", () => process.exit(0));
`;

let parent: string;
let dataDir: string;
const running: (Embedded | ChildProcess)[] = [];

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), "sallyport-embedded-"));
  dataDir = join(parent, "data");
});

afterEach(async () => {
  for (const one of running.splice(0)) await ("stop" in one ? one.stop() : end(one));
  await rm(parent, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
});

async function start(log: (line: string) => void = () => {}): Promise<Embedded> {
  const embedded = await startEmbedded({ dataDir, log, fsync: false });
  running.push(embedded);
  return embedded;
}

async function startElsewhere(prefix: string[] = []): Promise<{ owner: ChildProcess; url: string; pid: number }> {
  const [command, ...args] = [...prefix, process.execPath, "--input-type=module", "-e", OWNER_PROGRAM, dataDir];
  const owner = spawn(command!, args, { stdio: ["ignore", "pipe", "inherit"], cwd: dirname(parent) });
  running.push(owner);
  const line = await Promise.race([
    once(createInterface({ input: owner.stdout! }), "line"),
    once(owner, "exit").then(() => undefined),
  ]);
  if (!line) throw new Error("the owning program ended before PostgreSQL was ready");
  return { owner, ...JSON.parse(line[0]) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: "array" })).rows.flat();
  } finally {
    await client.end();
  }
}

/** Every process whose command line names this test's folder. */
async function postgresHere(): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")));
  return pids.filter((_, at) => lines[at]!.includes("bin/postgres\0") && lines[at]!.includes(parent));
}

const gone = () => expect.poll(postgresHere, { timeout: 10_000, interval: 20 }).toEqual([]);

describe("startEmbedded", () => {
  test("a first start creates the cluster, with its own data directory, owner, encoding and checksums", async () => {
    const lines: string[] = [];
    const embedded = await start((line) => lines.push(line));
    expect(embedded.created).toBe(true);
    expect(await ask(embedded.url, "show data_directory")).toEqual([join(dataDir, "pg")]);
    expect(await ask(embedded.url, "select current_user, current_database()")).toEqual(["sallyport", "sallyport"]);
    expect(
      await ask(
        embedded.url,
        "select pg_encoding_to_char(encoding), datcollate from pg_database where datname = current_database()",
      ),
    ).toEqual(["UTF8", "C.UTF-8"]);
    expect(await ask(embedded.url, "show listen_addresses")).toEqual(["127.0.0.1"]);
    expect(await ask(embedded.url, "show log_parameter_max_length_on_error")).toEqual(["0"]);
    expect(lines).toEqual(["embedded PostgreSQL, not for production; DATABASE_URL overrides"]);
  });

  test("a second start keeps the data and is quick", async () => {
    const first = await start();
    await ask(first.url, "create table kept as select 7 as n");
    await first.stop();
    const before = performance.now();
    const second = await start();
    expect(performance.now() - before).toBeLessThan(3_000);
    expect(second.created).toBe(false);
    expect(await ask(second.url, "select n from kept")).toEqual([7]);
  });

  test("fsync is on unless switched off", async () => {
    const embedded = await startEmbedded({ dataDir, log: () => {} });
    running.push(embedded);
    expect(await ask(embedded.url, "show fsync")).toEqual(["on"]);
  });

  test("only their owner can enter the data folder and the socket folder", async () => {
    const { socketDir } = await start();
    for (const folder of [dataDir, join(dataDir, "pg"), socketDir]) {
      expect((await stat(folder)).mode & 0o077, folder).toBe(0);
    }
  });

  test("TCP requires the password, which is in no file, no command line and no log line", async () => {
    const lines: string[] = [];
    const embedded = await start((line) => lines.push(line));
    const { password } = new URL(embedded.url);
    expect(password.length).toBeGreaterThanOrEqual(32);
    await expect(ask(embedded.url.replace(password, "wrong"), "select 1")).rejects.toThrow(/password authentication/);
    expect(lines.join()).not.toContain(password);
    expect(await readFile(`/proc/${embedded.pid}/cmdline`, "utf8").catch(() => "")).not.toContain(password);
    const search = spawnSync("grep", ["-rlaF", password, dataDir, "--exclude-dir=run"], { encoding: "utf8" });
    expect(search).toMatchObject({ status: 1, stdout: "" });
  });

  test("stop leaves no process and no claim, however often it is called", async () => {
    const embedded = await start();
    await Promise.all([embedded.stop(), embedded.stop()]);
    await embedded.exited;
    expect(await postgresHere()).toEqual([]);
    expect(await runningEmbedded(dataDir)).toBeUndefined();
    await start();
  });

  test("stop does not wait for clients", async () => {
    const embedded = await start();
    const client = new pg.Client(embedded.url);
    const cut = new Promise((resolve) => client.on("error", resolve));
    await client.connect();
    await client.query("begin");
    await embedded.stop();
    expect(String(await cut)).toMatch(/terminat/i);
  });

  test("a second instance on the same folder is refused as in_use, and the first continues", async () => {
    const { url } = await startElsewhere();
    await expect(start()).rejects.toMatchObject({ name: "StartError", kind: "embedded_in_use" });
    expect(await ask(url, "select 1")).toEqual([1]);
  });

  test("of several starters at the same time exactly one gets the folder", async () => {
    const outcomes = await Promise.allSettled([start(), start(), start()]);
    const refused = outcomes.filter((one) => one.status === "rejected").map((one) => one.reason);
    expect(refused.map((error) => error instanceof StartError && error.kind)).toEqual([
      "embedded_in_use",
      "embedded_in_use",
    ]);
  });

  test.skipIf(!linux)("kill -9 of the owner ends PostgreSQL, and the next start works (on Linux)", async () => {
    const { owner, url } = await startElsewhere();
    await ask(url, "create table kept as select 7 as n");
    await end(owner);
    await gone();
    expect(await ask((await start()).url, "select n from kept")).toEqual([7]);
  });

  test.skipIf(!linux)(
    "a start right after kill -9 of the owner does not trip over the server that is ending (on Linux)",
    async () => {
      const { owner } = await startElsewhere();
      await end(owner);
      expect(await ask((await start()).url, "select 1")).toEqual([1]);
    },
  );

  test.skipIf(!linux)("an exit without stop leaves no PostgreSQL either (on Linux)", async () => {
    const { owner } = await startElsewhere();
    owner.kill("SIGTERM");
    await once(owner, "exit");
    await gone();
  });

  test("a server that outlived its owner is stopped, not doubled", async () => {
    const first = await start();
    await first.stop();
    const orphan = await launchUnowned();
    const second = await start();
    await orphan.exited;
    expect(second.pid).not.toBe(orphan.pid);
    expect(await ask(second.url, "select 1")).toEqual([1]);
  });

  test("a stale postmaster.pid that names another living process is ignored, and that process is left alone", async () => {
    await (await start()).stop();
    const stranger = spawn("sleep", ["60"]);
    running.push(stranger);
    await writeFile(join(dataDir, "pg/postmaster.pid"), `${stranger.pid}\n${join(dataDir, "pg")}\n1\n5432\n\n\n`, {
      mode: 0o600,
    });
    if (isRoot) await sameOwner(join(dataDir, "pg/postmaster.pid"), join(dataDir, "pg"));
    expect(await ask((await start()).url, "select 1")).toEqual([1]);
    expect(stranger.exitCode).toBeNull();
  });

  test("a cluster that was left half made is created again", async () => {
    await mkdir(join(dataDir, "pg.new/base"), { recursive: true });
    expect((await start()).created).toBe(true);
  });

  test("a cluster of another major version is refused untouched", async () => {
    await mkdir(join(dataDir, "pg"), { recursive: true });
    await writeFile(join(dataDir, "pg/PG_VERSION"), "17\n");
    await expect(start()).rejects.toMatchObject({
      kind: "embedded_failed",
      message: expect.stringContaining("PostgreSQL 17"),
    });
    expect(await readdir(join(dataDir, "pg"))).toEqual(["PG_VERSION"]);
  });

  test("a data folder that cannot be made is a StartError too", async () => {
    await writeFile(dataDir, "a file");
    await expect(start()).rejects.toMatchObject({ name: "StartError", kind: "embedded_failed" });
  });

  test("a folder below one of mode 0700 works", async () => {
    expect((await stat(parent)).mode & 0o777).toBe(0o700);
    expect(await ask((await start()).url, "select 1")).toEqual([1]);
  });

  test("a path too long for a socket works, and its short folder is private", async () => {
    dataDir = join(parent, "x".repeat(100), "data");
    const { socketDir, url } = await start();
    onTestFinished(() => rm(socketDir, { recursive: true, force: true }));
    expect(socketDir.startsWith(tmpdir())).toBe(true);
    expect((await stat(socketDir)).mode & 0o077).toBe(0);
    expect(await ask(url, "select 1")).toEqual([1]);
  });

  test("statements and their values reach no log, whatever fails", async () => {
    const lines: string[] = [];
    const { url } = await start((line) => lines.push(line));
    await expect(ask(url, "select 'canary-4711'::int")).rejects.toThrow();
    await expect(ask(url, "do $$ begin raise exception 'canary-4711'; end $$")).rejects.toThrow();
    expect(lines.join("\n")).not.toContain("canary");
    // The server's own lines: neither errors of statements nor the statements.
    expect(
      await ask(url, "select current_setting('log_min_messages'), current_setting('log_min_error_statement')"),
    ).toEqual(["log", "panic"]);
  });

  test("runningEmbedded answers with a URL that works while the instance runs", async () => {
    const { pid } = await start();
    const url = await runningEmbedded(dataDir);
    expect(await ask(url!, "select current_user::text")).toEqual(["sallyport"]);
    expect(pid).toBeGreaterThan(0);
  });
});

describe("users", () => {
  test.skipIf(!isRoot || !linux)(
    "a user other than root needs only a folder of their own (tried by root, on Linux)",
    async () => {
      await chmod(parent, 0o755);
      await mkdir(dataDir);
      await chown(dataDir, 65534, 65534);
      const nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
      const { owner, url } = await startElsewhere(nobody);
      expect(await ask(url, "select 1")).toEqual([1]);
      expect((await stat(join(dataDir, "pg"))).uid).toBe(65534);
      await end(owner);
      await gone();
      // Root then runs the server on that cluster as its owner, and takes nothing away from them.
      await (await start()).stop();
      expect((await stat(dataDir)).uid).toBe(65534);
      await startElsewhere(nobody);
    },
  );

  test.skipIf(!canHide)(
    "root without user namespaces, on Linux, lends the cluster to another user, and takes it back",
    async () => {
      await chmod(parent, 0o755);
      await (await start()).stop();
      expect((await stat(join(dataDir, "pg"))).uid).toBe(0);
      const { owner, url } = await startElsewhere(WITHOUT_UNSHARE);
      expect(await ask(url, "select 1")).toEqual([1]);
      for (const name of ["pg", "pg/postgresql.conf", "run"])
        expect((await stat(join(dataDir, name))).uid).toBeGreaterThan(0);
      // The folder itself, and the secrets in it, stay root's: the other user may pass through, not list or write.
      expect(await stat(dataDir)).toMatchObject({ uid: 0 });
      expect((await stat(dataDir)).mode & 0o777).toBe(0o710);
      await end(owner);
      await gone();
      expect(await ask((await start()).url, "select 1")).toEqual([1]);
    },
  );

  test.skipIf(!canHide)(
    "root without user namespaces, on Linux, below a folder that only root can enter, gets the reason",
    async () => {
      const program = `
      const { startEmbedded } = await import(${JSON.stringify(MODULE)});
      await startEmbedded({ dataDir: process.argv[1], log: () => {} }).catch((error) =>
        process.stdout.write(JSON.stringify({ kind: error.kind, message: error.message })));
    `;
      const [command, ...args] = [...WITHOUT_UNSHARE, process.execPath, "--input-type=module", "-e", program, dataDir];
      const { stdout } = spawnSync(command!, args, { encoding: "utf8" });
      const message = expect.stringContaining(`cannot write to ${join(dataDir, "run")}`);
      expect(JSON.parse(stdout)).toEqual({ kind: "embedded_unsupported", message });
      expect(await readdir(dataDir)).toEqual(["run"]);
    },
  );

  test.skipIf(!isRoot || !linux)(
    "binaries that a user cannot reach are named in the reason, and a copy works (tried by root, on Linux)",
    async () => {
      const { installation, dropping, socketDir } = await hiddenBinaries();
      const blocked = await firstWorking(dropping, join(installation, "bin/postgres"), dataDir, socketDir);
      expect(blocked).toHaveProperty("reason", expect.stringMatching(/bin\/postgres.*(denied|not found)/is));
      const copy = await copyInstallation(installation, join(dataDir, "postgresql"));
      const found = await firstWorking(dropping, join(copy, "bin/postgres"), dataDir, socketDir);
      expect(found).toMatchObject({ version: expect.stringMatching(/^18\./) });
      expect(await copyInstallation(installation, join(dataDir, "postgresql"))).toBe(copy);
    },
  );
});

/** A package in a folder of mode 0700 with the modes of umask 077, and the ways that give up root. */
async function hiddenBinaries() {
  await chmod(parent, 0o755);
  const hidden = join(parent, "hidden");
  await cp(dirname(await packagedInstallation()), join(hidden, "package"), { recursive: true, verbatimSymlinks: true });
  spawnSync("chmod", ["-R", "go-rwx", hidden]);
  const socketDir = join(dataDir, "run");
  await mkdir(socketDir, { recursive: true, mode: 0o700 });
  const dropping = (await runners(undefined)).filter((way) => way.owner && way.diesWithUs);
  return { installation: join(hidden, "package/native"), dropping, socketDir };
}

describe("binaries", () => {
  test("links that npm omitted are created, without a postinstall script", async () => {
    const bare = join(parent, "package/native");
    await cp(await packagedInstallation(), bare, { recursive: true, verbatimSymlinks: true });
    for (const { target } of JSON.parse(await readFile(join(bare, "pg-symlinks.json"), "utf8"))) {
      await rm(join(dirname(bare), target), { force: true });
    }
    const postgres = join(bare, "bin/postgres");
    const [way] = await runners(undefined);
    await expect(runToEnd(way!, join(bare, "bin/initdb"), ["--version"])).rejects.toThrow();
    expect(await hydrate(bare)).toBe(true);
    expect(await runToEnd(way!, postgres, ["--version"])).toContain("PostgreSQL");
    expect(await runToEnd(way!, join(bare, "bin/initdb"), ["--version"])).toContain("PostgreSQL");
  });
});

describe("a kernel that does not end children", () => {
  test.skipIf(!existsSync("/bin/sh"))(
    "a shell on a pipe ends PostgreSQL when its owner is killed (where there is /bin/sh)",
    async () => {
      await (await start()).stop();
      const program = `
      const { launch } = await import(${JSON.stringify(new URL("./server.ts", MODULE).href)});
      const server = await launch({ ...JSON.parse(process.argv[1]), log: () => {} });
      process.stdout.write(server.pid + "\\n");
    `;
      const owner = spawn(process.execPath, ["--input-type=module", "-e", program, JSON.stringify(await unowned())]);
      running.push(owner);
      await once(createInterface({ input: owner.stdout }), "line");
      await end(owner);
      await gone();
    },
  );
});

async function unowned() {
  const installation = await packagedInstallation();
  const { uid, gid } = await stat(join(dataDir, "pg"));
  const runner = (await runners({ uid, gid })).find((way) => !way.diesWithUs)!;
  return {
    runner,
    postgres: join(installation, "bin/postgres"),
    pgDir: join(dataDir, "pg"),
    socketDir: join(dataDir, "run"),
  };
}

/** A server on the folder without a claim, as a killed owner could leave it. */
async function launchUnowned() {
  return launch({ ...(await unowned()), log: () => {} });
}

async function sameOwner(path: string, as: string): Promise<void> {
  const { uid, gid } = await stat(as);
  await chown(path, uid, gid);
}

import { randomBytes } from "node:crypto";
import { chmod, mkdir, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { copyInstallation, hydrate, type Installation, packagedInstallation } from "./binaries.ts";
import { claim, postmasterOf, socketFolder, stopOrphan } from "./claim.ts";
import { firstWorking, giveTo, type Runner, runners, runToEnd } from "./runner.ts";
import { launch, type Server } from "./server.ts";

export type EmbeddedOptions = Readonly<{
  /** Created if missing, mode 0700. The cluster is in `pg/` inside. */
  dataDir: string;
  log: (line: string) => void;
  /** On by default. A test may turn it off, because it can lose its data. */
  fsync?: boolean;
}>;

export type Embedded = Readonly<{
  /** A TCP URL whose password is valid while this process lives. It is a secret. */
  url: string;
  pid: number;
  port: number;
  socketDir: string;
  /** The version that the server reports, such as "18.4". */
  version: string;
  /** True if this start created the cluster. */
  created: boolean;
  /** Resolves when the server has ended, for any reason. */
  exited: Promise<void>;
  /** Fast shutdown, which frees the folder. May be repeated. */
  stop(): Promise<void>;
}>;

const OWNER = "sallyport";

/**
 * Starts the PostgreSQL that comes with the package on a data folder, for trying Sallyport out with nothing else
 * installed; not for production. Database and superuser are `sallyport`. The server ends with this process, also when
 * that is killed; a data folder has one instance at a time. Throws StartError.
 *
 * Access: without a password over the socket, in a folder that only its owner can enter; over 127.0.0.1 with a random
 * password that changes at every start and is stored nowhere.
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  return claimAndStart(options).catch((cause: unknown) => {
    if (cause instanceof StartError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new StartError("embedded_failed", `embedded PostgreSQL: ${reason}`, cause);
  });
}

/**
 * The socket URL of the instance that runs on a data folder now, or undefined. For commands of the user who runs it:
 * nobody else can enter the folder.
 */
export async function runningEmbedded(dataDir: string): Promise<string | undefined> {
  const found = await postmasterOf(join(await realpath(dataDir), "pg"));
  if (found === undefined) return undefined;
  return `postgres://${OWNER}@/${OWNER}?host=${encodeURIComponent(found.socketDir)}&port=${found.port}`;
}

async function claimAndStart(options: EmbeddedOptions): Promise<Embedded> {
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 });
  await chmod(options.dataDir, 0o700);
  const dataDir = await realpath(options.dataDir);
  const socketDir = await socketFolder(dataDir);
  const release = await claim(dataDir, socketDir);
  try {
    const embedded = await startClaimed(options, dataDir, socketDir);
    options.log("embedded PostgreSQL, not for production; DATABASE_URL overrides");
    const stop = () => embedded.stop().then(release);
    let stopping: Promise<void> | undefined;
    return { ...embedded, stop: () => (stopping ??= stop()) };
  } catch (error) {
    await release();
    throw error;
  }
}

async function startClaimed(options: EmbeddedOptions, dataDir: string, socketDir: string): Promise<Embedded> {
  const pgDir = join(dataDir, "pg");
  const disregard = await stopOrphan(pgDir);
  const { runner, installation, version } = await choose(dataDir, socketDir);
  const created = await ensureCluster(runner, installation, version, dataDir);
  const fsync = (options.fsync ?? true) ? "on" : "off";
  const server = await launch({
    runner,
    postgres: join(installation, "bin/postgres"),
    pgDir,
    socketDir,
    settings: { fsync, full_page_writes: fsync },
    disregard,
    log: options.log,
  });
  try {
    const password = await prepareDatabase(server, socketDir, pgDir);
    const url = `postgres://${OWNER}:${password}@127.0.0.1:${server.port}/${OWNER}`;
    return { ...server, url, socketDir, version, created };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Chooses a way to run the binaries: in place or, if they are unreachable, from a copy in the data folder. */
async function choose(dataDir: string, socketDir: string) {
  const packaged = await packagedInstallation();
  const clusterOwner = await stat(join(dataDir, "pg")).catch(() => undefined);
  const ways = await runners(clusterOwner);
  const inPlace =
    (await hydrate(packaged)) && (await firstWorking(ways, join(packaged, "bin/postgres"), dataDir, socketDir));
  if (inPlace && "runner" in inPlace) return { ...inPlace, installation: packaged };
  const copies = join(dataDir, "postgresql");
  const installation = await copyInstallation(packaged, copies);
  const copied = await firstWorking(ways, join(installation, "bin/postgres"), dataDir, socketDir);
  if ("runner" in copied) return { ...copied, installation };
  await rm(copies, { recursive: true });
  throw new StartError("embedded_unsupported", `PostgreSQL cannot run here, set DATABASE_URL: ${copied.reason}`);
}

/** Returns true if it created the cluster. The cluster gets its name only when it is complete. */
async function ensureCluster(runner: Runner, installation: Installation, version: string, dataDir: string) {
  const pgDir = join(dataDir, "pg");
  const found = await readFile(join(pgDir, "PG_VERSION"), "utf8").catch(() => undefined);
  if (found !== undefined) {
    if (found.trim() === version.split(".")[0]) return giveTo(runner, pgDir).then(() => false);
    throw new StartError("embedded_failed", `${pgDir} was made by PostgreSQL ${found.trim()}, this is ${version}`);
  }
  const partial = join(dataDir, "pg.new");
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { mode: 0o700 });
  await giveTo(runner, partial);
  const locale = ["-E", "UTF8", "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"];
  await runToEnd(runner, join(installation, "bin/initdb"), ["-D", partial, "-U", OWNER, ...locale]).catch((error) => {
    throw new StartError("embedded_failed", `initdb failed: ${error.stderr || error.message}`);
  });
  await rename(partial, pgDir);
  const folder = await open(dataDir);
  await folder.sync();
  await folder.close();
  return true;
}

/** Verifies that this is our server before it changes anything, then creates the database and sets a new password. */
async function prepareDatabase(server: Server, socketDir: string, pgDir: string): Promise<string> {
  const client = new pg.Client({ host: socketDir, port: server.port, user: OWNER, database: "postgres" });
  client.on("error", () => {});
  await client.connect();
  try {
    const { rows } = await client.query("show data_directory");
    if (rows[0]?.data_directory !== pgDir) {
      throw new StartError(
        "embedded_failed",
        `port ${server.port} belongs to another server (${rows[0]?.data_directory})`,
      );
    }
    const existing = await client.query("select from pg_database where datname = $1", [OWNER]);
    if (existing.rowCount === 0) await client.query(`create database ${OWNER}`);
    const password = randomBytes(24).toString("base64url");
    await client.query(`alter role ${OWNER} password '${password}'`);
    return password;
  } finally {
    await client.end();
  }
}

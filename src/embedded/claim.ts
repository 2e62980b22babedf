import { execFile as execFileWithCallback } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { link, lstat, mkdir, readFile, realpath, rename, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { StartError } from "../domain/start-error.ts";

const execFile = promisify(execFileWithCallback);

/** Linux accepts socket paths of 107 bytes; `/.s.PGSQL.65535` and our own names need up to 20 of them. */
const LONGEST_SOCKET_FOLDER = 87;

/**
 * The folder for the sockets of a data folder: `run/` inside it, or, where that path is too long for a socket, one in
 * the temporary folder named after it. Mode 0700 and ours, or an StartError.
 */
export async function socketFolder(dataDir: string): Promise<string> {
  const inside = join(await realpath(dataDir), "run");
  const digest = createHash("sha256").update(inside).digest("hex").slice(0, 16);
  const folder = Buffer.byteLength(inside) <= LONGEST_SOCKET_FOLDER ? inside : join(tmpdir(), `sallyport-${digest}`);
  await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
  const found = await lstat(folder);
  const uid = process.getuid?.();
  if (!found.isDirectory() || (found.mode & 0o077) !== 0 || (uid !== 0 && found.uid !== uid)) {
    throw new StartError("embedded_failed", `${folder} must be a folder of the user who runs this, mode 0700`);
  }
  return folder;
}

/**
 * Takes the data folder for this process, or throws StartError `embedded_in_use`. The claim is a listening socket, so the
 * kernel gives it up with the process, however that ends, and a reused process id means nothing.
 */
export async function claim(dataDir: string, folder: string): Promise<() => Promise<void>> {
  const own = join(folder, `.${randomBytes(6).toString("hex")}`);
  const path = join(folder, "owner.sock");
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(own, resolve));
  server.on("error", () => {}).unref();
  const release = async () => {
    await rm(path, { force: true });
    server.close();
  };
  try {
    for (let attempt = 0; attempt < 10; attempt++) {
      // link() takes the name only if it is free, so only one of two starters gets it.
      const taken = await link(own, path).then(() => false, existsAlready);
      if (!taken) return release;
      if (await answers(path)) break;
      const aside = `${own}.stale`;
      await rename(path, aside).catch(missing);
      // Another starter may have taken the name between the question and the rename: give it back.
      if (await answers(aside)) await link(aside, path).catch(existsAlready);
      await rm(aside, { force: true });
    }
    throw new StartError("embedded_in_use", `another instance runs on the data folder ${dataDir}`);
  } catch (error) {
    server.close();
    throw error;
  } finally {
    await rm(own, { force: true });
  }
}

/** The server that runs on a cluster now. */
export async function postmasterOf(
  pgDir: string,
): Promise<{ pid: number; port: number; socketDir: string } | undefined> {
  const [pid, , , port, socketDir] = await postmasterFile(pgDir);
  if (!(Number(pid) > 0 && socketDir && (await isPostmasterOf(Number(pid), pgDir)))) return undefined;
  return { pid: Number(pid), port: Number(port), socketDir };
}

/**
 * Ends a postmaster that outlived the program that started it. Only the holder of the claim may call it. If a stale
 * file holds a process id that now belongs to another program, returns that id, so that PostgreSQL ignores it. The file
 * is never deleted, so PostgreSQL still checks the shared memory for surviving backends.
 */
export async function stopOrphan(pgDir: string): Promise<number | undefined> {
  const pid = Number((await postmasterFile(pgDir))[0]);
  if (!(pid > 0)) return undefined;
  for (const [signal, seconds] of [
    ["SIGINT", 20],
    ["SIGQUIT", 10],
  ] as const) {
    if (!(await isPostmasterOf(pid, pgDir))) return pid;
    process.kill(pid, signal);
    for (let tick = 0; tick < seconds * 50 && (await isPostmasterOf(pid, pgDir)); tick++) await delay(20);
  }
  if (!(await isPostmasterOf(pid, pgDir))) return pid;
  throw new StartError("embedded_in_use", `a PostgreSQL left over from an earlier run (process ${pid}) does not end`);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path, () => resolve(true));
    socket.on("error", () => resolve(false)).on("close", () => socket.destroy());
  });
}

/**
 * The lines of the postmaster's file: the first is its process id, the fourth its port, the fifth its socket folder.
 */
async function postmasterFile(pgDir: string): Promise<string[]> {
  return ((await readFile(join(pgDir, "postmaster.pid"), "utf8").catch(missing)) ?? "").split("\n");
}

/**
 * Judged by the command line, which is empty once the process has ended, even before its parent collects its status.
 */
async function isPostmasterOf(pid: number, pgDir: string): Promise<boolean> {
  const commandLine =
    process.platform === "linux"
      ? await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")
      : await execFile("/bin/ps", ["-ww", "-o", "command=", "-p", String(pid)]).then(
          (done) => done.stdout,
          () => "",
        );
  return commandLine.includes("postgres") && commandLine.includes(pgDir);
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function existsAlready(error: NodeJS.ErrnoException): true {
  if (error.code !== "EEXIST") throw error;
  return true;
}

import { type ChildProcess, execFile as execFileWithCallback, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, lchown, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const execFile = promisify(execFileWithCallback);

const PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/** The whole environment of child processes. Our own may hold secrets, so they do not inherit it. */
const environment = { PATH, LC_ALL: "C" };

/**
 * A way to run PostgreSQL's programs, which refuse to run as root: the words before the command, and the user to
 * become. `owner` is the user that must own the files. `diesWithUs`: the kernel ends the program with this process.
 */
export type Runner = Readonly<{
  prefix: readonly string[];
  owner?: Readonly<{ uid: number; gid: number }>;
  diesWithUs: boolean;
}>;

/**
 * The ways to try, best first. If we are not root: as we are. If we are root: in a user namespace where root has
 * another name, so that no file changes its owner. If that is forbidden, or the cluster has another owner: as that
 * owner, as `postgres` or as `nobody`.
 */
export async function runners(clusterOwner: { uid: number; gid: number } | undefined): Promise<Runner[]> {
  const setpriv = ["setpriv", "--pdeathsig", "INT"];
  const ways: Omit<Runner, "diesWithUs">[] = [];
  if (process.getuid?.() !== 0) {
    ways.push({ prefix: [] });
  } else {
    // initdb needs a user with a name, so the user inside the namespace is one in /etc/passwd.
    const users = await namedUsers("postgres", "nobody");
    const ownedByOther = clusterOwner !== undefined && clusterOwner.uid !== 0;
    if (ownedByOther) ways.push({ prefix: [], owner: clusterOwner });
    for (const { uid, gid } of ownedByOther ? [] : users) {
      ways.push({ prefix: ["unshare", "-U", `--map-user=${uid}`, `--map-group=${gid}`] });
    }
    for (const owner of users) ways.push({ prefix: [], owner });
  }
  const tied = installed("setpriv")
    ? ways.map((way) => ({ ...way, prefix: [...way.prefix, ...setpriv], diesWithUs: true }))
    : [];
  return [...tied, ...ways.map((way) => ({ ...way, diesWithUs: false }))];
}

/**
 * The first way in which a shell can write into `socketDir` and run `postgres`, with the version that it reports, or
 * the reasons why there is none. Afterwards the way's user owns `socketDir`.
 */
export async function firstWorking(
  ways: readonly Runner[],
  postgres: string,
  dataDir: string,
  socketDir: string,
): Promise<{ runner: Runner; version: string } | { reason: string }> {
  const reasons = new Set<string>();
  for (const runner of ways) {
    await lendFolders(runner, dataDir, socketDir);
    const script = 'if test -w "$0"; then exec "$1" --version; else echo "cannot write to $0" >&2; exit 1; fi';
    const answer = await runToEnd(runner, "/bin/sh", ["-c", script, socketDir, postgres]).catch((error: Failure) => {
      const who = runner.owner ? `user ${runner.owner.uid}` : (runner.prefix[0] ?? "this user");
      reasons.add(`${who}: ${error.stderr?.trim() || `failed with ${error.code}`}`);
    });
    const version = answer && /(\d{1,4}\.\d{1,4})/.exec(answer)?.[1];
    if (version) return { runner, version };
  }
  return { reason: [...reasons].join("; ") };
}

type Failure = { stderr?: string; code?: string | number };

/**
 * Gives another user the socket folder, and lets it pass through the data folder, which keeps its owner. Only root does
 * this.
 */
async function lendFolders(runner: Runner, dataDir: string, socketDir: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  await giveTo(runner, socketDir);
  const { uid } = await stat(dataDir);
  if (runner.owner === undefined || uid === runner.owner.uid) return;
  await chown(dataDir, uid, runner.owner.gid);
  await chmod(dataDir, 0o710);
}

/** Makes the runner's user the owner of a folder and everything in it, unless it already is. */
export async function giveTo(runner: Runner, folder: string): Promise<void> {
  const { uid, gid } = runner.owner ?? { uid: process.getuid?.(), gid: process.getgid?.() };
  if (uid === undefined || gid === undefined || (await stat(folder)).uid === uid) return;
  for (const name of await readdir(folder, { recursive: true })) await lchown(join(folder, name), uid, gid);
  await chown(folder, uid, gid);
}

/** Runs a program to its end. Rejects with its output in `stderr` if it fails or cannot be started. */
export async function runToEnd(runner: Runner, program: string, args: readonly string[]): Promise<string> {
  const [command, ...rest] = [...runner.prefix, program, ...args] as [string, ...string[]];
  const options = { ...runner.owner, cwd: "/", env: environment, timeout: 120_000, maxBuffer: 1 << 20 };
  return (await execFile(command, rest, options)).stdout;
}

/**
 * Starts a program that ends with this process, even if this process is killed. The kernel ends it or, where that is
 * impossible, a shell that waits for the end of a pipe. The program has its own session, so that Ctrl-C in a terminal
 * reaches only us and we choose the order of the shutdown. The caller must listen for `error`.
 */
export function start(
  runner: Runner,
  program: string,
  args: readonly string[],
  extra: NodeJS.ProcessEnv = {},
): ChildProcess {
  const [command, ...rest] = [...runner.prefix, program, ...args] as [string, ...string[]];
  const base = { ...runner.owner, cwd: "/", env: { ...environment, ...extra }, detached: true } as const;
  const child = spawn(command, rest, { ...base, stdio: ["ignore", "ignore", "pipe"] });
  if (runner.diesWithUs || child.pid === undefined) return child;
  const watch = spawn("/bin/sh", ["-c", 'read -r _; kill -INT "$0"', String(child.pid)], {
    ...base,
    stdio: ["pipe", "ignore", "ignore"],
  });
  watch.on("error", () => child.kill("SIGINT"));
  child.once("exit", () => watch.kill("SIGKILL"));
  return child;
}

function installed(program: string): boolean {
  return process.platform === "linux" && PATH.split(":").some((folder) => existsSync(`${folder}/${program}`));
}

async function namedUsers(...names: string[]): Promise<{ uid: number; gid: number }[]> {
  const passwd = (await readFile("/etc/passwd", "utf8").catch(() => "")).split("\n").map((line) => line.split(":"));
  return names.flatMap((name) => {
    const entry = passwd.find(([user]) => user === name);
    return entry ? [{ uid: Number(entry[2]), gid: Number(entry[3]) }] : [];
  });
}

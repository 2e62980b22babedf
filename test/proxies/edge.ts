import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { folder } from "../support/program.ts";

const DEPLOY = join(import.meta.dirname, "../../deploy/proxies");

/** A change to a file of `deploy/proxies`, which must have something to change. */
export type Change = readonly [from: string | RegExp, to: string];

/** A file of `deploy/proxies`: the one that operators copy is the one that is tested. */
export function deployed(file: string, changes: readonly Change[]): string {
  let text = readFileSync(join(DEPLOY, file), "utf8");
  for (const [from, to] of changes) {
    const changed = text.replaceAll(from, to);
    if (changed === text) throw new Error(`${file} holds no ${from}`);
    text = changed;
  }
  return text;
}

/** The real program of a proxy. */
export interface Edge {
  readonly port: number;
  readonly pid: number;
  /** Envoy's own. */
  readonly adminPort?: number;
  /** What it printed until now. */
  readonly log: () => string;
  stop(): Promise<void>;
}

export interface Start {
  readonly program: string;
  readonly argv: readonly string[];
  readonly files: Readonly<Record<string, string>>;
  readonly port: number;
}

/** Starts a proxy in a folder of its own, and waits until it listens. */
export async function startEdge({ program, argv, files, port }: Start): Promise<Edge> {
  const place = folder();
  for (const [name, text] of Object.entries(files)) writeFileSync(join(place.path, name), text);
  const { PATH = "" } = process.env;
  const child: ChildProcess = spawn(program, argv, {
    cwd: place.path,
    env: { PATH, HOME: place.path, TMPDIR: place.path },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      log = (log + text).slice(-4_000_000);
    });
  }
  let ended = false;
  const exited = once(child, "exit").then(() => (ended = true));
  const stop = async () => {
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await exited;
    clearTimeout(late);
    place.remove();
  };
  for (const end = performance.now() + 20_000; !(await listens(port)); ) {
    if (ended || performance.now() > end) {
      await stop();
      throw new Error(`the proxy does not listen:\n${log.slice(-3000)}`);
    }
    await delay(20);
  }
  return { port, pid: child.pid!, log: () => log, stop };
}

export function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });
}

/** A port of the loopback that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

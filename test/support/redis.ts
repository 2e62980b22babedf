import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { Redis } from "ioredis";
import { fetchProgram } from "../../scripts/fetch.ts";

export type RedisServer = Readonly<{
  url: string;
  port: number;
  pid: number;
  /** Ends it and resolves when it has ended; may be repeated, also after kill9. */
  stop(): Promise<void>;
  kill9(): Promise<void>;
  /** Freezes it: connections stay open, and nothing answers. */
  sigstop(): void;
  sigcont(): void;
  /** One command on its own connection: `cli("CLIENT", "PAUSE", 500)`. */
  cli(...command: (string | number)[]): Promise<unknown>;
}>;

/**
 * A Redis outside of the suite, for tests that only talk to one: REDIS_TEST_URL, or one of our own. Faults need
 * startRedis.
 */
export async function someRedis(): Promise<Readonly<{ url: string; stop(): Promise<void> }>> {
  const url = process.env["REDIS_TEST_URL"];
  return url ? { url, stop: async () => {} } : startRedis();
}

/** A throw-away Redis on a free port of 127.0.0.1 (or `port`, to return to an earlier one), without persistence. */
export async function startRedis(options: { args?: readonly string[]; port?: number } = {}): Promise<RedisServer> {
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort());
    const started = await launch(port, options.args ?? []).catch((error: Error) => {
      // A port that we choose may be taken a moment later; one that the caller chose may still be closing.
      if (attempt === 5 || !/in use/i.test(error.message)) throw error;
    });
    if (started) return started;
    await delay(50);
  }
}

/** A cluster of primaries that own all slots and know each other. */
export async function startCluster(
  size: number,
): Promise<Readonly<{ nodes: readonly RedisServer[]; urls: readonly string[]; stop(): Promise<void> }>> {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-redis-"));
  const nodes: RedisServer[] = [];
  const buses: number[] = [];
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    for (let index = 0; index < size; index++) {
      const port = await freePort();
      // The bus port is by default 10,000 higher, which not every port allows.
      const bus = await freePort();
      buses.push(bus);
      const file = join(folder, `nodes-${index}.conf`);
      const args = ["--cluster-enabled", "yes", "--cluster-config-file", file, "--cluster-port", String(bus)];
      nodes.push(await launch(port, [...args, "--cluster-node-timeout", "2000"]));
    }
    // By hand, because PyPI's package has no redis-cli.
    for (const [index, node] of nodes.entries()) {
      const first = Math.ceil((index * 16384) / size);
      const last = Math.ceil(((index + 1) * 16384) / size) - 1;
      await node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1);
      await node.cli("CLUSTER", "ADDSLOTSRANGE", first, last);
      if (index > 0) await nodes[0]!.cli("CLUSTER", "MEET", "127.0.0.1", node.port, buses[index]!);
    }
    await Promise.all(
      nodes.map((node) => until(async () => String(await node.cli("CLUSTER", "INFO")).includes("cluster_state:ok"))),
    );
    return { nodes, urls: nodes.map((node) => node.url), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** A primary, its replica and one sentinel that fails over alone, 500 ms after the primary stops answering. */
export async function startSentinel(): Promise<
  Readonly<{ primary: RedisServer; replica: RedisServer; sentinel: RedisServer; name: string; stop(): Promise<void> }>
> {
  const name = "main";
  const folder = await mkdtemp(join(tmpdir(), "sallyport-redis-"));
  const started: RedisServer[] = [];
  const stop = async () => {
    await Promise.all(started.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const primary = await startRedis();
    started.push(primary);
    const replica = await startRedis({
      args: ["--replicaof", `127.0.0.1 ${primary.port}`, "--repl-diskless-sync-delay", "0"],
    });
    started.push(replica);
    await until(async () => String(await replica.cli("INFO", "replication")).includes("master_link_status:up"));
    const file = join(folder, "sentinel.conf");
    const lines = [
      `sentinel monitor ${name} 127.0.0.1 ${primary.port} 1`,
      `sentinel down-after-milliseconds ${name} 500`,
      `sentinel failover-timeout ${name} 5000`,
    ];
    await writeFile(file, `${lines.join("\n")}\n`);
    const sentinel = await launch(await freePort(), ["--sentinel"], file);
    started.push(sentinel);
    await until(async () =>
      JSON.stringify(await sentinel.cli("SENTINEL", "REPLICAS", name)).includes(String(replica.port)),
    );
    return { primary, replica, sentinel, name, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * The files that make a server accept TLS beside cleartext: its certificate, key and CA in a folder, named by
 * `writeFiles`.
 */
const tlsArgs = (folder: string, port: number) => [
  ...["--tls-port", String(port), "--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cluster", "yes"],
  ...["--tls-cert-file", join(folder, "cert.pem"), "--tls-key-file", join(folder, "key.pem")],
  ...["--tls-ca-cert-file", join(folder, "ca.pem")],
];

/** A cluster of one node under TLS that announces its address, not its name. `port` is that of TLS. */
export async function startTlsCluster(files: string): Promise<{ port: number; stop(): Promise<void> }> {
  const [port, bus] = [await freePort(), await freePort()];
  const folder = await mkdtemp(join(tmpdir(), "sallyport-redis-"));
  const announced = ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-tls-port", String(port)];
  const own = ["--cluster-enabled", "yes", "--cluster-config-file", join(folder, "nodes.conf"), "--cluster-port"];
  const node = await startRedis({ args: [...own, String(bus), ...announced, ...tlsArgs(files, port)] });
  await node.cli("CLUSTER", "ADDSLOTSRANGE", 0, 16383);
  await until(async () => String(await node.cli("CLUSTER", "INFO")).includes("cluster_state:ok"));
  const stop = () => node.stop().then(() => rm(folder, { recursive: true, force: true }));
  return { port, stop };
}

/** A primary and a sentinel under TLS; the sentinel announces the primary's address, not its name. */
export async function startTlsSentinel(files: string): Promise<{ port: number; name: string; stop(): Promise<void> }> {
  const [ofPrimary, port] = [await freePort(), await freePort()];
  const folder = await mkdtemp(join(tmpdir(), "sallyport-redis-"));
  const primary = await startRedis({ args: tlsArgs(files, ofPrimary) });
  await writeFile(join(folder, "sentinel.conf"), `sentinel monitor main 127.0.0.1 ${ofPrimary} 1\n`);
  const args = ["--sentinel", ...tlsArgs(files, port)];
  const sentinel = await launch(await freePort(), args, join(folder, "sentinel.conf"));
  const stop = async () => {
    await Promise.all([primary.stop(), sentinel.stop()]);
    await rm(folder, { recursive: true, force: true });
  };
  return { port, name: "main", stop };
}

let program: Promise<string> | undefined;

/** The server program: one in PATH, or Debian's or PyPI's from the cache. Rejects with a list of the attempts. */
export function redisProgram(): Promise<string> {
  return (program ??= findProgram());
}

async function findProgram(): Promise<string> {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  for (const name of ["redis-server", "valkey-server"]) {
    const folder = folders.find((candidate) => existsSync(join(candidate, name)));
    if (folder) return join(folder, name);
  }
  const reasons: string[] = [];
  for (const name of ["redis", "valkey"] as const) {
    const path = await fetchProgram(name).catch((error: Error) => void reasons.push(error.message));
    if (path) return path;
  }
  throw new Error(`no Redis: install redis-server, or set REDIS_TEST_URL (${reasons.join("; ")})`);
}

async function launch(port: number, args: readonly string[], file?: string): Promise<RedisServer> {
  const isSentinel = file !== undefined;
  const common = ["--port", String(port), "--bind", "127.0.0.1", "--daemonize", "no", "--logfile", ""];
  const own = isSentinel
    ? []
    : ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--dir", tmpdir()];
  const words = [await redisProgram(), ...(isSentinel ? [file] : []), ...common, ...own, ...args];
  // A killed test run must leave nothing behind. The kernel ends the child, if it can.
  const tie = existsSync("/usr/bin/setpriv") ? ["/usr/bin/setpriv", "--pdeathsig", "KILL"] : [];
  const [command, ...rest] = [...tie, ...words] as [string, ...string[]];
  const child = spawn(command, rest, { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()).once("error", () => resolve()));
  await ready(child, ended);
  const url = `redis://127.0.0.1:${port}`;
  const kill = (signal: NodeJS.Signals) => {
    child.kill(signal);
    return ended;
  };
  return {
    url,
    port,
    pid: child.pid!,
    stop: () => kill("SIGKILL"),
    kill9: () => kill("SIGKILL"),
    sigstop: () => void child.kill("SIGSTOP"),
    sigcont: () => void child.kill("SIGCONT"),
    cli: (...words) => callOnce(url, words),
  };
}

async function ready(child: ChildProcess, ended: Promise<void>): Promise<void> {
  const lines: string[] = [];
  child.on("error", (error) => lines.push(error.message));
  child.stderr!.on("data", (data) => lines.push(String(data)));
  const output = createInterface({ input: child.stdout! });
  const accepting = new Promise<true>((resolve) =>
    output.on("line", (line) => {
      lines.push(line);
      if (lines.length > 20) lines.shift();
      if (/Ready to accept connections|Sentinel ID is/i.test(line)) resolve(true);
    }),
  );
  const closed = once(output, "close");
  if (await Promise.race([accepting, ended])) return;
  await closed;
  throw new Error(`Redis did not start: ${lines.slice(-5).join(" | ")}`);
}

async function callOnce(url: string, words: (string | number)[]): Promise<unknown> {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 0, protocol: 2 });
  client.on("error", () => {});
  await client.connect();
  try {
    return await client.call(...(words.map(String) as [string, ...string[]]));
  } finally {
    client.disconnect();
  }
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await holds()) return;
    await delay(50);
  }
  throw new Error("Redis did not reach the expected state within 10 s");
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address ? address.port : 0;
}

import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { StartError } from "../domain/start-error.ts";
import { type Runner, start } from "./runner.ts";

/** A running PostgreSQL. `exited` resolves when it has ended, for any reason. */
export type Server = Readonly<{
  pid: number;
  port: number;
  exited: Promise<void>;
  /** Fast shutdown: disconnects clients and writes the data. Resolves when the process has ended; may be repeated. */
  stop(): Promise<void>;
}>;

export type ServerOptions = Readonly<{
  runner: Runner;
  postgres: string;
  pgDir: string;
  socketDir: string;
  /** A free port by default. */
  port?: number;
  settings?: Readonly<Record<string, string>>;
  /** A process id in a stale postmaster.pid that is known to be no postmaster. */
  disregard?: number;
  /**
   * Receives the lines of the server's log that an operator must see: FATAL and PANIC, never a statement or a value.
   */
  log: (line: string) => void;
}>;

/** Small and local. Errors of statements are not logged, because they hold values. */
const SETTINGS = {
  listen_addresses: "127.0.0.1",
  unix_socket_permissions: "0700",
  max_connections: "100",
  shared_buffers: "32MB",
  max_wal_size: "256MB",
  jit: "off",
  timezone: "UTC",
  log_timezone: "UTC",
  logging_collector: "off",
  log_destination: "stderr",
  log_line_prefix: "",
  log_checkpoints: "off",
  log_min_messages: "log",
  log_min_error_statement: "panic",
  log_error_verbosity: "terse",
  log_parameter_max_length: "0",
  log_parameter_max_length_on_error: "0",
};

/**
 * Starts a server on a free port of 127.0.0.1 and a socket in `socketDir`, and waits until it accepts connections.
 * Throws StartError `embedded_in_use` when another server holds the cluster, else `failed` with the end of its log.
 */
export async function launch(options: ServerOptions): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort());
    const outcome = await tryLaunch(options, port);
    if (!Array.isArray(outcome)) return outcome;
    const tail = outcome.slice(-8).join(" | ");
    if (/lock file "[^"]{1,4096}" already exists/.test(tail)) throw new StartError("embedded_in_use", tail);
    // The port was free a moment ago; somebody may have been faster.
    if (!/Address already in use/.test(tail) || attempt === 3) {
      throw new StartError("embedded_failed", `PostgreSQL did not start: ${tail}`);
    }
  }
}

async function tryLaunch(options: ServerOptions, port: number): Promise<Server | string[]> {
  const settings = { ...SETTINGS, unix_socket_directories: options.socketDir, port: String(port), ...options.settings };
  const args = ["-D", options.pgDir, ...Object.entries(settings).flatMap(([key, value]) => ["-c", `${key}=${value}`])];
  // The variable that names a process to pg_ctl: a lock file may hold its id although it is no server.
  const disregard = options.disregard === undefined ? {} : { PG_GRANDPARENT_PID: String(options.disregard) };
  const child = start(options.runner, options.postgres, args, disregard);
  const lines: string[] = [];
  const ready = Promise.withResolvers<boolean>();
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.on("error", (error) => {
      lines.push(error.message);
      if (child.pid === undefined) resolve();
    });
  });
  const output = createInterface({ input: child.stderr! });
  output.on("line", (line) => {
    lines.push(line);
    if (lines.length > 50) lines.shift();
    if (/ready to accept (read-only )?connections/.test(line)) ready.resolve(true);
    if (/^(FATAL|PANIC):/.test(line)) options.log(`PostgreSQL: ${line}`);
  });
  const drained = once(output, "close");
  void exited.then(() => ready.resolve(false));
  const limit = setTimeout(() => child.kill("SIGINT"), 120_000);
  const accepts = await ready.promise;
  clearTimeout(limit);
  if (!accepts) {
    await drained;
    return lines;
  }
  const end = async () => {
    const quit = setTimeout(() => child.kill("SIGQUIT"), 15_000);
    const kill = setTimeout(() => child.kill("SIGKILL"), 25_000);
    child.kill("SIGINT");
    await exited;
    clearTimeout(quit);
    clearTimeout(kill);
  };
  let stopping: Promise<void> | undefined;
  return { pid: child.pid!, port, exited, stop: () => (stopping ??= end()) };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address ? address.port : 0;
}

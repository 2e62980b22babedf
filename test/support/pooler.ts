import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import { fetchProgram } from "../../scripts/fetch.ts";
import { firstWorking, giveTo, type Runner, runners, start } from "../../src/embedded/runner.ts";

export interface Pooler {
  readonly port: number;
  /** A command of its console, such as PAUSE. */
  command(text: string): Promise<void>;
  /** Ends it like a crash. */
  kill9(): Promise<void>;
  /** Starts it again on the same port, after it was killed. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** A PgBouncer for one test in transaction mode, in front of `upstream` on this host, with its default settings. */
export async function startPooler(upstream: number): Promise<Pooler> {
  const program = await fetchProgram("pgbouncer");
  const folder = await mkdtemp(join(tmpdir(), "sallyport-pooler-"));
  const way = await firstWorking(await runners(undefined), program, folder, folder);
  if (!("runner" in way)) throw new Error(`PgBouncer cannot run here: ${way.reason}`);
  const port = await freePort();
  const file = join(folder, "pgbouncer.ini");
  const users = join(folder, "users.txt");
  await writeFile(users, '"sallyport" ""\n');
  await writeFile(
    file,
    `[databases]
* = host=127.0.0.1 port=${upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
admin_users = sallyport
pool_mode = transaction
max_client_conn = 200
server_login_retry = 1
`,
  );
  await giveTo(way.runner, folder);
  let child = await up(way.runner, program, file);
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  };
  return {
    port,
    kill9: end,
    async command(text) {
      const client = new pg.Client(`postgres://sallyport@127.0.0.1:${port}/pgbouncer`);
      client.on("error", () => {});
      await client.connect();
      await client.query(text).finally(() => client.end().catch(() => {}));
    },
    async restart() {
      child = await up(way.runner, program, file);
    },
    async stop() {
      await end();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function up(runner: Runner, program: string, file: string): Promise<ChildProcess> {
  const child = start(runner, program, [file]);
  const lines: string[] = [];
  const output = createInterface({ input: child.stderr! });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  output.on("line", (line) => {
    if (lines.length < 50) lines.push(line);
    if (line.includes("process up")) resolve();
  });
  child.on("error", reject);
  child.once("exit", () => reject(new Error(`PgBouncer ended: ${lines.slice(-3).join(" | ")}`)));
  await promise;
  return child;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

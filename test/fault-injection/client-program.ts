import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { fetchProgram } from "../../scripts/fetch.ts";
import { buildJavaClient, javaClassPath } from "../../scripts/java-client.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ROOT } from "../support/program.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { Testee } from "../support/testee.ts";
import type { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ALLOW } from "./wire.ts";

/** Starts the echo service of a client library. Resolves with its words, its folder and its environment. */
type Command = () => Promise<{ words: readonly string[]; cwd?: string; env?: Record<string, string> }>;

const CLIENTS = join(ROOT, "clients");
const PATH = `${process.env["PATH"]}:/usr/local/go/bin`;
const STOP_MS = 5_000;

/** A further library is one more row. Each follows the feed. */
export const CLIENT_COMMANDS: Readonly<Record<string, Command>> = {
  "TypeScript client": async () => ({ words: [process.execPath, join(CLIENTS, "typescript/testee/main.ts")] }),
  "Go client": async () => {
    const program = join(ROOT, ".cache/go-testee");
    const options = { cwd: join(CLIENTS, "go"), env: { ...process.env, PATH } };
    await promisify(execFile)("go", ["build", "-o", program, "./testee"], options);
    return { words: [program] };
  },
  "Python client": async () => {
    const cwd = join(CLIENTS, "python");
    const env = { PYTHONPATH: `${cwd}:${await fetchProgram("grpcio-tools")}`, PYTHONDONTWRITEBYTECODE: "1" };
    return { words: ["python3", "-m", "testee", "aio"], cwd, env };
  },
  "Java client": async () => {
    await buildJavaClient(await fetchProgram("java-client"), "process-test-classes");
    return { words: ["java", "-XX:+UseSerialGC", "-cp", await javaClassPath(), "dev.sallyport.client.Testee"] };
  },
  "Rust client": async () => {
    const target = join(ROOT, ".cache/rust/target");
    const options = { cwd: join(CLIENTS, "rust"), env: { ...process.env, CARGO_TARGET_DIR: target } };
    await promisify(execFile)("cargo", ["build", "--example", "testee", "--locked"], options);
    return { words: [join(target, "debug/examples/testee")] };
  },
};

/** A service that checks the tokens of its requests by a client library, with a cache, over a link of its own. */
export class ClientProgram {
  readonly name: string;
  readonly link: TcpProxy;
  readonly #testee: Testee;
  /** Which of the instances it follows. */
  turn: number;
  #server = "";
  #moves = 0;

  private constructor(name: string, testee: Testee, link: TcpProxy, turn: number) {
    this.name = name;
    this.#testee = testee;
    this.link = link;
    this.turn = turn;
  }

  static async start(name: string, instances: readonly Instance[], turn: number): Promise<ClientProgram> {
    const { words, cwd = ROOT, env } = await CLIENT_COMMANDS[name]!();
    const link = await startTcpProxy({ port: portOf(instances[turn % instances.length]!) });
    const [program = "", ...args] = words;
    const testee = await Testee.start(program, args, {
      cwd,
      env: { ...process.env, ...env, SALLYPORT: `127.0.0.1:${link.port}`, CACHE: "feed" },
    });
    return new ClientProgram(name, testee, link, turn);
  }

  /** Its name for the checker. What it learned from another server is another history. */
  get process(): string {
    return `${this.name}#${this.#testee.pid}.${this.#moves}`;
  }

  /** Its new connections lead to the instance whose turn it is. */
  follow(instances: readonly Instance[]): void {
    const at = instances[this.turn % instances.length];
    if (at === undefined || at.listener === this.#server) return;
    this.#server = at.listener;
    this.#moves++;
    this.link.leadTo({ port: portOf(at) });
  }

  /** The verdict of a request with this token by its number; undefined if there was no answer. */
  async verdict({ tokenString, scope }: Subject): Promise<number | undefined> {
    const answer = await this.#testee.call(scope === undefined ? "Say" : "Read", tokenString);
    if (answer.startsWith("[")) return ALLOW;
    return Verdict[answer.split(" ")[1] as keyof typeof Verdict] as number | undefined;
  }

  /** How often each tier gave each verdict. */
  seen(): Promise<Readonly<Record<string, number>>> {
    return this.#testee.counts();
  }

  signal(name: NodeJS.Signals): void {
    this.#testee.signal(name);
  }

  async stop(): Promise<void> {
    this.signal("SIGCONT");
    const late = setTimeout(() => this.signal("SIGKILL"), STOP_MS);
    // One that had to be killed says nothing.
    await this.#testee.stop().catch(() => {});
    clearTimeout(late);
    await this.link.stop();
  }
}

/** The client libraries that can be built here, and the reasons why the others cannot. */
export async function builtClients(): Promise<{ names: string[]; lacking: [name: string, reason: string][] }> {
  const names: string[] = [];
  const lacking: [string, string][] = [];
  for (const [name, command] of Object.entries(CLIENT_COMMANDS)) {
    await command().then(
      () => names.push(name),
      (error: Error) => lacking.push([name, error.message.split("\n", 1)[0]!]),
    );
  }
  return { names, lacking };
}

const portOf = ({ listener }: Instance) => Number(new URL(listener).port);

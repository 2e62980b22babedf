import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { fetchProgram } from "../../scripts/fetch.ts";
import { buildJavaClient, javaClassPath } from "../../scripts/java-client.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ROOT } from "../support/program.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import type { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ALLOW } from "./wire.ts";

/** Starts the echo service of a client library. Resolves with its words, its folder and its environment. */
type Command = () => Promise<{ words: readonly string[]; cwd?: string; env?: Record<string, string> }>;

const CLIENTS = join(ROOT, "clients");
const PATH = `${process.env["PATH"]}:/usr/local/go/bin`;
const ANSWER_MS = 20_000;
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
  readonly #child: ChildProcess;
  readonly #requests: Client;
  /** Which of the instances it follows. */
  turn: number;
  #server = "";
  #moves = 0;

  private constructor(name: string, child: ChildProcess, link: TcpProxy, port: number, turn: number) {
    this.name = name;
    this.#child = child;
    this.link = link;
    this.turn = turn;
    this.#requests = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  static async start(name: string, instances: readonly Instance[], turn: number): Promise<ClientProgram> {
    const { words, cwd, env } = await CLIENT_COMMANDS[name]!();
    const link = await startTcpProxy({ port: portOf(instances[turn % instances.length]!) });
    const child = spawn(words[0]!, words.slice(1), {
      cwd,
      env: { ...process.env, ...env, SALLYPORT: `127.0.0.1:${link.port}`, CACHE: "feed" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const [line] = (await once(createInterface({ input: child.stdout! }), "line")) as [string];
    return new ClientProgram(name, child, link, JSON.parse(line).port, turn);
  }

  /** Its name for the checker. What it learned from another server is another history. */
  get process(): string {
    return `${this.name}#${this.#child.pid}.${this.#moves}`;
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
    const { code, verdict } = await this.#call(scope === undefined ? "Say" : "Read", tokenString);
    if (code === 0) return ALLOW;
    return Verdict[verdict as keyof typeof Verdict] as number | undefined;
  }

  /** How often each tier gave each verdict. */
  async seen(): Promise<Readonly<Record<string, number>>> {
    return JSON.parse((await this.#call("Seen")).text);
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  async stop(): Promise<void> {
    this.#requests.close();
    this.signal("SIGCONT");
    this.#child.stdin!.end();
    const late = setTimeout(() => this.signal("SIGKILL"), STOP_MS);
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "exit");
    clearTimeout(late);
    await this.link.stop();
  }

  #call(method: string, bearer?: string): Promise<{ code: number; text: string; verdict: string }> {
    const metadata = new Metadata();
    if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
    const options = { deadline: Date.now() + ANSWER_MS };
    return new Promise((resolve) =>
      this.#requests.makeUnaryRequest(
        `/test.v1.Echo/${method}`,
        encode,
        decode,
        "hi",
        metadata,
        options,
        (error, text) =>
          resolve({
            code: error?.code ?? 0,
            text: text ?? "",
            verdict: String(error?.metadata?.get("sallyport-verdict")[0] ?? ""),
          }),
      ),
    );
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
const encode = (value: string) => Buffer.from(toBinary(StringValueSchema, create(StringValueSchema, { value })));
const decode = (bytes: Buffer) => fromBinary(StringValueSchema, bytes).value;

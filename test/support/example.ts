import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { ROOT } from "./program.ts";
import type { TestSallyport } from "./sallyport.ts";

/** What stands on the page, and what takes its place in the test: addresses and paths. */
type Change = readonly [from: string, to: string];
type Environment = Readonly<Record<string, string | undefined>>;

/** An example of `examples/`: the lines of its README, run in the main folder as a reader runs them. */
export class ExamplePage {
  readonly blocks: readonly string[];
  readonly #changes: readonly Change[];
  readonly #env: Environment;

  constructor(name: string, sallyport: TestSallyport, changes: readonly Change[], env: Environment = process.env) {
    const page = readFileSync(join(ROOT, "examples", name, "README.md"), "utf8");
    this.blocks = [...page.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, block]) => block!);
    for (const [from] of changes) if (!page.includes(from)) throw new Error(`the page of ${name} has no ${from}`);
    this.#changes = changes;
    this.#env = { ...env, SALLYPORT_ADDRESS: sallyport.listeners.admin, SALLYPORT_TOKEN: sallyport.adminToken };
  }

  /** Runs lines to their end. Returns the lines that they print. */
  async run(lines: string): Promise<string[]> {
    const options = { cwd: ROOT, env: this.#env };
    const { stdout } = await promisify(execFile)("bash", ["-ec", this.#here(lines)], options);
    return stdout.trimEnd().split("\n");
  }

  /** Runs lines, some of which state their answer in the next line after `# `. Returns what those printed, and stated. */
  async follow(lines: string): Promise<{ said: string[]; stated: string[] }> {
    const said: string[] = [];
    const stated: string[] = [];
    let printed: string[] = [];
    for (const line of lines.trimEnd().split("\n")) {
      if (!line.startsWith("# ")) printed = await this.run(line);
      else {
        said.push(printed.join("\n"));
        stated.push(line.slice(2));
      }
    }
    return { said, stated };
  }

  /** Starts a line that runs until it is ended. */
  start(line: string): ChildProcess {
    const argv = ["-c", `exec env ${this.#here(line)}`];
    return spawn("bash", argv, { cwd: ROOT, env: this.#env, stdio: ["ignore", "pipe", "inherit"] });
  }

  #here(lines: string): string {
    return this.#changes.reduce((text, [from, to]) => text.replaceAll(from, to), lines);
  }
}

/** The service of an example, started by its page's line, which prints a port. */
export class ExampleService {
  readonly port: number;
  readonly #page: ExamplePage;
  readonly #process: ChildProcess;

  private constructor(page: ExamplePage, process: ChildProcess, port: number) {
    this.#page = page;
    this.#process = process;
    this.port = port;
  }

  static async start(page: ExamplePage): Promise<ExampleService> {
    const child = page.start(/^SALLYPORT=.*$/m.exec(page.blocks.join(""))![0]);
    const ended = once(child, "exit").then(([code]) => Promise.reject(new Error(`the service ended with ${code}`)));
    const printed = once(createInterface({ input: child.stdout! }), "line");
    const [line] = (await Promise.race([printed, ended])) as [string];
    ended.catch(() => {});
    return new ExampleService(page, child, JSON.parse(line).port);
  }

  /** Runs lines that ask the service. */
  ask(lines: string): Promise<string[]> {
    return this.#page.run(this.#asking(lines));
  }

  /** Follows the page: a token is made, admitted, revoked and refused. */
  async follow(): Promise<{ said: string[]; stated: string[] }> {
    const { blocks } = this.#page;
    await this.#page.run(blocks.find((block) => block.includes("tokens create"))!);
    return this.#page.follow(this.#asking(blocks.find((block) => block.includes("PORT "))!));
  }

  #asking(lines: string): string {
    return lines.replaceAll("PORT ", `${this.port} `);
  }

  /** Ends it in good order. */
  async stop(): Promise<unknown[]> {
    const ended = once(this.#process, "exit");
    this.kill("SIGTERM");
    return ended;
  }

  kill(signal: NodeJS.Signals = "SIGKILL"): void {
    this.#process.kill(signal);
  }
}

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { freshKeyring } from "../../src/domain/keyring.ts";

export const ROOT = join(import.meta.dirname, "../..");
const MAIN = join(ROOT, "src/main.ts");
/** Node's flags, as `npm start` sets them. */
export const FLAGS: readonly string[] = JSON.parse(
  readFileSync(join(ROOT, "package.json"), "utf8"),
).scripts.start.match(/(?<= )--\S+/g);

/** A folder for this test only. It is deleted at the end of the test's scope. */
export function folder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "sallyport-test-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/** Running children. A worker that ends before its tests, at a time-out, takes them with it. */
const running = new Set<ChildProcess>();
const endAll = () => {
  for (const child of running) child.kill("SIGKILL");
};
process.once("exit", endAll);
process.once("SIGTERM", () => {
  endAll();
  process.exit(143);
});

/** A child that runs the program as a person would. Its output can be read while it runs, and afterwards. */
export class Program {
  readonly child: ChildProcess;
  out = "";
  err = "";
  readonly exited: Promise<number>;

  /** Starts `sallyport <argv>` with only the given environment. */
  constructor(argv: readonly string[], env: Readonly<Record<string, string>> = {}, cwd?: string) {
    const { PATH = "", HOME = "", TMPDIR, NODE_COMPILE_CACHE } = process.env;
    this.child = spawn(process.execPath, [...FLAGS, MAIN, ...argv], {
      env: { PATH, HOME, ...(TMPDIR && { TMPDIR }), ...(NODE_COMPILE_CACHE && { NODE_COMPILE_CACHE }), ...env },
      cwd,
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.child.stdout!.setEncoding("utf8").on("data", (text: string) => (this.out += text));
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => (this.err += text));
    this.child.stdin!.on("error", () => {});
    running.add(this.child);
    this.child.once("exit", () => running.delete(this.child));
    this.exited = once(this.child, "close").then(([code, signal]) => (signal === null ? code : -1) as number);
  }

  get pid(): number {
    return this.child.pid!;
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /**
   * Resolves with the result of `found` once there is one, checked after each output. Rejects at the end of the
   * program.
   */
  until<T>(found: (program: Program) => T | undefined | false, what: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const value = found(this);
        if (value === undefined || value === false) return;
        this.child.stdout!.off("data", look);
        this.child.stderr!.off("data", look);
        resolve(value);
      };
      this.child.stdout!.on("data", look);
      this.child.stderr!.on("data", look);
      void this.exited.then((code) =>
        reject(new Error(`the program ended with ${code} before ${what}\n${this.out.slice(-2000)}\n${this.err}`)),
      );
      look();
    });
  }
}

/** Runs a command to its end. */
export async function run(argv: readonly string[], env: Readonly<Record<string, string>> = {}, stdin = "") {
  const program = new Program(argv, env);
  program.child.stdin!.end(stdin);
  const code = await program.exited;
  return { code, out: program.out, err: program.err };
}

/**
 * A call as a good client makes it: OVERLOADED says that nothing was done, and is retried. A machine that is busy with
 * other suites sheds calls, which proves nothing here.
 */
export async function patiently<T>(
  call: () => Promise<T>,
  overloaded: (outcome: T | undefined, error: unknown) => Promise<boolean>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    let outcome: T | undefined;
    let failure: unknown;
    try {
      outcome = await call();
    } catch (error) {
      failure = error;
    }
    if (attempt < 40 && (await overloaded(outcome, failure))) await delay(250);
    else if (failure !== undefined) throw failure;
    else return outcome!;
  }
}

/** `fetch`, by a client that retries OVERLOADED. */
export function fetchPatiently(url: string, init?: RequestInit): Promise<Response> {
  const shed = async (response: Response | undefined) =>
    response?.status === 429 && (await response.clone().text()).includes("overloaded");
  return patiently(() => fetch(url, init), shed);
}

export interface Addresses {
  readonly data: string;
  /** Empty in mode validate. */
  readonly admin: string;
  readonly ops: string;
}

/** The addresses of the listeners in what a program has printed; undefined before it is ready. */
export function addressesIn(out: string): Addresses | undefined {
  const line = /^\{.*"event":"ready".*\}$/m.exec(out)?.[0];
  if (line === undefined) return undefined;
  const { data, admin = "", ops } = JSON.parse(line) as { data: string; admin?: string; ops: string };
  return { data, admin, ops };
}

/** The addresses of a program's listeners, once it has reported them. */
export function listenersOf(program: Program): Promise<Addresses> {
  return program.until(({ out }) => addressesIn(out), "it said where its listeners are");
}

/** Every listener on a free port of the loopback. */
export const FREE_PORTS = {
  data: { bind: "127.0.0.1:0" },
  admin: { bind: "127.0.0.1:0" },
  ops: { bind: "127.0.0.1:0" },
} as const;

/** Writes a configuration (JSON is YAML) and returns its path. */
export function writeConfig(path: string, config: object): string {
  const file = join(path, "sallyport.yaml");
  writeFileSync(file, JSON.stringify(config, null, 2));
  return file;
}

export type KeyringFile = ReturnType<typeof freshKeyring>;
export { freshKeyring };

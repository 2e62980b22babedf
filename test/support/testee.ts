import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js";

/** The echo service of a client: a program that prints its port, and at the end of its input how it ended. */
export class Testee {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #client: Client;

  private constructor(process: ChildProcess, lines: AsyncIterator<string>, port: number) {
    this.#process = process;
    this.#lines = lines;
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  static async start(
    command: string,
    args: readonly string[],
    options: { readonly cwd: string; readonly env: NodeJS.ProcessEnv },
  ): Promise<Testee> {
    const child = spawn(command, args, { ...options, stdio: ["pipe", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const { value } = await lines.next();
    return new Testee(child, lines, JSON.parse(value!).port);
  }

  get pid(): number {
    return this.#process.pid!;
  }

  signal(name: NodeJS.Signals): void {
    this.#process.kill(name);
  }

  /** What a call was answered, or its refusal. */
  call(method: string, bearer?: string, text = "hi"): Promise<string> {
    return new Promise((resolve) =>
      this.#client.makeUnaryRequest(path(method), encode, decode, text, meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      ),
    );
  }

  talk(bearer: string, method = "Talk") {
    return this.#client.makeBidiStreamRequest(path(method), encode, decode, meta(bearer));
  }

  read(method: string, bearer: string) {
    return this.#client.makeServerStreamRequest(path(method), encode, decode, "hi", meta(bearer));
  }

  total(bearer: string, texts: readonly string[]): Promise<string> {
    return new Promise((resolve) => {
      const call = this.#client.makeClientStreamRequest(path("Total"), encode, decode, meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      );
      for (const text of texts) call.write(text);
      call.end();
    });
  }

  /** How often each tier, verdict and state was reported by the hooks. */
  async counts(): Promise<Readonly<Record<string, number>>> {
    return JSON.parse(await this.call("Seen"));
  }

  async seen(what: string): Promise<number> {
    return (await this.counts())[what] ?? 0;
  }

  /** Ends it in good order. Returns what it prints then: how often it `left` the feed. */
  async stop(): Promise<Readonly<Record<string, number>>> {
    this.#client.close();
    this.#process.stdin!.end();
    const { value } = await this.#lines.next();
    const { exitCode, signalCode } = this.#process;
    if (exitCode === null && signalCode === null) await once(this.#process, "exit");
    return JSON.parse(value!);
  }

  kill(): void {
    this.#client.close();
    this.signal("SIGKILL");
  }
}

const encode = (text: string) => Buffer.from(toBinary(StringValueSchema, create(StringValueSchema, { value: text })));
const decode = (bytes: Buffer) => fromBinary(StringValueSchema, bytes).value;
const path = (method: string) => `/test.v1.Echo/${method}`;
/** What a handler answers: the text, the principal, and the credentials that it sees. */
export const said = (text: string) => JSON.stringify([text, "user:ann", []]).replaceAll(",", ", ");
function meta(bearer?: string): Metadata {
  const metadata = new Metadata();
  if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
  return metadata;
}
function refusal({ code, metadata }: StatusObject): string {
  return `${code} ${metadata.get("sallyport-verdict")[0]}`;
}
/** The status of a stream that ends. */
export async function end(stream: NodeJS.EventEmitter): Promise<string> {
  const [error] = (await once(stream, "error")) as [StatusObject];
  return refusal(error);
}

import { existsSync } from "node:fs";
import type { Transport } from "@connectrpc/connect";
import type { Command } from "commander";
import {
  ADMIN_ADDRESS,
  type Credential,
  credentialFromEnvironment,
  credentialFromFile,
  DATA_ADDRESS,
  EMBEDDED_TOKEN_FILE,
  openListener,
} from "./connect.ts";
import { parseTime, relative } from "./durations.ts";
import { type Exit, type Situation, usage } from "./failure.ts";
import { json, type Message, type Method } from "./output.ts";

/** The environment of a command. `main.ts` passes it in; nothing here reads `process`. */
export interface Io {
  readonly stdin: NodeJS.ReadableStream;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The program, for `--version`. */
  readonly version: string;
}

/** The options that every client command takes. */
export interface Globals {
  readonly address?: string;
  readonly tokenFile?: string;
  readonly sessionFile?: string;
  readonly sessionTenant?: string;
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly json?: true;
  readonly timeout: number;
}

/** The body of a command, with its options and arguments. The exit code is 0 unless it returns another. */
export type Body<Options> = (session: Session, options: Options, args: readonly string[]) => Promise<Exit | undefined>;
/** Makes a commander action from a body. */
export type Run = <Options>(body: Body<Options>) => (...given: unknown[]) => Promise<void>;
/** Adds the commands of a noun to the program. */
export type AddCommands = (program: Command, run: Run) => void;

/**
 * One run of one command: its listeners, its credential and its output. Keeps `situation` current for error messages.
 */
export class Session {
  readonly io: Io;
  readonly now: number;
  readonly situation: Situation;
  readonly #globals: Globals;

  constructor(io: Io, globals: Globals, situation: Situation) {
    this.io = io;
    this.now = Date.now();
    this.situation = situation;
    this.#globals = globals;
  }

  /** The admin listener, with the caller's credential. */
  admin(): Transport {
    const { address } = this.#globals;
    const text = address ?? (this.io.env["SALLYPORT_ADDRESS"] || ADMIN_ADDRESS);
    const flag = address === undefined ? "SALLYPORT_ADDRESS" : "--address";
    return this.#open({ text, flag }, this.#adminCredential());
  }

  /**
   * A token or a session: of the flags, else of the environment, else the token of the embedded file. A usage Failure if
   * one of these places has both.
   */
  #adminCredential(): Credential | undefined {
    const { tokenFile, sessionFile, sessionTenant } = this.#globals;
    const { env } = this.io;
    const tenant = sessionTenant ?? (env["SALLYPORT_SESSION_TENANT"] || undefined);
    const session = (of: Credential | undefined) => of && { ...of, ...(tenant !== undefined && { tenant }) };
    const flags = oneOf(
      ["--token-file", tokenFile === undefined ? undefined : credentialFromFile(tokenFile)],
      ["--session-file", sessionFile === undefined ? undefined : session(credentialFromFile(sessionFile, "session"))],
    );
    if (flags !== undefined) return flags;
    const given = oneOf(
      ["SALLYPORT_TOKEN", credentialFromEnvironment(env)],
      ["SALLYPORT_SESSION", session(credentialFromEnvironment(env, "SALLYPORT_SESSION"))],
    );
    return given ?? (existsSync(EMBEDDED_TOKEN_FILE) ? credentialFromFile(EMBEDDED_TOKEN_FILE) : undefined);
  }

  /** The data listener. It trusts its peers, like a sidecar, or requires a credential with `sallyport.validate`. */
  data(address: string | undefined, callerTokenFile: string | undefined): Transport {
    if (this.#globals.sessionFile !== undefined) throw usage("--session-file: the data listener takes no session");
    const text = address ?? (this.io.env["SALLYPORT_DATA_ADDRESS"] || DATA_ADDRESS);
    const credential =
      callerTokenFile !== undefined ? credentialFromFile(callerTokenFile) : credentialFromEnvironment(this.io.env);
    return this.#open({ text, flag: address === undefined ? "SALLYPORT_DATA_ADDRESS" : "--data-address" }, credential);
  }

  /** `--token-file`, which for `validate` is the token to validate. */
  get judgedTokenFile(): string | undefined {
    return this.#globals.tokenFile;
  }

  /** `--address`, if it was given. */
  get adminAddress(): string | undefined {
    return this.#globals.address;
  }

  /** Prints the response: as protobuf JSON with `--json`, else in the form that `people` makes of it. */
  answer<Response extends Message>(method: Method, response: Response, people: (response: Response) => string): void {
    this.print(this.#globals.json === true ? json(method, response) : people(response));
  }

  /** Prints one text and a line end. */
  print(text: string): void {
    this.io.stdout.write(`${text}\n`);
  }

  /** Prints a note on stderr, unless the output is for programs. */
  note(text: string): void {
    if (this.#globals.json !== true) this.io.stderr.write(`${text}\n`);
  }

  #tokenEnds(time: string): void {
    const ends = parseTime(time);
    if (ends === undefined) return;
    this.note(
      `your token ends ${relative(ends, this.now)}: mint one for another principal, or use sallyport bootstrap --again`,
    );
  }

  #open(address: { text: string; flag: string }, credential: Credential | undefined): Transport {
    this.situation.address = address.text;
    this.situation.credential = credential?.from;
    const { timeout, caFile, certFile, keyFile } = this.#globals;
    const { env } = this.io;
    const tls = {
      caFile: caFile ?? (env["SALLYPORT_CA_FILE"] || undefined),
      certFile: certFile ?? (env["SALLYPORT_CERT_FILE"] || undefined),
      keyFile: keyFile ?? (env["SALLYPORT_KEY_FILE"] || undefined),
    };
    return openListener(address, credential, timeout, tls, (time) => this.#tokenEnds(time));
  }
}

/** The only credential of one place. */
function oneOf(...places: readonly (readonly [name: string, Credential | undefined])[]): Credential | undefined {
  const given = places.filter(([, credential]) => credential !== undefined);
  if (given.length > 1) throw usage(`give ${given.map(([name]) => name).join(" or ")}, not both`);
  return given[0]?.[1];
}

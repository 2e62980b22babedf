import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import type { SigningSettings } from "../../src/domain/signing-keys.ts";
import { PrincipalAdmin } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { RoleAdmin } from "../../src/gen/sallyport/v1/role_admin_pb.ts";
import { TenantAdmin } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { type Addresses, addressesIn, FREE_PORTS, folder, type KeyringFile, writeConfig } from "../support/program.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { SCOPE, SCOPED, TENANT_HEADER, TENANTED } from "./askers.ts";
import { PgLink } from "./pg-link.ts";
import { DataClient, HttpClient } from "./wire.ts";

export interface InstanceOptions {
  readonly name: string;
  /** The folder with the program's `main.ts`. */
  readonly source: string;
  readonly database: { readonly port: number; readonly name: string };
  /** The URL of a pooler, for all connections that need not be direct. */
  readonly pooler?: number;
  readonly keyring: KeyringFile;
  readonly signing: SigningSettings;
  readonly adminToken: string;
  /** A port is reached through a link of the instance's own; a URL is used directly. */
  readonly redis?: number | string;
  readonly revocation?: { readonly lease: string; readonly poll: string };
  /** The rate of the monotonic clock, and the days by which the wall clock is off. */
  readonly clock?: { readonly rate: number; readonly wallDays: number };
}

const CLOCKS = join(import.meta.dirname, "clocks.ts");
/**
 * The number of validator clients for one instance. Data of one connection is read at another time than that of the
 * next.
 */
const CONNECTIONS = 4;
const READY_MS = 60_000;

/**
 * A real Sallyport as a child process, with its own links to the database and to Redis, and clients of its listeners.
 */
export class Instance {
  readonly name: string;
  readonly options: InstanceOptions;
  readonly pid: number;
  readonly pg: PgLink;
  readonly pooled: PgLink | undefined;
  readonly redis: TcpProxy | undefined;
  /** The URL of its metrics. */
  readonly ops: string;
  /** The URL of its data listener. */
  readonly listener: string;
  readonly tokens: Client<typeof TokenAdmin>;
  readonly principals: Client<typeof PrincipalAdmin>;
  readonly tenants: Client<typeof TenantAdmin>;
  readonly roles: Client<typeof RoleAdmin>;
  /** Its data and its admin listener over HTTP/1.1. */
  readonly http: HttpClient;
  readonly adminHttp: HttpClient;
  readonly exited: Promise<string>;
  /** The time until it held a lease. */
  readonly startMs: number;
  ended = false;
  readonly #child: ChildProcess;
  readonly #session: Http2SessionManager;
  readonly #output: Output;
  readonly #data: readonly DataClient[];
  #turn = 0;

  private constructor(parts: Parts, listeners: Addresses, startMs: number) {
    this.startMs = startMs;
    const { options, child, pg, pooled, redis, output, exited } = parts;
    this.options = options;
    this.name = options.name;
    this.#child = child;
    this.pid = child.pid!;
    this.pg = pg;
    this.pooled = pooled;
    this.redis = redis;
    this.exited = exited;
    this.#output = output;
    void exited.then(() => (this.ended = true));
    this.ops = listeners.ops;
    this.listener = listeners.data;
    this.#data = Array.from({ length: CONNECTIONS }, () => this.connect());
    this.http = new HttpClient(listeners.data);
    this.adminHttp = new HttpClient(listeners.admin);
    this.#session = new Http2SessionManager(listeners.admin);
    const transport = createGrpcTransport({ baseUrl: listeners.admin, sessionManager: this.#session });
    this.tokens = createClient(TokenAdmin, transport);
    this.principals = createClient(PrincipalAdmin, transport);
    this.tenants = createClient(TenantAdmin, transport);
    this.roles = createClient(RoleAdmin, transport);
  }

  /** Starts the program and resolves once it has printed the addresses of its listeners: it holds a lease then. */
  static async start(options: InstanceOptions): Promise<Instance> {
    const begun = performance.now();
    const pg = await PgLink.start(options.database.port);
    const pooled = options.pooler === undefined ? undefined : await PgLink.start(options.pooler);
    const url = (link: PgLink) => `postgres://sallyport@127.0.0.1:${link.port}/${options.database.name}`;
    const redis = typeof options.redis === "number" ? await startTcpProxy({ port: options.redis }) : undefined;
    const place = folder();
    const redisUrl = redis === undefined ? options.redis : `redis://127.0.0.1:${redis.port}`;
    const config = {
      listeners: FREE_PORTS,
      keyring: options.keyring,
      signing: options.signing,
      profiles: { org: { format: "jwt" } },
      policies: {
        [SCOPED]: { required_scopes: [SCOPE] },
        [TENANTED]: { tenant_from: `header:${TENANT_HEADER}` },
      },
      limits: { mint_per_address_per_hour: 0, mint_per_principal_per_day: 0 },
      log: { level: "warn" },
      ...(pooled !== undefined && { database: { direct_url: url(pg) } }),
      ...(redisUrl !== undefined && { redis: { url: redisUrl } }),
      ...(options.revocation && { revocation: options.revocation }),
    };
    const file = writeConfig(place.path, config);
    const { rate = 1, wallDays = 0 } = options.clock ?? {};
    const preload = options.clock === undefined ? [] : ["--import", CLOCKS];
    // A killed run must leave nothing behind. The kernel ends the child, if it can.
    const tie = existsSync("/usr/bin/setpriv") ? ["/usr/bin/setpriv", "--pdeathsig", "KILL"] : [];
    const words = [...tie, process.execPath, ...preload, join(options.source, "main.ts"), "serve", "--config", file];
    const child = spawn(words[0]!, words.slice(1), {
      env: {
        PATH: process.env["PATH"] ?? "",
        DATABASE_URL: url(pooled ?? pg),
        HISTORY_CLOCK_RATE: String(rate),
        HISTORY_WALL_DAYS: String(wallDays),
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const exited = once(child, "close").then(([code, signal]) => String(signal ?? code));
    void exited.then(() => place.remove());
    const output = new Output(child);
    const parts = { options, child, pg, pooled, redis, output, exited };
    try {
      return new Instance(parts, await output.listeners(exited), performance.now() - begun);
    } catch (error) {
      child.kill("SIGKILL");
      await Promise.all([exited, pg.stop(), pooled?.stop(), redis?.stop()]);
      throw error;
    }
  }

  /** A client of the data listener, in rotation. */
  get data(): DataClient {
    return this.#data[this.#turn++ % CONNECTIONS]!;
  }

  /** Another client of the data listener. The caller closes it. */
  connect(): DataClient {
    return new DataClient(this.listener);
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** The sum of its samples whose line begins with this text. */
  async metric(begins: string): Promise<number> {
    const lines = (await (await fetch(`${this.ops}/metrics`)).text()).split("\n");
    return lines
      .filter((line) => line.startsWith(begins))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }

  /** The kernel's letter for the state of the process: T while it is stopped. */
  get state(): string {
    try {
      return /\) (\S)/.exec(readFileSync(`/proc/${this.pid}/stat`, "latin1"))?.[1] ?? "";
    } catch {
      return "";
    }
  }

  /** The end of its log: warnings and worse. */
  get log(): string {
    return this.#output.text.slice(-3000);
  }

  /** Ends it, like an orchestrator or like a crash, and its links. Returns the exit code or the signal. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<string> {
    this.signal("SIGCONT");
    this.signal(signal);
    const late = setTimeout(() => this.signal("SIGKILL"), 12_000);
    const how = await this.exited;
    clearTimeout(late);
    for (const client of this.#data) client.close();
    this.#session.abort();
    this.http.close();
    this.adminHttp.close();
    await Promise.all([this.pg.stop(), this.pooled?.stop(), this.redis?.stop()]);
    return how;
  }
}

interface Parts {
  readonly options: InstanceOptions;
  readonly child: ChildProcess;
  readonly pg: PgLink;
  readonly pooled: PgLink | undefined;
  readonly redis: TcpProxy | undefined;
  readonly output: Output;
  readonly exited: Promise<string>;
}

class Output {
  text = "";
  #look: () => void = () => {};

  constructor(child: ChildProcess) {
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.text = (this.text + text).slice(-200_000);
        this.#look();
      });
    }
  }

  listeners(exited: Promise<string>): Promise<Addresses> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) => reject(new Error(`the program ${why}\n${this.text.slice(-2000)}`));
      const late = setTimeout(() => fail("did not start in time"), READY_MS);
      void exited.then((how) => fail(`ended with ${how}`));
      this.#look = () => {
        const listeners = addressesIn(this.text);
        if (listeners === undefined) return;
        clearTimeout(late);
        resolve(listeners);
      };
    });
  }
}

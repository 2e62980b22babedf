import { join } from "node:path";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { freshKeyring, Keyring } from "../src/domain/keyring.ts";
import { mintTokenString } from "../src/domain/token-string.ts";
import { type Embedded, startEmbedded } from "../src/embedded/embedded.ts";
import { TokenAdmin } from "../src/gen/sallyport/v1/token_admin_pb.ts";
import { FREE_PORTS, listenersOf, Program, run, writeConfig } from "../test/support/program.ts";
import { type RedisServer, startRedis } from "../test/support/redis.ts";
import { pin, SERVER_CORE } from "./machine.ts";
import type { Subject } from "./subject.ts";

/** The token strings of the rows. */
export interface Tokens {
  readonly live: string;
  /** Enough tokens to miss a small cache each time. */
  readonly many: readonly string[];
  readonly revoked: string;
  /** A string with the right form, alphabet and checksum, under another pepper. */
  readonly forged: string;
}

const MINTS_AT_ONCE = 4;

/** The difference of an instance from the default settings. */
export type Variant = "tcp" | "unix" | "node" | "small" | "redis" | "wide";

/**
 * The real program as child processes: one database, any number of instances. Postgres and Redis do not run on the
 * servers' core.
 */
export class Product {
  readonly #folder: string;
  readonly #database: Embedded;
  readonly #keyring = freshKeyring();
  readonly #subjects: Subject[] = [];
  readonly #flags: string;
  #redis: RedisServer | undefined;
  #admin = "";

  private constructor(folder: string, database: Embedded, flags: string) {
    this.#folder = folder;
    this.#database = database;
    this.#flags = flags;
  }

  /** `flags` are Node's, for the first instance. */
  static async start(folder: string, flags = ""): Promise<Product> {
    const database = await startEmbedded({ dataDir: join(folder, "data"), log: () => {} });
    return new Product(folder, database, flags);
  }

  /** On a free port, or on the given one. */
  async instance(name: string, variant: Variant, port = 0): Promise<Subject> {
    const unix = `unix:${join(this.#folder, "data.sock")}`;
    if (variant === "redis") this.#redis ??= await startRedis();
    const config = writeConfig(this.#folder, {
      listeners: {
        ...FREE_PORTS,
        data: {
          bind: variant === "unix" ? unix : `127.0.0.1:${port}`,
          http2: variant === "node" ? "node" : "builtin",
          max_connections: variant === "wide" ? 20_000 : 1_024,
        },
      },
      database: { url: this.#database.url },
      keyring: this.#keyring,
      limits: { mint_per_address_per_hour: 0, mint_per_principal_per_day: 0 },
      policies: { bench: { required_scopes: ["items.read"] } },
      log: { level: "warn" },
      ...((variant === "small" || variant === "redis") && { cache: { l1: { entries: 16 } } }),
      ...(variant === "redis" && { redis: { url: this.#redis!.url } }),
    });
    if (this.#admin === "") await this.#bootstrap(config);
    const flags = this.#subjects.length === 0 && this.#flags !== "" ? { NODE_OPTIONS: this.#flags } : undefined;
    const program = new Program(["serve", "--config", config], flags);
    const { data, ops } = await listenersOf(program).then(({ admin, ...rest }) => {
      if (this.#subjects.length === 0) this.#adminListener = admin;
      return rest;
    });
    pin(program.pid, SERVER_CORE);
    const subject: Subject = {
      name,
      pid: program.pid,
      address: data.replace("http://", ""),
      tiers: () => tiers(ops),
      stop: async () => {
        program.kill("SIGTERM");
        const timer = setTimeout(() => program.kill("SIGKILL"), 15_000);
        const code = await program.exited;
        clearTimeout(timer);
        return code;
      },
    };
    this.#subjects.push(subject);
    return subject;
  }

  #adminListener = "";

  get databaseUrl(): string {
    return this.#database.url;
  }

  get keyring(): Keyring {
    const { current, keys } = this.#keyring;
    return new Keyring(current, keys);
  }

  /** The admin listener of the first instance, and the headers of its calls. */
  admin() {
    const baseUrl = this.#adminListener;
    const transport = createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true });
    return { baseUrl, admin: createClient(TokenAdmin, transport), headers: { authorization: `Bearer ${this.#admin}` } };
  }

  async mint(many: number): Promise<Tokens> {
    const { admin, headers } = this.admin();
    const one = async (n: number) => {
      const request = {
        profile: "pat",
        principal: `user:bench${n >> 9}`,
        displayName: "bench",
        scopes: ["items.read", "items.write"],
      };
      const { token, tokenString } = await untilTaken(() => admin.createToken(request, { headers }));
      return { id: token!.id, tokenString };
    };
    const made: string[] = [];
    for (let i = 0; i < many; i += MINTS_AT_ONCE) {
      const group = await Promise.all(Array.from({ length: MINTS_AT_ONCE }, (_, k) => one(i + k)));
      made.push(...group.map(({ tokenString }) => tokenString));
    }
    const revoked = await one(0);
    await admin.revokeToken({ target: { case: "id", value: revoked.id } }, { headers });
    const { current, keys } = { ...this.#keyring, keys: freshKeyring().keys };
    const stranger = new Keyring(current, { [current]: Object.values(keys)[0]! });
    return {
      live: (await one(0)).tokenString,
      many: made,
      revoked: revoked.tokenString,
      forged: mintTokenString("sp_pat", stranger.current).tokenString.reveal(),
    };
  }

  async #bootstrap(config: string): Promise<void> {
    const { code, out, err } = await run(["bootstrap", "--config", config]);
    if (code !== 0) throw new Error(`bootstrap: ${err}`);
    this.#admin = out.trim();
  }

  async stop(): Promise<void> {
    await Promise.allSettled(this.#subjects.map((subject) => subject.stop()));
    await Promise.allSettled([this.#database.stop(), this.#redis?.stop()]);
  }
}

/** Retries while the server is overloaded: at most ten times, a little later each time. */
async function untilTaken<T>(call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await call();
    } catch (error) {
      if (tries === 10 || ConnectError.from(error).code !== Code.ResourceExhausted) throw error;
      await new Promise((done) => setTimeout(done, 100 * tries));
    }
  }
}

async function tiers(ops: string): Promise<Record<string, number>> {
  const text = await (await fetch(`${ops}/metrics`)).text();
  const counts: Record<string, number> = {};
  for (const [, labels, value] of text.matchAll(/^sallyport_validations_total\{(.*)\} (\S+)$/gm)) {
    const tier = /tier="(\w+)"/.exec(labels!)![1]!;
    counts[tier] = (counts[tier] ?? 0) + Number(value);
  }
  return counts;
}

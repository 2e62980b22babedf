import { parse } from "yaml";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { type Database, freshDatabase } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { type AdminClients, TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { deployed, freePort } from "./edge.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

export const REALM = "example";
export const SCOPE = "items.read";

/** As the pages have them, and `lean`, which says less of a token to the upstream, and `cors`, which lets preflights through. */
const { policies: stated } = parse(deployed("sallyport.yaml", [])) as { policies: Record<string, object> };
const POLICIES = {
  ...stated,
  lean: { ...stated["default"], headers: { "x-auth-profile": false } },
  cors: { ...stated["default"], allow_cors_preflight: true },
};

export interface Tokens {
  /** Good on every route but `/admin`. */
  readonly good: string;
  readonly admin: string;
  /** Was good once. */
  readonly bad: string;
  readonly elsewhere: string;
  readonly poor: string;
  /** Good from the loopback only, and from another network only. */
  readonly near: string;
  readonly far: string;
}

/** What stands behind a proxy: a service, and the real Sallyport with a PostgreSQL that can go away. */
export class Scene {
  readonly upstream: Upstream;
  readonly dataPort: number;
  readonly tokens: Tokens;
  readonly weather: TcpProxy;
  readonly #database: Database;
  readonly #behind: Database;
  readonly #keyring: ReturnType<typeof freshKeyring>;
  readonly #adminToken: string;
  #sallyport: TestSallyport;
  #admin: AdminClients | undefined;

  private constructor(parts: {
    upstream: Upstream;
    dataPort: number;
    tokens: Tokens;
    weather: TcpProxy;
    database: Database;
    behind: Database;
    keyring: ReturnType<typeof freshKeyring>;
    adminToken: string;
    sallyport: TestSallyport;
  }) {
    this.upstream = parts.upstream;
    this.dataPort = parts.dataPort;
    this.tokens = parts.tokens;
    this.weather = parts.weather;
    this.#database = parts.database;
    this.#behind = parts.behind;
    this.#keyring = parts.keyring;
    this.#adminToken = parts.adminToken;
    this.#sallyport = parts.sallyport;
  }

  static async start(): Promise<Scene> {
    const database = await freshDatabase({ name: "proxies", template: async (url) => void (await migrate(url)) });
    const keyring = freshKeyring();
    let adminToken = "";
    const keep = (secret: { reveal(): string }) => (adminToken = secret.reveal());
    await bootstrap({ url: database.url, keyring, ttlMs: 86_400_000, again: false, keep });
    const { port, hostname } = new URL(database.url);
    const weather = await startTcpProxy({ port: Number(port), host: hostname });
    const through = new URL(database.url);
    through.port = String(weather.port);
    through.hostname = "127.0.0.1";
    const behind: Database = { url: through.href, drop: async () => {} };
    const [upstream, dataPort] = [await startUpstream(), await freePort()];
    const sallyport = await run(behind, keyring, dataPort);
    const tokens = await mint(sallyport.as(adminToken));
    const parts = { upstream, dataPort, tokens, weather, database, behind, keyring, adminToken };
    return new Scene({ ...parts, sallyport });
  }

  get pid(): number {
    return this.#sallyport.program.pid;
  }

  get admin(): AdminClients {
    return (this.#admin ??= this.#sallyport.as(this.#adminToken));
  }

  /** Another instance on the same database. */
  another(dataPort: number, trustPeers = true): Promise<TestSallyport> {
    return run(this.#behind, this.#keyring, dataPort, trustPeers);
  }

  /** A token of the same right as `good`. */
  mint(): Promise<{ id: string; tokenString: string }> {
    return create(this.admin, {});
  }

  /** The process stands still: nothing of it answers. */
  async frozen<T>(work: () => Promise<T>): Promise<T> {
    process.kill(this.pid, "SIGSTOP");
    try {
      return await work();
    } finally {
      process.kill(this.pid, "SIGCONT");
    }
  }

  async kill(): Promise<void> {
    this.#admin = undefined;
    process.kill(this.pid, "SIGKILL");
    await this.#sallyport.halt();
  }

  /** After `kill`: the same instance again, on the same port. */
  async restart(): Promise<void> {
    this.#sallyport = await run(this.#behind, this.#keyring, this.dataPort);
  }

  /** Asks the data listener itself until it judges tokens again. */
  async healed(): Promise<void> {
    for (const end = performance.now() + 20_000; performance.now() < end; ) {
      const headers = { authorization: `Bearer ${this.tokens.near}`, "x-forwarded-for": "127.0.0.1" };
      const url = `http://127.0.0.1:${this.dataPort}/v1/check/forwarded/default`;
      const reply = await fetch(url, { headers }).catch(() => undefined);
      if (reply?.status === 200) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error("Sallyport does not judge tokens");
  }

  async stop(): Promise<void> {
    await this.#sallyport.halt();
    await this.#sallyport.dispose();
    await this.weather.stop();
    await this.upstream.stop();
    await this.#database.drop();
  }
}

function run(
  database: Database,
  keyring: ReturnType<typeof freshKeyring>,
  dataPort: number,
  trustPeers = true,
): Promise<TestSallyport> {
  return TestSallyport.start({
    database,
    keyring,
    config: {
      listeners: {
        data: { bind: `127.0.0.1:${dataPort}`, trust_peers: trustPeers },
        admin: { bind: "127.0.0.1:0" },
        ops: { bind: "127.0.0.1:0" },
      },
      policies: POLICIES,
    },
  });
}

async function mint(admin: AdminClients): Promise<Tokens> {
  const strings = async (more: object) => (await create(admin, more)).tokenString;
  const dead = await create(admin, {});
  await admin.tokens.revokeToken({ target: { case: "id", value: dead.id } });
  return {
    good: await strings({}),
    admin: await strings({ scopes: ["items.*", "admin"] }),
    bad: dead.tokenString,
    elsewhere: await strings({ audiences: ["https://other.example"] }),
    poor: await strings({ scopes: ["other.read"] }),
    near: await strings({ allowedCidrs: ["127.0.0.0/8"] }),
    far: await strings({ allowedCidrs: ["192.0.2.0/24"] }),
  };
}

async function create(admin: AdminClients, more: object) {
  const { token, tokenString } = await admin.tokens.createToken({
    profile: "pat",
    principal: "user:ann",
    displayName: "test",
    scopes: [SCOPE],
    ...more,
  });
  return { id: token!.id, tokenString };
}

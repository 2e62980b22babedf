import type { DescService, MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import pg from "pg";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../../src/gen/google/rpc/error_details_pb.ts";
import { AuditLog } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { FederationAdmin } from "../../src/gen/sallyport/v1/federation_admin_pb.ts";
import { PrincipalAdmin } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { RoleAdmin } from "../../src/gen/sallyport/v1/role_admin_pb.ts";
import { ServerInfo } from "../../src/gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import {
  type CreateTokenRequestSchema,
  type CreateTokenResponse,
  TokenAdmin,
} from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import {
  TokenValidator,
  type ValidateTokenRequestSchema,
  type ValidateTokenResponse,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { type Database, freshDatabase } from "./postgres.ts";
import {
  FREE_PORTS,
  fetchPatiently,
  folder,
  freshKeyring,
  type KeyringFile,
  listenersOf,
  Program,
  patiently,
  writeConfig,
} from "./program.ts";

export type Protocol = "connect-json" | "connect" | "grpc" | "grpc-web";
type Listener = "data" | "admin" | "ops";

export interface Options {
  /** Overrides for the settings of a test: free ports, high limits. Top-level keys replace. */
  readonly config?: Record<string, unknown>;
  readonly env?: Record<string, string>;
  /** The database of a server that already runs, so that two instances share it. */
  readonly database?: Database;
  readonly keyring?: KeyringFile;
}

/** The admin listener for one caller. */
export interface AdminClients {
  readonly tokens: Client<typeof TokenAdmin>;
  readonly principals: Client<typeof PrincipalAdmin>;
  readonly tenants: Client<typeof TenantAdmin>;
  readonly roles: Client<typeof RoleAdmin>;
  readonly federation: Client<typeof FederationAdmin>;
  readonly audit: Client<typeof AuditLog>;
  readonly info: Client<typeof ServerInfo>;
}

/**
 * The real program as a child process on free ports, with its own database and an administrator; clients for its
 * listeners. `await using` stops it.
 */
export class TestSallyport implements AsyncDisposable {
  readonly program: Program;
  readonly listeners: Readonly<Record<Listener, string>>;
  readonly database: Database;
  readonly keyring: KeyringFile;
  /** The first administrator's token string: an operator in tenant `default`. */
  readonly adminToken: string;
  readonly #place: { remove(): void };
  readonly #ownsDatabase: boolean;
  readonly #sessions: Http2SessionManager[] = [];
  #sql: pg.Pool | undefined;

  private constructor(parts: {
    program: Program;
    listeners: Record<Listener, string>;
    database: Database;
    keyring: KeyringFile;
    adminToken: string;
    place: { remove(): void };
    ownsDatabase: boolean;
  }) {
    this.program = parts.program;
    this.listeners = parts.listeners;
    this.database = parts.database;
    this.keyring = parts.keyring;
    this.adminToken = parts.adminToken;
    this.#place = parts.place;
    this.#ownsDatabase = parts.ownsDatabase;
  }

  static async start(options: Options = {}): Promise<TestSallyport> {
    const place = folder();
    const database = options.database ?? (await migratedDatabase());
    const keyring = options.keyring ?? freshKeyring();
    let adminToken = "";
    if (options.database === undefined) {
      await bootstrap({
        url: database.url,
        keyring,
        ttlMs: 86_400_000,
        again: false,
        keep: (secret) => (adminToken = secret.reveal()),
      });
    }
    const file = writeConfig(place.path, {
      listeners: FREE_PORTS,
      database: { allow_fsync_off: true },
      keyring,
      limits: { mint_per_address_per_hour: 0, mint_per_principal_per_day: 0 },
      log: { level: "debug" },
      ...options.config,
    });
    const program = new Program(["serve", "--config", file], { DATABASE_URL: database.url, ...options.env });
    const ownsDatabase = options.database === undefined;
    try {
      const listeners = await listenersOf(program);
      return new TestSallyport({ program, listeners, database, keyring, adminToken, place, ownsDatabase });
    } catch (error) {
      place.remove();
      throw error;
    }
  }

  /** A transport to a listener, with the bearer if there is one. */
  transport(listener: Listener, protocol: Protocol = "connect", bearer?: string): Transport {
    const baseUrl = this.listeners[listener];
    const interceptors: Interceptor[] = bearer === undefined ? [patient] : [patient, bearing(bearer)];
    if (protocol === "connect-json" || protocol === "grpc-web") {
      const options = { baseUrl, httpVersion: "1.1" as const, interceptors, useBinaryFormat: protocol === "grpc-web" };
      return protocol === "grpc-web" ? createGrpcWebTransport(options) : createConnectTransport(options);
    }
    const sessionManager = new Http2SessionManager(baseUrl);
    this.#sessions.push(sessionManager);
    const options = { baseUrl, httpVersion: "2" as const, interceptors, useBinaryFormat: true, sessionManager };
    return protocol === "grpc" ? createGrpcTransport(options) : createConnectTransport(options);
  }

  client<S extends DescService>(service: S, listener: Listener, protocol?: Protocol, bearer?: string): Client<S> {
    return createClient(service, this.transport(listener, protocol, bearer));
  }

  /** The admin listener for one caller; without a bearer, for an unauthenticated one. */
  as(bearer: string | undefined, protocol?: Protocol): AdminClients {
    const transport = this.transport("admin", protocol, bearer);
    return {
      tokens: createClient(TokenAdmin, transport),
      principals: createClient(PrincipalAdmin, transport),
      tenants: createClient(TenantAdmin, transport),
      roles: createClient(RoleAdmin, transport),
      federation: createClient(FederationAdmin, transport),
      audit: createClient(AuditLog, transport),
      info: createClient(ServerInfo, transport),
    };
  }

  #admin: AdminClients | undefined;
  /** The admin listener for the first administrator. */
  get admin(): AdminClients {
    return (this.#admin ??= this.as(this.adminToken));
  }

  #validator: Client<typeof TokenValidator> | undefined;
  get validator(): Client<typeof TokenValidator> {
    return (this.#validator ??= this.client(TokenValidator, "data"));
  }

  /** A token that the administrator creates: of `user:ann`, unless the request says otherwise. */
  async createToken(
    request: MessageInitShape<typeof CreateTokenRequestSchema> = {},
    by: AdminClients = this.admin,
  ): Promise<
    Required<Pick<CreateTokenResponse, "tokenString">> & {
      id: string;
      token: NonNullable<CreateTokenResponse["token"]>;
    }
  > {
    const made = await by.tokens.createToken({
      profile: "pat",
      principal: "user:ann",
      displayName: "test",
      ...request,
    });
    return { tokenString: made.tokenString, id: made.token!.id, token: made.token! };
  }

  /** A token that holds permissions: of profile `adm`, for `user:<name>`. */
  callerWith(scopes: string[], more: MessageInitShape<typeof CreateTokenRequestSchema> = {}, by = this.admin) {
    return this.createToken({ profile: "adm", principal: "user:caller", displayName: "", scopes, ...more }, by);
  }

  async validate(
    tokenString: string,
    more: MessageInitShape<typeof ValidateTokenRequestSchema> = {},
  ): Promise<ValidateTokenResponse> {
    return this.validator.validateToken({ tokenString, ...more });
  }

  /** Only the verdict, by name. */
  async verdict(tokenString: string, more?: MessageInitShape<typeof ValidateTokenRequestSchema>): Promise<string> {
    return nameOf(Verdict, (await this.validate(tokenString, more)).verdict);
  }

  /** A bot or service, so that tokens can be created for it. */
  async registered(name: string, tenant = ""): Promise<string> {
    await this.admin.principals.createPrincipal({ principal: { name, tenant } });
    return name;
  }

  /** Reads the database behind the program's back. */
  async sql<R extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<R[]> {
    this.#sql ??= new pg.Pool({ connectionString: this.database.url, max: 2 });
    return (await this.#sql.query<R>(text, values)).rows;
  }

  /** Posts to a listener as curl does: JSON over HTTP/1.1, nothing interpreted. */
  post(listener: Listener, path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
    return fetchPatiently(`${this.listeners[listener]}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  }

  /** Stops the program like an orchestrator; its database stays. Returns the exit code. */
  async halt(): Promise<number> {
    for (const session of this.#sessions) session.abort();
    await this.#sql?.end();
    this.#sql = undefined;
    this.program.kill("SIGTERM");
    const late = setTimeout(() => this.program.kill("SIGKILL"), 20_000);
    const code = await this.program.exited;
    clearTimeout(late);
    return code;
  }

  /** Removes everything that it was created with. */
  async dispose(): Promise<void> {
    this.#place.remove();
    if (this.#ownsDatabase) await this.database.drop();
  }

  /** Stops it, and removes everything. Rejects if it did not end well. */
  async stop(): Promise<void> {
    const code = await this.halt();
    await this.dispose();
    if (code !== 0)
      throw new Error(`the program ended with ${code}: ${this.program.out.slice(-1500)} ${this.program.err}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** An empty database of the newest schema. */
export function migratedDatabase(): Promise<Database> {
  return freshDatabase({ name: "sallyport", template: (url) => migrate(url).then(() => {}) });
}

const patient: Interceptor = (next) => (req) =>
  patiently(
    () => next(req),
    async (_, error) => error !== undefined && describe(ConnectError.from(error)).reason === "OVERLOADED",
  );

function bearing(bearer: string): Interceptor {
  return (next) => (req) => {
    req.header.set("authorization", `Bearer ${bearer}`);
    return next(req);
  };
}

/** The failure of a call, as a client reads it. Fails if the call succeeds. */
export async function failure(call: Promise<unknown>) {
  let answered: unknown;
  try {
    answered = await call;
  } catch (thrown) {
    return describe(ConnectError.from(thrown));
  }
  throw new Error(`the call went well: ${Object.keys(answered as object).join(" ")}`);
}

function describe(error: ConnectError) {
  const [info] = error.findDetails(ErrorInfoSchema);
  const retry = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return {
    code: Code[error.code]!,
    reason: info?.reason,
    domain: info?.domain,
    message: error.rawMessage,
    metadata: info?.metadata ?? {},
    violations:
      error
        .findDetails(BadRequestSchema)[0]
        ?.fieldViolations.map(({ field, description }) => ({ field, description })) ?? [],
    retryMs: retry && Number(retry.seconds) * 1000 + retry.nanos / 1e6,
    quota: error.findDetails(QuotaFailureSchema).length > 0,
  };
}

/** The outcome of a call: `OK`, or the reason of its refusal. */
export async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "OK";
  } catch (thrown) {
    const { reason, code } = describe(ConnectError.from(thrown));
    return reason ?? code;
  }
}

/** The name of an enum's value. */
export function nameOf<E extends Record<string, number>>(table: E, value: number): string {
  return Object.keys(table).find((key) => table[key] === value) ?? String(value);
}

export const seconds = (n: number | bigint) => ({ seconds: BigInt(n), nanos: 0 });

import pg from "pg";
import { AppError } from "../domain/errors.ts";
import type { Trouble } from "../telemetry/events.ts";
import { startupSettings } from "./session-settings.ts";
import { isPlainRefusal, keepsConnection, meaningOf, safeCause, unreadable } from "./sqlstate.ts";

export interface PostgresOptions {
  readonly url: string;
  /** The connections go through a pooler: nothing is set on them. */
  readonly shared?: boolean;
  readonly maxConnections: number;
  readonly applicationName: string;
  /** A connection failed; called with an error that holds no secret. */
  readonly onTrouble: (name: Trouble, error: unknown) => void;
}

export type Row = Record<string, unknown>;

/** A statement with a name is planned once per connection. Frequent statements have one. */
export type Text = string | { readonly name: string; readonly text: string };

/** A statement inside a transaction. */
export interface Tx {
  query<R extends object = Row>(text: Text, values?: readonly unknown[]): Promise<R[]>;
}

/** The longest read, enforced by the server too. Transactions set their own bound. Milliseconds. */
const STATEMENT_MS = 30_000;
const INT8 = 20;
const TIMESTAMPTZ = 1184;

/** int8 as number (positions stay below 2^53), timestamptz as milliseconds since 1970. */
export const TYPES = {
  getTypeParser(oid: number, format?: "text" | "binary") {
    if (format !== "binary" && oid === INT8) return Number;
    const parser = pg.types.getTypeParser(oid, format);
    if (format === "binary" || oid !== TIMESTAMPTZ) return parser;
    return (text: string) => {
      const parsed = (parser as (text: string) => Date | number)(text);
      return typeof parsed === "number" ? parsed : parsed.getTime();
    };
  },
} as pg.CustomTypesConfig;

/** A column that makes an acknowledged commit of this transaction one that may be relied on; it lowers nothing. */
const DURABLE = `set_config('synchronous_commit', case current_setting('synchronous_commit')
  when 'remote_apply' then 'remote_apply' else 'on' end, true) as durable`;

/**
 * The time for connecting: with TLS, seven round trips, then the first statement, which can be slow. Milliseconds.
 */
export const CONNECT_MS = 2_500;

/**
 * The settings of every connection. `shared`: through a pooler, where nothing may be set. `statementMs`: the statement
 * timeout of the server.
 */
export function connectionSettings(
  url: string,
  applicationName: string,
  shared = false,
  statementMs?: number,
): pg.ClientConfig {
  return {
    ...(shared ? { connectionString: url } : startupSettings(url, statementMs)),
    application_name: applicationName,
    connectionTimeoutMillis: CONNECT_MS,
    keepAlive: true,
    types: TYPES,
  };
}

/**
 * Connections for reads of the admin listener and for changes. A statement that does not settle in time costs its
 * connection; the pool opens another.
 */
export class Postgres {
  readonly #pool: pg.Pool;
  readonly #onTrouble: PostgresOptions["onTrouble"];

  constructor(options: PostgresOptions) {
    this.#onTrouble = options.onTrouble;
    this.#pool = new pg.Pool({
      ...connectionSettings(options.url, options.applicationName, options.shared, STATEMENT_MS),
      max: options.maxConnections,
      idleTimeoutMillis: 60_000,
    });
    // An idle connection reports its loss here, a busy one through its client. Without a listener, either event would end
    // the process.
    this.#pool.on("error", (error) => this.#onTrouble("database_connection_lost", safeCause(error)));
    this.#pool.on("connect", (client) => {
      client.on("error", (error) => this.#onTrouble("database_connection_lost", safeCause(error)));
    });
  }

  get stats() {
    return { total: this.#pool.totalCount, idle: this.#pool.idleCount, waiting: this.#pool.waitingCount };
  }

  /**
   * One read. STORE_UNAVAILABLE where the database does not answer within `timeoutMs`. Rows that `trusted` refuses come
   * from a server that must not be used again: they are returned, and their connection is destroyed.
   */
  async read<R extends object = Row>(
    text: Text,
    values: readonly unknown[] = [],
    timeoutMs = 5_000,
    trusted: (rows: readonly R[]) => boolean = () => true,
  ): Promise<R[]> {
    let client: pg.PoolClient;
    try {
      client = await this.#pool.connect();
    } catch (error) {
      throw unreadable(error, "the database cannot be reached");
    }
    let broken = true;
    try {
      const rows = await run<R>(client, text, values, timeoutMs);
      broken = !trusted(rows);
      return rows;
    } catch (error) {
      broken = !keepsConnection(error);
      throw unreadable(error);
    } finally {
      client.release(broken);
    }
  }

  /**
   * Runs `work` in one READ COMMITTED transaction on a server that is no standby, and commits; after a deadlock or a
   * serialization failure again, at most three times. The commit waits for the server's disk and for synchronous
   * standbys, whatever the server's default is. Resolves after the acknowledgement of the commit. Rejects with the error
   * of `work` (rolled back), with NOT_DONE if certainly nothing was written, or with OUTCOME_UNKNOWN if the commit may
   * have happened: no answer, or one with a warning of class 01 (a synchronous standby did not confirm).
   */
  async transaction<T>(work: (tx: Tx) => Promise<T>, timeoutMs = 5_000): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(work, timeoutMs);
      } catch (error) {
        if (error instanceof AppError || meaningOf(error).change !== "again") throw asAppError(error);
        if (attempt >= 3) {
          throw new AppError("WRITE_CONFLICT", "too many changes at once of the same things; nothing was changed", {
            retryAfterMs: 200,
            cause: safeCause(error),
          });
        }
      }
    }
  }

  async #once<T>(work: (tx: Tx) => Promise<T>, timeoutMs: number): Promise<T> {
    let client: pg.PoolClient;
    try {
      client = await this.#pool.connect();
    } catch (error) {
      throw notDone(error);
    }
    let warned = false;
    const onNotice = (notice: { code?: string | undefined }) => {
      if (notice.code?.startsWith("01")) warned = true;
    };
    client.on("notice", onNotice);
    let broken = true;
    try {
      await begin(client, timeoutMs);
      const value = await work({ query: (text, values = []) => run(client, text, values, timeoutMs) });
      warned = false;
      await this.#commit(client, timeoutMs);
      broken = false;
      if (warned) throw outcomeUnknown(new Error("the commit was answered with a warning"));
      return value;
    } catch (error) {
      if (broken && (error instanceof AppError ? !isFatal(error) : keepsConnection(error))) {
        broken = !(await run(client, "rollback", undefined, 1000).then(
          () => true,
          () => false,
        ));
      }
      throw error;
    } finally {
      client.off("notice", onNotice);
      client.release(broken);
    }
  }

  async #commit(client: pg.PoolClient, timeoutMs: number): Promise<void> {
    let command: string;
    try {
      command = await withTimer(
        client.query("commit").then((result) => result.command),
        timeoutMs,
      );
    } catch (error) {
      // A refusal by a deferred trigger is certain. Any other error leaves open if the commit was written.
      throw isPlainRefusal(error) ? error : outcomeUnknown(error);
    }
    if (command !== "COMMIT") throw notDone(new Error("the commit was answered with a rollback"));
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }
}

async function run<R extends object>(
  client: pg.ClientBase,
  text: Text,
  values: readonly unknown[] | undefined,
  timeoutMs: number,
): Promise<R[]> {
  const statement = typeof text === "string" ? { text } : text;
  const result = await withTimer(client.query<R>({ ...statement, values: values as unknown[] }), timeoutMs);
  return result.rows ?? [];
}

/** The driver's timeout leaves the statement on the connection. This one makes the caller destroy the connection. */
async function withTimer<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("timeout")), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    promise.catch(() => {});
  }
}

const BEGIN = `begin isolation level read committed; set local lock_timeout = '2s';
  set local idle_in_transaction_session_timeout = '1s'; set local statement_timeout = '60s';
  select pg_is_in_recovery() as in_recovery, ${DURABLE}`;

/** Refuses a standby at once: it would answer the reads of a change with old rows, and refuse only the first write. */
async function begin(client: pg.ClientBase, timeoutMs: number): Promise<void> {
  // Several statements in one message: a result for each.
  const results = (await withTimer(client.query(BEGIN), timeoutMs)) as unknown as pg.QueryResult[];
  if (results.at(-1)?.rows[0]?.in_recovery !== false) {
    throw new Fatal("NOT_DONE", "the database is a standby, or a failover is under way; nothing was changed", {
      retryAfterMs: 1000,
    });
  }
}

/** An error after which the connection cannot be used. */
class Fatal extends AppError {}

function isFatal(error: AppError): boolean {
  return error instanceof Fatal || error.reason === "OUTCOME_UNKNOWN";
}

function notDone(error: unknown): AppError {
  return new AppError("NOT_DONE", `${meaningOf(error).words}; nothing was changed`, {
    retryAfterMs: 1000,
    cause: safeCause(error),
  });
}

function outcomeUnknown(error: unknown): AppError {
  return new AppError(
    "OUTCOME_UNKNOWN",
    "the database did not say whether the change was made; it is safe to repeat the call with the same request_id",
    { retryAfterMs: 1000, cause: safeCause(error) },
  );
}

function asAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (meaningOf(error).change === "NOT_DONE") return notDone(error);
  return new AppError("INTERNAL", "the database refused the change; nothing was changed", { cause: safeCause(error) });
}

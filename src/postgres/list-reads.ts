import pg from "pg";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Patience } from "../management/ports.ts";
import type { Trouble } from "../telemetry/events.ts";
import { connectionSettings, type Row } from "./pool.ts";
import { safeCause } from "./sqlstate.ts";

export interface ListReadsOptions {
  readonly url: string;
  /** The connection goes through a pooler: nothing is set on it. */
  readonly shared?: boolean;
  readonly clock: Clock;
  readonly onTrouble: (name: Trouble, error: unknown) => void;
}

/** Lists that run at once. Few, so that the database keeps time for validation. */
const MOST = 2;
const MOST_WAITING = 64;
/** For a caller without a deadline, and the most for any other. Milliseconds. */
const PATIENCE_MS = 5_000;
/** How often the server checks that the client is still connected. Milliseconds. */
const NOTICE_MS = 250;

/**
 * Long reads over a few connections of their own: lists, and previews of a bulk revocation. The server ends a statement
 * when the caller's time is over, and soon after its connection is gone. So a caller that leaves costs a connection. A
 * connection that a pooler shares keeps no session state.
 */
export class ListReads {
  readonly #options: ListReadsOptions;
  readonly #pool: pg.Pool;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(options: ListReadsOptions) {
    this.#options = options;
    this.#pool = new pg.Pool({
      ...connectionSettings(options.url, "sallyport-list", options.shared),
      max: MOST,
      idleTimeoutMillis: 60_000,
    });
    const lost = (error: unknown) => options.onTrouble("database_connection_lost", safeCause(error));
    this.#pool.on("error", lost);
    this.#pool.on("connect", (client) => client.on("error", lost));
  }

  /**
   * STORE_UNAVAILABLE if the database does not answer in time, OVERLOADED if other lists take all of that time. Rows that
   * `trusted` refuses are returned, and their connection is destroyed.
   */
  async read<R extends object = Row>(
    text: string,
    values: readonly unknown[],
    patience: Patience = {},
    mostMs = PATIENCE_MS,
    trusted: (rows: readonly R[]) => boolean = () => true,
  ): Promise<R[]> {
    const { clock } = this.#options;
    const until = Math.min(patience.deadline ?? Number.POSITIVE_INFINITY, clock.mono() + mostMs);
    const gone = new Gone(until - clock.mono(), patience.signal);
    try {
      await this.#turn(gone);
      try {
        return await this.#run<R>(text, values, Math.max(1, Math.ceil(until - clock.mono())), gone, trusted);
      } finally {
        this.#running--;
        this.#waiting.shift()?.();
      }
    } finally {
      gone.settle();
    }
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  async #turn(gone: Gone): Promise<void> {
    if (this.#running >= MOST) {
      if (this.#waiting.length >= MOST_WAITING) throw overloaded();
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.push(resolve);
      await gone.bound(promise).catch(() => {
        const at = this.#waiting.indexOf(resolve);
        // The place came at the same moment: pass it on.
        if (at === -1) this.#waiting.shift()?.();
        else this.#waiting.splice(at, 1);
        throw overloaded();
      });
    }
    this.#running++;
  }

  async #run<R extends object>(
    text: string,
    values: readonly unknown[],
    boundMs: number,
    gone: Gone,
    trusted: (rows: readonly R[]) => boolean,
  ): Promise<R[]> {
    let client: pg.PoolClient | undefined;
    let broken = true;
    try {
      const connecting = this.#pool.connect();
      client = await gone.bound(connecting).catch((error) => {
        connecting.then((late) => late.release()).catch(() => {});
        throw error;
      });
      await gone.bound(client.query(begin(boundMs)));
      const { rows } = await gone.bound(client.query<R>(text, values as unknown[]));
      await gone.bound(client.query("commit"));
      broken = !trusted(rows);
      return rows;
    } catch (error) {
      throw new AppError("STORE_UNAVAILABLE", "the database did not answer", {
        retryAfterMs: 1000,
        cause: safeCause(error),
      });
    } finally {
      if (broken && client !== undefined) destroy(client);
      client?.release(broken);
    }
  }
}

/**
 * Settings of this transaction only. A list must be read in the order of an index, even if the planner's statistics are
 * old: sorting would read the whole table. Not every system lets the server watch its peers; there the time bound alone
 * ends a statement.
 */
function begin(boundMs: number): string {
  return `begin isolation level read committed read only; set local statement_timeout = ${boundMs};
    set local jit = off; set local max_parallel_workers_per_gather = 0; set local enable_sort = off;
    select set_config('client_connection_check_interval', '${NOTICE_MS}', true) where version() ~ 'linux'`;
}

/** `release(true)` would wait for the statement in progress. An end on purpose is not reported. */
function destroy(client: pg.PoolClient): void {
  client.removeAllListeners("error").on("error", () => {});
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
}

function overloaded(): AppError {
  return new AppError("OVERLOADED", "too many lists at once; nothing was done", { retryAfterMs: 1000 });
}

/** The end of the wait: the time is over, or the caller has left. */
class Gone {
  readonly #promise: Promise<never>;
  readonly #timer: NodeJS.Timeout;
  readonly #signal: AbortSignal | undefined;
  readonly #left: () => void;

  constructor(ms: number, signal: AbortSignal | undefined) {
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.#promise = promise;
    this.#timer = setTimeout(() => reject(new Error("timeout")), Math.max(0, ms));
    this.#signal = signal;
    this.#left = () => reject(new Error("the caller has left"));
    signal?.addEventListener("abort", this.#left, { once: true });
    if (signal?.aborted) this.#left();
  }

  /** The outcome of the promise if it comes first. */
  bound<T>(promise: Promise<T>): Promise<T> {
    promise.catch(() => {});
    return Promise.race([promise, this.#promise]);
  }

  settle(): void {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener("abort", this.#left);
  }
}

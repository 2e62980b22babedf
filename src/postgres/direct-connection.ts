import pg from "pg";
import { CONNECT_MS, connectionSettings } from "./pool.ts";
import { destroySession, standbyWatch } from "./session.ts";
import { keepsConnection, SQLSTATE, safeCause, sqlstate, unreadable } from "./sqlstate.ts";

export interface Statement {
  /** Prepared once per connection under this name. */
  readonly name: string;
  readonly text: string;
}

export interface DirectConnectionOptions {
  readonly url: string;
  readonly applicationName: string;
  /** A channel to LISTEN on. */
  readonly channel?: string;
  readonly onNotification?: () => void;
  /** A working connection was lost; called with an error that holds no secret. */
  readonly onLost: (error: Error) => void;
}

interface Link {
  readonly client: pg.Client;
  readonly wasStandby: () => boolean;
  warned: boolean;
  /** The statement timeout that the server has now. */
  boundMs: number;
}

/** From the call to the answer, including waiting and connecting. Milliseconds. */
const BOUND_MS = 500;

/**
 * One session of PostgreSQL for single statements, one at a time in the order of the calls. The first statement opens
 * it, and the first after a loss opens it again.
 *
 * Each statement settles within 500 ms, or within the given bound: with its rows, or with STORE_UNAVAILABLE. A failure
 * destroys the session, unless the server plainly refused the statement, so a late answer is never seen. An answer with
 * a warning of class 01 (a commit that was not confirmed) is a failure.
 */
export class DirectConnection {
  readonly #options: DirectConnectionOptions;
  #link: Promise<Link> | undefined;
  #open: pg.Client | undefined;
  #last: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: DirectConnectionOptions) {
    this.#options = options;
  }

  async run<R extends object>(statement: Statement, values: readonly unknown[], boundMs = BOUND_MS): Promise<R[]> {
    const turn = this.#last;
    const { promise: over, resolve: done } = Promise.withResolvers<void>();
    this.#last = over;
    const late = deadline(boundMs);
    let link: Link | undefined;
    try {
      await late.bound(turn);
      link = await late.bound(this.#connected());
      if (link.boundMs !== boundMs) {
        await late.bound(link.client.query(`set statement_timeout = ${boundMs}`));
        link.boundMs = boundMs;
      }
      link.warned = false;
      const { rows } = await late.bound(link.client.query<R>({ ...statement, values: [...values] }));
      if (link.warned) throw new Error("answered with a warning");
      // Promoted during the session: the rows may come from a snapshot that it took as a standby.
      return link.wasStandby() ? rows.map((row) => ({ ...row, in_recovery: true })) : rows;
    } catch (error) {
      if (link !== undefined && !keepsConnection(error)) this.#destroy(link.client);
      throw unreadable(error);
    } finally {
      late.cancel();
      void turn.then(done);
    }
  }

  /** Destroys the session; the running statement fails. */
  drop(): void {
    if (this.#open !== undefined) this.#destroy(this.#open);
  }

  async close(): Promise<void> {
    this.#closed = true;
    const client = this.#open;
    if (client === undefined) return;
    this.#forget(client);
    const late = deadline(BOUND_MS);
    await late.bound(client.end()).catch(() => destroySession(client));
    late.cancel();
  }

  #connected(): Promise<Link> {
    if (this.#closed) return Promise.reject(new Error("closed"));
    return (this.#link ??= this.#connect());
  }

  async #connect(): Promise<Link> {
    const { url, applicationName, channel, onNotification, onLost } = this.#options;
    // The server also gives up a statement that no caller waits for.
    const client = new pg.Client(connectionSettings(url, applicationName, false, BOUND_MS));
    const link: Link = { client, wasStandby: standbyWatch(client), warned: false, boundMs: BOUND_MS };
    let works = false;
    this.#open = client;
    const lost = (error: Error) => {
      if (this.#open !== client) return;
      this.#forget(client);
      if (works) onLost(safeCause(error));
    };
    client.on("error", lost);
    client.on("end", () => lost(new Error("ended")));
    client.on("notice", ({ code }) => {
      if (code?.startsWith("01")) link.warned = true;
    });
    client.on("notification", () => {
      if (this.#open === client) onNotification?.();
    });
    // A connect may take longer than the statement that started it. The next statement then uses it.
    const late = deadline(CONNECT_MS);
    try {
      await late.bound(client.connect());
      if (channel !== undefined) {
        await late.bound(client.query(`listen ${channel}`)).catch((error) => {
          // A standby cannot LISTEN. Its evidence shows that it is one.
          if (sqlstate(error) !== SQLSTATE.readOnly) throw error;
        });
      }
      works = true;
      return link;
    } catch (error) {
      this.#destroy(client);
      throw error;
    } finally {
      late.cancel();
    }
  }

  #forget(client: pg.Client): void {
    if (this.#open !== client) return;
    this.#open = undefined;
    this.#link = undefined;
  }

  #destroy(client: pg.Client): void {
    this.#forget(client);
    destroySession(client);
  }
}

function deadline(ms: number) {
  const { promise: late, reject } = Promise.withResolvers<never>();
  late.catch(() => {});
  const timer = setTimeout(() => reject(new Error("timeout")), ms);
  return {
    /** The outcome of the promise if it comes in time. */
    bound<T>(promise: Promise<T>): Promise<T> {
      promise.catch(() => {});
      return Promise.race([promise, late]);
    },
    cancel: () => clearTimeout(timer),
  };
}

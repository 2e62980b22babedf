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
  /** A connection that worked was lost; called with an error that holds no secret. */
  readonly onLost: (error: Error) => void;
}

interface Link {
  readonly client: pg.Client;
  readonly wasStandby: () => boolean;
  warned: boolean;
  /** The server's own bound, as it was set last. */
  boundMs: number;
}

/** From the call to the answer, waiting and connecting included. Milliseconds. */
const BOUND_MS = 500;

/**
 * One session of PostgreSQL for single statements, one at a time in the order of the calls. Opened by the first
 * statement, and again by the first after a loss.
 *
 * Each statement settles within 500 ms, or the bound that it is given: with its rows, or with STORE_UNAVAILABLE. Unless the server plainly refused,
 * the session is then destroyed, and what it may still answer is never seen. An answer with a warning of class 01 (a
 * commit that was not confirmed) is a failure.
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
      // Promoted since: the rows may be of a snapshot that it took as a standby.
      return link.wasStandby() ? rows.map((row) => ({ ...row, in_recovery: true })) : rows;
    } catch (error) {
      if (link !== undefined && !keepsConnection(error)) this.#destroy(link.client);
      throw unreadable(error);
    } finally {
      late.cancel();
      void turn.then(done);
    }
  }

  /** Destroys the session; the statement under way fails. */
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
    // The server, too, gives up what nobody waits for any more.
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
    // An attempt may outlive the statement that began it: the next one then finds it done.
    const late = deadline(CONNECT_MS);
    try {
      await late.bound(client.connect());
      if (channel !== undefined) {
        await late.bound(client.query(`listen ${channel}`)).catch((error) => {
          // A standby can not LISTEN; what its statements show says the rest.
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
    /** The promise's own outcome if it comes in time. */
    bound<T>(promise: Promise<T>): Promise<T> {
      promise.catch(() => {});
      return Promise.race([promise, late]);
    },
    cancel: () => clearTimeout(timer),
  };
}

import pg from "pg";
import { AppError } from "../domain/errors.ts";
import { connectionSettings } from "./pool.ts";
import { isPlainRefusal, safeCause } from "./sqlstate.ts";

export interface LineOptions {
  readonly url: string;
  readonly name: string;
  /** A channel to listen on. */
  readonly channel?: string;
  readonly onNotification?: () => void;
  readonly onTrouble: (what: string, error: unknown) => void;
}

/** The longest that one statement may take, milliseconds. */
const BOUND_MS = 500;

/**
 * One direct connection for single statements, opened when it is needed. Each statement settles within 500 ms; one that
 * is late, fails or is answered with a warning costs the connection, and whatever still comes on it is ignored.
 */
export class Line {
  readonly #options: LineOptions;
  #client: pg.Client | undefined;
  #opening: Promise<pg.Client> | undefined;
  #closed = false;

  constructor(options: LineOptions) {
    this.#options = options;
  }

  /** Rejects with STORE_UNAVAILABLE. */
  async query<R extends object>(name: string, text: string, values: readonly unknown[] = []): Promise<R[]> {
    let timer: NodeJS.Timeout | undefined;
    let client: pg.Client | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("timeout")), BOUND_MS);
    });
    try {
      client = await Promise.race([this.#connected(), late]);
      const warnings = watchWarnings(client);
      try {
        const query = client.query<R>({ name, text, values: values as unknown[] });
        query.catch(() => {}); // late: ignored
        const { rows } = await Promise.race([query, late]);
        if (warnings.seen) throw new Error("answered with a warning");
        return rows;
      } finally {
        warnings.stop();
      }
    } catch (error) {
      if (client === undefined || !isPlainRefusal(error)) this.destroy();
      const cause = safeCause(error);
      throw new AppError("STORE_UNAVAILABLE", "the database did not answer", { retryAfterMs: 1000, cause });
    } finally {
      clearTimeout(timer);
      late.catch(() => {});
    }
  }

  /** Drops the connection at once; the next statement opens another. */
  destroy(): void {
    const client = this.#client;
    this.#client = undefined;
    this.#opening = undefined;
    if (client !== undefined) cut(client);
  }

  close(): void {
    this.#closed = true;
    this.destroy();
  }

  #connected(): Promise<pg.Client> {
    if (this.#closed) return Promise.reject(new Error("closed"));
    this.#opening ??= this.#open();
    return this.#opening;
  }

  async #open(): Promise<pg.Client> {
    const { url, name, channel, onNotification, onTrouble } = this.#options;
    const client = new pg.Client({ ...connectionSettings(url, name), connectionTimeoutMillis: BOUND_MS });
    const forget = () => {
      if (this.#client !== client) return;
      this.#client = undefined;
      this.#opening = undefined;
    };
    client.on("error", (error) => {
      forget();
      onTrouble("database connection lost", safeCause(error));
    });
    client.on("end", forget);
    this.#client = client;
    try {
      await client.connect();
      if (channel !== undefined) {
        client.on("notification", () => onNotification?.());
        await client.query(`listen ${channel}`);
      }
      return client;
    } catch (error) {
      forget();
      cut(client);
      throw error;
    }
  }
}

function watchWarnings(client: pg.Client) {
  const watch = { seen: false, stop: () => void client.off("notice", onNotice) };
  const onNotice = (notice: { code?: string | undefined }) => {
    if (notice.code?.startsWith("01")) watch.seen = true;
  };
  client.on("notice", onNotice);
  return watch;
}

/** `end()` would wait for a server that does not answer. */
function cut(client: pg.Client): void {
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
}

import type { ConsoleSessionStore } from "../management/ports.ts";
import type { Postgres } from "./pool.ts";

const TIMEOUT_MS = 2_000;
/** A use is written at most this often. */
const NOTED_EVERY = "1 minute";

/** The sessions of the console in PostgreSQL, so that every instance knows them, and sees a sign-out. */
export class PostgresConsoleSessions implements ConsoleSessionStore {
  readonly #db: Postgres;

  constructor(db: Postgres) {
    this.#db = db;
  }

  async add({ id, issuer, sealed, maxAgeMs, idleMs }: Parameters<ConsoleSessionStore["add"]>[0]): Promise<void> {
    await this.#db.transaction(async (tx) => {
      await tx.query(
        `delete from sallyport.console_sessions where id in (
           select id from sallyport.console_sessions
           where expire_time < now() or use_time < now() - $1 * interval '1 ms' limit 100 for update skip locked)`,
        [idleMs],
      );
      await tx.query(
        `insert into sallyport.console_sessions (id, issuer, sealed, expire_time)
           values ($1, $2, $3, now() + $4 * interval '1 ms')`,
        [id, issuer, sealed, maxAgeMs],
      );
    }, TIMEOUT_MS);
  }

  use(id: Buffer, idleMs: number): ReturnType<ConsoleSessionStore["use"]> {
    return this.#db.transaction(async (tx) => {
      const [found] = await tx.query<{ issuer: string; sealed: Buffer; stale: boolean }>(
        `select issuer, sealed, use_time < now() - interval '${NOTED_EVERY}' as stale
           from sallyport.console_sessions
           where id = $1 and expire_time > now() and use_time > now() - $2 * interval '1 ms'`,
        [id, idleMs],
      );
      if (found?.stale === true)
        await tx.query("update sallyport.console_sessions set use_time = now() where id = $1", [id]);
      return found;
    }, TIMEOUT_MS);
  }

  async claimRenewal(id: Buffer, forMs: number): Promise<boolean> {
    const claimed = await this.#db.transaction(
      (tx) =>
        tx.query(
          `update sallyport.console_sessions set renewing_until = now() + $2 * interval '1 ms'
             where id = $1 and renewing_until < now() returning 1`,
          [id, forMs],
        ),
      TIMEOUT_MS,
    );
    return claimed.length > 0;
  }

  async renewed(id: Buffer, sealed: Buffer | undefined): Promise<void> {
    await this.#db.transaction(
      (tx) =>
        tx.query(
          `update sallyport.console_sessions set sealed = coalesce($2, sealed), renewing_until = '-infinity' where id = $1`,
          [id, sealed ?? null],
        ),
      TIMEOUT_MS,
    );
  }

  async remove(id: Buffer): Promise<void> {
    await this.#db.transaction(
      (tx) => tx.query("delete from sallyport.console_sessions where id = $1", [id]),
      TIMEOUT_MS,
    );
  }
}

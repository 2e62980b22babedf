import type { LastUseStore } from "../validation/ports.ts";
import type { Postgres } from "./pool.ts";

/** Last use, in a table of its own. Validation does not wait for it, and it takes no position. */
export class PostgresUsageStore implements LastUseStore {
  readonly #db: Postgres;

  constructor(db: Postgres) {
    this.#db = db;
  }

  async flush(uses: readonly { tokenId: string; time: number; address: string }[]): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A hint for people, so the commit waits for neither disk nor standby.
      await tx.query("set local synchronous_commit = off");
      // A use without an address keeps the last known address.
      await tx.query(
        `insert into sallyport.token_usage as u (token_id, last_use_time, last_use_address)
           select id, to_timestamp(at / 1000), address from unnest($1::text[], $2::float8[], $3::text[]) w (id, at, address)
           order by id
           on conflict (token_id) do update set last_use_time = excluded.last_use_time,
             last_use_address = coalesce(nullif(excluded.last_use_address, ''), u.last_use_address)
           where u.last_use_time < excluded.last_use_time`,
        [uses.map((use) => use.tokenId), uses.map((use) => use.time), uses.map((use) => use.address)],
      );
    }, 5_000);
  }
}

import type { LastUseStore, StoredUse } from "../validation/ports.ts";
import type { Postgres } from "./pool.ts";

/** Last use and count of uses, in a table of its own. Validation does not wait for it, and it takes no position. */
export class PostgresUsageStore implements LastUseStore {
  readonly #db: Postgres;

  constructor(db: Postgres) {
    this.#db = db;
  }

  async flush(uses: readonly StoredUse[]): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A hint for people, so the commit waits for neither disk nor standby.
      await tx.query("set local synchronous_commit = off");
      // Instances store in any order: each count adds, and only the latest use tells its time and address. Without an
      // address, it keeps the last known one.
      await tx.query(
        `insert into sallyport.token_usage as u (token_id, last_use_time, last_use_address, use_count)
           select id, to_timestamp(at / 1000), address, uses
           from unnest($1::text[], $2::float8[], $3::text[], $4::int8[]) w (id, at, address, uses)
           order by id
           on conflict (token_id) do update set use_count = u.use_count + excluded.use_count,
             last_use_time = greatest(u.last_use_time, excluded.last_use_time),
             last_use_address = case when u.last_use_time < excluded.last_use_time and excluded.last_use_address <> ''
               then excluded.last_use_address else u.last_use_address end`,
        [
          uses.map((use) => use.tokenId),
          uses.map((use) => use.time),
          uses.map((use) => use.address),
          uses.map((use) => use.count),
        ],
      );
    }, 5_000);
  }
}

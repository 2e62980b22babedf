import type { LastUseStore } from "../validation/ports.ts";
import type { Postgres } from "./pool.ts";

/** Last use, in a table of its own: nothing that validation waits for, nothing that takes a position. */
export class PostgresUsageStore implements LastUseStore {
  readonly #db: Postgres;

  constructor(db: Postgres) {
    this.#db = db;
  }

  async flush(uses: readonly { tokenId: string; time: number; address: string }[]): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A hint for people: neither a disk nor a standby is waited for.
      await tx.query("set local synchronous_commit = off");
      // A use whose address nobody told leaves the last one that was told.
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

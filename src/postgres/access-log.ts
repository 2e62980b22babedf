import type { AccessEvent, AccessUse } from "../domain/access-event.ts";
import type { AccessFilter, AccessLog, PageStart, Part, Patience } from "../management/ports.ts";
import type { AccessLogStore } from "../validation/ports.ts";
import type { ListReads } from "./list-reads.ts";
import { driven, newestFirst } from "./newest-first.ts";
import type { Postgres } from "./pool.ts";

const COLUMNS =
  "seq, at, tenant, principal, token_id, hint, profile, verdict, reason, scopes, audience, method, host, path, workload, address, listener, uses";

// The time is bounded, because a row outside of all partitions would fail the whole statement.
const INSERT = `
insert into sallyport.access_log (at, tenant, principal, token_id, hint, profile, verdict, reason, scopes, audience, method,
  host, path, workload, address, listener, uses)
select date_trunc('milliseconds', least(greatest(to_timestamp(r.time / 1000), now() - interval '1 hour'), now())), r.tenant, r.principal, r."tokenId",
  r.hint, r.profile, r.verdict, r.reason, r.scopes, r.audience, r.method, r.host, r.path, r.workload, r.address, r.listener,
  r.uses
from jsonb_to_recordset($1::jsonb) r (time float8, tenant text, principal text, "tokenId" text, hint text, profile text,
  verdict text, reason text, scopes text[], audience text, method text, host text, path text, workload text, address text,
  listener text, uses int)`;

interface AccessRow extends Omit<AccessUse, "time" | "tokenId"> {
  readonly seq: number;
  readonly at: number;
  readonly token_id: string;
}

/** The uses of tokens. Validation does not wait for it, and it takes no position. */
export class PostgresAccessLog implements AccessLog, AccessLogStore {
  readonly #db: Postgres;
  readonly #lists: ListReads;

  constructor(db: Postgres, lists: ListReads) {
    this.#db = db;
    this.#lists = lists;
  }

  async append(rows: readonly AccessUse[]): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A crash of the server loses the last moments; what waited for its disk would only be dropped here.
      await tx.query("set local synchronous_commit = off");
      await tx.query(INSERT, [JSON.stringify(rows)]);
    }, 2_000);
  }

  /** Makes the partitions of the next days, then drops those that are older than `keepMs`. */
  async upkeep(keepMs: number): Promise<void> {
    await this.#db.transaction((tx) => tx.query("select sallyport.access_log_ahead()"), 5_000);
    await this.#db.transaction(
      (tx) => tx.query("select sallyport.access_log_prune($1::float8 * interval '1 millisecond')", [keepMs]),
      5_000,
    );
  }

  async list(filter: AccessFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<AccessEvent>> {
    const [driver, others] = driven([
      ["token_id = ?", filter.tokenId],
      ["principal = ?", filter.principal],
    ]);
    const { rows, rest } = await newestFirst<AccessRow>(
      this.#lists,
      {
        table: "sallyport.access_log",
        time: "at",
        key: "seq",
        keyType: "bigint",
        narrowed: [
          ["tenant = ?", filter.tenant],
          ...driver,
          ["at >= to_timestamp(?::float8 / 1000)", filter.after],
          ["at < to_timestamp(?::float8 / 1000)", filter.before],
        ],
        filters: [...others, ["verdict = ?", filter.verdict]],
        columns: COLUMNS,
        place: (row) => ({ time: row.at, key: String(row.seq) }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(eventOf), rest };
  }
}

function eventOf({ seq, at, token_id: tokenId, ...others }: AccessRow): AccessEvent {
  return { ...others, sequence: seq, time: at, tokenId };
}

import type { AuditAct, AuditActor, AuditEvent, AuditOutcome } from "../domain/audit-event.ts";
import type { AuditFilter, AuditLog, PageStart, Part, Patience } from "../management/ports.ts";
import type { ListReads } from "./list-reads.ts";
import { driven, newestFirst } from "./newest-first.ts";
import type { Postgres, Tx } from "./pool.ts";

const COLUMNS = "seq, at, tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id";

const INSERT = `
insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id)
select a->>'tenant', a->>'actor', a->>'address', a->>'action', a->>'target', a->>'owner', a->>'outcome', a->'metadata',
  a->>'requestId'
from jsonb_array_elements($1::jsonb) a`;

/** Writes audit rows in the transaction of the change. Without a row, the commit is refused. */
export async function appendAudit(tx: Tx, rows: readonly (AuditActor & AuditAct)[]): Promise<void> {
  await tx.query(INSERT, [JSON.stringify(rows)]);
}

/**
 * Writes for a call that changes nothing: its audit row or, where another row counts it, a message in the server's log.
 * A commit that writes nothing waits for no standby. The repeat would then report a change that a failover can still
 * undo.
 */
export async function appendRepeat(tx: Tx, row: AuditActor & AuditAct): Promise<void> {
  if (row.repeats?.(row.outcome) ?? true) await appendAudit(tx, [row]);
  else await emitOnly(tx);
}

/** Makes the commit of this transaction wait for standbys, even if it writes nothing else. */
export async function emitOnly(tx: Tx): Promise<void> {
  await tx.query("select pg_logical_emit_message(true, 'sallyport', '')");
}

interface AuditRow {
  readonly seq: number;
  readonly at: number;
  readonly tenant: string;
  readonly actor: string;
  readonly actor_address: string;
  readonly action: string;
  readonly target: string;
  readonly owner: string;
  readonly outcome: AuditOutcome;
  readonly metadata: Record<string, string>;
  readonly request_id: string;
}

export class PostgresAuditLog implements AuditLog {
  readonly #db: Postgres;
  readonly #lists: ListReads;

  constructor(db: Postgres, lists: ListReads) {
    this.#db = db;
    this.#lists = lists;
  }

  async append(actor: AuditActor, act: AuditAct): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A refusal changes nothing, so it waits for no standby. Strangers must not cause commits that wait.
      await tx.query("set local synchronous_commit = local");
      await appendAudit(tx, [{ ...actor, ...act }]);
    }, 2_000);
  }

  async list(filter: AuditFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<AuditEvent>> {
    const [driver, others] = driven([
      ["target = ?", filter.target],
      ["owner = ?", filter.owner],
      ["actor = ?", filter.actor],
      ["action = ?", filter.action],
    ]);
    const { rows, rest } = await newestFirst<AuditRow>(
      this.#lists,
      {
        table: "sallyport.audit",
        time: "at",
        key: "seq",
        keyType: "bigint",
        narrowed: [
          ["tenant = ?", filter.tenant],
          ...driver,
          ["at >= to_timestamp(?::float8 / 1000)", filter.after],
          ["at < to_timestamp(?::float8 / 1000)", filter.before],
        ],
        filters: others,
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

function eventOf(row: AuditRow): AuditEvent {
  return {
    sequence: row.seq,
    time: row.at,
    tenant: row.tenant,
    actor: row.actor,
    address: row.actor_address,
    action: row.action,
    target: row.target,
    owner: row.owner,
    outcome: row.outcome,
    metadata: row.metadata,
    requestId: row.request_id,
  };
}

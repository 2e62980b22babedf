import type { AuditAct, AuditActor, AuditEvent, AuditOutcome } from "../domain/audit-event.ts";
import type { AuditFilter, AuditLog } from "../ports.ts";
import type { Postgres, Tx } from "./pool.ts";
import { Where } from "./token-store.ts";

const INSERT = `
insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id)
select a->>'tenant', a->>'actor', a->>'address', a->>'action', a->>'target', a->>'owner', a->>'outcome', a->'metadata',
  a->>'requestId'
from jsonb_array_elements($1::jsonb) a`;

/** Writes audit rows in the transaction of the change: without one, the commit is refused. */
export async function appendAudit(tx: Tx, rows: readonly (AuditActor & AuditAct)[]): Promise<void> {
  await tx.query(INSERT, [JSON.stringify(rows)]);
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

  constructor(db: Postgres) {
    this.#db = db;
  }

  async append(actor: AuditActor, act: AuditAct): Promise<void> {
    await this.#db.transaction(async (tx) => {
      // A refusal changes nothing, so it waits for no standby: strangers must not fill the server with commits that do.
      await tx.query("set local synchronous_commit = local");
      await appendAudit(tx, [{ ...actor, ...act }]);
    }, 2_000);
  }

  async list(filter: AuditFilter, limit: number, beforeSequence?: number): Promise<AuditEvent[]> {
    const where = new Where();
    where.add("tenant = ?", filter.tenant);
    where.add("actor = ?", filter.actor);
    where.add("action = ?", filter.action);
    where.add("target = ?", filter.target);
    where.add("owner = ?", filter.owner);
    where.add("at >= to_timestamp(?::float8 / 1000)", filter.after);
    where.add("at < to_timestamp(?::float8 / 1000)", filter.before);
    where.add("seq < ?", beforeSequence);
    const rows = await this.#db.read<AuditRow>(
      `select seq, at, tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id
       from sallyport.audit ${where.text} order by seq desc limit ${where.value(limit)}`,
      where.values,
    );
    return rows.map((row) => ({
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
    }));
  }
}

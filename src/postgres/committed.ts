import { AppError } from "../domain/errors.ts";
import type { Committed } from "../revocation/ports.ts";
import { EVIDENCE, type EvidenceRow, HEAD } from "./evidence.ts";
import type { Postgres, Tx } from "./pool.ts";

// A change locks its table against changes of triggers until its end, so this result still holds at its commit.
const NOTED = `(select count(*) from pg_trigger where tgname in ('noted_update', 'audited') and tgenabled in ('A', 'O')
  and tgrelid in ('sallyport.tokens'::regclass, 'sallyport.principals'::regclass, 'sallyport.tenants'::regclass,
    'sallyport.roles'::regclass)
) = 8 as noted`;

/**
 * Columns that prove a change of authority. The statement needs `rev_head h` and `rev_state s`, and must contain the
 * change or follow it.
 */
export const PROOF = `${EVIDENCE}, s.max_bound_ms, ${NOTED}`;

export type ProofRow = EvidenceRow & { readonly max_bound_ms: number; readonly noted: boolean };

const READ_PROOF = {
  name: "sallyport-proof",
  text: `select ${PROOF} from ${HEAD}`,
};

/** Runs a change in a transaction that also reads epoch and bound, and returns both after the commit. */
export async function committed<T>(db: Postgres, work: (tx: Tx) => Promise<T>): Promise<Committed<T>> {
  return db.transaction(async (tx) => {
    const value = await work(tx);
    const [row] = await tx.query<ProofRow>(READ_PROOF);
    return proven(value, row);
  });
}

export function proven<T>(value: T, row: ProofRow | undefined): Committed<T> {
  if (row === undefined) throw new AppError("INTERNAL", "the head row is missing");
  if (!row.noted) {
    // During a restore tables exist before their triggers. An operator can also disable triggers at any time.
    const text = "the database's triggers are not in place: a restore is under way, or they were disabled";
    throw new AppError("NOT_DONE", `${text}; nothing was changed`, { retryAfterMs: 1000 });
  }
  return { value, epoch: row.epoch, maxBoundMs: row.max_bound_ms, dbTime: row.db_time };
}

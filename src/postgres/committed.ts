import { AppError } from "../domain/errors.ts";
import type { Committed } from "../ports.ts";
import { EVIDENCE, type EvidenceRow } from "./evidence.ts";
import type { Postgres, Tx } from "./pool.ts";

/** Runs a change in a transaction that also reads epoch and bound, and returns both after the commit. */
export async function committed<T>(db: Postgres, work: (tx: Tx) => Promise<T>): Promise<Committed<T>> {
  return db.transaction(async (tx) => {
    const value = await work(tx);
    const rows = await tx.query<EvidenceRow & { max_bound_ms: number }>(
      `select ${EVIDENCE}, s.max_bound_ms from sallyport.rev_head h cross join sallyport.rev_state s`,
    );
    const row = rows[0];
    if (row === undefined) throw new AppError("INTERNAL", "the head row is missing");
    return { value, epoch: row.epoch, maxBoundMs: row.max_bound_ms, dbTime: row.db_time };
  });
}

import { AppError } from "../domain/errors.ts";
import type { Committed } from "../ports.ts";
import { EVIDENCE, type EvidenceRow, HEAD } from "./evidence.ts";
import type { Postgres, Tx } from "./pool.ts";

/** What a transaction that changes authority reads besides. Needs `rev_head h` and `rev_state s` in the statement. */
export const PROOF = `${EVIDENCE}, s.max_bound_ms`;

export type ProofRow = EvidenceRow & { readonly max_bound_ms: number };

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
  return { value, epoch: row.epoch, maxBoundMs: row.max_bound_ms, dbTime: row.db_time };
}

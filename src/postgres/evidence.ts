import type { Evidence } from "../domain/evidence.ts";

/**
 * The server's epoch, made in SQL: timeline / incarnation / start time / head and state, each by its oid and by the path
 * of its file, which names database and file node. A dump, a copy of the database or a copy of the files never repeats
 * all of them. It ends in `~` if a row was written while triggers were off: its positions may have been used before, so
 * no process starts such an epoch. Every part is in memory; nothing scans a catalog. The WAL functions raise an error in
 * recovery. Needs `HEAD` in the statement.
 */
export const EPOCH = `coalesce(case when not pg_is_in_recovery()
    then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end, '-')
  || '/' || s.incarnation || '/' || (extract(epoch from pg_postmaster_start_time()) * 1e6)::bigint
  || '/' || h.tableoid || ':' || pg_relation_filepath(h.tableoid)
  || '/' || s.tableoid || ':' || pg_relation_filepath(s.tableoid)
  || case when h.sealed = h.xmin and s.sealed = s.xmin then '' else '~' end`;

/**
 * Columns of every statement that validation or revocation relies on. Needs `rev_head h` and `rev_state s` in the
 * statement.
 */
export const EVIDENCE = `
  pg_is_in_recovery() as in_recovery,
  ${EPOCH} as epoch,
  h.n as head_n,
  extract(epoch from clock_timestamp())::float8 * 1000 as db_time`;

export interface EvidenceRow {
  readonly in_recovery: boolean;
  readonly epoch: string;
  readonly head_n: number;
  readonly db_time: number;
}

/** A column for statements that may allow: the proven epoch. It proves nothing unless it is the epoch beside it. */
export const PROVEN = "case when s.guard = 'ok' then s.proven end as proven";

export function isProven(row: EvidenceRow & { readonly proven: string | null }): boolean {
  return row.proven === row.epoch;
}

export function evidenceOf(row: EvidenceRow): Evidence {
  return { inRecovery: row.in_recovery, epoch: row.epoch, position: row.head_n, dbTime: row.db_time };
}

/**
 * The two rows behind the evidence. The limits make a planner without statistics expect one row of each. Otherwise it
 * expects millions of pairs, and JIT compilation takes longer than the statement may.
 */
export const HEAD = `(select n, sealed, xmin, tableoid from sallyport.rev_head limit 1) h cross join (
  select floor_n, incarnation, max_bound_ms, min_reader, settled, proven, guard, sealed, xmin, tableoid
  from sallyport.rev_state limit 1) s`;

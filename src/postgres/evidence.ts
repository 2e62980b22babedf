import type { Evidence } from "../domain/evidence.ts";

/**
 * The server's epoch, made in SQL: timeline / incarnation / start time / head and state, each by its oid and by the path
 * of its file, which names database and file node. None of it repeats when a dump, a copy of the database or a copy of
 * the files is put in place. A `~` stands at its end where a row was put there while triggers were off: positions may
 * have been used before, and nobody begins such an epoch. All of it is at hand; nothing scans a catalog. The WAL
 * functions raise in recovery. Needs `HEAD` in the statement.
 */
export const EPOCH = `coalesce(case when not pg_is_in_recovery()
    then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end, '-')
  || '/' || s.incarnation || '/' || (extract(epoch from pg_postmaster_start_time()) * 1e6)::bigint
  || '/' || h.tableoid || ':' || pg_relation_filepath(h.tableoid)
  || '/' || s.tableoid || ':' || pg_relation_filepath(s.tableoid)
  || case when h.sealed = h.xmin and s.sealed = s.xmin then '' else '~' end`;

/**
 * What every statement that validation or revocation relies on carries, inline. Needs `rev_head h` and `rev_state s` in
 * the statement.
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

export function evidenceOf(row: EvidenceRow): Evidence {
  return { inRecovery: row.in_recovery, epoch: row.epoch, position: row.head_n, dbTime: row.db_time };
}

/**
 * The two rows that the evidence is made of. With limits, so that a planner without figures, too, expects one row of
 * each: else it expects millions of pairs, and spends longer on JIT than the statement may take.
 */
export const HEAD = `(select n, sealed, xmin, tableoid from sallyport.rev_head limit 1) h cross join (
  select floor_n, incarnation, max_bound_ms, min_reader, settled, guard, sealed, xmin, tableoid
  from sallyport.rev_state limit 1) s`;

import type { Statement } from "./direct-connection.ts";
import { EVIDENCE, HEAD } from "./evidence.ts";

/* The statements of the journal. Those on the own database carry the evidence from the same snapshot. */

/** The most records of one page, of the log and of the journal. */
export const PAGE = 1000;

const NOW = `with now as (select ${EVIDENCE} from ${HEAD}) select now.in_recovery, now.epoch, now.head_n, now.db_time`;

/** One record as JSON, in which numbers up to 2^53 are exact. */
const RECORD = `json_build_array(r.n, r.nr, r."of", encode(r.key, 'hex'), (extract(epoch from r.at) * 1e6)::bigint, r.kind,
  case when r.kind <> 'other' then r.change end)`;

// ---------------------------------------------------------------------------------------------------- the own database

export const STATE: Statement = {
  name: "sallyport-journal-state",
  text: `${NOW}, j.database, j.journal, j.floor_n, j.journaled_n, j.compared, j.waived
from now cross join (
  select database, journal, floor_n, journaled_n, compared, waived from sallyport.rev_state limit 1) j`,
};

/** $1 position, $2 number: the place after which it reads. */
export const AFTER: Statement = {
  name: "sallyport-journal-after",
  text: `${NOW}, coalesce((
  select json_agg(${RECORD} order by r.n, r.nr) from (
    select w.n, w.nr, w."of", w.key, w.at, w.kind, w.change from (
      select l.n, l.key, l.at, l.kind, l.change, (row_number() over (partition by l.n order by l.key))::int as nr,
        (count(*) over (partition by l.n))::int as "of"
      from sallyport.rev_log l where l.n >= $1::bigint
    ) w where (w.n, w.nr) > ($1::bigint, $2::int) order by w.n, w.nr limit ${PAGE}
  ) r), '[]') as rows, s.floor_n, s.journaled_n, coalesce(s.waived = now.epoch, false) as waived
from now cross join (select floor_n, journaled_n, waived from sallyport.rev_state limit 1) s`,
};

/** Arrays of positions, keys and times. */
export const COMMON: Statement = {
  name: "sallyport-journal-common",
  text: `${NOW}, coalesce((
  select max(l.n) from unnest($1::bigint[], $2::bytea[], $3::bigint[]) a (n, key, at)
    join sallyport.rev_log l on l.n = a.n and l.key = a.key and (extract(epoch from l.at) * 1e6)::bigint = a.at), -1) as highest
from now`,
};

const LOCAL = "set_config('synchronous_commit', 'local', true) as durable";

function writing(name: string, call: string): Statement {
  const text = `${NOW}, case when now.epoch = $1::text then ${call} end as done, ${LOCAL} from now`;
  return { name: `sallyport-journal-${name}`, text };
}

/** The first parameter of each is the epoch. */
export const ATTACH = writing("attach", "sallyport.journal_attach()::text");
export const COMPARED = writing("compared", "sallyport.journal_compared($1::text)::text");
export const MISMATCH = writing("mismatch", "sallyport.journal_mismatch($1::text, $2::text)");
export const REACHED = writing("reached", "sallyport.journal_reached($1::text, $2::bigint)::text");

export const LEAD: Statement = {
  name: "sallyport-journal-lead",
  text: "select pg_try_advisory_lock(7400740177) as got",
};

export const RESIGN: Statement = {
  name: "sallyport-journal-resign",
  text: "select pg_advisory_unlock(7400740177) as done",
};

// ---------------------------------------------------------------------------------------------------- the journal

/** $1 epoch, $2 database, $3 it may be a new journal. */
export const BEGIN: Statement = {
  name: "sallyport-journal-begin",
  text: "select sallyport_journal.begin_epoch($1::text, $2::uuid, $3::bool) as done",
};

/** $1 epoch, then arrays of positions, numbers, counts, keys, kinds, times and changes. */
export const APPEND: Statement = {
  name: "sallyport-journal-append",
  text: `select sallyport_journal.append($1::text, $2::bigint[], $3::int[], $4::int[], $5::bytea[], $6::text[],
  $7::bigint[], $8::text[]) as done`,
};

/** $1 the first epoch, or null for all. */
export const EPOCHS: Statement = {
  name: "sallyport-journal-epochs",
  text: `select e.epoch from sallyport_journal.epochs e
where $1::text is null or e.seq >= (select f.seq from sallyport_journal.epochs f where f.epoch = $1::text) order by e.seq`,
};

/** $1 the last epoch that counts, or null for all. */
export const NEWEST: Statement = {
  name: "sallyport-journal-newest",
  text: `select coalesce(max(m.n), -1) as n from sallyport_journal.epochs e cross join lateral (
  select c.n from sallyport_journal.changes c where c.epoch = e.epoch order by c.n desc limit 1) m
where $1::text is null or e.seq <= (select f.seq from sallyport_journal.epochs f where f.epoch = $1::text)`,
};

/** $1 epoch, $2 position, $3 number: the place after which it reads. */
export const RECORDS: Statement = {
  name: "sallyport-journal-records",
  text: `select ${RECORD} as row from (
  select c.n, c.i as nr, c."of", c.key, c.at, c.kind, c.change from sallyport_journal.changes c
  where c.epoch = $1::text and (c.n, c.i) > ($2::bigint, $3::int) order by c.n, c.i limit ${PAGE}) r`,
};

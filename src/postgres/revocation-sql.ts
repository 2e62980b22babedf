import type { Statement } from "./direct-connection.ts";
import { EVIDENCE } from "./evidence.ts";

/*
 * The statements of the log and the registry. Each is one transaction and carries the evidence inline, from the same
 * snapshot; the writing ones as a CTE beside it, so that it comes also where no row was hit.
 */

/** The most log rows of one poll. */
export const PAGE = 5000;
/** The most log rows that one statement deletes. */
export const BATCH = 5000;

const HEAD = "sallyport.rev_head h cross join sallyport.rev_state s";
// A database or schema that was renamed, and is called so again, has its old epoch; but processes may hold leases of
// the one that stood there meanwhile. Renaming writes these rows anew.
const NAMED = `(select d.xmin || '.' || n.xmin from pg_database d cross join pg_namespace n
  where d.datname = current_database() and n.nspname = 'sallyport')`;
const STATE = `${EVIDENCE}, s.max_bound_ms,
  case when split_part(s.settled, '#', 2) = ${NAMED} then split_part(s.settled, '#', 1) end as settled`;
const NOW = `now as (select ${EVIDENCE} from ${HEAD})`;

// What an acknowledged commit may rest on, whatever the server's default is. Local to the statement's transaction.
const DURABLE = `set_config('synchronous_commit', case when current_setting('synchronous_commit') in ('off', 'local')
  then 'on' else current_setting('synchronous_commit') end, true) as durable`;
// Losing it costs a wait.
const LAZY = "set_config('synchronous_commit', 'off', true) as durable";

function writing(name: string, ctes: string, durability: string): Statement {
  const text = `with ${NOW}, ${ctes}
select now.in_recovery, now.epoch, now.head_n, now.db_time, (select count(*) from done) as done, ${durability} from now`;
  return { name: `sallyport-${name}`, text };
}

export const LOOK: Statement = { name: "sallyport-look", text: `select ${STATE} from ${HEAD}` };

export const POLL: Statement = {
  name: "sallyport-poll",
  text: `
select ${STATE}, s.floor_n,
  exists (select from sallyport.validators v where v.id = $1 and v.epoch = $2 and v.reaped_at is null) as live,
  page.ns, page.keys
from ${HEAD} cross join (
  select coalesce(array_agg(n), '{}') as ns, coalesce(array_agg(key), '{}') as keys
  from (select n, key from sallyport.rev_log where n > $3 order by n desc limit ${PAGE}) newest
) page`,
};

/** $1 own row before or null, $2 own row, $3 epoch, $4 bound, $5 reader version, $6 kids. */
export const REGISTER = writing(
  "register",
  `gone as (delete from sallyport.validators where id = $1),
  done as (
    insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids)
    select $2::uuid, $3::text, $4::int, $5::int, $6::text[] from sallyport.rev_state
    where max_bound_ms >= $4::int and min_reader <= $5::int returning id
  )`,
  DURABLE,
);

export const ACK = writing(
  "ack",
  `done as (
    update sallyport.validators set applied_n = greatest(applied_n, $3), seen = clock_timestamp()
    where id = $1 and epoch = $2 and reaped_at is null returning id
  )`,
  LAZY,
);

export const SEEN = writing(
  "seen",
  "done as (update sallyport.validators set seen = clock_timestamp() where id = $1 and reaped_at is null returning id)",
  LAZY,
);

export const LEAVE = writing("leave", "done as (delete from sallyport.validators where id = $1 returning id)", LAZY);

/** $1 epoch, $2 position or null for the head. */
export const MISSING: Statement = {
  name: "sallyport-missing",
  text: `
select ${STATE}, coalesce((
  select json_agg(json_build_array(v.id, v.bound_ms, v.reaped_at is not null,
    case when v.epoch = $1 then v.applied_n else -1 end))
  from sallyport.validators v where not (v.epoch = $1 and v.applied_n >= coalesce($2::bigint, h.n))
), '[]') as missing
from ${HEAD}`,
};

export const VALIDATORS: Statement = {
  name: "sallyport-validators",
  text: `
select ${STATE}, coalesce((
  select json_agg(json_build_array(v.id, v.bound_ms, v.reaped_at is not null,
    (extract(epoch from clock_timestamp() - v.seen) * 1000)::float8))
  from sallyport.validators v
), '[]') as rows
from ${HEAD}`,
};

// In id order: several processes reap the same rows at once.
export const REAP = writing(
  "reap",
  `silent as (
    select id from sallyport.validators where id = any($1::uuid[]) and reaped_at is null order by id for update
  ),
  done as (
    update sallyport.validators v set reaped_at = clock_timestamp() from silent where v.id = silent.id returning v.id
  )`,
  DURABLE,
);

export const BURY = writing(
  "bury",
  `corpses as (
    select id from sallyport.validators
    where id = any($1::uuid[]) and reaped_at is not null and $2 = (select epoch from now) order by id for update
  ),
  done as (delete from sallyport.validators v using corpses where v.id = corpses.id returning v.id)`,
  LAZY,
);

export const SETTLE = writing(
  "settle",
  `done as (
    update sallyport.rev_state set settled = $1 || '#' || ${NAMED}
    where $1 = (select epoch from now) and settled is distinct from $1 || '#' || ${NAMED} returning one
  )`,
  DURABLE,
);

// $1 the epoch that was seen. In the select list: as a condition it would be asked before the epoch is.
export const DRAW = writing(
  "draw",
  `done as (
    select case when now.epoch = $1 then sallyport.draw_incarnation(s.incarnation) end as drawn
    from now cross join sallyport.rev_state s
  )`,
  DURABLE,
);

export const LEAD: Statement = {
  name: "sallyport-lead",
  text: "select pg_try_advisory_lock(7400740175) as got",
};

// Longer than any cache keeps an entry. By the index on the time: positions and times grow together, and where a clock
// was set back less is pruned.
export const RAISE_FLOOR: Statement = {
  name: "sallyport-raise-floor",
  text: `
update sallyport.rev_state set floor_n = greatest(floor_n, coalesce((
  select n from sallyport.rev_log where at < clock_timestamp() - interval '10 min' order by at desc, n desc limit 1), 0))
returning floor_n, ${DURABLE}`,
};

export const PRUNE: Statement = {
  name: "sallyport-prune",
  text: `
with done as (
  delete from sallyport.rev_log
  where ctid = any(array(select ctid from sallyport.rev_log where n <= $1 order by n limit ${BATCH})) returning n
)
select count(*) as done, ${LAZY} from done`,
};

// With a request its salt goes, from which a minted secret could be made again.
export const FORGET_REQUESTS: Statement = {
  name: "sallyport-forget-requests",
  text: forgetting("requests", "at < clock_timestamp() - interval '10 min'"),
};

// A window is a day at the longest.
export const FORGET_COUNTS: Statement = {
  name: "sallyport-forget-counts",
  text: forgetting("mint_counts", "window_start < clock_timestamp() - interval '2 days'"),
};

function forgetting(table: string, condition: string): string {
  return `
with done as (
  delete from sallyport.${table}
  where ctid = any(array(select ctid from sallyport.${table} where ${condition} limit ${BATCH})) returning 1
)
select count(*) as done from done`;
}

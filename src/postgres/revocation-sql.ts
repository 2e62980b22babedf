import type { Statement } from "./direct-connection.ts";
import { EVIDENCE, HEAD, PROVEN } from "./evidence.ts";

/*
 * The statements of the log and the registry. Each is one transaction and carries the evidence from the same snapshot.
 * Only functions of the schema write the registry, so that no login can write another process's row.
 */

/** The most log rows of one poll. */
export const PAGE = 5000;
/** The most log rows that one statement deletes. */
export const BATCH = 5000;

// A database, schema or table that was renamed, and is called so again, has its old epoch; but processes may hold leases of
// the one that stood there meanwhile. Renaming writes these rows anew.
const NAMES = `(select d.xmin || '.' || n.xmin || '#' || th.xmin || '.' || ts.xmin as names
  from pg_database d cross join pg_namespace n
    join pg_class th on th.relnamespace = n.oid and th.relname = 'rev_head'
    join pg_class ts on ts.relnamespace = n.oid and ts.relname = 'rev_state'
  where d.datname = current_database() and n.nspname = 'sallyport')`;
export const STATE = `${EVIDENCE}, s.max_bound_ms, named.names,
  case when substr(s.settled, strpos(s.settled, '#') + 1) = named.names then split_part(s.settled, '#', 1) end as settled`;
// Exact in a double, as a time of JavaScript is not.
const MICROS = "(extract(epoch from at) * 1e6)::bigint";
export const FROM = `${HEAD} cross join ${NAMES} named`;

// The server flushes before it answers, so the crash of a backend loses nothing inside an epoch. It waits for no standby:
// a failover ends the epoch, and the registry with it.
const LOCAL = "set_config('synchronous_commit', 'local', true) as durable";
// Losing it only makes a change wait longer.
const LAZY = "set_config('synchronous_commit', 'off', true) as durable";

function writing(name: string, call: string, durability: string): Statement {
  const text = `with now as (select ${EVIDENCE} from ${HEAD})
select now.in_recovery, now.epoch, now.head_n, now.db_time, ${call} as done, ${durability} from now`;
  return { name: `sallyport-${name}`, text };
}

export const READ_EPOCH: Statement = { name: "sallyport-read-epoch", text: `select ${STATE} from ${FROM}` };

export const POLL: Statement = {
  name: "sallyport-poll",
  text: `
select ${STATE}, ${PROVEN}, s.guard <> 'ok' as regressed, s.floor_n,
  exists (select from sallyport.validators v where v.id = $1 and v.epoch = $2 and v.reaped_at is null) as live,
  exists (select from sallyport.lost_changes c where c.state = 'pending') as pending,
  page.ns, page.keys, page.ats, page.kinds, page.changes
from ${FROM} cross join (
  select coalesce(array_agg(n), '{}') as ns, coalesce(array_agg(key), '{}') as keys,
    coalesce(array_agg(${MICROS}), '{}') as ats, coalesce(array_agg(kind), '{}') as kinds,
    coalesce(array_agg(case when kind <> 'other' then change::text end), '{}') as changes
  from (select n, key, at, kind, change from sallyport.rev_log where n > $3 order by n desc limit ${PAGE}) newest
) page`,
};

/**
 * $1 earlier row or null, $2 its secret, $3 new row, $4 hash of its secret, $5 epoch, $6 bound, $7 reader version, $8
 * kids, $9 the secret, $10 mode, $11 version.
 */
export const REGISTER = registering("register", "validator_join");

/** As REGISTER. The earlier row stays, marked as reaped. */
export const REPLACE = registering("replace", "validator_replace");

function registering(name: string, join: string): Statement {
  const call = `case
    when sallyport.${join}($1::uuid, $2::bytea, $3::uuid, $4::bytea, $5::text, $6::int, $7::int, $8::text[])
    then sallyport.validator_describe($3::uuid, $9::bytea, $10::text, $11::text) else false end`;
  return writing(name, call, LOCAL);
}

/** $1 own row, $2 its secret, $3 epoch, $4 position. */
export const ACK = writing("ack", "sallyport.validator_ack($1::uuid, $2::bytea, $3::text, $4::bigint)", LAZY);

/** $1 own row, $2 its secret, $3 epoch, $4 position, $5 caches that this process feeds. */
export const HOLD = writing(
  "hold",
  "sallyport.validator_hold($1::uuid, $2::bytea, $3::text, $4::bigint, $5::int)",
  LAZY,
);

export const DEREGISTER = writing("deregister", "sallyport.validator_leave($1::uuid, $2::bytea)", LAZY);

/** $1 epoch, $2 position or null for the last one. */
export const MISSING: Statement = {
  name: "sallyport-missing",
  text: `
select ${STATE}, (select count(*)::int from sallyport.validators) as validators, coalesce((
  select json_agg(json_build_array(v.id, v.bound_ms, v.reaped_at is not null,
    case when v.epoch = $1 then v.applied_n else -1 end,
    v.clients > 0 and v.seen > clock_timestamp() - interval '500 ms'))
  from sallyport.validators v where not (v.epoch = $1 and v.applied_n >= coalesce($2::bigint, h.n))
), '[]') as missing
from ${FROM}`,
};

export const VALIDATORS: Statement = {
  name: "sallyport-validators",
  text: `
select ${STATE}, coalesce((
  select json_agg(json_build_array(v.id, v.bound_ms, v.reaped_at is not null,
    (extract(epoch from clock_timestamp() - v.seen) * 1000)::float8))
  from sallyport.validators v
), '[]') as rows
from ${FROM}`,
};

export const REAP = writing("reap", "sallyport.validators_reap($1::uuid[])", LOCAL);

export const DELETE_REAPED = writing(
  "delete-reaped",
  "case when now.epoch = $2::text then sallyport.validators_bury($1::uuid[]) end",
  LAZY,
);

/** $1 epoch, $2 the names under which the caller has counted. */
export const MARK_SETTLED = writing(
  "mark-settled",
  `case when now.epoch = $1::text and ${NAMES} = $2::text then sallyport.rev_settle($1::text || '#' || $2::text) end`,
  LOCAL,
);

/** The most records of one report, and the most bytes of their changes. */
export const REPORT = 500;
export const REPORT_BYTES = 1_048_576;

/** $1 epoch, then arrays of positions, keys, times, kinds and changes. */
export const LOST_REPORT = writing(
  "lost-report",
  `case when now.epoch = $1::text then
    sallyport.lost_report($1::text, $2::bigint[], $3::bytea[], $4::bigint[], $5::text[], $6::text[]) end`,
  LOCAL,
);

// Without a durability of its own: it takes a position, and is as durable as every change.
export const LOST_REDO: Statement = {
  name: "sallyport-lost-redo",
  text: `with now as (select ${EVIDENCE} from ${HEAD})
select now.in_recovery, now.epoch, now.head_n, now.db_time,
  case when now.epoch = $1::text then sallyport.lost_redo() end as done from now`,
};

/** $1 epoch, $2 all leases of earlier epochs are over since the process saw this one. */
export const PROVE = writing(
  "prove",
  "case when now.epoch = $1::text then sallyport.rev_prove($1::text, $2::bool) end",
  LOCAL,
);

/** $1 the epoch to leave. */
export const DRAW = writing(
  "draw",
  "case when now.epoch = $1::text then sallyport.draw_incarnation(split_part($1::text, '/', 2)::uuid) end",
  LOCAL,
);

export const LEAD: Statement = {
  name: "sallyport-lead",
  text: "select pg_try_advisory_lock(7400740175) as got",
};

export const RESIGN: Statement = {
  name: "sallyport-resign",
  text: "select pg_advisory_unlock(7400740175) as done",
};

export const RAISE_FLOOR: Statement = {
  name: "sallyport-raise-floor",
  text: `select sallyport.rev_raise_floor() as floor_n, ${LOCAL}`,
};

export const PRUNE: Statement = {
  name: "sallyport-prune",
  text: `select sallyport.rev_prune(${BATCH}) as done, ${LAZY}`,
};

// Also deletes the salt, from which a minted secret could be made again.
export const FORGET_REQUESTS: Statement = {
  name: "sallyport-forget-requests",
  text: forgetting("requests", "at < clock_timestamp() - interval '10 min'"),
};

// A window is at most a day.
export const FORGET_COUNTS: Statement = {
  name: "sallyport-forget-counts",
  text: forgetting("mint_counts", "window_start < clock_timestamp() - interval '2 days'"),
};

export const FORGET_EXCHANGES: Statement = {
  name: "sallyport-forget-exchanges",
  text: forgetting("exchange_replays", "expire_time < clock_timestamp()"),
};

/** The most tokens and audit rows of the canary that one statement deletes. Each token is a row in the log. */
export const CANARY_BATCH = 200;

// Without `LAZY`: it may take a position, and is then as durable as every change.
export const FORGET_CANARY: Statement = {
  name: "sallyport-forget-canary",
  text: `select sallyport.canary_prune(${CANARY_BATCH}) as done`,
};

/**
 * For how many whole months after this one the audit has partitions. Lazy: it holds locks, and must not wait for a standby
 * with them. The next run makes again what a failover loses.
 */
export const AUDIT_MONTHS: Statement = {
  name: "sallyport-audit-months",
  text: `select sallyport.audit_months() as done, ${LAZY}`,
};

function forgetting(table: string, condition: string): string {
  return `
with done as (
  delete from sallyport.${table}
  where ctid = any(array(select ctid from sallyport.${table} where ${condition} limit ${BATCH})) returning 1
)
select count(*) as done, ${LAZY} from done`;
}

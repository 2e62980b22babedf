import type { Evidence, Missing, PollResult, RevocationLog, ValidatorRow } from "../ports.ts";
import { EPOCH, EVIDENCE, type EvidenceRow, evidenceOf } from "./evidence.ts";
import { Line } from "./line.ts";

export interface RevocationLogOptions {
  /** A direct URL, not through a transaction pooler: it listens. */
  readonly url: string;
  /** 2: waits and housekeeping have a connection of their own, so that nothing delays a poll. */
  readonly connections: 1 | 2;
  readonly onTrouble: (what: string, error: unknown) => void;
}

/** Log rows that one poll takes. */
const PAGE = 5_000;
const PRUNE_LOCK = 7_400_740_175;
const PRUNE_BATCH = 5_000;

const FROM = "from sallyport.rev_head h cross join sallyport.rev_state s";
/** Raises a setting that lets a commit be lost with its backend; part of the statement's own transaction. */
const DURABLE = `(select case when current_setting('synchronous_commit') in ('off', 'local')
  then set_config('synchronous_commit', 'on', true) else '' end) is not null`;
/** Losing an acknowledgement costs a wait; it is repeated. */
const LOSABLE = "(select set_config('synchronous_commit', 'off', true)) is not null";

const LOOK = `select ${EVIDENCE}, s.max_bound_ms ${FROM}`;

const POLL = `
select ${EVIDENCE}, s.floor_n, s.max_bound_ms, s.settled, r.ns, r.keys,
  exists (select from sallyport.validators v where v.id = $1 and v.epoch = $2 and v.reaped_at is null) as own_row_live
${FROM} cross join lateral (
  select array_agg(l.n::float8) as ns, array_agg(encode(l.key, 'hex')) as keys
  from (select n, key from sallyport.rev_log where n > $3 order by n desc limit ${PAGE}) l
) r`;

const REGISTER = `
with gone as (delete from sallyport.validators where id = $1)
insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids)
select $2, $3, $4, $5, $6 from sallyport.rev_state s
where s.max_bound_ms >= $4 and s.min_reader <= $5 and ${DURABLE}
returning id`;

const ACK = `
update sallyport.validators set applied_n = greatest(applied_n, $3), seen = clock_timestamp()
where id = $1 and epoch = $2 and reaped_at is null and ${LOSABLE}`;

const MISSING = `
select ${EVIDENCE}, s.max_bound_ms, s.settled, (
  select jsonb_agg(jsonb_build_object('id', v.id, 'boundMs', v.bound_ms, 'reaped', v.reaped_at is not null,
    'appliedN', case when v.epoch = $1 then v.applied_n else -1 end))
  from sallyport.validators v where not (v.epoch = $1 and v.applied_n >= coalesce($2::bigint, h.n))
) as missing ${FROM}`;

const VALIDATORS = `
select ${EVIDENCE}, s.settled, (
  select jsonb_agg(jsonb_build_object('id', v.id, 'boundMs', v.bound_ms, 'reaped', v.reaped_at is not null,
    'silentMs', extract(epoch from clock_timestamp() - v.seen) * 1000))
  from sallyport.validators v
) as rows ${FROM}`;

/** The commit-ordered log and the registry of validators, one statement a question, each with its evidence. */
export class PostgresRevocationLog implements RevocationLog {
  readonly #polls: Line;
  readonly #rest: Line;
  #wake: () => void = () => {};

  constructor({ url, connections, onTrouble }: RevocationLogOptions) {
    const onNotification = () => this.#wake();
    this.#polls = new Line({ url, name: "sallyport-poll", channel: "sallyport_rev", onNotification, onTrouble });
    this.#rest = connections === 2 ? new Line({ url, name: "sallyport-wait", onTrouble }) : this.#polls;
  }

  async look(): Promise<Evidence & { readonly maxBoundMs: number }> {
    const row = only(await this.#polls.query<EvidenceRow & { max_bound_ms: number }>("look", LOOK));
    return { ...evidenceOf(row), maxBoundMs: row.max_bound_ms };
  }

  async poll(me: string, epoch: string, applied: number): Promise<PollResult> {
    const row = only(await this.#polls.query<PollRow>("poll", POLL, [me, epoch, applied]));
    const ns = row.ns ?? [];
    return {
      ...evidenceOf(row),
      ownRowLive: row.own_row_live,
      floorN: row.floor_n,
      maxBoundMs: row.max_bound_ms,
      settled: row.settled ?? undefined,
      rows: ns.map((n, i) => ({ n, key: Buffer.from(row.keys![i]!, "hex").toString("latin1") })),
      full: ns.length === PAGE,
    };
  }

  async register(entry: Parameters<RevocationLog["register"]>[0]): Promise<boolean> {
    const { old, me, epoch, boundMs, readerVersion, kids } = entry;
    const values = [old ?? null, me, epoch, boundMs, readerVersion, kids];
    const rows = await this.#polls.query("register", REGISTER, values);
    return rows.length === 1;
  }

  async ack(me: string, epoch: string, applied: number): Promise<void> {
    await this.#polls.query("ack", ACK, [me, epoch, applied]);
  }

  async seen(me: string): Promise<void> {
    await this.#polls.query("seen", "update sallyport.validators set seen = clock_timestamp() where id = $1", [me]);
  }

  async leave(me: string): Promise<void> {
    await this.#polls.query("leave", "delete from sallyport.validators where id = $1", [me]);
  }

  async missing(epoch: string, position: number | undefined): Promise<Missing> {
    const row = only(await this.#rest.query<MissingRow>("missing", MISSING, [epoch, position ?? null]));
    return {
      ...evidenceOf(row),
      settled: row.settled ?? undefined,
      maxBoundMs: row.max_bound_ms,
      missing: row.missing ?? [],
    };
  }

  async validators() {
    type Row = EvidenceRow & { settled: string | null; rows: ValidatorRow[] | null };
    const row = only(await this.#rest.query<Row>("validators", VALIDATORS));
    return { ...evidenceOf(row), settled: row.settled ?? undefined, rows: row.rows ?? [] };
  }

  async reap(ids: readonly string[]): Promise<void> {
    await this.#rest.query(
      "reap",
      `update sallyport.validators set reaped_at = clock_timestamp() where id = any($1) and reaped_at is null and ${DURABLE}`,
      [ids],
    );
  }

  async bury(ids: readonly string[], epoch: string): Promise<void> {
    await this.#rest.query(
      "bury",
      `delete from sallyport.validators v using sallyport.rev_state s
       where v.id = any($1) and v.reaped_at is not null and ${EPOCH} = $2`,
      [ids, epoch],
    );
  }

  async settle(epoch: string): Promise<void> {
    await this.#rest.query(
      "settle",
      `update sallyport.rev_state s set settled = $1 where ${EPOCH} = $1 and ${DURABLE}`,
      [epoch],
    );
  }

  async prune(): Promise<void> {
    const line = this.#rest;
    const lock = "select pg_try_advisory_lock($1) as got";
    const [locked] = await line.query<{ got: boolean }>("prune-lock", lock, [PRUNE_LOCK]);
    if (!locked?.got) return;
    try {
      // Committed before any row goes: whoever no longer finds the rows finds the floor.
      await line.query(
        "prune-floor",
        `update sallyport.rev_state set floor_n = greatest(floor_n, coalesce(
           (select max(n) from sallyport.rev_log where at < clock_timestamp() - interval '10 min'), 0)) where ${DURABLE}`,
      );
      for (let deleted = PRUNE_BATCH; deleted === PRUNE_BATCH; ) {
        const rows = await line.query(
          "prune-rows",
          `delete from sallyport.rev_log where ctid = any(array(
             select l.ctid from sallyport.rev_log l, sallyport.rev_state s where l.n <= s.floor_n limit ${PRUNE_BATCH}))
           returning 1`,
        );
        deleted = rows.length;
      }
      await line.query(
        "prune-requests",
        "delete from sallyport.requests where at < clock_timestamp() - interval '10 min'",
      );
      await line.query(
        "prune-counts",
        "delete from sallyport.mint_counts where window_start < clock_timestamp() - interval '2 days'",
      );
    } finally {
      await line.query("prune-unlock", "select pg_advisory_unlock($1)", [PRUNE_LOCK]).catch(() => line.destroy());
    }
  }

  distrust(): void {
    this.#polls.destroy();
    this.#rest.destroy();
  }

  onWakeUp(listener: () => void): void {
    this.#wake = listener;
  }

  async close(): Promise<void> {
    this.#polls.close();
    this.#rest.close();
  }
}

type PollRow = EvidenceRow & {
  readonly floor_n: number;
  readonly max_bound_ms: number;
  readonly settled: string | null;
  readonly ns: number[] | null;
  readonly keys: string[] | null;
  readonly own_row_live: boolean;
};

type MissingRow = EvidenceRow & {
  readonly max_bound_ms: number;
  readonly settled: string | null;
  readonly missing: Missing["missing"] | null;
};

/** The head and the state are one row each: a missing one is a broken database. */
function only<R>(rows: readonly R[]): R {
  const [row] = rows;
  if (row === undefined) throw new Error("the head or the state of the log is missing");
  return row;
}

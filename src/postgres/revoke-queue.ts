import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import { checkMayEnd, effectiveScopes, mayEnd, mayNotEnd, type Rank } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Committed } from "../revocation/ports.ts";
import { appendAudit, emitOnly } from "./audit-log.ts";
import { endedActors, gone } from "./caller-guard.ts";
import { PROOF, type ProofRow, proven } from "./committed.ts";
import { HEAD } from "./evidence.ts";
import { rankText, spares } from "./holders.ts";
import type { Postgres, Text, Tx } from "./pool.ts";
import { grantedScopesSql, roleColumns, storedColumns, TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

interface Revoke {
  readonly id: string;
  readonly reason: string;
  readonly actor: AuditActor;
}

interface Waiting extends Revoke {
  resolve(committed: Committed<Token>): void;
  reject(error: unknown): void;
}

const MOST = 500;
const FREE = revoking("sallyport-revoke", "skip locked");
const ANY = revoking("sallyport-revoke-one", "");

/**
 * Revocations of single tokens. Those that arrive during a transaction wait and share the next one, which locks the head
 * of the log once. Each has its own audit row and its own answer.
 */
export class RevokeQueue {
  readonly #db: Postgres;
  #waiting: Waiting[] = [];
  #running = false;

  constructor(db: Postgres) {
    this.#db = db;
  }

  add(revoke: Revoke): Promise<Committed<Token>> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ ...revoke, resolve, reject });
      if (!this.#running) void this.#drain();
    });
  }

  async #drain(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, MOST);
      this.#waiting = this.#waiting.slice(MOST);
      await this.#together(batch);
    }
    this.#running = false;
  }

  async #together(batch: readonly Waiting[]): Promise<void> {
    try {
      const done = await this.#db.transaction((tx) => revokeAll(tx, batch, FREE));
      for (const waiting of batch) {
        // Another transaction holds the row. It must not delay the others.
        if (done.value.busy.has(waiting.id)) void this.#alone(waiting);
        else answer(waiting, done);
      }
    } catch (error) {
      for (const waiting of batch) waiting.reject(error);
    }
  }

  async #alone(waiting: Waiting): Promise<void> {
    try {
      answer(waiting, await this.#db.transaction((tx) => revokeAll(tx, [waiting], ANY)));
    } catch (error) {
      waiting.reject(error);
    }
  }
}

const RANKS: readonly Rank[] = ["operator", "admin", "other"];

interface Revoked {
  readonly tokens: ReadonlyMap<string, Token>;
  /** Ids of tokens that were revoked before. */
  readonly already: ReadonlySet<string>;
  /** Repeats beyond the limit, with their errors. */
  readonly refused: ReadonlyMap<Revoke, unknown>;
  /** Calls whose callers are not good any more. They change nothing. */
  readonly ended: ReadonlySet<Revoke>;
  /** Ids of tokens whose rows another transaction holds. They are unchanged. */
  readonly busy: ReadonlySet<string>;
}

function answer(waiting: Waiting, done: Committed<Revoked>): void {
  const token = done.value.tokens.get(waiting.id);
  try {
    if (done.value.ended.has(waiting)) throw gone();
    if (token === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
    if (!done.value.already.has(token.id)) checkMayEnd(rankFor(waiting), effectiveScopes(token));
    // Only the row shows that a token is revoked. If the statement spared it, the caller gets no OK.
    if (token.revokeTime === undefined) throw mayNotEnd();
    if (done.value.refused.has(waiting)) throw done.value.refused.get(waiting);
    waiting.resolve({ ...done, value: token });
  } catch (error) {
    waiting.reject(error);
  }
}

type RevokedRow = ProofRow & (({ busy: boolean; already: boolean } & TokenRow) | { busy: null });

async function revokeAll(tx: Tx, all: readonly Revoke[], text: Text): Promise<Committed<Revoked>> {
  const ended = await endedCalls(tx, all);
  const batch = all.filter((revoke) => !ended.has(revoke));
  const first = new Map<string, Revoke>();
  const ranked = RANKS.flatMap((rank) => batch.filter((revoke) => rankFor(revoke) === rank));
  // If several callers name the same token, the one with the highest rank decides.
  for (const revoke of ranked) if (!first.has(revoke.id)) first.set(revoke.id, revoke);
  const revokes = [...first.values()];
  const rows = await tx.query<RevokedRow>(text, [
    revokes.map(({ id }) => id),
    revokes.map(({ actor }) => actor.actor),
    revokes.map(({ reason }) => reason),
    revokes.map(({ actor }) => actor.address),
    revokes.map(({ actor }) => actor.requestId),
    revokes.map(rankFor),
  ]);
  const found = rows.filter((row) => row.busy !== null);
  const tokens = new Map(found.map((row) => [row.id, tokenOf(row)]));
  const idsOf = (rows: readonly TokenRow[]) => new Set(rows.map(({ id }) => id));
  const already = idsOf(found.filter((row) => row.already));
  const busy = idsOf(found.filter((row) => row.busy));
  const repeats = batch.flatMap((revoke) => {
    const token = busy.has(revoke.id) ? undefined : tokens.get(revoke.id);
    if (token?.revokeTime === undefined || (first.get(revoke.id) === revoke && !already.has(token.id))) return [];
    return already.has(token.id) || mayEnd(rankFor(revoke), effectiveScopes(token)) ? [{ revoke, token }] : [];
  });
  const refused = await tellRepeats(tx, repeats);
  return proven({ tokens, ended, already, busy, refused }, rows[0]);
}

/** A token may always end itself. */
function rankFor({ id, actor }: Revoke): Rank {
  return actor.token?.id === id ? "operator" : rankText(actor.rank);
}

async function endedCalls(tx: Tx, batch: readonly Revoke[]): Promise<ReadonlySet<Revoke>> {
  const others = batch.filter(({ id, actor }) => actor.token?.id !== id);
  const ended = await endedActors(
    tx,
    others.map(({ actor }) => actor),
  );
  return new Set(others.filter(({ actor }) => ended.has(actor)));
}

/** Writes the audit rows of calls whose token an earlier call, or another call of the batch, revoked. Returns refusals. */
async function tellRepeats(tx: Tx, repeats: readonly { revoke: Revoke; token: Token }[]): Promise<Revoked["refused"]> {
  const refused = new Map<Revoke, unknown>();
  if (repeats.length === 0) return refused;
  const rows = repeats.flatMap(({ revoke, token }) => {
    const { actor, reason } = revoke;
    try {
      if (actor.repeats?.() === false) return [];
    } catch (error) {
      refused.set(revoke, error);
      return [];
    }
    const { id, tenant, principal: owner } = token;
    const metadata: Record<string, string> = reason === "" ? {} : { reason };
    return [
      { ...actor, tenant, action: "token.revoke", target: `token:${id}`, owner, outcome: "OK" as const, metadata },
    ];
  });
  if (rows.length > 0) await appendAudit(tx, rows);
  else if (refused.size < repeats.length) await emitOnly(tx);
  return refused;
}

/**
 * $1 ids, $2 actors, $3 reasons, $4 addresses, $5 request ids, $6 ranks of the actors. One statement, so that other
 * changes do not wait for round trips of this one. A row that was changed since the statement began is revoked in its
 * latest version: `mine` locks that version, and the update follows it.
 */
function revoking(name: string, others: "skip locked" | ""): Text {
  const text = `
with asked as (
  select id, by, reason, address, request_id, rank from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    w (id, by, reason, address, request_id, rank)
),
mine as materialized (
  select ${storedColumns("t")}, (select ${grantedScopesSql("q")} from sallyport.tokens q where q.id = t.parent_id) as parent_scopes
  from sallyport.tokens t where id = any($1::text[]) order by id for no key update ${others}
),
done as (
  update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = w.by,
    revoke_reason = w.reason
  from mine join asked w on w.id = mine.id
  where t.id = mine.id and t.revoke_time is null and not ${spares("w.rank", grantedScopesSql("t"), "mine.parent_scopes")}
  returning ${storedColumns("t")}, mine.parent_scopes
),
audited as (
  insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id)
  select done.tenant, w.by, w.address, 'token.revoke', 'token:' || done.id, done.principal, 'OK',
    case when w.reason = '' then '{}'::jsonb else jsonb_build_object('reason', w.reason) end, w.request_id
  from done join asked w on w.id = done.id
),
-- A string that a rotation ended, and that is revoked now, repeats no request.
forgotten as (
  delete from sallyport.requests r using mine where r.caller = mine.id
    and (mine.revoke_time is not null or exists (select from done where done.id = mine.id))
),
found as (
  select false as busy, false as already, ${storedColumns("done")}, parent_scopes from done
  union all select false, revoke_time is not null, ${storedColumns("mine")}, parent_scopes from mine
    where not exists (select from done where done.id = mine.id)
  union all select true, false, ${storedColumns("t")}, null from sallyport.tokens t
    where id = any($1::text[]) and not exists (select from mine where mine.id = t.id)
)
select ${PROOF}, ${TOKEN_COLUMNS}, v.busy, v.already from ${HEAD} left join (
  select found.busy, found.already, found.parent_scopes, ${storedColumns("found")}, u.last_use_time, u.last_use_address, u.use_count,
    'REVOKED' as state, '{}'::text[] as live_tenants, ${roleColumns("found")}
  from found left join lateral (
    select last_use_time, last_use_address, use_count from sallyport.token_usage where token_id = found.id offset 0
  ) u on true
) v on true`;
  return { name, text };
}

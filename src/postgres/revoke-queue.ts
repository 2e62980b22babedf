import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import { checkMayEnd, mayNotEnd, type Rank } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Committed } from "../revocation/ports.ts";
import { PROOF, type ProofRow, proven } from "./committed.ts";
import { HEAD } from "./evidence.ts";
import { rankText, spares } from "./holders.ts";
import type { Postgres, Text, Tx } from "./pool.ts";
import { storedColumns, TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

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
 * Revocations of single tokens. While one transaction is under way those that arrive wait, and share the next one: the
 * log's head is locked once for all of them. Each keeps its own audit row and its own answer.
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
        // Somebody holds the row: it must not keep the others, nor those that come after them.
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
  /** Ids of those that were revoked before. */
  readonly already: ReadonlySet<string>;
  /** Ids of those that somebody else holds: they were left alone. */
  readonly busy: ReadonlySet<string>;
}

function answer(waiting: Waiting, done: Committed<Revoked>): void {
  const token = done.value.tokens.get(waiting.id);
  try {
    if (token === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
    if (!done.value.already.has(token.id)) checkMayEnd(waiting.actor.rank, token.scopes);
    // The statement alone says that a row is revoked: whoever it spared it from hears no OK.
    if (token.revokeTime === undefined) throw mayNotEnd();
    waiting.resolve({ ...done, value: token });
  } catch (error) {
    waiting.reject(error);
  }
}

type RevokedRow = ProofRow & (({ busy: boolean; already: boolean } & TokenRow) | { busy: null });

async function revokeAll(tx: Tx, batch: readonly Revoke[], text: Text): Promise<Committed<Revoked>> {
  const first = new Map<string, Revoke>();
  const ranked = RANKS.flatMap((rank) => batch.filter(({ actor }) => rankText(actor.rank) === rank));
  // Of those who name the same token, the one with the most rights decides whether it ends.
  for (const revoke of ranked) if (!first.has(revoke.id)) first.set(revoke.id, revoke);
  const revokes = [...first.values()];
  const acts = batch.map(({ id, actor, reason }) => ({
    ...actor,
    rank: rankText(actor.rank),
    id,
    metadata: reason === "" ? {} : { reason },
  }));
  const rows = await tx.query<RevokedRow>(text, [
    revokes.map(({ id }) => id),
    revokes.map(({ actor }) => actor.actor),
    revokes.map(({ reason }) => reason),
    JSON.stringify(acts),
    revokes.map(({ actor }) => rankText(actor.rank)),
  ]);
  const found = rows.filter((row) => row.busy !== null);
  const tokens = new Map(found.map((row) => [row.id, tokenOf(row)]));
  const idsOf = (rows: readonly TokenRow[]) => new Set(rows.map(({ id }) => id));
  const already = idsOf(found.filter((row) => row.already));
  return proven({ tokens, already, busy: idsOf(found.filter(({ busy }) => busy)) }, rows[0]);
}

/**
 * $1 ids, $2 by whom and $3 why each is revoked if it is not, $4 the audit rows to be, $5 the ranks of whom: one statement, so that nobody
 * else's change waits for our round trips. A row that was there when the statement began and was changed since is
 * revoked as it is now: `mine` locks its latest version, and the update goes on to that.
 */
function revoking(name: string, others: "skip locked" | ""): Text {
  const text = `
with mine as materialized (
  select ${storedColumns("t")} from sallyport.tokens t where id = any($1::text[]) order by id for no key update ${others}
),
done as (
  update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = w.by,
    revoke_reason = w.reason
  from mine join unnest($1::text[], $2::text[], $3::text[], $5::text[]) w (id, by, reason, rank) on w.id = mine.id
  where t.id = mine.id and t.revoke_time is null and not ${spares("w.rank", "t.scopes")} returning ${storedColumns("t")}
),
audited as (
  insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, outcome, metadata, request_id)
  select mine.tenant, a->>'actor', a->>'address', 'token.revoke', 'token:' || mine.id, mine.principal, 'OK',
    a->'metadata', a->>'requestId'
  from jsonb_array_elements($4::jsonb) a join mine on mine.id = a->>'id'
  where mine.revoke_time is not null or not ${spares("(a->>'rank')", "mine.scopes")}
),
-- A string that a rotation ended, and that is revoked now, repeats no request.
forgotten as (
  delete from sallyport.requests r using mine where r.caller = mine.id
    and (mine.revoke_time is not null or exists (select from done where done.id = mine.id))
),
found as (
  select false as busy, false as already, ${storedColumns("done")} from done
  union all select false, revoke_time is not null, ${storedColumns("mine")} from mine
    where not exists (select from done where done.id = mine.id)
  union all select true, false, ${storedColumns("t")} from sallyport.tokens t
    where id = any($1::text[]) and not exists (select from mine where mine.id = t.id)
)
select ${PROOF}, ${TOKEN_COLUMNS}, v.busy, v.already from ${HEAD} left join (
  select found.busy, found.already, ${storedColumns("found")}, u.last_use_time, u.last_use_address, 'REVOKED' as state
  from found left join lateral (
    select last_use_time, last_use_address from sallyport.token_usage where token_id = found.id offset 0
  ) u on true
) v on true`;
  return { name, text };
}

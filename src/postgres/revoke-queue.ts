import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { Token } from "../domain/token.ts";
import type { Committed } from "../ports.ts";
import { appendAudit } from "./audit-log.ts";
import { committed } from "./committed.ts";
import type { Postgres, Tx } from "./pool.ts";
import { TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

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
      const done = await committed(this.#db, (tx) => revokeAll(tx, batch, "skip locked"));
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
      answer(waiting, await committed(this.#db, (tx) => revokeAll(tx, [waiting], "")));
    } catch (error) {
      waiting.reject(error);
    }
  }
}

interface Revoked {
  readonly tokens: ReadonlyMap<string, Token>;
  /** Ids of those that were left alone. */
  readonly busy: ReadonlySet<string>;
}

function answer(waiting: Waiting, done: Committed<Revoked>): void {
  const token = done.value.tokens.get(waiting.id);
  if (token === undefined) waiting.reject(new AppError("TOKEN_NOT_FOUND", "no such token"));
  else waiting.resolve({ ...done, value: token });
}

async function revokeAll(tx: Tx, batch: readonly Revoke[], others: "skip locked" | ""): Promise<Revoked> {
  const ids = [...new Set(batch.map(({ id }) => id))];
  const locked = await tx.query<{ id: string }>(
    `select id from sallyport.tokens where id = any($1) order by id for no key update ${others}`,
    [ids],
  );
  const mine = new Set(locked.map(({ id }) => id));
  const first = new Map<string, Revoke>();
  for (const revoke of batch) if (mine.has(revoke.id) && !first.has(revoke.id)) first.set(revoke.id, revoke);
  const revokes = [...first.values()];
  await tx.query(
    `update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = w.by,
       revoke_reason = w.reason
     from unnest($1::text[], $2::text[], $3::text[]) w (id, by, reason) where t.id = w.id and t.revoke_time is null`,
    [revokes.map(({ id }) => id), revokes.map(({ actor }) => actor.actor), revokes.map(({ reason }) => reason)],
  );
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = any($1)`, [
    ids,
  ]);
  const found = new Map(rows.map((row) => [row.id, tokenOf(row)]));
  const acts = batch.flatMap((revoke) => {
    const token = found.get(revoke.id);
    if (token === undefined || !mine.has(revoke.id)) return [];
    return {
      ...revoke.actor,
      tenant: token.tenant,
      action: "token.revoke",
      target: `token:${token.id}`,
      owner: token.principal,
      outcome: "OK" as const,
      metadata: (revoke.reason === "" ? {} : { reason: revoke.reason }) as Record<string, string>,
    };
  });
  if (acts.length > 0) await appendAudit(tx, acts);
  return { tokens: found, busy: new Set([...found.keys()].filter((id) => !mine.has(id))) };
}

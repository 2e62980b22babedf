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
      const done = await committed(this.#db, (tx) => revokeAll(tx, batch));
      for (const waiting of batch) answer(waiting, done);
    } catch (error) {
      // What one row met must not fail the others; what may have happened is not tried behind the callers' back.
      const alone = batch.length > 1 && !(error instanceof AppError && error.reason === "OUTCOME_UNKNOWN");
      if (alone) for (const waiting of batch) await this.#together([waiting]);
      else for (const waiting of batch) waiting.reject(error);
    }
  }
}

function answer(waiting: Waiting, done: Committed<Map<string, Token>>): void {
  const token = done.value.get(waiting.id);
  if (token === undefined) waiting.reject(new AppError("TOKEN_NOT_FOUND", "no such token"));
  else waiting.resolve({ ...done, value: token });
}

async function revokeAll(tx: Tx, batch: readonly Revoke[]): Promise<Map<string, Token>> {
  const first = new Map<string, Revoke>();
  for (const revoke of batch) if (!first.has(revoke.id)) first.set(revoke.id, revoke);
  const ids = [...first.keys()];
  await tx.query("select from sallyport.tokens where id = any($1) order by id for no key update", [ids]);
  await tx.query(
    `update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = w.by,
       revoke_reason = w.reason
     from unnest($1::text[], $2::text[], $3::text[]) w (id, by, reason) where t.id = w.id and t.revoke_time is null`,
    [ids, [...first.values()].map(({ actor }) => actor.actor), [...first.values()].map(({ reason }) => reason)],
  );
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = any($1)`, [
    ids,
  ]);
  const tokens = new Map(rows.map((row) => [row.id, tokenOf(row)]));
  const acts = batch.flatMap((revoke) => {
    const token = tokens.get(revoke.id);
    if (token === undefined) return [];
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
  return tokens;
}

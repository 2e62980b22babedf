import { AppError } from "../domain/errors.ts";
import type { Postgres } from "./pool.ts";
import { sqlstate } from "./sqlstate.ts";

/** A change of authority that the database had lost. */
export interface LostChange {
  readonly id: number;
  readonly state: "pending" | "applied" | "held" | "noted" | "dismissed";
  readonly kind: string;
  readonly position: number;
  /** The time of the change, milliseconds since 1970. */
  readonly time: number;
  /** The token, principal or tenant that it was about; `*` for everything. */
  readonly target: string;
  readonly late: boolean;
  readonly note: string;
  /** The facts of the change. */
  readonly change: Record<string, unknown> | null;
}

/** Lists lost changes, oldest first: those that wait for a decision or a redo, or all of them. */
export async function listLost(db: Pick<Postgres, "read">, all: boolean): Promise<LostChange[]> {
  return db.read<LostChange & object>(
    `select id, state, kind, n as position, at as time, late, note, change,
       case when change ? 'id' then change->>'id' when change ? 'name' then change->>'tenant' || ' ' || (change->>'name')
         when change ? 'tenant' then change->>'tenant' when key = '*' then '*' else encode(key, 'hex') end as target
     from sallyport.lost_changes where $1 or state in ('pending', 'held') order by id`,
    [all],
  );
}

/** Does a held change as far as it takes rights away. Rejects with NOT_DONE if it cannot. */
export async function applyLost(db: Postgres, id: number): Promise<void> {
  await decided(db, "select sallyport.lost_apply($1)", [id]);
}

/** Ends a held change without doing it. Rejects with NOT_DONE if there is none. */
export async function dismissLost(db: Postgres, id: number, reason: string): Promise<void> {
  await decided(db, "select sallyport.lost_dismiss($1, $2)", [id, reason]);
}

/**
 * Lets this epoch begin although the journal has a gap, or (not `gap`) without it. `detach`: later ones, too. Rejects with
 * NOT_DONE if there is no reason to.
 */
export async function waiveJournal(db: Postgres, gap: boolean, detach: boolean): Promise<void> {
  await decided(db, "select sallyport.journal_waive($1, $2)", [gap, detach]);
}

/** SQLSTATEs of the functions' own refusals. Their texts are for operators. */
const REFUSED = new Set(["P0002", "22000"]);

async function decided(db: Postgres, text: string, values: readonly unknown[]): Promise<void> {
  await db.transaction(async (tx) => {
    try {
      await tx.query(text, values);
    } catch (error) {
      if (REFUSED.has(sqlstate(error) ?? "")) throw new AppError("NOT_DONE", (error as Error).message);
      throw error;
    }
  });
}

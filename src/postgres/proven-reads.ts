import { setTimeout as delay } from "node:timers/promises";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import { EVIDENCE, type EvidenceRow, evidenceOf, HEAD, isProven, PROVEN } from "./evidence.ts";
import type { Postgres, Text } from "./pool.ts";

/** The epoch that this program follows. */
export interface Followed {
  readonly clock: Clock;
  /** Undefined before the first one is known. Nothing is proven then. */
  epoch(): string | undefined;
  /** The time on this process's clock at which it was first seen, and the position up to which its log is applied. */
  sawEpoch(): number;
  applied(): number;
  /** Nothing that this process remembers of earlier epochs is missing in this one. */
  accounted(): boolean;
  /** Another epoch answered: makes the follower poll. */
  wake(): void;
}

/** How long a read is repeated while old connections are replaced and the follower polls. Milliseconds. */
const PATIENCE_MS = 600;
const PAUSE_MS = 100;

/**
 * Reads that decide what a change of authority does. The snapshot of each shows which server answered. Rows of a standby
 * or of another epoch are dropped, and their connection is destroyed.
 */
export class ProvenReads {
  readonly #db: Pick<Postgres, "read">;
  readonly #followed: Followed;
  readonly #admits: boolean;

  /** `admits`: the rows decide whether somebody is let in, so the epoch must also lack no change of an earlier one. */
  constructor(db: Pick<Postgres, "read">, followed: Followed, admits = false) {
    this.#db = db;
    this.#followed = followed;
    this.#admits = admits;
  }

  /**
   * The rows of a statement made by `proving`, and the epoch of all of them. STORE_UNAVAILABLE if no answer is proven.
   */
  async rows<R extends object>(
    statement: Text,
    values: readonly unknown[],
    timeoutMs?: number,
  ): Promise<{ rows: R[]; epoch: string }> {
    const { clock } = this.#followed;
    for (const until = clock.mono() + PATIENCE_MS; ; ) {
      type Row = EvidenceRow & { proven: string | null; here: true | null } & R;
      const sent = clock.mono();
      const applied = this.#followed.applied();
      const trusted = (all: readonly Row[]) => this.#proves(all[0], sent, applied);
      const rows = await this.#db.read<Row>(statement, values, timeoutMs, trusted);
      if (trusted(rows)) {
        if (this.#admits && !(isProven(rows[0]!) && this.#followed.accounted())) throw unproven();
        return { rows: rows.filter(({ here }) => here), epoch: rows[0]!.epoch };
      }
      this.#followed.wake();
      if (clock.mono() >= until) {
        throw new AppError("STORE_UNAVAILABLE", "a standby, or another life of the database, answered", {
          retryAfterMs: 1000,
        });
      }
      await delay(PAUSE_MS);
    }
  }

  /**
   * A server takes the snapshot of a statement before it runs it. If it is promoted in between, it shows its new epoch
   * beside rows that it had as a standby. So the statement must have been sent in this epoch, and its position must not
   * be below the applied one.
   */
  #proves(row: EvidenceRow | undefined, sent: number, applied: number): boolean {
    if (row === undefined) return false;
    const { inRecovery, epoch, position } = evidenceOf(row);
    const followed = this.#followed;
    return !inRecovery && epoch === followed.epoch() && sent >= followed.sawEpoch() && position >= applied;
  }
}

function unproven(): AppError {
  const text = "the database may lack changes of authority, so nobody is let in";
  return new AppError("STORE_UNAVAILABLE", text, { retryAfterMs: 1000 });
}

/** A select with the evidence beside each of its rows. A select without rows still gives one row of evidence. */
export function proving(select: string, order = ""): string {
  return `select ${EVIDENCE}, ${PROVEN}, found.*
    from ${HEAD}
      left join (select true as here, sought.* from (${select}) sought) found on true ${order}`;
}

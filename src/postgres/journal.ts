import { AppError } from "../domain/errors.ts";
import type { JournalPlace, JournalRecord, JournalState, JournalStore, LogRecord } from "../revocation/ports.ts";
import type { Trouble } from "../telemetry/events.ts";
import { DirectConnection, type Statement } from "./direct-connection.ts";
import type { EvidenceRow } from "./evidence.ts";
import * as sql from "./journal-sql.ts";
import { SQLSTATE } from "./sqlstate.ts";

export interface PostgresJournalOptions {
  /** The direct URL of the own database. */
  readonly url: string;
  readonly journalUrl: string;
  /** A connection failed; called with an error that holds no secret. */
  readonly onTrouble: (name: Trouble, error: unknown) => void;
}

/** Nothing here holds up validation. Milliseconds. */
const BOUND_MS = 2000;

type StateRow = EvidenceRow & {
  readonly database: string;
  readonly journal: boolean;
  readonly floor_n: number;
  readonly journaled_n: number;
  readonly compared: string | null;
  readonly waived: string | null;
};
type AfterRow = EvidenceRow & {
  readonly rows: readonly WireRecord[];
  readonly floor_n: number;
  readonly journaled_n: number;
  readonly waived: boolean;
};
type WireRecord = readonly [n: number, nr: number, of: number, key: string, at: number, kind: string, change: unknown];

/** The journal over one direct connection to each of the two databases. */
export class PostgresJournal implements JournalStore {
  readonly #own: DirectConnection;
  readonly #journal: DirectConnection;

  constructor({ url, journalUrl, onTrouble }: PostgresJournalOptions) {
    this.#own = new DirectConnection({
      url,
      applicationName: "sallyport-journal",
      onLost: (error) => onTrouble("database_connection_lost", error),
    });
    this.#journal = new DirectConnection({
      url: journalUrl,
      applicationName: "sallyport-journal",
      onLost: (error) => onTrouble("journal_failed", error),
    });
  }

  async state(epoch: string): Promise<JournalState> {
    const row = await this.#asked<StateRow>(epoch, sql.STATE, []);
    return {
      database: row.database,
      attached: row.journal,
      floorN: row.floor_n,
      journaledN: row.journaled_n,
      compared: row.compared ?? undefined,
      waived: row.waived === epoch,
    };
  }

  async attach(epoch: string): Promise<void> {
    await this.#asked(epoch, sql.ATTACH, [epoch]);
  }

  async after(epoch: string, { position, nr }: JournalPlace) {
    const row = await this.#asked<AfterRow>(epoch, sql.AFTER, [position, nr]);
    return {
      records: row.rows.map(recordOf),
      head: row.head_n,
      more: row.rows.length === sql.PAGE,
      floor: row.floor_n,
      journaledN: row.journaled_n,
      waived: row.waived,
    };
  }

  async reached(epoch: string, position: number): Promise<void> {
    await this.#asked(epoch, sql.REACHED, [epoch, position]);
  }

  async common(epoch: string, records: readonly JournalRecord[]): Promise<number> {
    const values = [
      records.map(({ position }) => position),
      records.map(({ key }) => Buffer.from(key, "latin1")),
      records.map(({ at }) => at),
    ];
    return (await this.#asked<EvidenceRow & { highest: number }>(epoch, sql.COMMON, values)).highest;
  }

  async compared(epoch: string): Promise<void> {
    await this.#asked(epoch, sql.COMPARED, [epoch]);
  }

  async mismatch(epoch: string, why: string): Promise<boolean> {
    return (await this.#asked<EvidenceRow & { done: boolean }>(epoch, sql.MISMATCH, [epoch, why])).done;
  }

  async alone(work: () => Promise<void>): Promise<void> {
    const [row] = await this.#own.run<{ got: boolean }>(sql.LEAD, [], BOUND_MS);
    if (!row!.got) return;
    try {
      await work();
    } finally {
      // A connection that was lost has lost the lock, too.
      await this.#own.run(sql.RESIGN, [], BOUND_MS).catch(() => {});
    }
  }

  async begin(database: string, epoch: string, fresh: boolean): Promise<"begun" | "older" | "empty" | "other"> {
    try {
      const rows = await this.#kept<{ done: "begun" }>(sql.BEGIN, [epoch, database, fresh]);
      return rows[0]!.done;
    } catch (error) {
      if (lacksSchema(error as Error)) return "empty";
      throw error;
    }
  }

  async append(epoch: string, records: readonly JournalRecord[]): Promise<boolean> {
    const values = [
      epoch,
      records.map(({ position }) => position),
      records.map(({ nr }) => nr),
      records.map(({ of }) => of),
      records.map(({ key }) => Buffer.from(key, "latin1")),
      records.map(({ kind }) => kind),
      records.map(({ at }) => at),
      records.map(({ change }) => change ?? null),
    ];
    try {
      return (await this.#kept<{ done: boolean }>(sql.APPEND, values))[0]!.done;
    } catch (error) {
      if (lacksSchema(error as Error)) return false;
      throw error;
    }
  }

  async epochs(since: string | undefined): Promise<readonly string[] | undefined> {
    const rows = await this.#kept<{ epoch: string }>(sql.EPOCHS, [since ?? null]);
    if (since !== undefined && rows[0]?.epoch !== since) return undefined;
    return rows.map(({ epoch }) => epoch);
  }

  async newest(until: string | undefined): Promise<number> {
    return (await this.#kept<{ n: number }>(sql.NEWEST, [until ?? null]))[0]!.n;
  }

  async page(epoch: string, { position, nr }: JournalPlace): Promise<readonly JournalRecord[]> {
    const rows = await this.#kept<{ row: WireRecord }>(sql.RECORDS, [epoch, position, nr]);
    return rows.map(({ row }) => recordOf(row));
  }

  async close(): Promise<void> {
    await Promise.all([this.#own.close(), this.#journal.close()]);
  }

  /** One statement of the journal. */
  async #kept<R extends object>(statement: Statement, values: readonly unknown[]): Promise<R[]> {
    try {
      return await this.#journal.run<R>(statement, values, BOUND_MS);
    } catch (error) {
      const { message, cause } = error as Error;
      throw new AppError("STORE_UNAVAILABLE", message, { metadata: { journal: "failed" }, retryAfterMs: 1000, cause });
    }
  }

  /** One statement of the own database. An answer of another life of it does not count. */
  async #asked<R extends EvidenceRow>(epoch: string, statement: Statement, values: readonly unknown[]): Promise<R> {
    const [row] = await this.#own.run<R>(statement, values, BOUND_MS);
    if (row !== undefined && row.epoch === epoch && !row.in_recovery) return row;
    this.#own.drop();
    throw new AppError("STORE_UNAVAILABLE", "another life of the database answered", { retryAfterMs: 1000 });
  }
}

/** Somebody has dropped the schema, or a part of it. */
function lacksSchema({ cause }: Error): boolean {
  const { undefinedTable, undefinedFunction, invalidSchema } = SQLSTATE;
  const state = (cause as { code?: unknown } | undefined)?.code;
  return state === undefinedTable || state === undefinedFunction || state === invalidSchema;
}

function recordOf([position, nr, of, key, at, kind, change]: WireRecord): JournalRecord {
  return {
    position,
    nr,
    of,
    key: Buffer.from(key, "hex").toString("latin1"),
    at,
    kind: kind as LogRecord["kind"],
    change: change === null ? undefined : JSON.stringify(change),
  };
}

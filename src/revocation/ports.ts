import type { Evidence } from "../domain/evidence.ts";

// ---------------------------------------------------------------------------------------------------- changing authority

/**
 * An acknowledged commit: the change is durable. `epoch` and `maxBoundMs` were read inside the transaction. If the
 * value is an error, an earlier call made the change. The error is thrown after the wait, like an OK.
 */
export interface Committed<T> {
  readonly value: T;
  readonly epoch: string;
  readonly maxBoundMs: number;
  /** The database's clock near the commit. */
  readonly dbTime: number;
}

// ---------------------------------------------------------------------------------------------------- client caches

/** The client caches that this process feeds and acknowledges for (`docs/protocol.md` §4.8). Times are monotonic. */
export interface FedCaches {
  /** A good poll is applied, and has given its lease if it gives one. `from`: the position that was applied before. */
  applied(page: PollResult, from: number): void;
  /** The position that this process and every cache with a lease have applied. */
  acknowledged(applied: number, now: number): number;
  /** The number of caches that may hold a lease. */
  leased(now: number): number;
  /** The time at which the next of them ends, unless it is renewed. */
  nextEnd(now: number): number | undefined;
  /** Forgets all caches, because the row or the epoch is another one. */
  forget(): void;
  /** Gives no more leases. */
  stop(): void;
}

// ---------------------------------------------------------------------------------------------------- the log

/** A change of authority as the log tells it. */
export interface LogRecord {
  readonly position: number;
  /** As latin1. */
  readonly key: string;
  /** The database's clock at the change, microseconds since 1970: with position and key it tells two changes apart. */
  readonly at: number;
  readonly kind: "revoked" | "cut" | "lowered" | "other";
  /** The facts that redoing it needs, as JSON. */
  readonly change: string | undefined;
}

/** The state of a lost change after its redo. `late`: it was noted after the epoch was proven. */
export interface Redone {
  readonly state: "applied" | "held" | "noted";
  readonly late: boolean;
}

/** One answer of the log: one statement, one snapshot. */
export interface PollResult extends Evidence {
  /** True if this process's row exists, in this epoch, and is not reaped. */
  readonly ownRowLive: boolean;
  readonly floorN: number;
  readonly maxBoundMs: number;
  /** Another where the database, the schema or the log's tables were renamed: others may have stood there meanwhile. */
  readonly names: string;
  readonly settled: string | undefined;
  /** The epoch is proven: as far as anybody knows, it lacks no change that takes authority away. */
  readonly proven: boolean;
  /** An operator has closed the epoch: nothing proves it until it is opened again. */
  readonly regressed: boolean;
  /** Changes that this epoch lacks wait for being redone. */
  readonly pending: boolean;
  /** Rows with n > applied, the newest `PAGE` of them. */
  readonly rows: readonly LogRecord[];
  /** The page is full, so it may lack older rows above `applied`. */
  readonly full: boolean;
}

/** The validators that have not acknowledged yet, in one snapshot of the primary. */
export interface Unacknowledged extends Evidence {
  readonly settled: string | undefined;
  readonly maxBoundMs: number;
  /** The number of all rows. */
  readonly validators: number;
  /** Rows whose `appliedN` is below the position. `appliedN` is -1 for a row of another epoch. */
  readonly missing: readonly {
    readonly id: string;
    readonly boundMs: number;
    readonly reaped: boolean;
    readonly appliedN: number;
    /** The process lives: it waits for caches that it feeds, and said so in the last 500 ms. */
    readonly held?: boolean;
  }[];
}

/** One registered cache, for housekeeping. */
export interface ValidatorRow {
  readonly id: string;
  readonly boundMs: number;
  readonly reaped: boolean;
  /** Milliseconds since its last sign of life, by the database's clock. */
  readonly silentMs: number;
}

/**
 * The commit-ordered log and the registry of validators, on a direct connection of its own. Every method settles. After
 * at most 500 ms it rejects with STORE_UNAVAILABLE and destroys its connection; late replies are ignored.
 */
export interface RevocationLog {
  /** The evidence alone, at start. */
  readEpoch(): Promise<Evidence & { readonly maxBoundMs: number; readonly names: string }>;
  poll(me: string, epoch: string, applied: number): Promise<PollResult>;
  /**
   * Registers `me` in place of `old`, durably. `mark`: `old` stays, marked as reaped, because caches that this process
   * feeds may hold leases under it. False if the database's bounds do not admit this validator.
   */
  register(entry: {
    readonly old: string | undefined;
    readonly mark?: boolean;
    readonly me: string;
    readonly epoch: string;
    readonly boundMs: number;
    readonly readerVersion: number;
    readonly kids: readonly string[];
  }): Promise<boolean>;
  /** `clients`: the number of caches that this process feeds. */
  ack(me: string, epoch: string, applied: number, clients?: number): Promise<void>;
  /** Deletes a row of this process. No lease may be held under it. */
  deregister(me: string): Promise<void>;
  /** `position`: the position that must be acknowledged; undefined for the last position at this statement. */
  unacknowledged(epoch: string, position: number | undefined): Promise<Unacknowledged>;
  validators(): Promise<Evidence & { readonly settled: string | undefined; readonly rows: readonly ValidatorRow[] }>;
  /** Marks rows as reaped, durably. A reaped row never gives a lease. */
  reap(ids: readonly string[]): Promise<void>;
  deleteReaped(ids: readonly string[], epoch: string): Promise<void>;
  /** Does nothing if the names are in another state by now. */
  markSettled(epoch: string, names: string): Promise<void>;
  /** Notes those of the records that the database lacks, each once, so that somebody redoes them. */
  reportLost(epoch: string, records: readonly LogRecord[]): Promise<void>;
  /**
   * Redoes one lost change, in one transaction. Undefined if none is pending; `busy` if another process is at it.
   */
  redoLost(epoch: string): Promise<Redone | "busy" | undefined>;
  /**
   * Marks the epoch as proven, if nothing is pending. True if it is. `waited`: all leases of
   * earlier epochs are over since this process saw this one, so it waits no longer for processes that are not in it.
   */
  prove(epoch: string, waited: boolean): Promise<boolean>;
  /**
   * Draws a new incarnation, and so a new epoch, if `epoch` is still the present one. If many processes call, only one
   * draws.
   */
  draw(epoch: string): Promise<void>;
  /**
   * Raises the floor over rows older than ten minutes, commits, then deletes them. One process at a time does this; the
   * others get undefined. `auditMonths`: for how many months ahead the audit has partitions.
   */
  prune(): Promise<{ readonly auditMonths: number } | undefined>;
  /** The server of the last answer must not be asked again: destroys the connection and opens another. */
  reconnect(): void;
  /** Called on NOTIFY. A lost wake-up costs latency, never safety. */
  onWakeUp(listener: () => void): void;
  close(): Promise<void>;
}

// ---------------------------------------------------------------------------------------------------- the journal

/** A change as the journal keeps it: number `nr` of the `of` changes at its position. */
export interface JournalRecord extends LogRecord {
  readonly nr: number;
  readonly of: number;
}

/** The place of a record among those of one epoch. */
export interface JournalPlace {
  readonly position: number;
  readonly nr: number;
}

/** `head`: the last position of the log in the same snapshot. `more`: there may be other records. */
export interface JournalPage {
  readonly records: readonly JournalRecord[];
  readonly head: number;
  readonly more: boolean;
  /** The log has nothing any more up to this position. */
  readonly floor: number;
  /** The journal has all changes of this history up to this position. */
  readonly journaledN: number;
  /** An operator lets this epoch do without what the journal lacks. */
  readonly waived: boolean;
}

/** The part of the journal that the follower uses. Neither waits for the journal's server, except for the first time. */
export interface EpochJournal {
  /** Before this process acknowledges in an epoch: no other process proves the epoch without the journal from here on. */
  attach(epoch: string): Promise<void>;
  /** A poll has shown this epoch and position. */
  seen(epoch: string, position: number): void;
}

/** The part of the journal that a change of authority waits for. */
export interface ChangeJournal {
  /** True once everything that the log of this epoch had at `since` is in the journal; false if that fails. */
  written(epoch: string, since: number): Promise<boolean>;
}

/** The database's own notes about its journal. */
export interface JournalState {
  /** The id of the database, which its dumps carry. */
  readonly database: string;
  readonly attached: boolean;
  readonly floorN: number;
  /** The journal has all changes of this history up to this position. */
  readonly journaledN: number;
  /** The last epoch that the journal was compared with. */
  readonly compared: string | undefined;
  /** An operator lets this epoch begin without complete evidence. */
  readonly waived: boolean;
}

/**
 * The journal: the log's changes in a database on another server (`docs/protocol.md` §4.9), and what the own database says
 * of it. Every method but `alone` settles within about 2 s. Each rejects with STORE_UNAVAILABLE if the database that it asks
 * does not answer, or if another life of the own one answers. `metadata` has `journal` if that is the journal's.
 */
export interface JournalStore {
  state(epoch: string): Promise<JournalState>;
  /** From here on every epoch needs the journal. */
  attach(epoch: string): Promise<void>;
  /** The next records of the log, in their order. */
  after(epoch: string, place: JournalPlace): Promise<JournalPage>;
  /** Everything in the log up to this position is in the journal. */
  reached(epoch: string, position: number): Promise<void>;
  /** The highest position of these records that the log holds with the same key and time; -1 if there is none. */
  common(epoch: string, records: readonly JournalRecord[]): Promise<number>;
  /** Everything that the journal has and the log lacks is noted. */
  compared(epoch: string): Promise<void>;
  /** Closes the guard. False if an operator lets the epoch begin all the same. */
  mismatch(epoch: string, why: string): Promise<boolean>;
  /** Runs the work unless another process runs such work. */
  alone(work: () => Promise<void>): Promise<void>;

  /**
   * Begins the epoch in the journal, so that no earlier epoch appends any more. `older`: a later one has begun. `empty`: it
   * is not the journal of any database; with `fresh` it becomes that of this one. `other`: it is another database's.
   */
  begin(database: string, epoch: string, fresh: boolean): Promise<"begun" | "older" | "empty" | "other">;
  /** False if this epoch is not the last that the journal knows: a later one has begun, or somebody has emptied it. */
  append(epoch: string, records: readonly JournalRecord[]): Promise<boolean>;
  /** The epochs from `since` on, in their order; all if it is undefined. Undefined if the journal does not know it. */
  epochs(since: string | undefined): Promise<readonly string[] | undefined>;
  /** The highest position of the epochs up to `until`, of all epochs if it is undefined; -1 if there is none. */
  newest(until: string | undefined): Promise<number>;
  /** The next records of an epoch, in their order. None: there are no more. */
  page(epoch: string, place: JournalPlace): Promise<readonly JournalRecord[]>;
  close(): Promise<void>;
}

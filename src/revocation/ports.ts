import type { Evidence } from "../domain/evidence.ts";

// ---------------------------------------------------------------------------------------------------- changing authority

/**
 * An acknowledged commit: the change is durable. `epoch` and `maxBoundMs` were read inside the transaction. A value that
 * is an error tells that an earlier call made the change: it is thrown after the wait, as an OK would be told after it.
 */
export interface Committed<T> {
  readonly value: T;
  readonly epoch: string;
  readonly maxBoundMs: number;
  /** The database's clock near the commit. */
  readonly dbTime: number;
}

// ---------------------------------------------------------------------------------------------------- the log

/** One answer of the log: one statement, one snapshot. */
export interface PollResult extends Evidence {
  /** Whether our row is there, of this epoch, and not reaped. */
  readonly ownRowLive: boolean;
  readonly floorN: number;
  readonly maxBoundMs: number;
  readonly settled: string | undefined;
  /** Rows with n > applied, the newest `PAGE` of them; keys as latin1. */
  readonly rows: readonly { readonly position: number; readonly key: string }[];
  /** The page was full: older rows above `applied` may be missing. */
  readonly full: boolean;
}

/** Who has not yet acknowledged, as one statement of the primary saw it. */
export interface Unacknowledged extends Evidence {
  readonly settled: string | undefined;
  readonly maxBoundMs: number;
  /** Rows whose `appliedN` is below the position. `appliedN` is -1 for a row of another epoch. */
  readonly missing: readonly {
    readonly id: string;
    readonly boundMs: number;
    readonly reaped: boolean;
    readonly appliedN: number;
  }[];
}

/** One registered cache, as housekeeping sees it. */
export interface ValidatorRow {
  readonly id: string;
  readonly boundMs: number;
  readonly reaped: boolean;
  /** Milliseconds since its last sign of life, by the database's clock. */
  readonly silentMs: number;
}

/**
 * The commit-ordered log and the registry of validators, on a direct connection of its own. Every method settles: it
 * rejects with STORE_UNAVAILABLE after at most 500 ms, and its connection is then destroyed; late replies are ignored.
 */
export interface RevocationLog {
  /** The evidence alone, for the boot. */
  readEpoch(): Promise<Evidence & { readonly maxBoundMs: number }>;
  poll(me: string, epoch: string, applied: number): Promise<PollResult>;
  /** Registers `me` instead of `old`, durably. False: the database's bounds do not admit this validator. */
  register(entry: {
    readonly old: string | undefined;
    readonly me: string;
    readonly epoch: string;
    readonly boundMs: number;
    readonly readerVersion: number;
    readonly kids: readonly string[];
  }): Promise<boolean>;
  ack(me: string, epoch: string, applied: number): Promise<void>;
  /** Deletes an own row, one under which no lease is held any more. */
  deregister(me: string): Promise<void>;
  /** `position`: what must be acknowledged; undefined: the head at this statement. */
  unacknowledged(epoch: string, position: number | undefined): Promise<Unacknowledged>;
  validators(): Promise<Evidence & { readonly settled: string | undefined; readonly rows: readonly ValidatorRow[] }>;
  /** Marks rows as reaped, durably: a reaped row gives no lease, ever. */
  reap(ids: readonly string[]): Promise<void>;
  deleteReaped(ids: readonly string[], epoch: string): Promise<void>;
  markSettled(epoch: string): Promise<void>;
  /** Draws a new incarnation, so a new epoch, if the present one is still this. Of many who call, one draws. */
  draw(epoch: string): Promise<void>;
  /** Raises the floor over rows older than ten minutes, commits, then deletes them; one leader at a time. */
  prune(): Promise<void>;
  /** The last answer came from a server that must not be asked again: destroy the connection, open another. */
  reconnect(): void;
  /** Called on NOTIFY. A wake-up may be lost: that costs latency, never safety. */
  onWakeUp(listener: () => void): void;
  close(): Promise<void>;
}

/** Wake-ups between processes beside NOTIFY. Best effort. */
export interface WakeUps {
  publish(): void;
  onWakeUp(listener: () => void): void;
}

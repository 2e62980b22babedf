import type { Rank } from "./rights.ts";

export type AuditOutcome = "OK" | "DENIED";

/** What an audit row says of who did it: from the caller, once per call. */
export interface AuditActor {
  readonly actor: string;
  readonly address: string;
  /** The request's id, as in the log. */
  readonly requestId: string;
  /** What of the administrators' permissions it holds: what it may end. Absent: the program itself, which may end all. */
  readonly rank?: Rank;
  /**
   * Asked in the transaction of a call that turns out to change nothing: whether it has an audit row of its own. Throws
   * where that was said too often; then nothing is committed. Absent: it has one.
   */
  readonly repeats?: () => boolean;
}

/** What was done, on what. `metadata` is by allow-list: ids, counts and names of fields, never a value that is secret. */
export interface AuditAct {
  readonly tenant: string;
  readonly action: string;
  /** `token:tok_…`, `principal:bot:ci`, `tenant:acme`. */
  readonly target: string;
  /** The principal that owns the target token, or the empty string. */
  readonly owner: string;
  readonly outcome: AuditOutcome;
  readonly metadata: Readonly<Record<string, string>>;
}

/** A stored row. */
export interface AuditEvent extends AuditActor, AuditAct {
  readonly sequence: number;
  /** Milliseconds since 1970 of the database's clock. */
  readonly time: number;
}

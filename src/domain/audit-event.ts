import type { Rank } from "./rights.ts";

export type AuditOutcome = "OK" | "DENIED";

/** The part of a session that can end while its call runs. */
export interface SessionCaller {
  readonly tenant: string;
  /** The principal's name. */
  readonly name: string;
  /** The tenants in which it has rights. */
  readonly tenants?: readonly string[];
  /** Further tenants that can end the session. */
  readonly alsoIn?: readonly string[];
  /** The names of its roles in the tenant, and the scopes with which they admitted the call. */
  readonly roles?: { readonly names: readonly string[]; readonly scopes: readonly string[] };
}

/** The actor of an audit row. It is derived from the caller, once per call. */
export interface AuditActor {
  readonly actor: string;
  readonly address: string;
  /** The request id, as in the log. */
  readonly requestId: string;
  /** The caller's rank, which limits the tokens that it may end. Absent for the program itself, which may end all. */
  readonly rank?: Rank;
  /**
   * The caller's own token, with the scopes that it had when the call was admitted. A change that only takes rights away
   * reads it again, without a lock. Absent for other callers, and once a part of the call is done.
   */
  readonly token?: { readonly id: string; readonly scopes: readonly string[] };
  /** The principal of a session, which such a change reads again in the same way, with its roles. */
  readonly session?: SessionCaller;
  /**
   * Called in the transaction of a call that turns out to change nothing. Returns true if the call gets an audit row of
   * its own. Throws if the call was repeated too often; then nothing is committed. Absent: every call gets a row.
   */
  readonly repeats?: (outcome?: AuditOutcome) => boolean;
}

/** The action and its target. `metadata` follows an allow-list: ids, counts, names and values of fields, never a secret. */
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
  /** Milliseconds since 1970, by the database's clock. */
  readonly time: number;
}

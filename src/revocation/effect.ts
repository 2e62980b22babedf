import type { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "./authority-store.ts";
import type { Committed } from "./ports.ts";

/** The way in which a change of authority came into force. */
export interface Effect {
  readonly mode: "ACKED" | "LEASE_EXPIRED" | "ACCEPTED";
  readonly position: number;
  /** The instances that had acknowledged, of those that could still use cached answers. Both 0 if no answer showed it. */
  readonly acknowledged: number;
  readonly validators: number;
  readonly waitedMs: number;
  /** Database time, milliseconds since 1970, at which the change is in force everywhere. */
  readonly effectiveBy: number;
}

export interface WaitOptions {
  /** Answer after the commit; the wait continues in the background. */
  readonly noWait: boolean;
  /** The caller's deadline, in monotonic time. */
  readonly deadline?: number;
}

/**
 * The only way to change authority. `change` runs the work, which must be idempotent because a change of epoch may run
 * it again. It resolves when the change is in force everywhere: a call that starts afterwards, in any process, answers
 * by the new state. It rejects as `AuthorityStore` does, with an error that is the work's value, or with EFFECT_PENDING
 * if the deadline comes first.
 */
export interface Authority {
  change<T>(
    work: (store: AuthorityStore) => Promise<Committed<T | AppError>>,
    options: WaitOptions,
  ): Promise<{ value: T; effect: Effect }>;
}

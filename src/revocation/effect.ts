import type { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "./authority-store.ts";
import type { Committed } from "./ports.ts";

/** How a change of authority came into force. */
export interface Effect {
  readonly mode: "ACKED" | "LEASE_EXPIRED" | "ACCEPTED";
  readonly position: number;
  readonly waitedMs: number;
  /** Database time, milliseconds since 1970, at which it is in force everywhere. */
  readonly effectiveBy: number;
}

export interface WaitOptions {
  /** Answer after the commit; the wait goes on in the background. */
  readonly noWait: boolean;
  /** Monotonic time by which the caller wants its answer. */
  readonly deadline?: number;
}

/**
 * The one way to change authority. `change` runs the work (idempotent: it may run again after a change of epoch),
 * and resolves when the change is in force everywhere: a call that starts afterwards, in any process, answers by the new
 * state. It rejects as `AuthorityStore` does, with the error that is the work's value, and with EFFECT_PENDING where the
 * deadline comes first.
 */
export interface Authority {
  change<T>(
    work: (store: AuthorityStore) => Promise<Committed<T | AppError>>,
    options: WaitOptions,
  ): Promise<{ value: T; effect: Effect }>;
}

import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "../revocation/authority-store.ts";
import type { Committed } from "../revocation/ports.ts";

/* The work of a change runs again after a failover. A later run must not refuse, or count, what an earlier run did. */

/**
 * The actor once a part of its call is done. That part may have ended the caller itself, so nothing reads it again; and
 * it is no repeat of another call.
 */
export function rerun(actor: AuditActor): AuditActor {
  const admitted = { ...actor, token: undefined, session: undefined };
  return actor.repeats === undefined ? admitted : { ...admitted, repeats: () => false };
}

/** The actor for each run of one call. */
export function actorsOf(actor: AuditActor): () => AuditActor {
  let runs = 0;
  return () => (runs++ === 0 ? actor : rerun(actor));
}

/** Passes the object that an earlier run made to the next run. */
export function again<T extends object>(
  work: (store: AuthorityStore, made: T | undefined) => Promise<Committed<T | AppError>>,
): (store: AuthorityStore) => Promise<Committed<T | AppError>> {
  let made: T | undefined;
  return async (store) => {
    const done = await work(store, made);
    if (!(done.value instanceof AppError)) made = done.value;
    return done;
  };
}

import { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "../revocation/authority-store.ts";
import type { Committed } from "../revocation/ports.ts";

/** Passes the object that an earlier run made to the next run, so that a rerun after a failover does not refuse it. */
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

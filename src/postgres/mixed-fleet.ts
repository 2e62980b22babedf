import { AppError } from "../domain/errors.ts";
import type { Tx } from "./pool.ts";

/** The first reader version whose look-up reads roles. */
export const KNOWS_ROLES = 2;
/** The first whose look-up reads the further tenants of a token, and which judges a required tenant. */
export const KNOWS_TENANTS = 3;

/**
 * UPGRADE_PENDING while a validator runs that would judge without what is written now. From then on no such program
 * starts.
 */
export async function admitReaders(tx: Tx, needed: number): Promise<void> {
  const [row] = await tx.query<{ ready: boolean }>("select sallyport.readers_from($1) as ready", [needed]);
  if (row?.ready !== true) {
    const text = "an older program still runs on this database: upgrade all of them, and repeat in a minute";
    throw new AppError("UPGRADE_PENDING", text, { retryAfterMs: 60_000 });
  }
}

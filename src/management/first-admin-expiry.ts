import type { Clock } from "../domain/clock.ts";
import { ADMIN_ENDS_SOON_MS } from "../domain/lifetime.ts";
import type { Events } from "../telemetry/events.ts";

export interface FirstAdminStore {
  /** When the last of the administrators that `bootstrap` made ends; undefined: never, or none is live. */
  firstAdminEnds(): Promise<{ readonly hint: string; readonly expireTime: number } | undefined>;
}

/** Warns before the token ends: it cannot extend its own life, so its holder must mint another in time. Never rejects. */
export async function warnOfFirstAdmin(
  store: FirstAdminStore,
  clock: Pick<Clock, "wall">,
  events: Pick<Events, "note" | "trouble">,
): Promise<void> {
  try {
    const found = await store.firstAdminEnds();
    if (found === undefined || found.expireTime - clock.wall() > ADMIN_ENDS_SOON_MS) return;
    events.note("first_admin_expiring", { hint: found.hint, ends: new Date(found.expireTime).toISOString() });
  } catch (error) {
    events.trouble("first_admin_check_failed", error);
  }
}

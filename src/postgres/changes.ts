import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "../revocation/authority-store.ts";
import { appendAudit, appendRepeat } from "./audit-log.ts";
import type { Tx } from "./pool.ts";

/** The parameters of a change of authority. */
export type Args<K extends keyof AuthorityStore> = Parameters<AuthorityStore[K]>;

/** The reason of a revocation, for its audit row. */
export function why(reason: string): Record<string, string> {
  return reason === "" ? {} : { reason };
}

export async function audit(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  metadata: Record<string, string>,
): Promise<void> {
  await appendAudit(tx, [{ ...actor, tenant, action, target, owner, outcome: "OK", metadata }]);
}

/** The audit row of a call that found its change already made. */
export async function repeated(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  metadata: Record<string, string>,
): Promise<void> {
  await appendRepeat(tx, { ...actor, tenant, action, target, owner, outcome: "OK", metadata });
}

/**
 * Refuses because the object exists. An earlier run of the same call may have made it, so the refusal is returned after
 * a commit, as durable as the answer of that run.
 */
export async function refused(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  refusal: AppError,
): Promise<AppError> {
  const metadata = { reason: refusal.reason };
  await appendAudit(tx, [{ ...actor, tenant, action, target, owner, outcome: "DENIED", metadata }]);
  return refusal;
}

export function checkEtag(sent: string, current: string): void {
  if (sent !== "" && sent !== current) {
    throw new AppError("ETAG_MISMATCH", "etag: the object has changed since; read it again");
  }
}

/** `column = $n` for each field of the change that `columns` has. Parameters count from `$first` on. */
export function assignments(change: object, columns: Record<string, string>, first = 3) {
  const parts: string[] = [];
  const values: unknown[] = [];
  for (const [field, value] of Object.entries(change)) {
    const column = columns[field];
    if (column === undefined || value === undefined) continue;
    values.push(field === "annotations" ? JSON.stringify(value) : value);
    parts.push(`${column} = $${first + values.length - 1}`);
  }
  return { parts, values, text: parts.join(", ") };
}

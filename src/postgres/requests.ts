import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, Repeated } from "../revocation/authority-store.ts";
import { appendRepeat } from "./audit-log.ts";
import type { Tx } from "./pool.ts";
import { readToken } from "./token-rows.ts";

/** Registers the request, or returns the stored result of the first request with this id. */
export async function claim(tx: Tx, of: Idempotency | undefined, tokenId: string): Promise<Repeated | undefined> {
  if (of === undefined) return undefined;
  await tx.query(
    `delete from sallyport.requests where caller = $1 and request_id = $2 and at < clock_timestamp() - interval '10 min'`,
    [of.caller, of.requestId],
  );
  const claimed = await tx.query(
    `insert into sallyport.requests (caller, request_id, method, body, salt, token_id) values ($1, $2, $3, $4, $5, $6)
     on conflict do nothing returning token_id`,
    [of.caller, of.requestId, of.method, Buffer.from(of.body), Buffer.from(of.salt), tokenId],
  );
  if (claimed.length === 1) return undefined;
  const rows = await tx.query<{ method: string; body: Buffer; salt: Buffer; token_id: string; signed: string | null }>(
    "select method, body, salt, token_id, signed from sallyport.requests where caller = $1 and request_id = $2",
    [of.caller, of.requestId],
  );
  const row = rows[0];
  if (row === undefined) throw new AppError("WRITE_CONFLICT", "the same request is under way", { retryAfterMs: 200 });
  if (row.method !== of.method || !row.body.equals(of.body)) {
    throw new AppError("REQUEST_ID_REUSED", "request_id was used for another request within the last 10 minutes");
  }
  return { kind: "repeated", salt: row.salt, input: row.signed ?? undefined, token: await readToken(tx, row.token_id) };
}

/** Deletes the registration of `claim`. */
export async function forget(tx: Tx, of: Idempotency | undefined): Promise<void> {
  if (of === undefined) return;
  await tx.query("delete from sallyport.requests where caller = $1 and request_id = $2", [of.caller, of.requestId]);
}

export async function auditRepeat(tx: Tx, actor: AuditActor, action: string, id: string, of: Token): Promise<void> {
  const { tenant, principal: owner } = of;
  const metadata = { repeat: "true" };
  await appendRepeat(tx, { ...actor, tenant, action, target: `token:${id}`, owner, outcome: "OK", metadata });
}

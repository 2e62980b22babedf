import { AppError } from "../domain/errors.ts";
import type { Held } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, NewToken } from "../revocation/authority-store.ts";
import type { Tx } from "./pool.ts";
import { HELD_COLUMNS, heldOf, insertToken as insertion, TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";

export async function readToken(tx: Tx, id: string): Promise<Token> {
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return tokenOf(rows[0]);
}

/** A token with the grant of its family. */
export async function readHeld(tx: Tx, id: string): Promise<Held> {
  const rows = await tx.query<TokenRow>(`select ${HELD_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return heldOf(rows[0]);
}

/** The parent of a token. `lockTokens` has locked it with the token. */
export async function parentOf(tx: Tx, token: Token): Promise<Held | undefined> {
  return token.parent === "" ? undefined : readHeld(tx, token.parent);
}

/** The fields of a new row. The other columns have their defaults. */
interface Inserted extends NewToken, Pick<Held, "createTime" | "notBeforeTime" | "expireTime" | "parent"> {
  readonly roleIds: readonly string[];
  readonly tenantPositions: readonly number[];
  readonly issuedPosition: number;
  readonly family: string;
  readonly familyTime: number;
  readonly familyLife: number | undefined;
  readonly rotatedFrom?: string;
}

/** Inserts the row. A string in JWT form is made here, because its claims state what the row holds. */
export async function insertToken(
  tx: Tx,
  fields: Inserted,
  roleScopes: readonly string[],
  idempotency: Idempotency | undefined,
): Promise<void> {
  // The row has their ids.
  const { roles: _, sign, ...row } = fields;
  const signed = sign?.({ ...row, issueTime: row.createTime, scopes: [...new Set([...row.scopes, ...roleScopes])] });
  const { text, values } = insertion({
    ...row,
    ...(signed !== undefined && { digest: signed.digest, format: "jwt", signingKey: signed.signingKey }),
  });
  await tx.query(text, values);
  if (signed !== undefined) await keepSigned(tx, idempotency, signed.input);
}

/** Keeps the signed part of the string, so that a repeat can sign it again. */
async function keepSigned(tx: Tx, of: Idempotency | undefined, input: string): Promise<void> {
  if (of === undefined) return;
  const values = [of.caller, of.requestId, input];
  await tx.query("update sallyport.requests set signed = $3 where caller = $1 and request_id = $2", values);
}

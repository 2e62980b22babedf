import { AppError } from "../domain/errors.ts";
import type { Held } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { NewToken } from "../revocation/authority-store.ts";
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

export async function insertToken(tx: Tx, fields: Inserted): Promise<void> {
  // The row has their ids.
  const { roles: _, ...row } = fields;
  const { text, values } = insertion(row);
  await tx.query(text, values);
}

import { ADMIN_SCOPES, mayNotEnd, OPERATOR_SCOPES, type Rank, sparedFrom } from "../domain/rights.ts";
import type { Tx } from "./pool.ts";

const literal = (scopes: readonly string[]) => `'{${scopes.join(",")}}'::text[]`;

/** SQL for scopes that make a token an operator's or an administrator's, as the index `tokens_of_administrators` has it. */
export const ANY_OF_THEM = literal([...OPERATOR_SCOPES, ...ADMIN_SCOPES]);

/** SQL: whether a caller of this rank leaves a token of these scopes alone; both are expressions. */
export function spares(rank: string, scopes: string): string {
  return `(${rank} <> 'operator' and ${scopes} && ${literal(OPERATOR_SCOPES)}
    or ${rank} = 'other' and ${scopes} && ${literal(ADMIN_SCOPES)})`;
}

/** The rank as SQL has it: the program itself ends what an operator does. */
export function rankText(rank: Rank | undefined): Rank {
  return rank ?? "operator";
}

/**
 * RIGHTS_EXCEEDED where a change of a principal or a tenant would end or disable a live token that a caller of this rank
 * leaves alone. Under the exclusive lock of it: no token gets such rights from here to the commit.
 */
export async function checkHolders(tx: Tx, rank: Rank | undefined, tenant: string, principal?: string): Promise<void> {
  const spared = sparedFrom(rank);
  if (spared.length === 0) return;
  const held = await tx.query(
    `select from sallyport.tokens t where t.scopes && ${ANY_OF_THEM} and t.tenant = $1
       and ($2::text is null or t.principal = $2) and t.scopes && $3::text[]
       and t.revoke_time is null and (t.expire_time is null or t.expire_time > clock_timestamp()) limit 1`,
    [tenant, principal ?? null, spared],
  );
  if (held.length > 0) throw mayNotEnd();
}

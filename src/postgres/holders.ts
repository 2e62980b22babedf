import { ADMIN_SCOPES, mayNotEnd, OPERATOR_SCOPES, type Rank, sparedFrom } from "../domain/rights.ts";
import type { Tx } from "./pool.ts";

const literal = (scopes: readonly string[]) => `'{${scopes.join(",")}}'::text[]`;

/**
 * SQL for the scopes that make a token an operator's or an administrator's, in the form of the index
 * `tokens_of_administrators`.
 */
const ANY_OF_THEM = literal([...OPERATOR_SCOPES, ...ADMIN_SCOPES]);

/**
 * SQL: true if a caller of this rank must not end a token with these scopes, whose parent has those; null for no parent.
 * A child that lost a permission with its parent does not hold it. All arguments are expressions.
 */
export function spares(rank: string, scopes: string, parentScopes: string): string {
  const holds = (any: string) => `(${scopes}) && ${any} and coalesce(${parentScopes} && ${any}, true)`;
  return `(${rank} <> 'operator' and ${holds(literal(OPERATOR_SCOPES))} or ${rank} = 'other' and ${holds(ANY_OF_THEM)})`;
}

/** SQL: true if a row `of` of this tenant holds one of these scopes by name, itself or by a role. By two indexes. */
export function holding(of: string, scopes: string, tenant: string): string {
  return `(${of}.scopes && ${ANY_OF_THEM} and ${of}.scopes && ${scopes}::text[]
    or ${of}.roles <> '{}' and ${of}.roles && array(select r.id from sallyport.roles r
      where r.tenant = ${tenant} and r.state = 'ACTIVE' and r.scopes && ${scopes}::text[]))`;
}

/** The rank in SQL. The program itself may end what an operator may end. */
export function rankText(rank: Rank | undefined): Rank {
  return rank ?? "operator";
}

/** SQL: true if a token is not over for good. Needs its principal `p` and its tenant `o`. */
function lasts(token: string): string {
  return `${token}.revoke_time is null and (${token}.expire_time is null or ${token}.expire_time > clock_timestamp())
    and ${token}.issued_n >= p.cut_n and ${token}.issued_n >= o.cut_n`;
}

/**
 * RIGHTS_EXCEEDED if a change of a principal or a tenant would end or disable a live token that a caller of this rank
 * must not end. A token that was cut, or whose parent ended, is over for good. Runs under the exclusive lock of the
 * target: no token gets such rights from here to the commit.
 */
export async function checkHolders(tx: Tx, rank: Rank | undefined, tenant: string, principal?: string): Promise<void> {
  const spared = sparedFrom(rank);
  if (spared.length === 0) return;
  const held = await tx.query(
    `select from sallyport.tokens t
       join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
       join sallyport.tenants o on o.id = t.tenant
       left join sallyport.tokens q on q.id = t.parent_id
     where ${holding("t", "$3", "$1")} and t.tenant = $1
       and ($2::text is null or t.principal = $2) and (q.id is null or ${holding("q", "$3", "$1")})
       and ${lasts("t")} and (q.id is null or ${lasts("q")}) limit 1`,
    [tenant, principal ?? null, spared],
  );
  if (held.length > 0) throw mayNotEnd();
}

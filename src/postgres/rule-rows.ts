import { AppError } from "../domain/errors.ts";
import type { ClaimMatch, RuleKind, TrustRule } from "../domain/trust-rule.ts";
import type { TrustRuleChange } from "../management/ports.ts";
import type { Tx } from "./pool.ts";

export const RULE_COLUMNS = `id, tenant, name, issuer, kind, audience, match, principal, profile, scopes, max_ttl,
  max_token_age, single_use, max_mints_per_hour, disabled, state, create_time, revision`;

export interface RuleRow {
  readonly id: string;
  readonly tenant: string;
  readonly name: string;
  readonly issuer: string;
  readonly kind: RuleKind;
  readonly audience: string;
  readonly match: readonly ClaimMatch[];
  readonly principal: string;
  readonly profile: string;
  readonly scopes: readonly string[];
  readonly max_ttl: number;
  readonly max_token_age: number;
  readonly single_use: boolean;
  readonly max_mints_per_hour: number;
  readonly disabled: boolean;
  readonly state: TrustRule["state"];
  readonly create_time: number;
  readonly revision: number;
}

export function ruleOf(row: RuleRow): TrustRule {
  const { id, tenant, name, issuer, kind, audience, match, principal, profile, scopes, disabled, state } = row;
  return {
    ...{ id, tenant, name, issuer, kind, audience, match, principal, profile, scopes, disabled, state },
    maxTtl: row.max_ttl,
    maxTokenAge: row.max_token_age,
    singleUse: row.single_use,
    maxMintsPerHour: row.max_mints_per_hour,
    createTime: row.create_time,
    etag: String(row.revision),
  };
}

/** The columns that an update of a rule may set. */
export const RULE_FIELDS: Record<keyof TrustRuleChange, string> = {
  audience: "audience",
  match: "match",
  scopes: "scopes",
  maxTtl: "max_ttl",
  maxTokenAge: "max_token_age",
  singleUse: "single_use",
  disabled: "disabled",
  maxMintsPerHour: "max_mints_per_hour",
};

/** The rule, deleted or not. To see its state under its lock, run it after the statement that locks. */
export async function readRule(tx: Tx, id: string): Promise<TrustRule | undefined> {
  const [row] = await tx.query<RuleRow>(`select ${RULE_COLUMNS} from sallyport.trust_rules where id = $1`, [id]);
  return row && ruleOf(row);
}

/** The active rule of the name, else the one that was deleted last, so that a repeat of its deletion finds it. */
export async function latestRule(tx: Tx, tenant: string, name: string): Promise<TrustRule> {
  const [row] = await tx.query<RuleRow>(
    `select ${RULE_COLUMNS} from sallyport.trust_rules where tenant = $1 and name = $2
     order by state = 'ACTIVE' desc, create_time desc limit 1`,
    [tenant, name],
  );
  if (row === undefined) throw noRule();
  return ruleOf(row);
}

export function noRule(): AppError {
  return new AppError("RULE_NOT_FOUND", "no such trust rule");
}

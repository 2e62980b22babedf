import { AppError } from "../domain/errors.ts";
import { checkMayEnd } from "../domain/rights.ts";
import { judgeRule, type TrustRule } from "../domain/trust-rule.ts";
import type { TrustRuleStore } from "../management/ports.ts";
import { fieldsOf } from "./audit-facts.ts";
import { lockForLowering, lockForRaising, rereadOwners } from "./caller-guard.ts";
import { assignments, audit, checkEtag, refused } from "./changes.ts";
import type { Tx } from "./pool.ts";
import { latestRule, noRule, RULE_COLUMNS, RULE_FIELDS, type RuleRow, readRule, ruleOf } from "./rule-rows.ts";

type Args<K extends keyof TrustRuleStore> = Parameters<TrustRuleStore[K]>;

export async function createRule(
  tx: Tx,
  ...[rule, mustExist, guard, actor, made]: Args<"create">
): Promise<TrustRule | AppError> {
  const { id, tenant, name, principal } = rule;
  const asker = await lockForRaising(tx, { tenant, rule: id }, guard);
  const [found] = await tx.query<{ state: string }>("select state from sallyport.tenants where id = $1", [tenant]);
  if (found === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (found.state !== "ACTIVE") throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
  const target = `rule:${id}`;
  // Others may have changed or deleted the rule since an earlier run made it. That is no part of this call's answer.
  if (made !== undefined && (await readRule(tx, made.id)) !== undefined) {
    await audit(tx, actor, tenant, "rule.create", `rule:${made.id}`, principal, { repeat: "true" });
    return made;
  }
  judgeRule(asker);
  if (mustExist) await rereadOwners(tx, tenant, principal);
  const [row] = await tx.query<RuleRow>(
    `insert into sallyport.trust_rules (id, tenant, name, issuer, kind, audience, match, principal, profile, scopes, max_ttl,
       max_token_age, single_use, max_mints_per_hour, disabled)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) on conflict do nothing
     returning ${RULE_COLUMNS}`,
    [
      ...[id, tenant, name, rule.issuer, rule.kind, rule.audience, JSON.stringify(rule.match), principal, rule.profile],
      ...[rule.scopes, rule.maxTtl, rule.maxTokenAge, rule.singleUse, rule.maxMintsPerHour, rule.disabled],
    ],
  );
  if (row === undefined) {
    const refusal = new AppError("RULE_EXISTS", "a trust rule with this name exists");
    return refused(tx, actor, tenant, "rule.create", target, principal, refusal);
  }
  const { issuer, kind, profile, scopes } = rule;
  const facts = { name, issuer, kind, profile, ...(scopes.length > 0 && { scopes: scopes.join(" ") }) };
  await audit(tx, actor, tenant, "rule.create", target, principal, facts);
  return ruleOf(row);
}

export async function updateRule(
  tx: Tx,
  ...[tenant, name, change, etag, check, guard, actor]: Args<"update">
): Promise<TrustRule> {
  const found = await latestRule(tx, tenant, name);
  if (found.state !== "ACTIVE") throw noRule();
  const { id, principal } = found;
  const ends = change.disabled === true && Object.keys(change).length === 1;
  const asker = ends ? undefined : await lockForRaising(tx, { tenant, rule: id }, guard);
  if (ends) await lockForLowering(tx, { tenant, rule: id }, actor);
  // A new statement after the lock: the rule may have changed, or be gone.
  const rule = await readRule(tx, id);
  if (rule?.state !== "ACTIVE") throw noRule();
  checkEtag(etag, rule.etag);
  // A caller that cannot end the tokens of a rule does not change it either.
  checkMayEnd(actor.rank, rule.scopes);
  if (asker !== undefined) {
    check({ ...rule, ...change });
    judgeRule(asker);
  }
  const { match, ...others } = change;
  const set = assignments({ ...others, ...(match !== undefined && { match: JSON.stringify(match) }) }, RULE_FIELDS, 2);
  const [row] = await tx.query<RuleRow>(
    `update sallyport.trust_rules set ${set.text} where id = $1 returning ${RULE_COLUMNS}`,
    [id, ...set.values],
  );
  const { scopes, disabled } = change;
  const told = { ...(scopes !== undefined && { scopes: scopes.join(" ") }) };
  const metadata = {
    name,
    fields: fieldsOf(change),
    ...told,
    ...(disabled !== undefined && { disabled: `${disabled}` }),
  };
  await audit(tx, actor, tenant, "rule.update", `rule:${id}`, principal, metadata);
  return ruleOf(row!);
}

export async function deleteRule(tx: Tx, ...[tenant, name, actor]: Args<"delete">): Promise<TrustRule> {
  const { id, principal } = await latestRule(tx, tenant, name);
  await lockForLowering(tx, { tenant, rule: id }, actor);
  const rule = await readRule(tx, id);
  if (rule === undefined) throw noRule();
  const target = `rule:${id}`;
  if (rule.state === "DELETED") {
    await audit(tx, actor, tenant, "rule.delete", target, principal, { name, repeat: "true" });
    return rule;
  }
  checkMayEnd(actor.rank, rule.scopes);
  const [row] = await tx.query<RuleRow>(
    `update sallyport.trust_rules set state = 'DELETED' where id = $1 returning ${RULE_COLUMNS}`,
    [id],
  );
  await audit(tx, actor, tenant, "rule.delete", target, principal, { name });
  return ruleOf(row!);
}

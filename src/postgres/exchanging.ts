import { AppError } from "../domain/errors.ts";
import { ExchangeRefused, type Once } from "../domain/exchange.ts";
import { expiry } from "../domain/lifetime.ts";
import { NOTHING_GIVEN, type Token } from "../domain/token.ts";
import { ruleProvenance } from "../domain/trust-rule.ts";
import type { VerifiedExchange } from "../management/ports.ts";
import { givenTo } from "./audit-facts.ts";
import { rereadCaller, rereadOwners } from "./caller-guard.ts";
import { audit } from "./changes.ts";
import { countExchange } from "./minting.ts";
import type { Tx } from "./pool.ts";
import { insertToken, readToken } from "./rows.ts";
import { readRule } from "./rule-rows.ts";

/**
 * Mints a token by a trust rule. It commits before the end of the rule, its principal or its tenant, or is refused: it takes
 * their shared locks, in the order of their keys, and then reads them in new statements (docs/protocol.md §3.4).
 */
export async function exchange(tx: Tx, asked: VerifiedExchange): Promise<Token> {
  const { rule: of, fresh, mustExist, judge, once, subject, address, requestId } = asked;
  const { id, tenant, principal, profile } = of;
  await tx.query(
    `select sallyport.lock_shared(array(select k from (
       values (sallyport.rule_key($1)), (sallyport.principal_key($2, $3)), (sallyport.tenant_key($2))
     ) keys (k) order by k))`,
    [id, tenant, principal],
  );
  if (!mustExist) {
    await tx.query(
      `insert into sallyport.principals (tenant, name) select $1, $2 from sallyport.tenants where id = $1
       on conflict do nothing`,
      [tenant, principal],
    );
  }
  const { now, n } = await rereadOwners(tx, tenant, principal).catch((error: unknown) => {
    throw error instanceof AppError && OWNERS_END.has(error.reason) ? new ExchangeRefused("owner_inactive") : error;
  });
  // There is no caller to read again, but the epoch must be proven.
  await rereadCaller(tx, { callerScopes: [] }, now, new Set());
  const rule = await readRule(tx, id);
  if (rule === undefined) throw new ExchangeRefused("rule_unknown");
  const { scopes, lifetime } = judge(rule);
  if (rule.singleUse) await useOnce(tx, once);
  await countExchange(tx, id, rule.maxMintsPerHour, of, now);
  const expire = expiry(lifetime, now);
  const given = {
    ...NOTHING_GIVEN,
    ...fresh,
    ...{ tenant, principal, profile, scopes, displayName: rule.name, createdBy: ruleProvenance(id) },
  };
  const row = {
    ...given,
    ...{ roleIds: [], tenantPositions: [], createTime: now, issuedPosition: n, notBeforeTime: undefined },
    ...{ expireTime: expire, parent: "", family: fresh.id, familyTime: now },
    familyLife: expire === undefined ? undefined : expire - now,
  };
  await insertToken(tx, row, [], undefined);
  const facts = givenTo(given, { expire, notBefore: undefined, parent: "" });
  const actor = { actor: ruleProvenance(id), address, requestId };
  const metadata = { ...facts, ...(subject !== "" && { subject }) };
  await audit(tx, actor, tenant, "token.create", `token:${fresh.id}`, principal, metadata);
  return readToken(tx, fresh.id);
}

/** A second exchange waits here for the commit of the first, on whichever instance it runs. */
async function useOnce(tx: Tx, { key, until }: Once): Promise<void> {
  const used = await tx.query(
    `insert into sallyport.exchange_replays (key, expire_time) values ($1, to_timestamp($2::float8 / 1000))
     on conflict do nothing returning key`,
    [Buffer.from(key), until],
  );
  if (used.length === 0) throw new ExchangeRefused("replayed");
}

const OWNERS_END: ReadonlySet<string> = new Set([
  "TENANT_NOT_FOUND",
  "TENANT_SUSPENDED",
  "PRINCIPAL_NOT_FOUND",
  "PRINCIPAL_DISABLED",
]);

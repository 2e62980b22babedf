import type { AuditActor } from "../domain/audit-event.ts";
import { expiry, type LifetimeRule } from "../domain/lifetime.ts";
import { checkMayMint, judgeMint } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, MintGuard, MintLimits, NewToken, Repeated } from "../revocation/authority-store.ts";
import { auditTenants, checkAttachable } from "./attaching.ts";
import { givenTo } from "./audit-facts.ts";
import { appendAudit } from "./audit-log.ts";
import { lockGranting, lockTokens, rereadActor, rereadCaller, rereadOwners } from "./caller-guard.ts";
import { countMint } from "./mint-limits.ts";
import { admitReaders, KNOWS_TENANTS } from "./mixed-fleet.ts";
import type { Tx } from "./pool.ts";
import { auditRepeat, claim } from "./requests.ts";
import { lockedRoles, roleIds } from "./role-rows.ts";
import { insertToken, readToken } from "./token-rows.ts";

/**
 * Issues a token inside a transaction. It commits before any revocation that concerns it, or is refused: it takes shared
 * locks of principals, tenants and roles, then locks of the token rows, then reads all of them again in a new statement
 * (docs/protocol.md §3.4).
 */
export async function mint(
  tx: Tx,
  token: NewToken,
  lifetime: LifetimeRule,
  guard: MintGuard,
  limits: MintLimits,
  actor: AuditActor,
  idempotency: Idempotency | undefined,
): Promise<{ kind: "created"; token: Token } | Repeated> {
  const repeated = await claim(tx, idempotency, token.id);
  if (repeated !== undefined) {
    await rereadActor(tx, actor);
    await auditRepeat(tx, actor, "token.create", repeated.token.id, repeated.token);
    return repeated;
  }
  if (token.tenants.length > 0) await admitReaders(tx, KNOWS_TENANTS);
  const ids = await roleIds(tx, token.tenant, token.roles);
  const locked = await lockGranting(tx, token, guard, ids, token.tenants);
  if (!guard.mustExist) {
    await tx.query(
      `insert into sallyport.principals (tenant, name) select $1, $2 from sallyport.tenants where id = $1
       on conflict do nothing`,
      [token.tenant, token.principal],
    );
  }
  await lockTokens(tx, [guard.callerTokenId]);
  const { now, n } = await rereadOwners(tx, token.tenant, token.principal);
  const asker = await rereadCaller(tx, guard, now, locked);
  const roles = await lockedRoles(tx, ids);
  checkMayMint(asker);
  const judged = guard.rights && judgeMint(guard.rights, asker, token, lifetime, roles);
  await checkAttachable(tx, token.tenants);
  const child = judged?.child ?? guard.child;
  const parent = child ? asker.own : undefined;
  const expire = judged === undefined ? expiry(lifetime, now, parent?.expireTime) : judged.expire;
  await countMint(tx, limits, token, now);
  const { scopes, audiences, allowedCidrs } = judged ?? token;
  const given = { ...token, scopes, audiences, allowedCidrs };
  const row = {
    ...given,
    roleIds: ids,
    tenantPositions: token.tenants.map(() => n),
    createTime: now,
    issuedPosition: n,
    notBeforeTime: lifetime.notBeforeTime,
    expireTime: expire,
    parent: parent?.id ?? "",
    family: token.id,
    familyTime: now,
    familyLife: expire === undefined ? undefined : expire - now,
  };
  const roleScopes = roles.flatMap((role) => role.scopes);
  await insertToken(tx, row, roleScopes, idempotency);
  await appendAudit(tx, [
    {
      ...actor,
      tenant: token.tenant,
      action: "token.create",
      target: `token:${token.id}`,
      owner: token.principal,
      outcome: "OK",
      metadata: givenTo(given, { expire, notBefore: lifetime.notBeforeTime, parent: parent?.id ?? "" }),
    },
  ]);
  await auditTenants(tx, actor, token, [], token.tenants);
  return { kind: "created", token: await readToken(tx, token.id) };
}

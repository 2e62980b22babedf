import type { AuditActor } from "../domain/audit-event.ts";
import { refuseDead } from "../domain/dead-token.ts";
import { invalidField } from "../domain/errors.ts";
import { earlier, expiry, isLater } from "../domain/lifetime.ts";
import {
  type Asker,
  canWiden,
  checkMayEnd,
  effectiveScopes,
  grantedScopes,
  type Held,
  judgeUpdate,
  type Rights,
  touchesRights,
  withinParent,
} from "../domain/rights.ts";
import type { Role } from "../domain/role.ts";
import type { Token } from "../domain/token.ts";
import type { TokenChange } from "../revocation/authority-store.ts";
import { auditTenants, checkAttachable, checkLockedTenants, positionsOf } from "./attaching.ts";
import { fieldsOf, setTo } from "./audit-facts.ts";
import { guardWidening, rereadActor } from "./caller-guard.ts";
import { type Args, audit, checkEtag, repeated, why } from "./changes.ts";
import { admitReaders, KNOWS_TENANTS } from "./mixed-fleet.ts";
import type { Tx } from "./pool.ts";
import { lockedRoles, roleIds } from "./role-rows.ts";
import { grantedScopesSql, parentOf, readHeld, readToken, writeToken } from "./rows.ts";

export async function updateToken(
  tx: Tx,
  ...[id, change, etag, rule, guard, actor]: Args<"updateToken">
): Promise<Token> {
  const before = canWiden(change) ? await readToken(tx, id) : undefined;
  const ids = before && change.roles && (await roleIds(tx, before.tenant, change.roles));
  const tenants = [...new Set([...(before?.tenants ?? []), ...(change.tenants ?? [])])];
  const asker = before && (await guardWidening(tx, before, guard, ids ?? [], tenants));
  if (asker === undefined) await rereadActor(tx, actor, [id]);
  const [held] = await tx.query<{ now: number }>(
    "select date_trunc('milliseconds', clock_timestamp()) as now from sallyport.tokens where id = $1 for no key update",
    [id],
  );
  const token = await readHeld(tx, id);
  checkEtag(etag, token.etag);
  refuseDead(token, held!.now);
  if (asker !== undefined) {
    checkLockedTenants(token, tenants);
    checkRolesOrTenants(token, change);
  }
  if (touchesRights(change) && actor.token?.id !== id) checkMayEnd(actor.rank, effectiveScopes(token));
  const roles = ids && (await lockedRoles(tx, ids));
  await writeTokenChange(tx, token, change, rule, guard.rights, asker, roles);
  if (change.tenants !== undefined) await auditTenants(tx, actor, token, token.tenants, change.tenants);
  const changed = await readToken(tx, id);
  const metadata = { fields: fieldsOf(change), ...setTo(change, changed) };
  await audit(tx, actor, token.tenant, "token.update", `token:${id}`, token.principal, metadata);
  return changed;
}

async function writeTokenChange(
  tx: Tx,
  token: Held,
  change: TokenChange,
  rule: { maxTtl: number },
  rights: Rights | undefined,
  asker: (Asker & { readonly n: number }) | undefined,
  roles: readonly Role[] | undefined,
): Promise<void> {
  const { noExpiry, expireTime, roles: _, ...others } = change;
  const { tenants } = change;
  const tenantPositions = tenants && asker && positionsOf(token, tenants, asker.n);
  const set = { ...others, roleIds: roles?.map(({ id }) => id), tenantPositions };
  const fields = Object.fromEntries(Object.entries(set).filter(([, value]) => value !== undefined));
  const end = asker && (await endOf(tx, token, change, rule, rights, asker, roles));
  await checkAttachable(
    tx,
    (tenants ?? []).filter((tenant) => !token.tenants.includes(tenant)),
  );
  // After the judgement: it holds back what all instances acknowledge.
  if (tenants !== undefined && tenants.length > 0) await admitReaders(tx, KNOWS_TENANTS);
  if (asker === undefined || end === undefined) return writeToken(tx, token.id, fields);
  if (!isLater(token.expireTime, end.expire)) return writeToken(tx, token.id, { ...fields, expireTime: end.expire });
  // A token that was shortened by hand must not renew itself to its earlier life.
  const familyLife = earlier(token.familyLife, end.expire! - asker.now);
  await writeToken(tx, token.id, { ...fields, expireTime: end.expire, familyLife }, [
    "family_time = coalesce(family_time, create_time)",
  ]);
}

/** Judges the row under its lock: a token has roles or further tenants. */
function checkRolesOrTenants(token: Held, change: TokenChange): void {
  const { tenants = token.tenants, roles = token.roleIds } = change;
  if (tenants.includes(token.tenant)) throw invalidField("token.tenants", "must not name the token's own tenant");
  if (tenants.length > 0 && roles.length > 0) {
    throw invalidField("token.tenants", "must be empty for a token that holds roles, deleted ones too");
  }
}

/** The end that a change sets. Undefined: it sets none. */
async function endOf(
  tx: Tx,
  token: Held,
  change: TokenChange,
  rule: { maxTtl: number },
  rights: Rights | undefined,
  asker: Asker,
  roles: readonly Role[] | undefined,
): Promise<{ readonly expire: number | undefined } | undefined> {
  const parent = await parentOf(tx, token);
  if (rights !== undefined) return judgeUpdate(rights, asker, token, parent, change, roles);
  if (change.expireTime === undefined && change.noExpiry !== true) return undefined;
  const { expireTime } = change;
  return { expire: expiry({ ...rule, expireTime, notBeforeTime: token.notBeforeTime }, asker.now, parent?.expireTime) };
}

export async function revokeFamily(tx: Tx, id: string, reason: string, actor: AuditActor): Promise<Token> {
  const token = await readHeld(tx, id);
  const { family } = token;
  const parent = await parentOf(tx, token);
  const members = await tx.query<{ id: string }>("select id from sallyport.tokens where family = $1", [family]);
  await rereadActor(
    tx,
    actor,
    members.map((member) => member.id),
  );
  // Repeats until no row is left: a rotation may have added one while the update waited for its lock.
  const revoked: string[] = [];
  for (;;) {
    const held = await tx.query<{ scopes: string[] }>(
      `select ${grantedScopesSql("t")} as scopes from sallyport.tokens t where family = $1 and revoke_time is null
       order by id for no key update`,
      [family],
    );
    for (const { scopes } of held) checkMayEnd(actor.rank, withinParent(scopes, parent && grantedScopes(parent)));
    const rows = await tx.query<{ id: string }>(
      `update sallyport.tokens set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = $2,
         revoke_reason = $3
       where family = $1 and revoke_time is null returning id`,
      [family, actor.actor, reason],
    );
    if (rows.length === 0) break;
    revoked.push(...rows.map((row) => row.id));
  }
  // A string that a rotation ended cannot repeat its request once its family is revoked.
  await tx.query("delete from sallyport.requests r using sallyport.tokens t where t.family = $1 and r.caller = t.id", [
    family,
  ]);
  const metadata = { family: "true", ...why(reason) };
  if (revoked.length === 0) {
    await repeated(tx, actor, token.tenant, "token.revoke", `token:${id}`, token.principal, metadata);
  } else {
    for (const target of new Set([id, ...revoked])) {
      await audit(tx, actor, token.tenant, "token.revoke", `token:${target}`, token.principal, metadata);
    }
  }
  return readToken(tx, id);
}

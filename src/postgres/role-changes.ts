import { AppError } from "../domain/errors.ts";
import { checkMayEnd, judgeRole } from "../domain/rights.ts";
import type { Role } from "../domain/role.ts";
import { fieldsOf } from "./audit-facts.ts";
import { lockForLowering, lockForRaising } from "./caller-guard.ts";
import { type Args, assignments, audit, checkEtag, refused } from "./changes.ts";
import { admitReaders, KNOWS_ROLES } from "./mixed-fleet.ts";
import type { Tx } from "./pool.ts";
import { noRole, ROLE_COLUMNS, ROLE_FIELDS, type RoleRow, roleOf } from "./role-rows.ts";

export async function createRole(tx: Tx, ...[role, guard, actor, made]: Args<"createRole">): Promise<Role | AppError> {
  await admitReaders(tx, KNOWS_ROLES);
  const { id, tenant, name, description, scopes, administrative } = role;
  const asker = await lockForRaising(tx, { tenant, role: id }, guard);
  const found = await tx.query<{ state: string }>("select state from sallyport.tenants where id = $1", [tenant]);
  if (found[0] === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (found[0].state !== "ACTIVE") throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
  const target = `role:${name}`;
  // Others may have changed or deleted the role since an earlier run made it. That is no part of this call's answer.
  if (made !== undefined && (await roleById(tx, made.id)) !== undefined) {
    await audit(tx, actor, tenant, "role.create", target, "", { repeat: "true" });
    return made;
  }
  judgeRole(asker, role, [], scopes);
  const [row] = await tx.query<RoleRow>(
    `insert into sallyport.roles (id, tenant, name, description, scopes, administrative)
     values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning ${ROLE_COLUMNS}`,
    [id, tenant, name, description, scopes, administrative],
  );
  if (row === undefined) {
    const refusal = new AppError("ROLE_EXISTS", "the role exists");
    return refused(tx, actor, tenant, "role.create", target, "", refusal);
  }
  await audit(tx, actor, tenant, "role.create", target, "", facts(roleOf(row)));
  return roleOf(row);
}

export async function updateRole(
  tx: Tx,
  ...[tenant, name, change, etag, check, guard, actor]: Args<"updateRole">
): Promise<Role> {
  const { id } = await activeRole(tx, tenant, name);
  const asker = await lockForRaising(tx, { tenant, role: id }, guard);
  // A new statement after the lock: the role may have changed, or be gone.
  const role = await roleById(tx, id);
  if (role?.state !== "ACTIVE") throw noRole();
  checkEtag(etag, role.etag);
  // Its holders lose what it loses: only who may end an administrator's token may take that away.
  if (change.scopes !== undefined) checkMayEnd(actor.rank, role.scopes);
  check(role);
  if (change.scopes !== undefined) judgeRole(asker, role, role.scopes, change.scopes);
  const set = assignments(change, ROLE_FIELDS, 2);
  const [row] = await tx.query<RoleRow>(
    `update sallyport.roles set ${set.text} where id = $1 returning ${ROLE_COLUMNS}`,
    [id, ...set.values],
  );
  const changed = roleOf(row!);
  const { scopes } = facts(changed);
  const told = { role: id, fields: fieldsOf(change), ...(change.scopes !== undefined && { scopes: scopes ?? "" }) };
  await audit(tx, actor, tenant, "role.update", `role:${name}`, "", told);
  return changed;
}

export async function deleteRole(tx: Tx, ...[tenant, name, force, actor]: Args<"deleteRole">): Promise<Role> {
  const found = await latestRole(tx, tenant, name);
  await lockForLowering(tx, { tenant, role: found.id }, actor);
  const role = (await roleById(tx, found.id)) ?? found;
  if (role.state === "DELETED") {
    await audit(tx, actor, tenant, "role.delete", `role:${name}`, "", { role: role.id, repeat: "true" });
    return role;
  }
  checkMayEnd(actor.rank, role.scopes);
  if (!force && (await isHeld(tx, role.id))) {
    throw new AppError("ROLE_IN_USE", "live tokens hold the role; force deletes it, and they lose its scopes");
  }
  const [row] = await tx.query<RoleRow>(
    `update sallyport.roles set state = 'DELETED' where id = $1 returning ${ROLE_COLUMNS}`,
    [role.id],
  );
  await audit(tx, actor, tenant, "role.delete", `role:${name}`, "", { role: role.id, ...(force && { force: "true" }) });
  return roleOf(row!);
}

async function activeRole(tx: Tx, tenant: string, name: string): Promise<Role> {
  const role = await latestRole(tx, tenant, name);
  if (role.state !== "ACTIVE") throw noRole();
  return role;
}

/** The active role of the name, else the one that was deleted last, so that a repeat of its deletion finds it. */
async function latestRole(tx: Tx, tenant: string, name: string): Promise<Role> {
  const [row] = await tx.query<RoleRow>(
    `select ${ROLE_COLUMNS} from sallyport.roles where tenant = $1 and name = $2
     order by state = 'ACTIVE' desc, create_time desc limit 1`,
    [tenant, name],
  );
  if (row === undefined) throw noRole();
  return roleOf(row);
}

async function roleById(tx: Tx, id: string): Promise<Role | undefined> {
  const [row] = await tx.query<RoleRow>(`select ${ROLE_COLUMNS} from sallyport.roles where id = $1`, [id]);
  return row && roleOf(row);
}

async function isHeld(tx: Tx, id: string): Promise<boolean> {
  const held = await tx.query(
    `select from sallyport.token_view v where v.roles <> '{}' and v.roles @> array[$1]
       and v.state in ('ACTIVE', 'NOT_YET_VALID', 'DISABLED') limit 1`,
    [id],
  );
  return held.length > 0;
}

function facts({ id, scopes, administrative }: Role): Record<string, string> {
  const told = { role: id, scopes: scopes.join(" "), administrative: administrative ? "true" : "" };
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value !== ""));
}

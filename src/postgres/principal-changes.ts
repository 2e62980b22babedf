import { AppError } from "../domain/errors.ts";
import type { Principal, Tenant } from "../domain/principal.ts";
import { fieldsOf } from "./audit-facts.ts";
import { lockForLowering, lockForRaising } from "./caller-guard.ts";
import { type Args, assignments, audit, checkEtag, refused } from "./changes.ts";
import { checkHolders } from "./holders.ts";
import type { Tx } from "./pool.ts";
import {
  PRINCIPAL_COLUMNS,
  PRINCIPAL_FIELDS,
  type PrincipalRow,
  principalOf,
  TENANT_COLUMNS,
  TENANT_FIELDS,
  type TenantRow,
  tenantOf,
} from "./principal-rows.ts";

export async function createPrincipal(
  tx: Tx,
  ...[principal, guard, actor, made]: Args<"createPrincipal">
): Promise<Principal | AppError> {
  await lockForRaising(tx, { tenant: principal.tenant, principal: principal.name }, guard);
  const tenant = await tx.query<{ state: string }>("select state from sallyport.tenants where id = $1", [
    principal.tenant,
  ]);
  if (tenant[0] === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  if (tenant[0].state !== "ACTIVE") throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
  const target = `principal:${principal.name}`;
  const own = await ownPrincipal(tx, principal.tenant, principal.name, made);
  if (own !== undefined) {
    await audit(tx, actor, principal.tenant, "principal.create", target, principal.name, { repeat: "true" });
    return own;
  }
  // A deleted name comes back with its cut, so that its old tokens stay dead.
  const rows = await tx.query<PrincipalRow>(
    `insert into sallyport.principals as p (tenant, name, display_name, email, owner, state, annotations)
     values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (tenant, name) do update set display_name = excluded.display_name, email = excluded.email,
       owner = excluded.owner, state = excluded.state, annotations = excluded.annotations,
       create_time = date_trunc('milliseconds', clock_timestamp())
     where p.state = 'DELETED' returning ${PRINCIPAL_COLUMNS}`,
    [
      principal.tenant,
      principal.name,
      principal.displayName,
      principal.email,
      principal.owner,
      principal.state,
      JSON.stringify(principal.annotations),
    ],
  );
  if (rows[0] === undefined) {
    const refusal = new AppError("PRINCIPAL_EXISTS", "the principal exists");
    return refused(tx, actor, principal.tenant, "principal.create", target, principal.name, refusal);
  }
  await audit(tx, actor, principal.tenant, "principal.create", target, principal.name, {});
  return principalOf(rows[0]);
}

export async function updatePrincipal(
  tx: Tx,
  ...[tenant, name, change, etag, guard, actor]: Args<"updatePrincipal">
): Promise<Principal> {
  const target = { tenant, principal: name };
  // A change that only removes rights does not need the caller's lock.
  if (onlyState(change) === "DISABLED") await lockForLowering(tx, target, actor);
  else await lockForRaising(tx, target, guard);
  const found = await lockPrincipal(tx, tenant, name);
  checkEtag(etag, found.etag);
  if (change.state !== undefined && change.state !== found.state) await checkHolders(tx, actor.rank, tenant, name);
  const set = assignments(change, PRINCIPAL_FIELDS);
  const rows = await tx.query<PrincipalRow>(
    `update sallyport.principals set ${set.text} where tenant = $1 and name = $2 returning ${PRINCIPAL_COLUMNS}`,
    [tenant, name, ...set.values],
  );
  const fields = fieldsOf(change);
  const state: Record<string, string> = change.state === undefined ? {} : { state: change.state };
  await audit(tx, actor, tenant, "principal.update", `principal:${name}`, name, { fields, ...state });
  return principalOf(rows[0]!);
}

export async function deletePrincipal(tx: Tx, ...[tenant, name, actor]: Args<"deletePrincipal">): Promise<Principal> {
  await lockForLowering(tx, { tenant, principal: name }, actor);
  const found = await lockPrincipal(tx, tenant, name, "or deleted");
  if (found.state === "DELETED") {
    await audit(tx, actor, tenant, "principal.delete", `principal:${name}`, name, { repeat: "true" });
    return found;
  }
  await checkHolders(tx, actor.rank, tenant, name);
  const rows = await tx.query<PrincipalRow>(
    `update sallyport.principals set state = 'DELETED', cut_time = clock_timestamp()
     where tenant = $1 and name = $2 returning ${PRINCIPAL_COLUMNS}`,
    [tenant, name],
  );
  await audit(tx, actor, tenant, "principal.delete", `principal:${name}`, name, {});
  return principalOf(rows[0]!);
}

export async function createTenant(
  tx: Tx,
  ...[tenant, guard, actor, made]: Args<"createTenant">
): Promise<Tenant | AppError> {
  await lockForRaising(tx, { tenant: tenant.id }, guard);
  const rows = await tx.query<TenantRow>(
    `insert into sallyport.tenants (id, display_name, state, annotations) values ($1, $2, $3, $4)
     on conflict do nothing returning ${TENANT_COLUMNS}`,
    [tenant.id, tenant.displayName, tenant.state, JSON.stringify(tenant.annotations)],
  );
  if (rows[0] === undefined) {
    const own = await ownTenant(tx, tenant.id, made);
    if (own !== undefined) {
      await audit(tx, actor, tenant.id, "tenant.create", `tenant:${tenant.id}`, "", { repeat: "true" });
      return own;
    }
    const refusal = new AppError("TENANT_EXISTS", "the tenant exists");
    return refused(tx, actor, tenant.id, "tenant.create", `tenant:${tenant.id}`, "", refusal);
  }
  await audit(tx, actor, tenant.id, "tenant.create", `tenant:${tenant.id}`, "", {});
  return tenantOf(rows[0]);
}

export async function updateTenant(tx: Tx, ...[id, change, etag, guard, actor]: Args<"updateTenant">): Promise<Tenant> {
  if (onlyState(change) === "SUSPENDED") await lockForLowering(tx, { tenant: id }, actor);
  else await lockForRaising(tx, { tenant: id }, guard);
  const found = await tx.query<TenantRow>(
    `select ${TENANT_COLUMNS} from sallyport.tenants where id = $1 for no key update`,
    [id],
  );
  if (found[0] === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
  checkEtag(etag, tenantOf(found[0]).etag);
  const set = assignments(change, TENANT_FIELDS, 2);
  const rows = await tx.query<TenantRow>(
    `update sallyport.tenants set ${set.text} where id = $1 returning ${TENANT_COLUMNS}`,
    [id, ...set.values],
  );
  const fields = fieldsOf(change);
  const state: Record<string, string> = change.state === undefined ? {} : { state: change.state };
  await audit(tx, actor, id, "tenant.update", `tenant:${id}`, "", { fields, ...state });
  return tenantOf(rows[0]!);
}

/** The state that a change sets, if it sets nothing else. */
function onlyState<S>({ state, ...others }: { readonly state?: S }): S | undefined {
  return Object.values(others).every((value) => value === undefined) ? state : undefined;
}

async function lockPrincipal(tx: Tx, tenant: string, name: string, deleted?: "or deleted"): Promise<Principal> {
  const rows = await tx.query<PrincipalRow>(
    `select ${PRINCIPAL_COLUMNS} from sallyport.principals where tenant = $1 and name = $2 for no key update`,
    [tenant, name],
  );
  const row = rows[0];
  if (row === undefined || (row.state === "DELETED" && deleted === undefined)) {
    throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
  }
  return principalOf(row);
}

/**
 * The answer of an earlier run of this call, if the row that it made is still there: a failover may have lost or replaced
 * it. Others may have changed or deleted that row since. They did so after this call, so it is no part of the answer.
 */
async function ownPrincipal(tx: Tx, tenant: string, name: string, made: Principal | undefined) {
  if (made === undefined) return undefined;
  const [row] = await tx.query<PrincipalRow>(
    `select ${PRINCIPAL_COLUMNS} from sallyport.principals where tenant = $1 and name = $2 for no key update`,
    [tenant, name],
  );
  return row?.create_time === made.createTime ? made : undefined;
}

async function ownTenant(tx: Tx, id: string, made: Tenant | undefined) {
  if (made === undefined) return undefined;
  const [row] = await tx.query<TenantRow>(
    `select ${TENANT_COLUMNS} from sallyport.tenants where id = $1 for no key update`,
    [id],
  );
  return row?.create_time === made.createTime ? made : undefined;
}

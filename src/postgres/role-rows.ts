import { AppError } from "../domain/errors.ts";
import type { Role, RoleState } from "../domain/role.ts";
import type { RoleChange } from "../revocation/authority-store.ts";
import type { Tx } from "./pool.ts";

export const ROLE_COLUMNS = "id, tenant, name, description, scopes, administrative, state, create_time, revision";

export interface RoleRow {
  readonly id: string;
  readonly tenant: string;
  readonly name: string;
  readonly description: string;
  readonly scopes: readonly string[];
  readonly administrative: boolean;
  readonly state: RoleState;
  readonly create_time: number;
  readonly revision: number;
}

export function roleOf({ create_time, revision, ...row }: RoleRow): Role {
  const { id, tenant, name, description, scopes, administrative, state } = row;
  const createTime = create_time;
  return { id, tenant, name, description, scopes, administrative, state, createTime, etag: String(revision) };
}

/** The columns that an update of a role may set. */
export const ROLE_FIELDS: Record<keyof RoleChange, string> = {
  description: "description",
  scopes: "scopes",
};

/** Those of the roles that are ACTIVE. To see their state under the locks, run it after the statement that locks. */
export async function readRoles(tx: Tx, ids: readonly string[]): Promise<Role[]> {
  if (ids.length === 0) return [];
  const rows = await tx.query<RoleRow>(
    `select ${ROLE_COLUMNS} from sallyport.roles where id = any($1) and state = 'ACTIVE' order by name`,
    [ids],
  );
  return rows.map(roleOf);
}

/** The ids of a tenant's roles by their names; ROLE_NOT_FOUND if one is not there. To be locked, and then read again. */
export async function roleIds(tx: Tx, tenant: string, names: readonly string[]): Promise<string[]> {
  if (names.length === 0) return [];
  const rows = await tx.query<{ id: string }>(
    "select id from sallyport.roles where tenant = $1 and name = any($2) and state = 'ACTIVE' order by id",
    [tenant, names],
  );
  if (rows.length < new Set(names).size) throw noRole();
  return rows.map(({ id }) => id);
}

/** The roles behind these ids, under their locks; ROLE_NOT_FOUND if one was deleted meanwhile. */
export async function lockedRoles(tx: Tx, ids: readonly string[]): Promise<Role[]> {
  const roles = await readRoles(tx, ids);
  if (roles.length < ids.length) throw noRole();
  return roles;
}

export function noRole(): AppError {
  return new AppError("ROLE_NOT_FOUND", "no such role");
}

import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { PrincipalChange, TenantChange } from "../revocation/authority-store.ts";

export const PRINCIPAL_COLUMNS = "tenant, name, display_name, email, owner, state, annotations, create_time, revision";

export interface PrincipalRow {
  readonly tenant: string;
  readonly name: string;
  readonly display_name: string;
  readonly email: string;
  readonly owner: string;
  readonly state: PrincipalState;
  readonly annotations: Record<string, string>;
  readonly create_time: number;
  readonly revision: number;
}

export function principalOf(row: PrincipalRow): Principal {
  return {
    tenant: row.tenant,
    name: row.name,
    displayName: row.display_name,
    email: row.email,
    owner: row.owner,
    state: row.state,
    annotations: row.annotations,
    createTime: row.create_time,
    etag: String(row.revision),
  };
}

/** The columns that an update of a principal may set. */
export const PRINCIPAL_FIELDS: Record<keyof PrincipalChange, string> = {
  displayName: "display_name",
  email: "email",
  owner: "owner",
  state: "state",
  annotations: "annotations",
};

export const TENANT_COLUMNS = "id, display_name, state, annotations, create_time, revision";

export interface TenantRow {
  readonly id: string;
  readonly display_name: string;
  readonly state: TenantState;
  readonly annotations: Record<string, string>;
  readonly create_time: number;
  readonly revision: number;
}

export function tenantOf(row: TenantRow): Tenant {
  return {
    id: row.id,
    displayName: row.display_name,
    state: row.state,
    annotations: row.annotations,
    createTime: row.create_time,
    etag: String(row.revision),
  };
}

/** The columns that an update of a tenant may set. */
export const TENANT_FIELDS: Record<keyof TenantChange, string> = {
  displayName: "display_name",
  state: "state",
  annotations: "annotations",
};

import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { Token, TokenState } from "../domain/token.ts";

const STORED =
  "id kid hint tenant profile principal display_name description scopes audiences allowed_cidrs annotations disabled " +
  "create_time created_by not_before_time expire_time revoke_time revoked_by revoke_reason parent_id rotated_from " +
  "rotated_to revision";

/** Those columns of a Token that are in the row itself. */
export function storedColumns(of: string): string {
  return STORED.replaceAll(/\w+/g, `${of}.$&`).replaceAll(" ", ", ");
}

/** Columns of `sallyport.token_view v` that make a Token. */
export const TOKEN_COLUMNS = `${storedColumns("v")}, v.last_use_time, v.last_use_address, v.state`;

export interface TokenRow {
  readonly id: string;
  readonly kid: string;
  readonly hint: string;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly display_name: string;
  readonly description: string;
  readonly scopes: string[];
  readonly audiences: string[];
  readonly allowed_cidrs: string[];
  readonly annotations: Record<string, string>;
  readonly disabled: boolean;
  readonly create_time: number;
  readonly created_by: string;
  readonly not_before_time: number | null;
  readonly expire_time: number | null;
  readonly revoke_time: number | null;
  readonly revoked_by: string;
  readonly revoke_reason: string;
  readonly parent_id: string | null;
  readonly rotated_from: string;
  readonly rotated_to: string;
  readonly revision: number;
  readonly last_use_time: number | null;
  readonly last_use_address: string | null;
  readonly state: TokenState;
}

export function tokenOf(row: TokenRow): Token {
  return {
    id: row.id,
    tenant: row.tenant,
    profile: row.profile,
    principal: row.principal,
    displayName: row.display_name,
    description: row.description,
    scopes: row.scopes,
    audiences: row.audiences,
    allowedCidrs: row.allowed_cidrs,
    annotations: row.annotations,
    hint: row.hint,
    kid: row.kid,
    state: row.state,
    disabled: row.disabled,
    createTime: row.create_time,
    createdBy: row.created_by,
    notBeforeTime: row.not_before_time ?? undefined,
    expireTime: row.expire_time ?? undefined,
    revokeTime: row.revoke_time ?? undefined,
    revokedBy: row.revoked_by,
    revokeReason: row.revoke_reason,
    rotatedFrom: row.rotated_from,
    rotatedTo: row.rotated_to,
    parent: row.parent_id ?? "",
    lastUseTime: row.last_use_time ?? undefined,
    lastUseAddress: row.last_use_address ?? "",
    etag: String(row.revision),
  };
}

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

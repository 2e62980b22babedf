import type { PrincipalState, TenantState } from "./principal.ts";

/** A position in the commit-ordered log, and the epoch in which it is valid. */
export interface Version {
  readonly epoch: string;
  readonly position: number;
}

/** The facts of one row, the token's or its parent's, that decide if a token is live. Times are milliseconds. */
export interface Liveness {
  readonly revoked: boolean;
  readonly disabled: boolean;
  readonly notBefore?: number;
  readonly expire?: number;
  /** Issued before the latest cut of its principal or tenant. */
  readonly cut: boolean;
}

/** A further tenant in which a token counts. */
export interface Attachment {
  readonly tenant: string;
  readonly tenantState: TenantState;
  /** Attached before the latest cut of the tenant. For a child: or its parent is not attached, or was before that cut. */
  readonly cut: boolean;
}

/**
 * The facts that a look-up found about a token string. A cache keeps these facts and never a verdict: each use decides
 * anew.
 */
export interface TokenSnapshot extends Liveness {
  /** The version of the database snapshot that showed these rows. */
  readonly version: Version;
  readonly id: string;
  readonly digest: string;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  /** With those of its roles. For a child: only the scopes that its parent has, too. */
  readonly scopes: readonly string[];
  /** Ids of the roles that the scopes rest on: those of the token and of its parent. */
  readonly roles: readonly string[];
  /** The tenants in which the token counts beside its own, in any state. */
  readonly attachments: readonly Attachment[];
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly hint: string;
  /** True if a rotation replaced the token. A later use of it is a sign of reuse. */
  readonly rotated: boolean;
  readonly principalState: PrincipalState;
  readonly tenantState: TenantState;
  /** The token that minted this one for its own principal. The child is live only while the parent is live. */
  readonly parent?: Parent;
}

/**
 * The facts of a parent that decide about the tokens that it minted for its own principal, besides the shared scopes.
 */
export interface Parent extends Liveness {
  readonly digest: string;
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
}

/** The key of everything. A change that cannot name what it touches notes this key. */
export const EVERYTHING = "*";

/**
 * The keys of everything that an answer from this snapshot rests on, as latin1 strings in the form in which the log
 * notes them (`sallyport.rev_note`). If a look-up reads something new, it needs a new key here and a new trigger there.
 */
export function dependencies(
  of: Pick<TokenSnapshot, "digest" | "tenant" | "principal" | "roles" | "attachments" | "parent">,
): string[] {
  const keys = [`t${of.digest}`, principalKey(of.tenant, of.principal), tenantKey(of.tenant)];
  for (const id of of.roles) keys.push(roleKey(id));
  for (const { tenant } of of.attachments) keys.push(tenantKey(tenant));
  if (of.parent !== undefined) keys.push(`t${of.parent.digest}`);
  return keys;
}

function tenantKey(tenant: string): string {
  return `o${tenant}`;
}

/** The log key of a role. */
export function roleKey(id: string): string {
  return `r${id}`;
}

/** The log key of a principal. Both parts are ASCII without NUL. */
export function principalKey(tenant: string, principal: string): string {
  return `p${tenant}\0${principal}`;
}

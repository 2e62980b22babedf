import { coversAny } from "./scope.ts";

/** The permissions of callers. `rpc/methods.ts` holds the table from RPC to permission. */
export const PERMISSIONS = [
  "sallyport.operator",
  "sallyport.admin",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
  "sallyport.principals.write",
  "sallyport.roles.write",
  "sallyport.federation.write",
  "sallyport.audit.read",
  "sallyport.validate",
  "sallyport.reasons",
] as const;
export type Permission = (typeof PERMISSIONS)[number];

/** The authenticated caller of a Sallyport API. */
export interface Caller {
  readonly kind: "token" | "session" | "mtls" | "break-glass";
  /**
   * `break-glass`, `bootstrap`, `session:<sub>`, `mtls:<SAN>` or `token:<hint>`, as audit rows and tokens record it.
   */
  readonly provenance: string;
  /** The empty string for a caller without a tenant. */
  readonly tenant: string;
  /** The tenants of which a session may name one in each call. */
  readonly tenants?: readonly string[];
  /** The scopes of a session in each of them. */
  readonly scopesIn?: ReadonlyMap<string, readonly string[]>;
  /** The empty string for a caller that is not a principal. */
  readonly principal: string;
  /** The caller's permissions, and the other scopes that it may give to tokens. A token has all of its scopes here. */
  readonly scopes: readonly string[];
  /** The names of a session's roles in its tenant. */
  readonly roles?: readonly string[];
  /** The scopes that a session has by its roles alone. They are read once the call is admitted. */
  readonly roleScopes?: readonly string[];
  /** The record's id, if the caller is a token. */
  readonly tokenId?: string;
  /** The expiry of a token, by the database's clock. Absent if the token never expires. */
  readonly expireTime?: number;
  /** A rotation ended this token. The caller may only repeat that rotation, and only if the rotation was its own. */
  readonly ended?: true;
  /** The network address that the call came from, if there is one. */
  readonly address: string;
  /** The call came from this machine or over a unix socket, without a hop in between. */
  readonly direct: boolean;
}

/** The permissions that `sallyport.admin` implies in the caller's own tenant. */
const ADMIN_GIVES = new Set<string>([
  "sallyport.admin",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
  "sallyport.principals.write",
  "sallyport.roles.write",
  "sallyport.federation.write",
  "sallyport.audit.read",
  "sallyport.validate",
  "sallyport.reasons",
  "sallyport.tokens.*",
]);

/** The part of a caller that decides its permissions. */
type Holding = Pick<Caller, "scopes">;

/** True if the caller has every permission in every tenant. */
export function isOperator(caller: Holding): boolean {
  return coversAny(caller.scopes, "sallyport.operator");
}

/** True if the caller has this permission in its own tenant. An operator has it in every tenant. */
export function holds(caller: Holding, permission: string): boolean {
  if (isOperator(caller) || coversAny(caller.scopes, permission)) return true;
  return coversAny(caller.scopes, "sallyport.admin") && ADMIN_GIVES.has(permission);
}

/** The permissions that the caller has in its own tenant, in a fixed order. */
export function permissionsOf(caller: Holding): Permission[] {
  return PERMISSIONS.filter((permission) => holds(caller, permission));
}

/**
 * True if the caller may grant scopes that it does not have itself. Break-glass callers are operators, so they may too.
 */
export function isAdministrator(caller: Holding): boolean {
  return holds(caller, "sallyport.admin");
}

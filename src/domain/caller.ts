import { coversAny } from "./scope.ts";

/** What a caller may do. The table from RPC to permission is in `rpc/methods.ts`. */
export type Permission =
  | "sallyport.operator"
  | "sallyport.admin"
  | "sallyport.tokens.create"
  | "sallyport.tokens.read"
  | "sallyport.tokens.revoke"
  | "sallyport.principals.write"
  | "sallyport.audit.read"
  | "sallyport.validate"
  | "sallyport.reasons";

/** Who calls Sallyport itself. */
export interface Caller {
  readonly kind: "token" | "session" | "mtls" | "break-glass";
  /** `break-glass`, `bootstrap`, `session:<sub>`, `mtls:<SAN>` or `token:<hint>`: what audit rows and tokens say. */
  readonly provenance: string;
  /** The empty string for one who belongs to no tenant. */
  readonly tenant: string;
  /** The empty string for one who is no principal. */
  readonly principal: string;
  /** Scopes under `sallyport.`, and for tokens all others too. */
  readonly scopes: readonly string[];
  /** For tokens: the record's id. */
  readonly tokenId?: string;
  /** For tokens that have an end: when, by the database's clock. */
  readonly expireTime?: number;
  /** Its token was ended by a rotation: nothing is open to it but to repeat that rotation, if it was its own. */
  readonly ended?: true;
  /** The network address of the call, where it has one. */
  readonly address: string;
  /** From this machine itself, or over a unix socket: no hop in between. */
  readonly direct: boolean;
}

/** In a caller's own tenant, what `sallyport.admin` gives besides itself. */
const ADMIN_GIVES = new Set<string>([
  "sallyport.admin",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
  "sallyport.principals.write",
  "sallyport.audit.read",
  "sallyport.validate",
  "sallyport.reasons",
  "sallyport.tokens.*",
]);

/** What of a caller decides what it holds. */
type Holding = Pick<Caller, "scopes">;

/** Whether the caller holds everything everywhere. */
export function isOperator(caller: Holding): boolean {
  return coversAny(caller.scopes, "sallyport.operator");
}

/** Whether the caller holds a permission in its own tenant (an operator: in every tenant). */
export function holds(caller: Holding, permission: string): boolean {
  if (isOperator(caller) || coversAny(caller.scopes, permission)) return true;
  return coversAny(caller.scopes, "sallyport.admin") && ADMIN_GIVES.has(permission);
}

/** Whether the caller is one that grants what it does not hold itself: break-glass is an operator, too. */
export function isAdministrator(caller: Holding): boolean {
  return holds(caller, "sallyport.admin");
}

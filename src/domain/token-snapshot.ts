import type { PrincipalState, TenantState } from "./principal.ts";

/** A position in the commit-ordered log, and the life of the server in which it means something. */
export interface Version {
  readonly epoch: string;
  readonly position: number;
}

/** What decides whether a token is live: its own row's part of it, or its parent's. Times are milliseconds. */
export interface Liveness {
  readonly revoked: boolean;
  readonly disabled: boolean;
  readonly notBefore?: number;
  readonly expire?: number;
  /** Issued before the latest cut of its principal or tenant. */
  readonly cut: boolean;
}

/**
 * What a look-up found about a token string, and all that a cache may keep of it: facts, never a verdict. The decision
 * is made from them at each use.
 */
export interface TokenSnapshot extends Liveness {
  /** The snapshot that showed these rows. */
  readonly version: Version;
  readonly id: string;
  readonly digest: string;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  /** Of a child: what its parent has, too. */
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly hint: string;
  /** Whether a rotation has replaced it: its use once dead is a signal. */
  readonly rotated: boolean;
  readonly principalState: PrincipalState;
  readonly tenantState: TenantState;
  /** The token that minted this one for its own principal: it must be live and good there, too. */
  readonly parent?: Parent;
}

/** What of a token decides about those that it minted for its own principal, besides the scopes that they share. */
export interface Parent extends Liveness {
  readonly digest: string;
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
}

/** Key of everything: noted when a change can not name what it touches. */
export const EVERYTHING = "*";

/**
 * The keys of all that an answer from this snapshot rests on, as latin1 strings, in the form in which the log notes
 * them (`sallyport.rev_note`). Something new that a look-up reads is a new key here and a new trigger there.
 */
export function dependencies(of: Pick<TokenSnapshot, "digest" | "tenant" | "principal" | "parent">): string[] {
  const keys = [`t${of.digest}`, principalKey(of.tenant, of.principal), `o${of.tenant}`];
  if (of.parent !== undefined) keys.push(`t${of.parent.digest}`);
  return keys;
}

/** The log key of a principal: both parts are ASCII without NUL. */
export function principalKey(tenant: string, principal: string): string {
  return `p${tenant}\0${principal}`;
}

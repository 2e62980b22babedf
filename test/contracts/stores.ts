import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import type { RevocationLog } from "../../src/revocation/ports.ts";
import type { TokenReader } from "../../src/validation/ports.ts";

/**
 * The tokens that are there when a contract begins, all of tenant `x`; `child` was minted by `parent`, `heir` by `holder`,
 * which has only what its role gives.
 */
export type TokenName = "a" | "b" | "parent" | "child" | "holder" | "heir";

/** The store ports over one database, as two processes have them. */
export interface Stores {
  readonly reader: TokenReader;
  readonly log: RevocationLog;
  /** The log of another process. */
  readonly other: RevocationLog;
  readonly authority: Pick<
    AuthorityStore,
    "revokeToken" | "updateToken" | "updatePrincipal" | "updateTenant" | "updateRole" | "deleteRole" | "cut"
  >;
  readonly tokens: Readonly<Record<TokenName, { readonly id: string; readonly digest: string }>>;
  /** The id of the role ROLE, which gives SCOPES. */
  readonly role: string;
  close(): Promise<void>;
}

export const TENANT = "x";
/** Of the tokens `a` and `b`; the parent and its child are of another. */
export const PRINCIPAL = "bot:a";
export const PARENT_PRINCIPAL = "bot:b";
export const ROLE = "r";
/** What every token is given. */
export const SCOPES = ["s", "t"];
/** The longest lease that the database admits, milliseconds. */
export const MAX_BOUND_MS = 1500;

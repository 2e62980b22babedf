import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import type { RevocationLog } from "../../src/revocation/ports.ts";
import type { TokenReader } from "../../src/validation/ports.ts";

/** The tokens that are there when a contract begins, all of tenant `x`; `child` was minted by `parent`. */
export type TokenName = "a" | "b" | "parent" | "child";

/** The store ports over one database, as two processes have them. */
export interface Stores {
  readonly reader: TokenReader;
  readonly log: RevocationLog;
  /** The log of another process. */
  readonly other: RevocationLog;
  readonly authority: Pick<AuthorityStore, "revokeToken" | "updateToken" | "updatePrincipal" | "updateTenant" | "cut">;
  readonly tokens: Readonly<Record<TokenName, { readonly id: string; readonly digest: string }>>;
  close(): Promise<void>;
}

export const TENANT = "x";
/** Of the tokens `a` and `b`; the parent and its child are of another. */
export const PRINCIPAL = "bot:a";
export const PARENT_PRINCIPAL = "bot:b";
/** What every token is given. */
export const SCOPES = ["s", "t"];
/** The longest lease that the database admits, milliseconds. */
export const MAX_BOUND_MS = 1500;

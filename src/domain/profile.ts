import type { PrincipalType } from "./principal.ts";

/**
 * By whom tokens of a profile can be minted. `admin`: a caller with `sallyport.admin` or `.operator`. `token`: a token,
 * for its own principal, as its child. `creator`: any other caller with `sallyport.tokens.create`, for other principals.
 */
export type Minter = "session" | "admin" | "creator" | "token";

/** A kind of token with its prefix and rules. Times are milliseconds. */
export interface Profile {
  readonly name: string;
  readonly prefix: string;
  readonly principals: readonly PrincipalType[];
  readonly maxTtl: number;
  readonly defaultTtl: number;
  readonly allowNoExpiry: boolean;
  /** A token whose granted scopes cover one of these lives at most so long, whatever was asked. */
  readonly scopeCeilings: Readonly<Record<string, number>>;
  readonly mintedBy: readonly Minter[];
  /**
   * Whether a token may rotate itself. `true`: the new one ends when the old one would have. `renew`: it lives as long as
   * the first of its family was made to live, from the rotation on.
   */
  readonly selfRotate: boolean | "renew";
  /** Live tokens of one principal; 0: no limit. */
  readonly maxLivePerPrincipal: number;
  readonly allowEmptyName: boolean;
  /** Whether tokens may hold every `sallyport.` scope that their minter holds. */
  readonly administrative: boolean;
  /** What the use of a string after its rotation does, besides being refused and audited. */
  readonly onReuse: "audit" | "revoke-family";
}

const DAY = 86_400_000;

const base = {
  maxTtl: 3650 * DAY,
  defaultTtl: 90 * DAY,
  allowNoExpiry: true,
  scopeCeilings: { bootstrap: 3_600_000 },
  selfRotate: false,
  maxLivePerPrincipal: 0,
  administrative: false,
  onReuse: "audit",
} as const;

/** The profiles that are there without configuration. */
export const BUILT_IN_PROFILES: readonly Profile[] = [
  {
    ...base,
    name: "pat",
    prefix: "sp_pat",
    principals: ["user"],
    mintedBy: ["session", "admin"],
    allowEmptyName: false,
    maxLivePerPrincipal: 1000,
  },
  {
    ...base,
    name: "bot",
    prefix: "sp_bot",
    principals: ["bot"],
    mintedBy: ["session", "admin", "creator", "token"],
    selfRotate: "renew",
    allowEmptyName: true,
    maxLivePerPrincipal: 1000,
  },
  {
    ...base,
    name: "svc",
    prefix: "sp_svc",
    principals: ["service"],
    mintedBy: ["session", "admin", "creator", "token"],
    selfRotate: "renew",
    allowEmptyName: true,
    maxLivePerPrincipal: 1000,
  },
  {
    ...base,
    name: "org",
    prefix: "sp_org",
    principals: ["org"],
    mintedBy: ["session", "admin", "creator", "token"],
    maxTtl: 365 * DAY,
    allowNoExpiry: false,
    allowEmptyName: true,
    maxLivePerPrincipal: 1000,
  },
  {
    ...base,
    name: "adm",
    prefix: "sp_adm",
    principals: ["user", "bot", "service", "org"],
    mintedBy: ["session", "admin"],
    maxTtl: 365 * DAY,
    defaultTtl: 30 * DAY,
    allowNoExpiry: false,
    allowEmptyName: true,
    administrative: true,
    maxLivePerPrincipal: 1000,
  },
];

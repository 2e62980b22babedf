import type { PrincipalType } from "./principal.ts";
import type { SigningAlgorithm } from "./signing-keys.ts";

/**
 * The roles that can mint tokens of a profile. `session`: a session, for its own principal. `admin`: a caller with `sallyport.admin` or `.operator`. `token`: a
 * token, for its own principal, as its child. `creator`: any other caller with `sallyport.tokens.create`, for other
 * principals.
 */
export type Minter = "session" | "admin" | "creator" | "token";

/** Which uses of its tokens are recorded: none, a random part, all. */
export type AccessAuditMode = "off" | "sampled" | "full";

export type TokenFormat = "opaque" | "jwt";

/** A kind of token with its prefix and rules. Times are milliseconds. */
export interface Profile {
  readonly name: string;
  readonly prefix: string;
  readonly principals: readonly PrincipalType[];
  readonly maxTtl: number;
  readonly defaultTtl: number;
  readonly allowNoExpiry: boolean;
  /** A token whose granted scopes cover one of these lives at most this long, whatever the request says. */
  readonly scopeCeilings: Readonly<Record<string, number>>;
  readonly mintedBy: readonly Minter[];
  /**
   * `true`: the token may rotate itself, and the new token ends when the old one would have. `renew`: the new token
   * lives as long from the rotation as the first of its family was created to live.
   */
  readonly selfRotate: boolean | "renew";
  /** The limit of live tokens of one principal; 0 for no limit. */
  readonly maxLivePerPrincipal: number;
  readonly allowEmptyName: boolean;
  /** True if tokens may hold every `sallyport.` scope that their minter holds. */
  readonly administrative: boolean;
  /** The reaction when a string is used after its rotation. The use is refused and audited in any case. */
  readonly onReuse: "audit" | "revoke-family";
  /** The form of its token strings. A rotation gives the form of its own time. */
  readonly format: TokenFormat;
  /** Signs its token strings in JWT form. */
  readonly alg: SigningAlgorithm;
  readonly accessAudit: AccessAuditMode;
  /** The recorded part of the uses, where they are sampled. */
  readonly accessAuditSample: number;
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
  format: "opaque",
  alg: "EdDSA",
  accessAudit: "off",
  accessAuditSample: 0.01,
} as const;

/** The profiles that exist without configuration. */
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

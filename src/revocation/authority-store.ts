import type { AuditActor, SessionCaller } from "../domain/audit-event.ts";
import type { AppError } from "../domain/errors.ts";
import type { ClaimedFacts } from "../domain/jwt-string.ts";
import type { LifetimeRule } from "../domain/lifetime.ts";
import type { Principal, Tenant } from "../domain/principal.ts";
import type { Rights } from "../domain/rights.ts";
import type { Role } from "../domain/role.ts";
import type { Changeable, Given, Token } from "../domain/token.ts";
import type { Committed } from "./ports.ts";

// ---------------------------------------------------------------------------------------------------- issuing

/** The facts of a token string in JWT form that the store keeps. */
export interface SignedString {
  readonly digest: string;
  readonly signingKey: string;
  /** The part that is signed. A repeat of the request signs it again. */
  readonly input: string;
}

/** A new token. The secret is not here: only its digest. */
export type NewToken = Given &
  Pick<Token, "id" | "kid" | "hint" | "createdBy"> & {
    readonly digest: string;
    /** Makes the string in JWT form from what the row will hold, in place of `digest`. The last call is the one that counts. */
    readonly sign?: ((facts: ClaimedFacts) => SignedString) | undefined;
  };

/** The part of a new token that a rotation does not copy from the old one. */
export type FreshToken = Omit<NewToken, keyof Given>;

/** Identifies the call that mints, so that a repeat gets the first answer. */
export interface Idempotency {
  readonly caller: string;
  readonly requestId: string;
  readonly method: string;
  /** SHA-256 of the canonical request. */
  readonly body: Uint8Array;
  readonly salt: Uint8Array;
}

/** Limits that are counted inside the transaction; 0 for no limit. */
export interface MintLimits {
  readonly address: string;
  readonly perAddressPerHour: number;
  readonly perPrincipalPerDay: number;
  readonly maxLive: number;
}

/**
 * The conditions for a mint, checked under lock (`docs/protocol.md` §3.4: a caller that lost its rights cannot mint any
 * more).
 */
export interface MintGuard {
  /**
   * The caller's own token, if the caller is one. It is read again. It must still have `callerScopes`, and be good from
   * `callerAddress`: the empty string for a caller on this machine.
   */
  readonly callerTokenId?: string;
  readonly callerScopes: readonly string[];
  /** Made with the credentials of the database's owner, whom no lost change can have ended. */
  readonly byDatabaseOwner?: boolean;
  readonly callerAddress?: string;
  /**
   * The caller's own principal, if the caller is a session. It is read again in each tenant that can end it; they and it
   * must be active. Its roles must still give the scopes that the call was admitted with. It is also read in those of its
   * tenants in which the change gives rights: where it is over, it gives none.
   */
  readonly callerPrincipal?: SessionCaller;
  /** The rights by which the locked rows are judged. Absent if the program itself acts. */
  readonly rights?: Rights;
  /** A rotation ended the caller's token. Only a repeat of that rotation is answered. */
  readonly ended?: true;
  /** Without `rights`: true if the new token is a child of the caller's. */
  readonly child: boolean;
  /** True if the principal's row must exist; otherwise it is created. */
  readonly mustExist: boolean;
}

/** The conditions for a change of an existing token. */
export type ChangeGuard = Pick<MintGuard, keyof CallerGuard | "rights" | "ended">;

/** The conditions for any change that may give somebody more rights. */
export type CallerGuard = Pick<
  MintGuard,
  "callerTokenId" | "callerScopes" | "callerAddress" | "callerPrincipal" | "byDatabaseOwner"
>;

/** A repeat of a request that minted before: the stored result of the first one. */
export interface Repeated {
  readonly kind: "repeated";
  readonly salt: Uint8Array;
  /** The signed part of the first string, if it has JWT form. */
  readonly input: string | undefined;
  readonly token: Token;
  readonly previous?: Token;
}

export type TokenChange = Changeable & { readonly noExpiry?: boolean };

export type PrincipalChange = Partial<Pick<Principal, "displayName" | "email" | "owner" | "state" | "annotations">>;

export type RoleChange = Partial<Pick<Role, "description" | "scopes">>;

export type TenantChange = Partial<Pick<Tenant, "displayName" | "state" | "annotations">>;

/**
 * Every method is one transaction: the change (idempotent), its audit row, and, by trigger, its row in the log. If
 * nothing changed, the actor decides if there is an audit row (`repeats`). It resolves after the acknowledgement of a
 * commit that wrote something, because a commit that only read would not wait for a synchronous standby, and a repeat
 * could then report a change that a failover can still undo. It rejects with NOT_DONE if certainly nothing happened,
 * and with OUTCOME_UNKNOWN if something may have happened (no acknowledgement, or one with a warning of class 01). If a
 * rule refused the change, it rejects with that reason, and nothing happened.
 */
export interface AuthorityStore {
  createToken(
    token: NewToken,
    lifetime: LifetimeRule,
    guard: MintGuard,
    limits: MintLimits,
    actor: AuditActor,
    idempotency?: Idempotency,
  ): Promise<{ kind: "created"; token: Token } | Repeated>;
  rotateToken(
    id: string,
    token: FreshToken,
    /** Undefined: the lifetime that the old token was created with. */
    lifetime: LifetimeRule | undefined,
    overlapMs: number,
    guard: ChangeGuard,
    actor: AuditActor,
    idempotency?: Idempotency,
  ): Promise<Committed<{ kind: "created"; token: Token; previous: Token } | Repeated | AppError>>;
  updateToken(
    id: string,
    change: TokenChange,
    etag: string,
    rule: { maxTtl: number },
    guard: ChangeGuard,
    actor: AuditActor,
  ): Promise<Committed<Token>>;
  /** Concurrent calls of one process may share a transaction of at most 500 rows. */
  revokeToken(id: string, family: boolean, reason: string, actor: AuditActor): Promise<Committed<Token>>;
  /**
   * At most 500 ids of a tenant. The result: the tokens revoked now, and the tokens that another transaction locks,
   * which stay unchanged. Tokens that were already revoked are in neither.
   */
  revokeChunk(
    tenant: string,
    ids: readonly string[],
    reason: string,
    actor: AuditActor,
  ): Promise<Committed<{ readonly revoked: readonly string[]; readonly busy: readonly string[] }>>;
  /**
   * Ends all tokens issued so far of a principal or a tenant, in one row. The result is the position of the previous
   * cut, or 0; the cut hits the tokens issued since then. PRINCIPAL_NOT_FOUND if the principal must exist and has no
   * row. Otherwise a missing row is created here, so that the cut also hits a first mint in progress.
   */
  cut(
    tenant: string,
    principal: string | undefined,
    mustExist: boolean,
    reason: string,
    actor: AuditActor,
  ): Promise<Committed<number>>;
  /**
   * Takes a token of another tenant, with its rotations, out of this one. For one that was taken out before, it still
   * commits. TOKEN_NOT_FOUND if it was never here.
   */
  detachTenant(tenant: string, id: string, actor: AuditActor): Promise<Committed<void>>;
  /** `made`: what an earlier run of this very call made; it is no refusal if that is there. */
  createPrincipal(
    principal: Pick<Principal, "tenant" | "name" | "displayName" | "email" | "owner" | "state" | "annotations">,
    guard: CallerGuard,
    actor: AuditActor,
    made?: Principal,
  ): Promise<Committed<Principal | AppError>>;
  updatePrincipal(
    tenant: string,
    name: string,
    change: PrincipalChange,
    etag: string,
    guard: CallerGuard,
    actor: AuditActor,
  ): Promise<Committed<Principal>>;
  /**
   * For a principal that is already deleted, it still commits before it reports that. PRINCIPAL_NOT_FOUND if the
   * principal never existed.
   */
  deletePrincipal(tenant: string, name: string, actor: AuditActor): Promise<Committed<Principal>>;
  createTenant(
    tenant: Pick<Tenant, "id" | "displayName" | "state" | "annotations">,
    guard: CallerGuard,
    actor: AuditActor,
    made?: Tenant,
  ): Promise<Committed<Tenant | AppError>>;
  updateTenant(
    id: string,
    change: TenantChange,
    etag: string,
    guard: CallerGuard,
    actor: AuditActor,
  ): Promise<Committed<Tenant>>;
  /** UPGRADE_PENDING while a program runs that does not know roles. `made`: as for principals. */
  createRole(
    role: Pick<Role, "id" | "tenant" | "name" | "description" | "scopes" | "administrative">,
    guard: CallerGuard,
    actor: AuditActor,
    made?: Role,
  ): Promise<Committed<Role | AppError>>;
  /** `check` judges the row under its lock, before the change. */
  updateRole(
    tenant: string,
    name: string,
    change: RoleChange,
    etag: string,
    check: (role: Role) => void,
    guard: CallerGuard,
    actor: AuditActor,
  ): Promise<Committed<Role>>;
  /** ROLE_IN_USE if a live token holds it, unless `force`. */
  deleteRole(tenant: string, name: string, force: boolean, actor: AuditActor): Promise<Committed<Role>>;
}

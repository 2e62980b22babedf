import type { AuditActor } from "../domain/audit-event.ts";
import type { AppError } from "../domain/errors.ts";
import type { LifetimeRule } from "../domain/lifetime.ts";
import type { Principal, Tenant } from "../domain/principal.ts";
import type { Rights } from "../domain/rights.ts";
import type { Changeable, Given, Token } from "../domain/token.ts";
import type { Committed } from "./ports.ts";

// ---------------------------------------------------------------------------------------------------- issuing

/** A new token. The secret is not here: only its digest. */
export type NewToken = Given & Pick<Token, "id" | "kid" | "hint" | "createdBy"> & { readonly digest: string };

/** The part of a new token that a rotation does not copy from the old one. */
export type FreshToken = Omit<NewToken, keyof Given>;

/** Names the call that mints, so that a repeat is answered as the first was. */
export interface Idempotency {
  readonly caller: string;
  readonly requestId: string;
  readonly method: string;
  /** SHA-256 of the canonical request. */
  readonly body: Uint8Array;
  readonly salt: Uint8Array;
}

/** Limits that are counted inside the transaction; 0: none. */
export interface MintLimits {
  readonly address: string;
  readonly perAddressPerHour: number;
  readonly perPrincipalPerDay: number;
  readonly maxLive: number;
}

/** Who must still be good, under lock, for a mint to be done (`docs/protocol.md` §3.4: minting must not outlive it). */
export interface MintGuard {
  /** The caller's own token, if it is one: re-read; its scopes must still cover `callerScopes`. */
  readonly callerTokenId?: string;
  readonly callerScopes: readonly string[];
  /** By what the call is judged on the locked rows; absent: the program itself asks, for nobody. */
  readonly rights?: Rights;
  /** The caller's token was ended by a rotation: only the repeat of that one is answered. */
  readonly ended?: true;
  /** Without `rights`: whether the new token is a child of the caller's. */
  readonly child: boolean;
  /** The principal's row must exist already; else it is made. */
  readonly mustExist: boolean;
}

/** The same for a token that is there already. */
export type ChangeGuard = Pick<MintGuard, "callerTokenId" | "callerScopes" | "rights" | "ended">;

/** Who must still be good, under lock, for anything that may give somebody more than it has. */
export type CallerGuard = Pick<MintGuard, "callerTokenId" | "callerScopes">;

/** A repeat of a request that minted before: what the first one stored. */
export interface Repeated {
  readonly kind: "repeated";
  readonly salt: Uint8Array;
  readonly token: Token;
  readonly previous?: Token;
}

export type TokenChange = Changeable & { readonly noExpiry?: boolean };

export type PrincipalChange = Partial<Pick<Principal, "displayName" | "email" | "owner" | "state" | "annotations">>;

export type TenantChange = Partial<Pick<Tenant, "displayName" | "state" | "annotations">>;

/**
 * Every method is one transaction: the change (idempotent), its audit row, and by trigger its place in the log. Where
 * nothing changed the actor says whether there is a row (`repeats`). It resolves after the acknowledgement of a commit that wrote something: one that only read would
 * wait for no synchronous standby, and a repeat would tell what a failover can still undo. It rejects with NOT_DONE where surely nothing
 * happened, with OUTCOME_UNKNOWN where something may have (no acknowledgement, or one with a warning of class 01), or
 * with the reason of a rule that refused it; then nothing happened.
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
    /** Undefined: as long as the old one was made to live. */
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
   * At most 500 ids of a tenant. The value: those revoked now, and those that another transaction holds, which are left
   * as they are; those already revoked are in neither.
   */
  revokeChunk(
    tenant: string,
    ids: readonly string[],
    reason: string,
    actor: AuditActor,
  ): Promise<Committed<{ readonly revoked: readonly string[]; readonly busy: readonly string[] }>>;
  /**
   * Ends all tokens issued so far, of a principal or a whole tenant, in one row. The value: the position of the cut
   * before, or 0; tokens issued from there on are what it hits. A principal that must exist and never did is
   * PRINCIPAL_NOT_FOUND; another gets its row here, so that a first mint that is under way is hit, too.
   */
  cut(
    tenant: string,
    principal: string | undefined,
    mustExist: boolean,
    reason: string,
    actor: AuditActor,
  ): Promise<Committed<number>>;
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
  /** One that is deleted already is told so after a commit; PRINCIPAL_NOT_FOUND for one that never was. */
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
}

import type { AccessEvent } from "../domain/access-event.ts";
import type { AuditAct, AuditActor, AuditEvent } from "../domain/audit-event.ts";
import type { Verdict } from "../domain/decide.ts";
import type { AppError } from "../domain/errors.ts";
import type { Granted, Once, WorkloadIssuer } from "../domain/exchange.ts";
import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { Role } from "../domain/role.ts";
import type { Claims } from "../domain/session.ts";
import type { Token, TokenState } from "../domain/token.ts";
import type { TrustRule } from "../domain/trust-rule.ts";
import type { CallerGuard, NewToken } from "../revocation/authority-store.ts";
import type { Committed } from "../revocation/ports.ts";

/** The start of a page: after this row, newest first. */
export interface PageStart {
  readonly time: number;
  readonly key: string;
}

/** A part of a list, newest first. It can be short or empty before the end of the list. */
export interface Part<T> {
  readonly rows: readonly T[];
  /** The start of the next part; undefined at the end. */
  readonly rest?: PageStart | undefined;
}

/** The time that a caller waits for an answer. */
export interface Patience {
  /** Monotonic time. Undefined: the store's own bound. */
  readonly deadline?: number | undefined;
  /** Aborted if the client has disconnected. */
  readonly signal?: AbortSignal | undefined;
}

export interface TokenFilter {
  /** Undefined: every tenant. */
  readonly tenant: string | undefined;
  readonly principal?: string;
  readonly profile?: string;
  readonly state?: TokenState;
  readonly states?: readonly TokenState[];
  readonly hint?: string;
  readonly ids?: readonly string[];
  /** The id of a token, whose rotations are meant. */
  readonly familyOf?: string;
  /** The id of the token that minted them. */
  readonly parent?: string;
  readonly createdBy?: string;
  readonly displayNamePrefix?: string;
  /** The name of a role that they hold. */
  readonly role?: string;
  /** Not the tenant's own tokens: those of others that are attached to it. */
  readonly attached?: true;
  readonly createdAfter?: number;
  readonly createdBefore?: number;
  readonly lastUsedBefore?: number;
  readonly expiresBefore?: number;
  /** Only true filters. */
  readonly noExpiry?: true;
}

/** An instance in the registry. */
export interface InstanceRow {
  readonly id: string;
  readonly mode: string;
  readonly version: string;
  readonly reaped: boolean;
  /** -1: a position of another epoch. */
  readonly appliedN: number;
  readonly seen: number;
}

/** The registry of instances, for people. Nothing depends on its answer. */
export interface Registry {
  /** At most `limit` rows, those that were seen last first. */
  instances(
    limit: number,
    patience?: Patience,
  ): Promise<{ readonly position: number; readonly settled: boolean; readonly rows: readonly InstanceRow[] }>;
}

/** The selectors of RevokeTokens that each are one condition on a token. */
export interface Selectors {
  readonly profile: string;
  readonly createdBy: string;
  readonly createdBefore: number;
  /** The name of a role that it holds. */
  readonly role: string;
  /** A token that was never used counts from its creation. */
  readonly lastUsedBefore: number;
  readonly noExpiry: boolean;
  readonly expiresAfter: number;
}

/** The selection of RevokeTokens. `hints`, `digests` and `ids` are one selector: any of them matches. */
export interface RevokeSelection extends Partial<Selectors> {
  readonly tenant: string;
  readonly principal?: string;
  readonly hints?: readonly string[];
  readonly digests?: readonly string[];
  readonly ids?: readonly string[];
  /** Also tokens that the selected ones minted, tokens that those minted, and all their rotations. */
  readonly descendants?: boolean;
  /** Only tokens of this principal. */
  readonly within?: string;
  /** Only tokens that hold one of these scopes by name. */
  readonly holding?: readonly string[];
  /** The tokens that a cut ended: issued from this position on, and live before the cut. */
  readonly cutFrom?: number;
}

/**
 * A change may depend on every read but the lists. Those reads come from the primary of the epoch that this process
 * follows, or reject with STORE_UNAVAILABLE. A standby never answers "not found".
 */
export interface TokenStore {
  get(id: string): Promise<Token | undefined>;
  getByDigest(digest: string): Promise<Token | undefined>;
  /** At most `limit` tokens after `start`. */
  list(filter: TokenFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<Token>>;
  /**
   * Ids of selected tokens that could be accepted, now or later, in id order. With the epoch of the read.
   */
  select(
    selection: RevokeSelection,
    limit: number,
    afterId: string,
  ): Promise<{ readonly ids: readonly string[]; readonly epoch: string }>;
  /** The number of tokens that `select` would return, and at most `most` of their ids. Proven like `select`. */
  matched(selection: RevokeSelection, most: number, patience?: Patience): Promise<{ count: number; ids: string[] }>;
  /** Rows of principals and tenants, live or not. */
  getPrincipal(tenant: string, name: string): Promise<Principal | undefined>;
  listPrincipals(
    filter: { tenant: string; type?: string; state?: PrincipalState; namePrefix?: string },
    limit: number,
    start?: PageStart,
    patience?: Patience,
  ): Promise<Part<Principal>>;
  getTenant(id: string): Promise<Tenant | undefined>;
  listTenants(
    filter: { state?: TenantState },
    limit: number,
    start?: PageStart,
    patience?: Patience,
  ): Promise<Part<Tenant>>;
  /** Roles that are not deleted. */
  getRole(tenant: string, name: string): Promise<Role | undefined>;
  listRoles(tenant: string, limit: number, start?: PageStart, patience?: Patience): Promise<Part<Role>>;
}

export interface PepperRegistry {
  /** Those of the peppers that every running instance has. */
  kidsOfAll(kids: readonly string[]): Promise<readonly string[]>;
}

/** The rows that end a session or give it rights. */
export interface CallerStates {
  /**
   * `roles`: names in the tenant of the call. Rejects with STORE_UNAVAILABLE if no proven answer comes.
   */
  callerStates(
    call: { readonly tenant: string; readonly roles: readonly string[] },
    tenants: readonly string[],
    principal: string,
  ): Promise<{
    /** Those of the tenants that are not active. One without a row is. */
    readonly inactiveTenants: readonly string[];
    /** The tenants in which the principal is not active. */
    readonly inactivePrincipals: readonly string[];
    /** The scopes of those roles that exist. */
    readonly roleScopes: readonly string[];
  }>;
}

/** The sessions of the console. Times are milliseconds; the database's clock decides. */
export interface ConsoleSessionStore {
  /** Adds a session, and deletes some of those that have ended. */
  add(session: { id: Buffer; issuer: string; sealed: Buffer; maxAgeMs: number; idleMs: number }): Promise<void>;
  /** A session that has not ended; notes the use. Rejects with STORE_UNAVAILABLE. */
  use(id: Buffer, idleMs: number): Promise<{ readonly issuer: string; readonly sealed: Buffer } | undefined>;
  /** True for one caller in `forMs`, until `renewed`. */
  claimRenewal(id: Buffer, forMs: number): Promise<boolean>;
  /** Stores renewed tokens; without any, another caller may try. */
  renewed(id: Buffer, sealed: Buffer | undefined): Promise<void>;
  remove(id: Buffer): Promise<void>;
}

export interface AuditFilter {
  readonly tenant: string;
  readonly actor?: string;
  readonly action?: string;
  readonly target?: string;
  readonly owner?: string;
  readonly after?: number;
  readonly before?: number;
}

export interface AuditLog {
  /** Writes a row in its own transaction: refusals and signals. */
  append(actor: AuditActor, act: AuditAct): Promise<void>;
  /** At most `limit` events after `start`, whose key is the sequence. */
  list(filter: AuditFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<AuditEvent>>;
}

export interface AccessFilter {
  readonly tenant: string;
  readonly principal?: string;
  readonly tokenId?: string;
  readonly verdict?: Verdict;
  readonly after?: number;
  readonly before?: number;
}

export interface AccessLog {
  /** At most `limit` rows after `start`, whose key is the sequence. */
  list(filter: AccessFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<AccessEvent>>;
}

// ---------------------------------------------------------------------------------------------------- federation

/** The fields of a trust rule that an update may set. */
export type TrustRuleChange = Partial<
  Pick<
    TrustRule,
    "audience" | "match" | "scopes" | "maxTtl" | "maxTokenAge" | "singleUse" | "disabled" | "maxMintsPerHour"
  >
>;

/** A JWT that a rule may exchange. Its claims are unverified until `verify` resolves. */
export interface SubjectToken {
  readonly jwt: string;
  readonly claims: Claims;
  readonly typ: unknown;
  /** The text that its signature covers. */
  readonly signed: string;
}

export interface SubjectTokens {
  issuer(name: string): WorkloadIssuer | undefined;
  /** The parts of a JWT. Rejects what has not its form. */
  read(jwt: string): SubjectToken;
  /** Verifies type and signature, by the keys of the rule's issuer. Rejects with ExchangeRefused or ISSUER_UNAVAILABLE. */
  verify(token: SubjectToken, rule: TrustRule): Promise<void>;
}

/** An exchange that has passed every check outside the transaction. */
export interface VerifiedExchange {
  /** The rule as it was read. These fields never change. */
  readonly rule: Pick<TrustRule, "id" | "tenant" | "principal" | "profile" | "name">;
  readonly fresh: Pick<NewToken, "id" | "digest" | "hint" | "kid" | "sign">;
  /** True if the principal's row must exist; otherwise it is created. */
  readonly mustExist: boolean;
  /** Judges the claims by the rule's row under its lock. Throws ExchangeRefused. */
  readonly judge: (rule: TrustRule) => Granted;
  readonly once: Once;
  /** The subject of the JWT, for the audit row. */
  readonly subject: string;
  readonly address: string;
  readonly requestId: string;
}

/**
 * Trust rules. Every change is one transaction with its audit row, and resolves after the acknowledgement of its commit,
 * as those of `AuthorityStore` do. Every read but the list is proven.
 */
export interface TrustRuleStore {
  byId(id: string): Promise<TrustRule | undefined>;
  byName(tenant: string, name: string): Promise<TrustRule | undefined>;
  list(tenant: string, limit: number, start?: PageStart, patience?: Patience): Promise<Part<TrustRule>>;
  /** `made`: what an earlier run of this very call made. `mustExist`: as for a mint. */
  create(
    rule: Omit<TrustRule, "state" | "createTime" | "etag">,
    mustExist: boolean,
    guard: CallerGuard,
    actor: AuditActor,
    made?: TrustRule,
  ): Promise<Committed<TrustRule | AppError>>;
  /** `check` judges the rule as it will be, under its lock. A change that only disables is not judged. */
  update(
    tenant: string,
    name: string,
    change: TrustRuleChange,
    etag: string,
    check: (rule: TrustRule) => void,
    guard: CallerGuard,
    actor: AuditActor,
  ): Promise<Committed<TrustRule>>;
  /** For a rule that is already deleted, it still commits. */
  delete(tenant: string, name: string, actor: AuditActor): Promise<Committed<TrustRule>>;
  /**
   * Mints a token by the rule. It commits before the end of the rule, or sees it. Rejects with ExchangeRefused if the rule
   * does not take the JWT now, and if the JWT was exchanged before.
   */
  exchange(asked: VerifiedExchange): Promise<Token>;
}

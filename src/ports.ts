// ports.ts: what the program needs from the world, as promises. Adapters keep them; contract suites check them.
import type { AuditAct, AuditActor, AuditEvent } from "./domain/audit-event.ts";
import type { RefusalReason, Verdict } from "./domain/decide.ts";
import type { AppError } from "./domain/errors.ts";
import type { LifetimeRule } from "./domain/lifetime.ts";
import type { Material } from "./domain/material.ts";
import type { Principal, PrincipalState, Tenant, TenantState } from "./domain/principal.ts";
import type { Rights } from "./domain/rights.ts";
import type { Token, TokenState } from "./domain/token.ts";

export type { LifetimeRule };

/** All time comes from here. Milliseconds. */
export interface Clock {
  /** CLOCK_MONOTONIC: never steps. Leases, waits and deadlines. */
  mono(): number;
  /** Since 1970. Session tokens and certificates only; never a lease, a cache lifetime or an expiry. */
  wall(): number;
}

/** Timers of this process, by its monotonic clock. A timer may fire late; it never decides whether an answer is fresh. */
export interface Timers {
  /** Runs once, not before `ms` have passed. Returns what cancels it. */
  after(ms: number, run: () => void): () => void;
}

/**
 * What every statement shows about the server that answered. Positions are comparable only inside one epoch
 * (timeline / incarnation / server start time).
 */
export interface Evidence {
  readonly inRecovery: boolean;
  readonly epoch: string;
  /** The position of the snapshot: it shows every change of authority up to it. */
  readonly n: number;
  /** The database's clock at the statement, milliseconds since 1970. */
  readonly dbTime: number;
}

// ---------------------------------------------------------------------------------------------------- reading

/** The rows behind a digest as of one snapshot of the primary. `material` is absent for an unknown token. */
export interface Reading extends Evidence {
  readonly material?: Material;
  /** Monotonic times before the send and after the receipt. */
  readonly sent: number;
  readonly received: number;
}

export interface TokenReader {
  /**
   * ONE statement on the primary. MUST be sent after the call. MUST settle within `timeoutMs`: then, and on any
   * failure, it rejects with STORE_UNAVAILABLE and its connection is destroyed. A reading of another epoch or in
   * recovery is returned as such; `distrust` destroys the connection it came on.
   */
  read(digest: string, timeoutMs: number): Promise<Reading>;
  /** The last reading came from a server that must not be asked again: close every read connection. */
  distrust(): void;
}

/** Where a page of a list begins: after this row, newest first. */
export interface PageStart {
  readonly time: number;
  readonly key: string;
}

/** A part of a list, newest first. It can come short, even empty, before the end is reached. */
export interface Part<T> {
  readonly rows: readonly T[];
  /** Where the next part begins; undefined: this was the end. */
  readonly rest?: PageStart | undefined;
}

/** How long a caller waits for an answer. */
export interface Patience {
  /** Monotonic time; undefined: as long as it takes, within the bounds of the store. */
  readonly deadline?: number | undefined;
  /** Aborted where the caller has left. */
  readonly signal?: AbortSignal | undefined;
}

export interface TokenFilter {
  readonly tenant: string;
  readonly principal?: string;
  readonly profile?: string;
  readonly state?: TokenState;
  readonly hint?: string;
  readonly createdAfter?: number;
  readonly createdBefore?: number;
  readonly lastUsedBefore?: number;
}

/** What RevokeTokens selects. `hints`, `digests` and `ids` are one selector: any of them. */
export interface RevokeSelection {
  readonly tenant: string;
  readonly principal?: string;
  readonly profile?: string;
  readonly createdBy?: string;
  readonly createdBefore?: number;
  readonly hints?: readonly string[];
  readonly digests?: readonly string[];
  readonly ids?: readonly string[];
  /** Also what the selected ones made, and so on, and what replaced one of those by rotation. */
  readonly descendants?: boolean;
  /** Of all those, only this principal's. */
  readonly within?: string;
  /** Those that hold one of these scopes, by its name. */
  readonly holding?: readonly string[];
  /** What a cut of the principal or the tenant ended: those issued from this position on that were live before it. */
  readonly cutFrom?: number;
}

/**
 * All but the lists may decide what a change does: they are read on the primary of the epoch that this process follows,
 * or reject with STORE_UNAVAILABLE; "there is none" is never the word of a standby.
 */
export interface TokenStore {
  get(id: string): Promise<Token | undefined>;
  getByDigest(digest: string): Promise<Token | undefined>;
  /** At most `limit` tokens after `start`. */
  list(filter: TokenFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<Token>>;
  /**
   * Ids of tokens that could be accepted, now or some day, and are selected; in id order. With the epoch in which they
   * were read.
   */
  select(
    selection: RevokeSelection,
    limit: number,
    afterId: string,
  ): Promise<{ readonly ids: readonly string[]; readonly epoch: string }>;
  /** How many tokens `select` would give, and the ids of at most `most` of them. For people to read; proven as `select` is. */
  matched(selection: RevokeSelection, most: number, patience?: Patience): Promise<{ count: number; ids: string[] }>;
  /** Rows of principals and tenants, live or not. */
  getPrincipal(tenant: string, name: string): Promise<Principal | undefined>;
  listPrincipals(
    filter: { tenant: string; type?: string; state?: PrincipalState },
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
  /** Writes a row in a transaction of its own: refusals and signals. */
  append(actor: AuditActor, act: AuditAct): Promise<void>;
  /** At most `limit` events after `start`. The key of a place is the sequence. */
  list(filter: AuditFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<AuditEvent>>;
}

// ---------------------------------------------------------------------------------------------------- issuing

/** What a new token will be. The secret is not here: only its digest. */
export interface NewToken {
  readonly id: string;
  readonly digest: string;
  readonly kid: string;
  readonly hint: string;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly displayName: string;
  readonly description: string;
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly createdBy: string;
}

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

/** Who must still be good, under lock, for a mint to be done (`revocation.md` §3: minting must not outlive it). */
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

// ---------------------------------------------------------------------------------------------------- changing authority

/**
 * An acknowledged commit: the change is durable. `epoch` and `maxBoundMs` were read inside the transaction. A value that
 * is an error tells that an earlier call made the change: it is thrown after the wait, as an OK would be told after it.
 */
export interface Committed<T> {
  readonly value: T;
  readonly epoch: string;
  readonly maxBoundMs: number;
  /** The database's clock near the commit. */
  readonly dbTime: number;
}

export type TokenChange = Partial<
  Pick<
    Token,
    "displayName" | "description" | "scopes" | "audiences" | "allowedCidrs" | "annotations" | "disabled" | "expireTime"
  >
> & { readonly noExpiry?: boolean };

export type PrincipalChange = Partial<Pick<Principal, "displayName" | "email" | "owner" | "state" | "annotations">>;
export type TenantChange = Partial<Pick<Tenant, "displayName" | "state" | "annotations">>;

/**
 * Every method is one transaction: the change (idempotent), its audit row, also when nothing changed, and by trigger
 * its place in the log. It resolves after the acknowledgement of a commit that wrote something: one that only read would
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
    token: Pick<NewToken, "id" | "digest" | "kid" | "hint" | "createdBy">,
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
  createPrincipal(
    principal: Pick<Principal, "tenant" | "name" | "displayName" | "email" | "owner" | "state" | "annotations">,
    guard: CallerGuard,
    actor: AuditActor,
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
  ): Promise<Committed<Tenant | AppError>>;
  updateTenant(
    id: string,
    change: TenantChange,
    etag: string,
    guard: CallerGuard,
    actor: AuditActor,
  ): Promise<Committed<Tenant>>;
}

// ---------------------------------------------------------------------------------------------------- the log

/** One answer of the log: one statement, one snapshot. */
export interface PollResult extends Evidence {
  /** Whether our row is there, of this epoch, and not reaped. */
  readonly ownRowLive: boolean;
  readonly floorN: number;
  readonly maxBoundMs: number;
  readonly settled: string | undefined;
  /** Rows with n > applied, the newest `PAGE` of them; keys as latin1. */
  readonly rows: readonly { readonly n: number; readonly key: string }[];
  /** The page was full: older rows above `applied` may be missing. */
  readonly full: boolean;
}

/** Who has not yet acknowledged, as one statement of the primary saw it. */
export interface Missing extends Evidence {
  readonly settled: string | undefined;
  readonly maxBoundMs: number;
  /** Rows whose `appliedN` is below the position. `appliedN` is -1 for a row of another epoch. */
  readonly missing: readonly {
    readonly id: string;
    readonly boundMs: number;
    readonly reaped: boolean;
    readonly appliedN: number;
  }[];
}

/** One registered cache, as housekeeping sees it. */
export interface ValidatorRow {
  readonly id: string;
  readonly boundMs: number;
  readonly reaped: boolean;
  /** Milliseconds since its last sign of life, by the database's clock. */
  readonly silentMs: number;
}

/**
 * The commit-ordered log and the registry of validators, on a direct connection of its own. Every method settles: it
 * rejects with STORE_UNAVAILABLE after at most 500 ms, and its connection is then destroyed; late replies are ignored.
 */
export interface RevocationLog {
  /** The evidence alone, for the boot. */
  look(): Promise<Evidence & { readonly maxBoundMs: number }>;
  poll(me: string, epoch: string, applied: number): Promise<PollResult>;
  /** Registers `me` instead of `old`, durably. False: the database's bounds do not admit this validator. */
  register(entry: {
    readonly old: string | undefined;
    readonly me: string;
    readonly epoch: string;
    readonly boundMs: number;
    readonly readerVersion: number;
    readonly kids: readonly string[];
  }): Promise<boolean>;
  ack(me: string, epoch: string, applied: number): Promise<void>;
  /** The heartbeat: seen = now. */
  seen(me: string): Promise<void>;
  /** Deletes an own row, one under which no lease is held any more. */
  leave(me: string): Promise<void>;
  /** `position`: what must be acknowledged; undefined: the head at this statement. */
  missing(epoch: string, position: number | undefined): Promise<Missing>;
  validators(): Promise<Evidence & { readonly settled: string | undefined; readonly rows: readonly ValidatorRow[] }>;
  /** Marks rows as reaped, durably: a reaped row gives no lease, ever. */
  reap(ids: readonly string[]): Promise<void>;
  bury(ids: readonly string[], epoch: string): Promise<void>;
  settle(epoch: string): Promise<void>;
  /** Draws a new incarnation, so a new epoch, if the present one is still this. Of many who call, one draws. */
  draw(epoch: string): Promise<void>;
  /** Raises the floor over rows older than ten minutes, commits, then deletes them; one leader at a time. */
  prune(): Promise<void>;
  /** The last answer came from a server that must not be asked again: destroy the connection, open another. */
  distrust(): void;
  /** Called on NOTIFY. A wake-up may be lost: that costs latency, never safety. */
  onWakeUp(listener: () => void): void;
  close(): Promise<void>;
}

/** A cache outside the process. It is believed about nothing: what it returns passes the use rule. */
export interface TokenCache {
  /** Undefined for a miss, a bad seal, an error or a server that is away. Settles within 50 ms. */
  get(digest: string, epoch: string): Promise<Material | undefined>;
  /** Best effort, never awaited; an entry of a later position is not overwritten. */
  fill(material: Material): void;
  readonly ready: boolean;
}

/** Wake-ups between processes beside NOTIFY. Best effort. */
export interface WakeUps {
  publish(): void;
  onWakeUp(listener: () => void): void;
}

// ---------------------------------------------------------------------------------------------------- last use, events

export interface UsageStore {
  /** Stores the latest use of each token; older values do not overwrite newer ones. */
  flush(uses: readonly { readonly tokenId: string; readonly time: number; readonly address: string }[]): Promise<void>;
}

export type Tier = "l1" | "l2" | "store" | "none";

/** One method per thing that happens, each with its counter and its log line. No secret is ever an argument. */
export interface Events {
  validated(verdict: Verdict, reason: RefusalReason | undefined, tier: Tier, seconds: number, tokenId?: string): void;
  /** A string was used after its rotation ended it. */
  tokenReused(tokenId: string): void;
  authorityChanged(mode: "ACKED" | "LEASE_EXPIRED" | "ACCEPTED", waitedSeconds: number): void;
  audited(action: string): void;
  lease(ageSeconds: number): void;
  validators(counts: Readonly<Record<"live" | "reaped", number>>): void;
  cacheEntries(tier: "l1" | "l2", entries: number): void;
  shed(klass: string): void;
  /** A flight of the canary: instances that refused a revoked token, that accepted it, and that told nothing. */
  canary(flight: { readonly refused: number; readonly accepted: number; readonly notReached: number }): void;
  /** Something is wrong with a part of the world; repeated lines are thinned out. `error`: class and code only. */
  trouble(what: string, error: unknown): void;
  /** Something that must wake a person. */
  alarm(what: string, facts: Readonly<Record<string, string | number>>): void;
  /** Something worth a line. */
  note(what: string, facts?: Readonly<Record<string, string | number>>): void;
}

/** A line about one call: names, codes and times; nothing of request or response. */
export interface CallLine {
  readonly requestId: string;
  readonly method: string;
  readonly code: string;
  readonly reason?: string;
  readonly actor?: string;
  readonly seconds: number;
  readonly level: "debug" | "info" | "warn" | "error";
  /** What an unexpected error was. */
  readonly cause?: unknown;
}

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { AccessEvent } from "../domain/access-event.ts";
import type { AuditEvent, AuditOutcome } from "../domain/audit-event.ts";
import { type Decision, liveTenants, type TimeBounds, type Verdict } from "../domain/decide.ts";
import { invalidField } from "../domain/errors.ts";
import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import { effectiveScopes } from "../domain/rights.ts";
import type { Role } from "../domain/role.ts";
import type { Token, TokenState } from "../domain/token.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import type { ClaimMatch, RuleKind, TrustRule } from "../domain/trust-rule.ts";
import * as audit from "../gen/sallyport/v1/audit_log_pb.ts";
import * as effect from "../gen/sallyport/v1/effect_pb.ts";
import * as federation from "../gen/sallyport/v1/federation_admin_pb.ts";
import * as principal from "../gen/sallyport/v1/principal_admin_pb.ts";
import type * as role from "../gen/sallyport/v1/role_admin_pb.ts";
import * as server from "../gen/sallyport/v1/server_info_pb.ts";
import * as tenant from "../gen/sallyport/v1/tenant_admin_pb.ts";
import * as token from "../gen/sallyport/v1/token_admin_pb.ts";
import * as validator from "../gen/sallyport/v1/token_validator_pb.ts";
import type { InstanceRow } from "../management/ports.ts";
import type { Effect } from "../revocation/effect.ts";
import type { CacheEntry } from "../validation/ports.ts";

/*
 * Converts between domain and wire. No other file knows both. Times and durations of the wire are checked before any
 * arithmetic, so that nothing overflows.
 */

const TOKEN_STATES = {
  ACTIVE: token.TokenState.ACTIVE,
  NOT_YET_VALID: token.TokenState.NOT_YET_VALID,
  EXPIRED: token.TokenState.EXPIRED,
  DISABLED: token.TokenState.DISABLED,
  REVOKED: token.TokenState.REVOKED,
} as const satisfies Record<TokenState, token.TokenState>;

const PRINCIPAL_STATES = {
  ACTIVE: principal.PrincipalState.ACTIVE,
  DISABLED: principal.PrincipalState.DISABLED,
  DELETED: principal.PrincipalState.DELETED,
} as const satisfies Record<PrincipalState, principal.PrincipalState>;

const TENANT_STATES = {
  ACTIVE: tenant.TenantState.ACTIVE,
  SUSPENDED: tenant.TenantState.SUSPENDED,
} as const satisfies Record<TenantState, tenant.TenantState>;

const OUTCOMES = {
  OK: audit.AuditOutcome.OK,
  DENIED: audit.AuditOutcome.DENIED,
} as const satisfies Record<AuditOutcome, audit.AuditOutcome>;

const VERDICTS = {
  ALLOW: validator.Verdict.ALLOW,
  INVALID_TOKEN: validator.Verdict.INVALID_TOKEN,
  INSUFFICIENT_SCOPE: validator.Verdict.INSUFFICIENT_SCOPE,
  WRONG_AUDIENCE: validator.Verdict.WRONG_AUDIENCE,
  WRONG_TENANT: validator.Verdict.WRONG_TENANT,
  ADDRESS_NOT_ALLOWED: validator.Verdict.ADDRESS_NOT_ALLOWED,
  RATE_LIMITED: validator.Verdict.RATE_LIMITED,
  UNDETERMINED: validator.Verdict.UNDETERMINED,
} as const satisfies Record<Verdict, validator.Verdict>;

const MODES = {
  ACKED: effect.EffectMode.ACKED,
  LEASE_EXPIRED: effect.EffectMode.LEASE_EXPIRED,
  ACCEPTED: effect.EffectMode.ACCEPTED,
} as const satisfies Record<Effect["mode"], effect.EffectMode>;

const RULE_KINDS = {
  GITHUB: federation.TrustRuleKind.GITHUB,
  GITLAB: federation.TrustRuleKind.GITLAB,
  KUBERNETES: federation.TrustRuleKind.KUBERNETES,
  SPIFFE: federation.TrustRuleKind.SPIFFE,
} as const satisfies Record<RuleKind, federation.TrustRuleKind>;

const REDIS_STATES = {
  OFF: server.RedisState.OFF,
  READY: server.RedisState.READY,
  AWAY: server.RedisState.AWAY,
} as const;

export function tokenMessage(of: Token): MessageInitShape<typeof token.TokenSchema> {
  return {
    id: of.id,
    tenant: of.tenant,
    profile: of.profile,
    principal: of.principal,
    displayName: of.displayName,
    description: of.description,
    scopes: [...of.scopes],
    roles: [...of.roles],
    tenants: [...of.tenants],
    effectiveScopes: [...effectiveScopes(of)],
    audiences: [...of.audiences],
    allowedCidrs: [...of.allowedCidrs],
    annotations: { ...of.annotations },
    hint: of.hint,
    state: TOKEN_STATES[of.state],
    disabled: of.disabled,
    createTime: timestampFromMs(of.createTime),
    createdBy: of.createdBy,
    notBeforeTime: timestamp(of.notBeforeTime),
    expireTime: timestamp(of.expireTime),
    revokeTime: timestamp(of.revokeTime),
    revokedBy: of.revokedBy,
    revokeReason: of.revokeReason,
    rotatedFrom: of.rotatedFrom,
    rotatedTo: of.rotatedTo,
    parent: of.parent,
    lastUseTime: timestamp(of.lastUseTime),
    lastUseAddress: of.lastUseAddress,
    useCount: BigInt(of.useCount),
    format: of.format,
    etag: of.etag,
  };
}

/** The part of a token that the further tenants see to which it is attached. */
export function attachedMessage(of: Token): MessageInitShape<typeof token.TokenSchema> {
  const { id, hint, tenant, principal } = of;
  return {
    id,
    hint,
    tenant,
    principal,
    createTime: timestampFromMs(of.createTime),
    notBeforeTime: timestamp(of.notBeforeTime),
    expireTime: timestamp(of.expireTime),
    revokeTime: timestamp(of.revokeTime),
    lastUseTime: timestamp(of.lastUseTime),
  };
}

export function principalMessage(of: Principal): MessageInitShape<typeof principal.PrincipalSchema> {
  return {
    tenant: of.tenant,
    name: of.name,
    displayName: of.displayName,
    email: of.email,
    owner: of.owner,
    state: PRINCIPAL_STATES[of.state],
    createTime: timestampFromMs(of.createTime),
    annotations: { ...of.annotations },
    etag: of.etag,
  };
}

export function roleMessage(of: Role): MessageInitShape<typeof role.RoleSchema> {
  return {
    id: of.id,
    tenant: of.tenant,
    name: of.name,
    description: of.description,
    scopes: [...of.scopes],
    administrative: of.administrative,
    createTime: timestampFromMs(of.createTime),
    etag: of.etag,
  };
}

export function ruleMessage(of: TrustRule): MessageInitShape<typeof federation.TrustRuleSchema> {
  return {
    id: of.id,
    tenant: of.tenant,
    name: of.name,
    issuer: of.issuer,
    kind: RULE_KINDS[of.kind],
    audience: of.audience,
    match: of.match.map(({ claim, equals, prefix = "" }) => ({
      claim,
      value:
        equals === undefined ? { case: "prefix" as const, value: prefix } : { case: "equals" as const, value: equals },
    })),
    principal: of.principal,
    profile: of.profile,
    scopes: [...of.scopes],
    maxTtl: durationMessage(of.maxTtl),
    maxTokenAge: durationMessage(of.maxTokenAge),
    singleUse: of.singleUse,
    disabled: of.disabled,
    maxMintsPerHour: of.maxMintsPerHour,
    createTime: timestampFromMs(of.createTime),
    etag: of.etag,
  };
}

export function ruleKind(kind: federation.TrustRuleKind): RuleKind | undefined {
  return keyOf(RULE_KINDS, kind);
}

export function claimMatches(match: readonly federation.ClaimMatch[]): ClaimMatch[] {
  return match.map(({ claim, value }) => (value.case === undefined ? { claim } : { claim, [value.case]: value.value }));
}

export function tenantMessage(of: Tenant): MessageInitShape<typeof tenant.TenantSchema> {
  return {
    id: of.id,
    displayName: of.displayName,
    state: TENANT_STATES[of.state],
    createTime: timestampFromMs(of.createTime),
    annotations: { ...of.annotations },
    etag: of.etag,
  };
}

export function auditMessage(of: AuditEvent): MessageInitShape<typeof audit.AuditEventSchema> {
  return {
    sequence: BigInt(of.sequence),
    time: timestampFromMs(of.time),
    tenant: of.tenant,
    actor: of.actor,
    actorAddress: of.address,
    action: of.action,
    target: of.target,
    owner: of.owner,
    outcome: OUTCOMES[of.outcome],
    metadata: { ...of.metadata },
    requestId: of.requestId,
  };
}

export function accessMessage(of: AccessEvent): MessageInitShape<typeof audit.AccessEventSchema> {
  const { time, verdict, address: clientAddress, scopes, sequence: _, ...others } = of;
  return { ...others, time: timestampFromMs(time), verdict: VERDICTS[verdict], scopes: [...scopes], clientAddress };
}

export function effectMessage(of: Effect): MessageInitShape<typeof effect.EffectSchema> {
  return {
    mode: MODES[of.mode],
    position: BigInt(of.position),
    waited: durationMessage(of.waitedMs),
    effectiveBy: timestampFromMs(Math.floor(of.effectiveBy)),
    acknowledged: of.acknowledged,
    validators: of.validators,
  };
}

export function instanceMessage(of: InstanceRow): MessageInitShape<typeof server.InstanceSchema> {
  return {
    id: of.id,
    mode: of.mode,
    version: of.version,
    state: of.reaped ? server.InstanceState.REAPED : server.InstanceState.LIVE,
    appliedPosition: BigInt(of.appliedN),
    seenTime: timestampFromMs(Math.floor(of.seen)),
  };
}

export function redisState(state: keyof typeof REDIS_STATES): server.RedisState {
  return REDIS_STATES[state];
}

/** The answer to ValidateToken. INVALID_TOKEN and UNDETERMINED carry nothing else, so that all of them are equal. */
export function validateMessage(
  of: Decision & { readonly entry?: CacheEntry | undefined },
  showReason: boolean,
): validator.ValidateTokenResponse {
  return create(validator.ValidateTokenResponseSchema, {
    verdict: VERDICTS[of.verdict],
    token: of.snapshot && validatedTokenMessage(of.snapshot),
    missingScopes: [...(of.missingScopes ?? [])],
    reason: showReason ? (of.reason ?? "") : "",
    entry: of.entry && entryMessage(of.entry),
  });
}

function entryMessage({
  epoch,
  position,
  tags,
  notBefore,
}: CacheEntry): MessageInitShape<typeof validator.CacheEntrySchema> {
  return { epoch, position: BigInt(position), tags: [...tags], notBeforeTime: timestamp(notBefore) };
}

function validatedTokenMessage(of: TokenSnapshot): MessageInitShape<typeof validator.ValidatedTokenSchema> {
  return {
    id: of.id,
    tenant: of.tenant,
    profile: of.profile,
    principal: of.principal,
    scopes: [...of.scopes],
    audiences: [...of.audiences],
    expireTime: timestamp(of.expire),
    annotations: { ...of.annotations },
    hint: of.hint,
    tenants: [...liveTenants(of)],
  };
}

export function tokenState(state: token.TokenState): TokenState | undefined {
  return keyOf(TOKEN_STATES, state);
}

export function principalState(state: principal.PrincipalState): PrincipalState | undefined {
  return keyOf(PRINCIPAL_STATES, state);
}

export function tenantState(state: tenant.TenantState): TenantState | undefined {
  return keyOf(TENANT_STATES, state);
}

/** The verdict to filter by; undefined for none. */
export function verdictFilter(verdict: validator.Verdict): Verdict | undefined {
  return keyOf(VERDICTS, verdict);
}

/** Milliseconds since 1970, rounded down; undefined stays undefined. INVALID_FIELD outside the years 1 to 9999. */
export function millis(field: string, of: Timestamp | undefined): number | undefined {
  if (of === undefined) return undefined;
  if (of.seconds < -62_135_596_800n || of.seconds > 253_402_300_799n || of.nanos < 0 || of.nanos > 999_999_999) {
    throw invalidField(field, "must be a time in the years 1 to 9999");
  }
  return Number(of.seconds) * 1000 + Math.floor(of.nanos / 1_000_000);
}

/** Milliseconds, rounded down; undefined stays undefined. INVALID_FIELD beyond ±10,000 years or with mixed signs. */
export function durationMillis(field: string, of: Duration | undefined): number | undefined {
  if (of === undefined) return undefined;
  const { seconds, nanos } = of;
  const mixed = (seconds < 0n && nanos > 0) || (seconds > 0n && nanos < 0);
  if (seconds < -315_576_000_000n || seconds > 315_576_000_000n || Math.abs(nanos) > 999_999_999 || mixed) {
    throw invalidField(field, "must be a duration of at most 315576000000s");
  }
  return Number(seconds) * 1000 + Math.floor(nanos / 1_000_000);
}

/** A filter string; undefined for the empty string, which matches everything. */
export function given(text: string): string | undefined {
  return text === "" ? undefined : text;
}

/** Bounds in whole milliseconds that hold what is between the given ones. */
export function timeBounds({ lower, upper }: TimeBounds): { timeLower: Timestamp; timeUpper: Timestamp } {
  return { timeLower: timestampFromMs(Math.floor(lower)), timeUpper: timestampFromMs(Math.ceil(upper)) };
}

export function timestamp(ms: number | undefined): Timestamp | undefined {
  return ms === undefined ? undefined : timestampFromMs(ms);
}

/** Rounded down. */
export function durationMessage(ms: number) {
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: Math.floor((ms % 1000) * 1_000_000) };
}

function keyOf<K extends string, V>(table: Record<K, V>, value: V): K | undefined {
  return (Object.keys(table) as K[]).find((key) => table[key] === value);
}

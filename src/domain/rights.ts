import { type Caller, holds, isAdministrator, isOperator } from "./caller.ts";
import { AppError } from "./errors.ts";
import { checkGrants, checkMinter, checkScopes } from "./issue.ts";
import { earlier, expiry, isLater, type LifetimeRule } from "./lifetime.ts";
import { networksWithin } from "./networks.ts";
import type { Profile } from "./profile.ts";
import { checkRoles, type Role } from "./role.ts";
import { covers, coversAny } from "./scope.ts";
import type { Token } from "./token.ts";

/*
 * Rights only shrink: these rules limit what a caller may give, take and end. Create, update and rotate are judged only
 * here, on the rows of caller, target and parents under the lock of the transaction that writes. On rows that were read
 * earlier, somebody else's change could come in between.
 */

/** The caller and the profile whose rules apply. */
export interface Rights {
  readonly caller: Caller;
  /** The profile of the token that is created, changed or replaced. */
  readonly profile: Profile;
  /** The limit of rotations for one principal and day by callers other than administrators; 0 for no limit. */
  readonly rotationsPerDay: number;
}

/** A token's row under the lock. */
export interface Held extends Token {
  /** The id of the first token of the family: the tokens that replaced each other by rotation. */
  readonly family: string;
  /** The creation time of the family's first token. */
  readonly familyTime: number;
  /** The lifetime of the family's first token in milliseconds; undefined if it has no end. */
  readonly familyLife: number | undefined;
  /** The position at which each of its tenants was attached. */
  readonly tenantPositions: readonly number[];
}

/** The caller's own rows, and the time by the database's clock. */
export interface Asker {
  readonly now: number;
  /** The caller's own token, if the caller is a token. */
  readonly own?: Held;
  /** The further tenants in which the caller's session is over. */
  readonly lostTenants?: ReadonlySet<string>;
  /** The names of a session's roles. Empty for a session that is an administrator's without its roles. */
  readonly roles?: readonly string[];
}

export type Facts = Pick<Token, "scopes" | "audiences" | "allowedCidrs">;

// ---------------------------------------------------------------------------------------------------- what a token has

/** The scopes of a token and of its roles. */
export function grantedScopes({ scopes, roleScopes }: Pick<Token, "scopes" | "roleScopes">): readonly string[] {
  return union(scopes, roleScopes);
}

/** Both lists, each entry once. Returns the first if there is nothing to add, because most tokens hold no role. */
export function union(list: readonly string[], more: readonly string[]): readonly string[] {
  return more.length === 0 ? list : [...new Set([...list, ...more])];
}

/** The scopes of a token as validation shows them. */
export function effectiveScopes(of: Pick<Token, "scopes" | "roleScopes" | "parentScopes">): readonly string[] {
  return withinParent(grantedScopes(of), of.parentScopes);
}

// ---------------------------------------------------------------------------------------------------- children

/** The scopes of a child that its parent still covers. Returns the same list if that is all of them. */
export function withinParent(scopes: readonly string[], parent: readonly string[] | undefined): readonly string[] {
  if (parent === undefined || scopes.every((scope) => has(parent, scope))) return scopes;
  const kept = scopes.filter((scope) => has(parent, scope));
  const narrower = parent.filter((scope) => coversAny(scopes, scope) && !coversAny(kept, scope));
  return [...kept, ...narrower];
}

function has(scopes: readonly string[], scope: string): boolean {
  return coversAny(scopes, scope) || (scope.startsWith("sallyport.") && holds({ scopes }, scope));
}

// ---------------------------------------------------------------------------------------------------- minting

export interface Minted extends Facts {
  /** True if the new token is a child of the caller's token. */
  readonly child: boolean;
  readonly expire: number | undefined;
}

/** RIGHTS_EXCEEDED for a child: nothing would end a grandchild when the child's parent ends. */
export function checkMayMint({ own }: Asker): void {
  if (own?.parent) throw exceeded("a token that was minted by a token cannot mint tokens");
}

/** Judges a new token. Its end, networks and audiences stay within those of the caller's token. */
export function judgeMint(
  rights: Rights,
  asker: Asker,
  asked: Facts & Pick<Token, "tenant" | "principal" | "tenants">,
  lifetime: LifetimeRule,
  roles: readonly Role[] = [],
): Minted {
  const caller = callerNow(rights, asker);
  const child = checkMinter(rights.profile, caller, asked.tenant, asked.principal) === "token";
  checkScopes(rights.profile, caller, asked.scopes);
  checkRoles(rights.profile, caller, roles);
  checkTenants(caller, asker, asked.tenants, asked);
  const bound = child ? asker.own : boundsOf(asker, asked.tenants);
  if (bound === undefined) return { ...pick(asked), child, expire: expiry(lifetime, asker.now) };
  const scopes = [...asked.scopes];
  const live = effectiveScopes(bound);
  if (child && ![...scopes, ...scopesOf(roles)].every((scope) => has(live, scope))) {
    throw exceeded("scopes: a token cannot mint a token with scopes that it does not hold itself");
  }
  // A bound on the caller's token passes to the new token.
  const audiences = asked.audiences.length === 0 ? bound.audiences : asked.audiences;
  const allowedCidrs = asked.allowedCidrs.length === 0 ? bound.allowedCidrs : asked.allowedCidrs;
  checkBounds({ audiences, allowedCidrs }, bound);
  return { scopes, audiences, allowedCidrs, child, expire: expiry(lifetime, asker.now, bound.expireTime) };
}

// ---------------------------------------------------------------------------------------------------- rotating

export interface Rotated {
  readonly expire: number | undefined;
  readonly familyLife: number | undefined;
  /** True if the rotation counts against the limits of the principal. */
  readonly counted: boolean;
}

/**
 * Decides if the caller may replace a token by one with equal rights and see its string, and how long the new token
 * lives.
 */
export function judgeRotation(
  rights: Rights,
  asker: Asker,
  target: Held,
  parent: Held | undefined,
  asked: LifetimeRule | undefined,
): Rotated {
  const caller = callerNow(rights, asker);
  const { own, now } = asker;
  const { profile } = rights;
  const itself = own !== undefined && own.id === target.id;
  const administrator = isAdministrator(caller);
  const counted = !administrator;
  const ceiling = ceilingEnd(profile, target.scopes, target.scopes, target, now);
  if (itself) {
    if (profile.selfRotate === false) {
      throw new AppError("CALLER_FORBIDDEN", `tokens of profile ${profile.name} do not rotate themselves`);
    }
    // It would outlive the time for which its rule gives.
    if (target.createdBy.startsWith("rule:")) {
      throw new AppError("CALLER_FORBIDDEN", "a token of a trust rule does not rotate itself: exchange another JWT");
    }
    // A token with a ceiling cannot extend its life by rotation.
    const renewed = profile.selfRotate === "renew" && ceiling === undefined;
    const longest = renewed ? renewal(profile, target, now) : target.expireTime;
    const rule = { ...(asked ?? { maxTtl: profile.maxTtl, never: true }), notBeforeTime: target.notBeforeTime };
    const expire = expiry(rule, now, longest, parent?.expireTime);
    return { expire, familyLife: target.familyLife, counted };
  }
  if (own?.parent) throw exceeded("a token that was minted by a token can rotate only itself");
  // The caller sees the new string, which counts in all of them.
  checkTenants(caller, asker, [], target);
  if (!administrator && own !== undefined && own.family === target.family) {
    throw exceeded("a token cannot rotate the tokens that it replaced or that replaced it");
  }
  // The caller sees the new string, so it must be allowed to mint such a token.
  const by = administrator ? undefined : checkMinter(profile, caller, target.tenant, target.principal);
  if (by === "token" && target.parent !== own?.id) {
    throw exceeded("of its own principal, a token can rotate only itself and the tokens that it minted");
  }
  // The caller sees the new string, so it must be allowed to grant these scopes.
  checkScopes(profile, caller, target.scopes);
  checkGrants({ ...profile, what: `tokens of profile ${profile.name}` }, caller, target.roleScopes);
  const bound = boundsOf(asker, target.tenants);
  if (bound !== undefined) checkBounds(target, bound);
  const rule = { ...(asked ?? sameLife(target, profile)), notBeforeTime: target.notBeforeTime };
  const expire = expiry(rule, now, ceiling, parent?.expireTime, bound?.expireTime);
  // A bound on this token also bounds the tokens that it later renews itself to.
  const bounded = asked !== undefined || bound?.expireTime !== undefined;
  const given = bounded && expire !== undefined ? expire - now : undefined;
  return { expire, familyLife: earlier(target.familyLife, given), counted };
}

/** The end of a renewed token: the lifetime of the family's first token, from now on, within the profile's longest. */
function renewal(profile: Profile, of: Held, now: number): number | undefined {
  if (of.familyLife === undefined && profile.allowNoExpiry) return undefined;
  return now + Math.min(of.familyLife ?? profile.defaultTtl, profile.maxTtl);
}

/** The lifetime that the old token was created with, within what its profile allows today. */
function sameLife(old: Token, profile: Profile): LifetimeRule {
  const { maxTtl } = profile;
  if (old.expireTime !== undefined) return { maxTtl, ttl: Math.min(old.expireTime - old.createTime, maxTtl) };
  return profile.allowNoExpiry ? { maxTtl, never: true } : { maxTtl, ttl: Math.min(profile.defaultTtl, maxTtl) };
}

// ---------------------------------------------------------------------------------------------------- changing

export type Change = Partial<Facts & Pick<Token, "roles" | "tenants" | "disabled" | "expireTime">> & {
  readonly noExpiry?: boolean;
};

/** True if a change affects a token's rights or its `disabled` flag. */
export function touchesRights(change: Change): boolean {
  const { scopes, roles, tenants, audiences, allowedCidrs, expireTime, disabled, noExpiry } = change;
  const given = [scopes, roles, tenants, audiences, allowedCidrs, expireTime, disabled];
  return given.some((one) => one !== undefined) || noExpiry === true;
}

/** True if a change can give a token more than it has. */
export function canWiden(change: Change): boolean {
  return touchesRights(change.disabled === true ? { ...change, disabled: undefined } : change);
}

/**
 * Judges a change of a token under the lock and returns the new end, if the change sets one. RIGHTS_EXCEEDED if it is
 * not allowed. `roles`: those that the change names.
 */
export function judgeUpdate(
  rights: Rights,
  asker: Asker,
  target: Held,
  parent: Held | undefined,
  change: Change,
  roles?: readonly Role[],
): { readonly expire: number | undefined } | undefined {
  const { profile } = rights;
  const caller = callerNow(rights, asker);
  const after = { ...pick(target), ...pick(change) };
  const { tenants = target.tenants } = change;
  const added = tenants.filter((tenant) => !target.tenants.includes(tenant));
  if (change.scopes !== undefined) checkScopes(profile, caller, change.scopes);
  const end = endAfter(profile, asker.now, target, parent, change, after.scopes);
  const expire = end === undefined ? target.expireTime : end.expire;
  const wider = {
    // A role's scopes do not count: a token that made them its own would keep them when the role ends.
    scopes: !after.scopes.every((scope) => coversAny(target.scopes, scope)),
    // A role gives what it will hold, too.
    roles: roles?.some(({ id }) => !target.roleIds.includes(id)) === true,
    tenants: added.length > 0,
    audiences: !audiencesWithin(after.audiences, target.audiences),
    networks: !networksWithin(after.allowedCidrs, target.allowedCidrs),
    end: isLater(expire, target.expireTime),
    enabled: target.disabled && change.disabled === false,
  };
  if (!Object.values(wider).includes(true)) return end;
  checkTenants(caller, asker, added, { ...target, tenants, scopes: after.scopes });
  // Only a caller that may mint such a token widens it. The owner may not know why an administrator disabled it.
  if (!isAdministrator(caller)) checkMinter(profile, caller, target.tenant, target.principal);
  if (wider.enabled && !holds(caller, "sallyport.tokens.create")) {
    throw exceeded("disabled: enabling a token needs the permission sallyport.tokens.create");
  }
  checkWithinParent(change, parent, roles);
  checkScopes(profile, caller, after.scopes);
  if (roles !== undefined) checkRoles(profile, caller, roles);
  else checkGrants({ ...profile, what: `tokens of profile ${profile.name}` }, caller, target.roleScopes);
  const { own } = asker;
  if (own === undefined) return end;
  if (own.parent !== "") throw exceeded("a token that was minted by a token cannot widen tokens");
  if (own.family === target.family)
    throw exceeded("a token cannot widen itself; another caller can, or can mint a new token");
  const bound = boundsOf(asker, tenants);
  if (bound === undefined) return end;
  // The caller gives for no longer and no more than it has itself, as if it minted the token.
  checkBounds(after, bound);
  if (isLater(expire, bound.expireTime)) {
    throw exceeded("expire_time: must not be after the caller's own expiry");
  }
  return end;
}

/**
 * RIGHTS_EXCEEDED if the caller may not give these scopes to a role. A role lasts, so only a caller without bounds gives
 * it more. `before`: its scopes as they were.
 */
export function judgeRole(
  { own, roles }: Asker,
  role: Pick<Role, "id" | "name">,
  before: readonly string[],
  scopes: readonly string[],
): void {
  if (scopes.every((scope) => coversAny(before, scope))) return;
  // A session holds a role by its name, so also one that is yet to be made.
  if (own?.roleIds.includes(role.id) || roles?.includes(role.name)) {
    throw exceeded("role.scopes: a caller cannot widen a role that it holds; another caller can");
  }
  if (own === undefined) return;
  if (isAdministrator({ scopes: effectiveScopes(own) })) return;
  if (own.parent !== "") throw exceeded("role.scopes: a token that was minted by a token cannot widen roles");
  if (own.expireTime !== undefined || own.audiences.length + own.allowedCidrs.length > 0) {
    throw exceeded("role.scopes: a token with an expiry, audiences or networks cannot widen roles");
  }
}

/** The end that a change sets. An unchanged expiry needs no check, except that a ceiling can shorten it. */
function endAfter(
  profile: Profile,
  now: number,
  target: Held,
  parent: Held | undefined,
  change: Change,
  scopes: readonly string[],
): { readonly expire: number | undefined } | undefined {
  const asked = change.expireTime !== undefined || change.noExpiry === true;
  const ceiling = ceilingEnd(profile, target.scopes, scopes, target, now);
  if (!asked && ceiling === undefined) return undefined;
  const { maxTtl } = profile;
  const { notBeforeTime } = target;
  if (change.expireTime !== undefined) {
    const rule = { expireTime: change.expireTime, maxTtl, notBeforeTime };
    return { expire: expiry(rule, now, ceiling, parent?.expireTime) };
  }
  const before = change.noExpiry === true ? undefined : target.expireTime;
  return { expire: expiry({ never: true, maxTtl, notBeforeTime }, now, before, ceiling, parent?.expireTime) };
}

/** A child gets nothing that its parent would take away at each use. */
function checkWithinParent(change: Change, parent: Held | undefined, roles: readonly Role[] = []): void {
  if (parent === undefined) return;
  const live = effectiveScopes(parent);
  if (![...(change.scopes ?? []), ...scopesOf(roles)].every((scope) => has(live, scope))) {
    throw exceeded("scopes: must be within the scopes of the token that minted it");
  }
  const { audiences = parent.audiences, allowedCidrs = parent.allowedCidrs } = change;
  checkBounds({ audiences, allowedCidrs }, parent);
}

// ---------------------------------------------------------------------------------------------------- ending

/** A caller's rank by its administrative permissions. */
export type Rank = "operator" | "admin" | "other";

export function rankOf(caller: Pick<Caller, "scopes">): Rank {
  return isOperator(caller) ? "operator" : isAdministrator(caller) ? "admin" : "other";
}

/** The scopes that make a token an operator's or an administrator's: all that cover the permission. */
export const OPERATOR_SCOPES: readonly string[] = ["sallyport.operator", "sallyport.*"];
export const ADMIN_SCOPES: readonly string[] = ["sallyport.admin"];

/** Callers of this rank neither end nor disable tokens with these scopes. Undefined stands for the program itself. */
export function sparedFrom(rank: Rank | undefined): readonly string[] {
  if (rank === undefined || rank === "operator") return [];
  return rank === "admin" ? OPERATOR_SCOPES : [...OPERATOR_SCOPES, ...ADMIN_SCOPES];
}

/** RIGHTS_EXCEEDED if the token to end or disable has a higher rank than the caller. */
export function checkMayEnd(rank: Rank | undefined, scopes: readonly string[]): void {
  if (!mayEnd(rank, scopes)) throw mayNotEnd();
}

export function mayEnd(rank: Rank | undefined, scopes: readonly string[]): boolean {
  const spared = sparedFrom(rank);
  return !scopes.some((scope) => spared.includes(scope));
}

export function mayNotEnd(): AppError {
  return exceeded("only a caller with sallyport.operator or sallyport.admin can end or disable a token that has it");
}

// ---------------------------------------------------------------------------------------------------- common

/** The caller with its current scopes: those of its row and roles and, for a child, only those that its parent has, too. */
function callerNow({ caller }: Rights, { own }: Asker): Caller {
  return own === undefined ? caller : { ...caller, scopes: effectiveScopes(own) };
}

/**
 * The caller's own token if its expiry, audiences and networks bound a token of these further tenants. An administrator's
 * gives without bounds only in its own tenant.
 */
function boundsOf({ own }: Asker, tenants: readonly string[]): Held | undefined {
  if (own === undefined) return undefined;
  const scopes = effectiveScopes(own);
  return (tenants.length === 0 ? isAdministrator({ scopes }) : isOperator({ scopes })) ? undefined : own;
}

/**
 * The right to let a token count in its further tenants. In each of them the caller needs the rights to give the scopes
 * there: an administrator of one tenant raises no rights in another. And the token acts there as its principal: for another
 * principal than its own, the caller needs the right to make tokens there. TENANT_NOT_FOUND if it is asked for a tenant
 * that the caller does not have.
 */
function checkTenants(
  caller: Caller,
  { own, lostTenants }: Asker,
  asked: readonly string[],
  { tenant: home, principal, tenants, scopes }: Pick<Token, "tenant" | "principal" | "tenants" | "scopes">,
): void {
  if (isOperator(caller)) return;
  const itself = caller.principal !== "" && caller.principal === principal && caller.tenant === home;
  for (const tenant of tenants) {
    const session = lostTenants?.has(tenant) ? undefined : caller.scopesIn?.get(tenant);
    const held = own === undefined ? session : scopesIn(own, tenant);
    if (held === undefined) {
      if (asked.includes(tenant)) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
      throw exceeded("tenants: only a caller that has all tenants of a token can give it more or rotate it");
    }
    // A token's permissions over others count in its own tenant alone: elsewhere it gives what it has.
    if (!itself && own !== undefined) throw exceeded("principal: a token attaches only tokens of its own principal");
    if (!itself && !holds({ scopes: held }, "sallyport.tokens.create")) {
      throw exceeded(
        "principal: for another principal, the caller must be able to make tokens in each tenant of the token",
      );
    }
    const free = own === undefined && isAdministrator({ scopes: held });
    const may = (scope: string) =>
      scope.startsWith("sallyport.") ? holds({ scopes: held }, scope) : free || coversAny(held, scope);
    if (!scopes.every(may)) throw exceeded("tenants: the caller cannot give these scopes in each tenant of the token");
  }
}

function scopesIn(own: Held, tenant: string): readonly string[] | undefined {
  return own.liveTenants.includes(tenant) ? effectiveScopes(own) : undefined;
}

function scopesOf(roles: readonly Role[]): readonly string[] {
  return roles.flatMap(({ scopes }) => scopes);
}

function checkBounds(given: Pick<Facts, "audiences" | "allowedCidrs">, bound: Held): void {
  if (!audiencesWithin(given.audiences, bound.audiences)) {
    throw exceeded("audiences: must be within the caller's own audiences");
  }
  if (!networksWithin(given.allowedCidrs, bound.allowedCidrs)) {
    throw exceeded("allowed_cidrs: must be within the caller's own networks");
  }
}

/** True if the outer list allows everything that the inner one allows. A list without entries allows everything. */
function audiencesWithin(inner: readonly string[], outer: readonly string[]): boolean {
  return outer.length === 0 || (inner.length > 0 && inner.every((one) => outer.includes(one)));
}

/**
 * The latest end that the ceilings of the scopes allow; undefined if none applies. A ceiling that applied to the token
 * before counts from the creation of its family's first token, so that no rotation restarts it. A new ceiling counts
 * from now.
 */
function ceilingEnd(
  profile: Profile,
  before: readonly string[],
  after: readonly string[],
  of: Held,
  now: number,
): number | undefined {
  let least: number | undefined;
  for (const [scope, ceiling] of Object.entries(profile.scopeCeilings)) {
    if (!after.some((granted) => covers(granted, scope))) continue;
    const old = of.expireTime !== undefined && before.some((granted) => covers(granted, scope));
    const end = old ? Math.max(of.familyTime + ceiling, of.expireTime) : now + ceiling;
    least = earlier(least, end);
  }
  return least;
}

function pick<F extends Partial<Facts>>(of: F) {
  const { scopes, audiences, allowedCidrs } = of;
  return Object.fromEntries(
    Object.entries({ scopes, audiences, allowedCidrs }).filter(([, value]) => value !== undefined),
  ) as Pick<F, "scopes" | "audiences" | "allowedCidrs">;
}

function exceeded(message: string): AppError {
  return new AppError("RIGHTS_EXCEEDED", message);
}

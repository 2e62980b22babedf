import { type Caller, holds, isAdministrator, isOperator } from "./caller.ts";
import { AppError } from "./errors.ts";
import { checkMinter, checkScopes } from "./issue.ts";
import { earlier, expiry, isLater, type LifetimeRule } from "./lifetime.ts";
import { networksWithin } from "./networks.ts";
import type { Profile } from "./profile.ts";
import { covers, coversAny } from "./scope.ts";
import type { Token } from "./token.ts";

/*
 * Rights only shrink: what a caller may give, take and end. Create, update and rotate are judged here and nowhere else,
 * on the rows of caller, target and parents as they are under the lock of the transaction that writes. Judged on rows
 * that were read before, a change by somebody else would come in between.
 */

/** Who asks, and by the rules of which profile. */
export interface Rights {
  readonly caller: Caller;
  /** Of the token that is made, changed or replaced. */
  readonly profile: Profile;
  /** Rotations for one principal and day by others than administrators; 0: no limit. */
  readonly rotationsPerDay: number;
}

/** A token's row under the lock. */
export interface Held extends Token {
  /** The id of the first of those that replaced each other by rotation. */
  readonly family: string;
  /** When that one was made. */
  readonly familyTime: number;
  /** How long it was made to live, milliseconds; undefined: without end. */
  readonly familyLife: number | undefined;
}

/** The caller's side of it, at this time of the database's clock. */
export interface Asker {
  readonly now: number;
  /** The caller's own token, if it is one, and that one's parent. */
  readonly own?: Held;
  readonly ownParent?: Held;
}

export type Facts = Pick<Token, "scopes" | "audiences" | "allowedCidrs">;

// ---------------------------------------------------------------------------------------------------- children

/** The scopes of a child that its parent still has: what both cover. The same list where that is all of them. */
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
  /** It is a child of the caller's token. */
  readonly child: boolean;
  readonly expire: number | undefined;
}

/** RIGHTS_EXCEEDED for a child: the life of what it made would hang on nobody's. */
export function checkMayMint({ own }: Asker): void {
  if (own?.parent) throw exceeded("a token that was minted by a token mints none itself");
}

/** A new token as it may be: its end, its networks and its audiences within those of whom it comes from. */
export function judgeMint(
  rights: Rights,
  asker: Asker,
  asked: Facts & Pick<Token, "tenant" | "principal">,
  lifetime: LifetimeRule,
): Minted {
  const caller = callerNow(rights, asker);
  const child = checkMinter(rights.profile, caller, asked.tenant, asked.principal) === "token";
  checkScopes(rights.profile, caller, asked.scopes);
  const { own } = asker;
  if (own === undefined || (!child && isAdministrator(caller))) {
    return { ...pick(asked), child, expire: expiry(lifetime, asker.now) };
  }
  const scopes = [...asked.scopes];
  if (child && !scopes.every((scope) => has(own.scopes, scope))) {
    throw exceeded("scopes: a token that a token mints for its own principal holds a part of that token's");
  }
  // Whoever is bound hands on the bound.
  const audiences = asked.audiences.length === 0 ? own.audiences : asked.audiences;
  const allowedCidrs = asked.allowedCidrs.length === 0 ? own.allowedCidrs : asked.allowedCidrs;
  checkBounds({ audiences, allowedCidrs }, own);
  return { scopes, audiences, allowedCidrs, child, expire: expiry(lifetime, asker.now, own.expireTime) };
}

// ---------------------------------------------------------------------------------------------------- rotating

export interface Rotated {
  readonly expire: number | undefined;
  readonly familyLife: number | undefined;
  /** Counts against the limits of the principal. */
  readonly counted: boolean;
}

/** Who may replace a token by one of the same rights, whose string it is told, and how long that one lives. */
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
  const counted = !isAdministrator(caller);
  const ceiling = ceilingEnd(profile, target.scopes, target.scopes, target, now);
  if (itself) {
    if (profile.selfRotate === false) {
      throw new AppError("CALLER_FORBIDDEN", `tokens of profile ${profile.name} do not rotate themselves`);
    }
    // What has a ceiling never lives on by replacing itself.
    const renewed = profile.selfRotate === "renew" && ceiling === undefined;
    const longest = renewed ? renewal(profile, target, now) : target.expireTime;
    const rule = { ...(asked ?? { maxTtl: profile.maxTtl, never: true }), notBeforeTime: target.notBeforeTime };
    const expire = expiry(rule, now, longest, parent?.expireTime);
    return { expire, familyLife: target.familyLife, counted };
  }
  if (own?.parent) throw exceeded("a token that was minted by a token rotates nothing but itself");
  if (counted && own !== undefined && own.family === target.family) {
    throw exceeded("a token rotates itself, not what replaced it or what it replaced");
  }
  // Its string is told as that of a new token is: to one who may mint it.
  const by = counted ? checkMinter(profile, caller, target.tenant, target.principal) : undefined;
  if (by === "token" && target.parent !== own?.id) {
    throw exceeded("a token rotates of its own principal only itself and what it has minted");
  }
  // The answer holds the new string: nobody gets rights by a rotation that it could not grant.
  checkScopes(profile, caller, target.scopes);
  const bound = own !== undefined && !isAdministrator(caller) ? own : undefined;
  if (bound !== undefined) checkBounds(target, bound);
  const rule = { ...(asked ?? sameLife(target, profile)), notBeforeTime: target.notBeforeTime };
  const expire = expiry(rule, now, ceiling, parent?.expireTime, bound?.expireTime);
  // Whatever bounds this one bounds those that it renews itself to.
  const bounded = asked !== undefined || bound?.expireTime !== undefined;
  const given = bounded && expire !== undefined ? expire - now : undefined;
  return { expire, familyLife: earlier(target.familyLife, given), counted };
}

/** When a renewed token ends: as long from now as the first of its family was made to live, as its profile still allows. */
function renewal(profile: Profile, of: Held, now: number): number | undefined {
  if (of.familyLife === undefined && profile.allowNoExpiry) return undefined;
  return now + Math.min(of.familyLife ?? profile.defaultTtl, profile.maxTtl);
}

/** What the old token was made to live, within what its profile allows today. */
function sameLife(old: Token, profile: Profile): LifetimeRule {
  const { maxTtl } = profile;
  if (old.expireTime !== undefined) return { maxTtl, ttl: Math.min(old.expireTime - old.createTime, maxTtl) };
  return profile.allowNoExpiry ? { maxTtl, never: true } : { maxTtl, ttl: Math.min(profile.defaultTtl, maxTtl) };
}

// ---------------------------------------------------------------------------------------------------- changing

export type Change = Partial<Facts & Pick<Token, "disabled" | "expireTime">> & { readonly noExpiry?: boolean };

/** Whether a change is of what a token may do, or of whether it may do anything. */
export function touchesRights(change: Change): boolean {
  const { scopes, audiences, allowedCidrs, expireTime, disabled, noExpiry } = change;
  return [scopes, audiences, allowedCidrs, expireTime, disabled].some((one) => one !== undefined) || noExpiry === true;
}

/** Whether a change can give a token more than it has. */
export function canWiden(change: Change): boolean {
  return touchesRights(change.disabled === true ? { ...change, disabled: undefined } : change);
}

/** A change of a token that is under the lock: the end that it sets, if it sets one. RIGHTS_EXCEEDED where it may not. */
export function judgeUpdate(
  rights: Rights,
  asker: Asker,
  target: Held,
  parent: Held | undefined,
  change: Change,
): { readonly expire: number | undefined } | undefined {
  const { profile } = rights;
  const caller = callerNow(rights, asker);
  const after = { ...pick(target), ...pick(change) };
  if (change.scopes !== undefined) checkScopes(profile, caller, change.scopes);
  const end = endAfter(profile, asker.now, target, parent, change, after.scopes);
  const expire = end === undefined ? target.expireTime : end.expire;
  const wider = {
    scopes: !after.scopes.every((scope) => coversAny(target.scopes, scope)),
    audiences: !audiencesWithin(after.audiences, target.audiences),
    networks: !networksWithin(after.allowedCidrs, target.allowedCidrs),
    end: isLater(expire, target.expireTime),
    enabled: target.disabled && change.disabled === false,
  };
  if (!Object.values(wider).includes(true)) return end;
  checkWithinParent(change, parent);
  checkScopes(profile, caller, after.scopes);
  const { own } = asker;
  if (own === undefined) return end;
  if (own.parent !== "") throw exceeded("a token that was minted by a token widens none");
  if (own.family === target.family)
    throw exceeded("a token does not widen itself: another caller does, or mints a new one");
  if (isAdministrator(caller)) return end;
  // Whatever it gives, it gives for no longer and for no more than it is good itself, as if it minted.
  checkBounds(after, own);
  if (isLater(expire, own.expireTime)) {
    throw exceeded("expire_time: a caller gives no later end than it has itself");
  }
  return end;
}

/** The end that a change sets. Left alone, an expiry needs no check; only a ceiling can shorten it. */
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

/** A child takes nothing that its parent would take away from it at each use. */
function checkWithinParent(change: Change, parent: Held | undefined): void {
  if (parent === undefined) return;
  if (change.scopes?.every((scope) => has(parent.scopes, scope)) === false) {
    throw exceeded("scopes: a token that was minted by a token holds a part of that token's");
  }
  const { audiences = parent.audiences, allowedCidrs = parent.allowedCidrs } = change;
  checkBounds({ audiences, allowedCidrs }, parent);
}

// ---------------------------------------------------------------------------------------------------- ending

/** What of the administrators' permissions a caller holds. */
export type Rank = "operator" | "admin" | "other";

export function rankOf(caller: Pick<Caller, "scopes">): Rank {
  return isOperator(caller) ? "operator" : isAdministrator(caller) ? "admin" : "other";
}

/** The scopes that make a token an operator's or an administrator's: all that cover the permission. */
export const OPERATOR_SCOPES: readonly string[] = ["sallyport.operator", "sallyport.*"];
export const ADMIN_SCOPES: readonly string[] = ["sallyport.admin"];

/** Scopes of tokens that a caller of this rank neither ends nor disables; undefined is the program itself. */
export function sparedFrom(rank: Rank | undefined): readonly string[] {
  if (rank === undefined || rank === "operator") return [];
  return rank === "admin" ? OPERATOR_SCOPES : [...OPERATOR_SCOPES, ...ADMIN_SCOPES];
}

/** RIGHTS_EXCEEDED where a caller would end or disable what holds more of the administrators' permissions than it does. */
export function checkMayEnd(rank: Rank | undefined, scopes: readonly string[]): void {
  if (!mayEnd(rank, scopes)) throw mayNotEnd();
}

export function mayEnd(rank: Rank | undefined, scopes: readonly string[]): boolean {
  const spared = sparedFrom(rank);
  return !scopes.some((scope) => spared.includes(scope));
}

export function mayNotEnd(): AppError {
  return exceeded("what holds sallyport.operator or sallyport.admin is ended and disabled by one who holds it, too");
}

// ---------------------------------------------------------------------------------------------------- common

/** The caller with the scopes that it has now: its row's, and of a child its parent's as well. */
function callerNow({ caller }: Rights, { own, ownParent }: Asker): Caller {
  return own === undefined ? caller : { ...caller, scopes: withinParent(own.scopes, ownParent?.scopes) };
}

function checkBounds(given: Pick<Facts, "audiences" | "allowedCidrs">, bound: Held): void {
  if (!audiencesWithin(given.audiences, bound.audiences)) {
    throw exceeded("audiences: a caller gives no more of them than it has itself");
  }
  if (!networksWithin(given.allowedCidrs, bound.allowedCidrs)) {
    throw exceeded("allowed_cidrs: a caller gives no more of them than it has itself");
  }
}

/** Whether all that the inner list is good for is in the outer; a list without entries is good for everything. */
export function audiencesWithin(inner: readonly string[], outer: readonly string[]): boolean {
  return outer.length === 0 || (inner.length > 0 && inner.every((one) => outer.includes(one)));
}

/**
 * The latest end that the ceilings of scopes leave; undefined: none applies. One that the token was under before counts
 * from the creation of its family's first, so that no rotation starts it anew; one that is new to it counts from now.
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

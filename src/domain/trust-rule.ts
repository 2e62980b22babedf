import { randomBytes } from "node:crypto";
import { base62 } from "./base62.ts";
import { type Caller, isAdministrator } from "./caller.ts";
import { AppError, invalidField } from "./errors.ts";
import { checkAudiences, checkScopes, checkText } from "./issue.ts";
import type { Profile } from "./profile.ts";
import type { Asker } from "./rights.ts";
import { effectiveScopes } from "./rights.ts";
import { type Claims, claimAt } from "./session.ts";

/*
 * Trust rules: which JWTs of a platform are exchanged for a token, and for which. The rules here say what a trust rule may
 * be. `exchange.ts` judges a JWT by one. Pure.
 */

export const RULE_KINDS = ["GITHUB", "GITLAB", "KUBERNETES", "SPIFFE"] as const;
export type RuleKind = (typeof RULE_KINDS)[number];

/** A condition on a claim: it is this text, byte for byte, or begins so. One of the two is given. */
export interface ClaimMatch {
  readonly claim: string;
  readonly equals?: string;
  readonly prefix?: string;
}

/** Times are milliseconds. */
export interface TrustRule {
  readonly id: string;
  readonly tenant: string;
  readonly name: string;
  /** The name of an issuer in the configuration. */
  readonly issuer: string;
  readonly kind: RuleKind;
  readonly audience: string;
  readonly match: readonly ClaimMatch[];
  readonly principal: string;
  readonly profile: string;
  readonly scopes: readonly string[];
  readonly maxTtl: number;
  readonly maxTokenAge: number;
  readonly singleUse: boolean;
  readonly maxMintsPerHour: number;
  readonly disabled: boolean;
  /** A deleted rule keeps its row, so that a repeat of its deletion ends its tokens again. */
  readonly state: "ACTIVE" | "DELETED";
  readonly createTime: number;
  readonly etag: string;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

export const RULE_DEFAULTS = {
  maxTtl: 15 * MINUTE,
  maxTokenAge: 10 * MINUTE,
  maxMintsPerHour: 600,
  /** Pods of Kubernetes use one JWT until it is replaced. */
  singleUse: (kind: RuleKind): boolean => kind !== "KUBERNETES",
};

const LONGEST_TTL = HOUR;
const LONGEST_AGE = 24 * HOUR;
const MOST_MINTS = 100_000;
const MOST_MATCHES = 16;
const LONGEST_VALUE = 512;
const NAME = /^[a-z][a-z0-9-]{0,62}$/;
const ID = /^trr_[0-9A-Za-z]{22}$/;
/** Each of them has a check of its own. */
const CHECKED_APART = new Set(["iss", "aud", "exp", "nbf", "iat", "jti"]);

export function newRuleId(): string {
  return `trr_${base62(randomBytes(17), 22)}`;
}

export function isRuleId(text: string): boolean {
  return ID.test(text);
}

/** The provenance of what a rule mints. */
export function ruleProvenance(id: string): string {
  return `rule:${id}`;
}

/** INVALID_FIELD unless it is a rule's name. */
export function checkRuleName(field: string, name: string): void {
  if (!NAME.test(name)) throw invalidField(field, "must be a lower-case letter, then up to 62 of a-z 0-9 -");
}

type Described = Pick<TrustRule, "kind" | "audience" | "match" | "maxTtl" | "maxTokenAge" | "maxMintsPerHour">;

/** INVALID_FIELD unless the rule trusts few enough JWTs, for a short time. */
export function checkRule(rule: Described): void {
  if (rule.audience === "") throw invalidField("rule.audience", "must be given");
  checkAudiences([rule.audience]);
  checkMatch(rule.match);
  checkKind(rule);
  within("rule.max_ttl", rule.maxTtl, LONGEST_TTL);
  within("rule.max_token_age", rule.maxTokenAge, LONGEST_AGE);
  if (!(rule.maxMintsPerHour >= 1 && rule.maxMintsPerHour <= MOST_MINTS)) {
    throw invalidField("rule.max_mints_per_hour", `must be 1 to ${MOST_MINTS}`);
  }
}

function within(field: string, ms: number, longest: number): void {
  if (!(ms >= 1 && ms <= longest)) throw invalidField(field, `must be more than 0s and at most ${longest / 1000}s`);
}

function checkMatch(match: readonly ClaimMatch[]): void {
  if (match.length === 0) throw invalidField("rule.match", "must have at least one entry");
  if (match.length > MOST_MATCHES) throw invalidField("rule.match", `must have at most ${MOST_MATCHES} entries`);
  if (new Set(match.map(({ claim }) => claim)).size < match.length) {
    throw invalidField("rule.match", "must name each claim once");
  }
  for (const { claim, equals, prefix } of match) {
    if (claim === "" || claim.length > 128) throw invalidField("rule.match", "must have claims of 1 to 128 characters");
    checkText("rule.match", claim, 128);
    if (CHECKED_APART.has(claim.replace(/^\//, ""))) {
      throw invalidField(
        "rule.match",
        `must not name ${[...CHECKED_APART].join(", ")}, which have checks of their own`,
      );
    }
    const value = equals ?? prefix ?? "";
    if (value === "" || (equals !== undefined && prefix !== undefined)) {
      throw invalidField("rule.match", "must have equals or prefix for each claim, and not an empty one");
    }
    checkText("rule.match", value, LONGEST_VALUE);
    if (prefix !== undefined && (!/[:/]$/.test(prefix) || segmentsOf(prefix) < 2)) {
      throw invalidField("rule.match", "must have prefixes of at least two segments that end in : or /");
    }
  }
}

function segmentsOf(prefix: string): number {
  return prefix.split(/[:/]+/).filter((segment) => segment !== "").length;
}

/** A number that never changes its meaning. The name beside it can be taken by somebody else. */
const NUMBER = /^[0-9]{1,20}$/;
const SERVICE_ACCOUNT = /^system:serviceaccount:[a-z0-9][a-z0-9-]{0,62}:[a-z0-9][a-z0-9.-]{0,252}$/;
const SPIFFE_ID = /^spiffe:\/\/[a-z0-9._-]{1,255}\/[A-Za-z0-9._/-]+$/;
const SPIFFE_PREFIX = /^spiffe:\/\/[a-z0-9._-]{1,255}\/(?:[A-Za-z0-9._/-]+\/)?$/;

/** The claims that name a workload of a platform for good. Without them a rule would trust a part of the platform. */
function checkKind({ kind, match }: Pick<TrustRule, "kind" | "match">): void {
  const equal = (claim: string) => match.find((one) => one.claim === claim)?.equals ?? "";
  const numbers = (...claims: string[]) => claims.filter((claim) => NUMBER.test(equal(claim)));
  switch (kind) {
    case "GITHUB": {
      if (numbers("repository_owner_id", "repository_id").length < 2) {
        throw invalidField("rule.match", "must have repository_owner_id and repository_id equal to their numbers");
      }
      if (!["sub", "environment", "job_workflow_ref"].some((claim) => equal(claim) !== "")) {
        throw invalidField("rule.match", "must have one of sub, environment and job_workflow_ref equal to a value");
      }
      return;
    }
    case "GITLAB":
      if (numbers("project_id", "namespace_id").length === 0) {
        throw invalidField("rule.match", "must have project_id or namespace_id equal to its number");
      }
      return;
    case "KUBERNETES":
      if (!SERVICE_ACCOUNT.test(equal("sub"))) {
        throw invalidField("rule.match", "must have sub equal to system:serviceaccount:<namespace>:<name>");
      }
      return;
    case "SPIFFE": {
      const prefix = match.find(({ claim }) => claim === "sub")?.prefix ?? "";
      if (!SPIFFE_ID.test(equal("sub")) && !SPIFFE_PREFIX.test(prefix)) {
        throw invalidField("rule.match", "must have sub equal to spiffe://<trust domain>/<path>, or a prefix of it");
      }
    }
  }
}

/** True if every entry holds. Only texts match: a number or a boolean is another value. */
export function matches(match: readonly ClaimMatch[], claims: Claims): boolean {
  return match.every(({ claim, equals, prefix }) => {
    const value = claimAt(claims, claim);
    if (typeof value !== "string") return false;
    if (equals !== undefined) return value === equals;
    // A path that climbs leaves what the prefix names.
    return prefix !== undefined && value.startsWith(prefix) && !/(^|\/)\.\.?(\/|$)/.test(value);
  });
}

/**
 * The rights of whoever writes a rule: it mints for others, so the caller must be able to mint such tokens for others, with
 * all scopes that the rule gives. RIGHTS_EXCEEDED otherwise.
 */
export function checkRuleWriter(profile: Profile, caller: Caller, scopes: readonly string[]): void {
  const role = isAdministrator(caller) ? "admin" : "creator";
  if (!profile.mintedBy.includes(role)) {
    const who = role === "admin" ? "an administrator" : "a caller without sallyport.admin";
    throw exceeded(`rule.profile: ${profile.name} cannot be minted by ${who}`);
  }
  checkScopes(profile, caller, scopes);
}

/** RIGHTS_EXCEEDED if the caller's token has bounds: a rule lasts, and would give without them. */
export function judgeRule({ own }: Asker): void {
  if (own === undefined || isAdministrator({ scopes: effectiveScopes(own) })) return;
  if (own.parent !== "") throw exceeded("a token that was minted by a token cannot write trust rules");
  if (own.expireTime !== undefined || own.audiences.length + own.allowedCidrs.length > 0) {
    throw exceeded("a token with an expiry, audiences or networks cannot write trust rules");
  }
}

function exceeded(message: string): AppError {
  return new AppError("RIGHTS_EXCEEDED", message);
}

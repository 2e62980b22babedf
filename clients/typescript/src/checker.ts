import { hash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { type Entry, FeedCache, type Identity } from "./cache.ts";
import { decide, type Verdict } from "./decide.ts";
import { epochText, type FeedState, Follower } from "./follower.ts";
import {
  Verdict as Answered,
  type ValidatedToken,
  ValidateTokenRequestSchema,
  type ValidateTokenResponse,
} from "./gen/sallyport/v1/token_validator_pb.ts";
import { CHECKED_PREFIXES, refusedOffline } from "./offline.ts";
import type { Requirement } from "./requirement.ts";
import { milliseconds } from "./time.ts";
import { NotSent, type Validator } from "./validator.ts";

/** Where a verdict came from. */
export type Tier = "offline" | "cache" | "server";

/** Called with what happens. A hook never sees a token string; one that throws changes nothing. */
export interface Hooks {
  checked?(verdict: Verdict, tier: Tier, seconds: number): void;
  /** The lease after each answer of the feed. */
  lease?(seconds: number): void;
  feed?(state: FeedState): void;
  stream_ended?(reason: Verdict): void;
}

export interface CheckerOptions {
  readonly validator: Validator;
  /** `feed` keeps the facts of live tokens and follows the server's changes. `off` asks the server each time. */
  readonly cache?: "off" | "feed";
  /** Prefixes of token strings that carry a checksum. */
  readonly checkedPrefixes?: readonly string[];
  readonly hooks?: Hooks;
  /** The longest time of one check, its retry included. */
  readonly timeoutMs?: number;
  /** A monotonic clock in milliseconds, for tests. */
  readonly mono?: () => number;
}

/** The origin of a request. */
export interface Origin {
  /** The client's IP address, without a port. */
  readonly clientAddress?: string;
  readonly method?: string;
  readonly host?: string;
  readonly path?: string;
}

export interface Check {
  readonly verdict: Verdict;
  /** Present for ALLOW only. */
  readonly identity?: Identity;
  readonly missingScopes: readonly string[];
  /** What the verdict rests on, if it may be cached. */
  readonly entry?: Entry;
}

const TIMEOUT_MS = 300;
const VERDICTS: Readonly<Record<number, Verdict>> = {
  [Answered.ALLOW]: "ALLOW",
  [Answered.INVALID_TOKEN]: "INVALID_TOKEN",
  [Answered.INSUFFICIENT_SCOPE]: "INSUFFICIENT_SCOPE",
  [Answered.WRONG_AUDIENCE]: "WRONG_AUDIENCE",
  [Answered.ADDRESS_NOT_ALLOWED]: "ADDRESS_NOT_ALLOWED",
  [Answered.RATE_LIMITED]: "RATE_LIMITED",
  [Answered.WRONG_TENANT]: "WRONG_TENANT",
};

/** The verdicts about a token that a cache can judge again. */
const LIVE: ReadonlySet<Verdict> = new Set(["ALLOW", "INSUFFICIENT_SCOPE", "WRONG_AUDIENCE"]);

/** Checks the tokens of requests. There is no setting by which an outage admits a request. */
export class Checker {
  /** The cache; undefined if it is off. */
  readonly cache: FeedCache | undefined;
  readonly hooks: Hooks;
  readonly #validator: Validator;
  readonly #prefixes: readonly string[];
  readonly #timeoutMs: number;
  readonly #mono: () => number;
  readonly #follower: Follower | undefined;

  constructor(options: CheckerOptions) {
    this.#validator = options.validator;
    this.#prefixes = options.checkedPrefixes ?? CHECKED_PREFIXES;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#mono = options.mono ?? (() => performance.now());
    this.hooks = quiet(options.hooks ?? {});
    if (options.cache !== "feed") return;
    this.cache = new FeedCache(this.#mono);
    this.#follower = new Follower({
      validator: options.validator,
      cache: this.cache,
      mono: this.#mono,
      feed: (state) => this.hooks.feed?.(state),
      lease: (seconds) => this.hooks.lease?.(seconds),
    });
  }

  /** Judges a token string against a requirement. Undefined: the request carries none. Never rejects. */
  async check(token: string | undefined, requirement: Requirement = {}, origin: Origin = {}): Promise<Check> {
    const begun = this.#mono();
    const done = (check: Check, tier: Tier): Check => {
      this.hooks.checked?.(check.verdict, tier, (this.#mono() - begun) / 1000);
      return check;
    };
    if (token === undefined) return done(plain("NO_CREDENTIAL"), "offline");
    if (refusedOffline(token, this.#prefixes)) return done(plain("INVALID_TOKEN"), "offline");
    const key = this.cache === undefined ? "" : hash("sha256", token, "base64");
    const cached = this.#cached(key, requirement);
    if (cached !== undefined) return done(cached, "cache");
    let answer: ValidateTokenResponse;
    try {
      answer = await this.#ask(token, requirement, origin, begun);
    } catch {
      return done(plain("UNDETERMINED"), "server");
    }
    return done(this.#judge(key, answer, requirement, begun), "server");
  }

  /** Leaves the feed and closes the connections. */
  async close(): Promise<void> {
    await this.#follower?.leave();
    this.#validator.close();
  }

  /** A check that names a tenant is never answered from here: the server knows which tenants a token may act in. */
  #cached(key: string, requirement: Requirement): Check | undefined {
    if (this.cache === undefined || requirement.tenant) return undefined;
    const entry = this.cache.entry(key);
    if (entry === undefined) return this.cache.refused(key) ? plain("INVALID_TOKEN") : undefined;
    const { verdict, missingScopes } = decide(entry.facts, requirement, this.cache.time());
    return verdict === "ALLOW"
      ? { verdict, missingScopes, identity: entry.identity, entry }
      : { verdict, missingScopes };
  }

  async #ask(token: string, requirement: Requirement, origin: Origin, begun: number): Promise<ValidateTokenResponse> {
    const request = create(ValidateTokenRequestSchema, {
      tokenString: token,
      requiredScopes: [...(requirement.scopes ?? [])],
      audience: requirement.audience ?? "",
      context: origin,
      tenant: requirement.tenant ?? "",
      wantEntry: this.cache !== undefined,
    });
    const left = () => this.#timeoutMs - (this.#mono() - begun);
    try {
      return await this.#validator.validate(request, left(), 1);
    } catch (error) {
      if (!(error instanceof NotSent) || left() <= 0) throw error;
      return this.#validator.validate(request, left(), 2);
    }
  }

  /** The verdict of an answer, after the cache has learnt from it. */
  #judge(key: string, answer: ValidateTokenResponse, requirement: Requirement, begun: number): Check {
    const verdict = VERDICTS[answer.verdict] ?? "UNDETERMINED";
    const { token, missingScopes } = answer;
    const entry = this.#learn(key, answer, verdict, begun);
    if (verdict !== "ALLOW") return { verdict, missingScopes };
    if (token === undefined) return plain("UNDETERMINED");
    const { tenant } = requirement;
    if (tenant && token.tenant !== tenant) {
      // A server that does not know the field answers ALLOW. An entry says nothing about further tenants.
      return token.tenants.includes(tenant)
        ? { verdict, missingScopes, identity: identityOf(token) }
        : plain("WRONG_TENANT");
    }
    const allowed = { verdict, missingScopes, identity: identityOf(token) } as const;
    return entry === undefined ? allowed : { ...allowed, entry };
  }

  #learn(key: string, answer: ValidateTokenResponse, verdict: Verdict, since: number): Entry | undefined {
    const { entry, token } = answer;
    if (this.cache === undefined || entry === undefined) return undefined;
    const version = { epoch: epochText(entry.epoch), position: entry.position };
    if (verdict === "INVALID_TOKEN") this.cache.storeRefusal(key, version, since);
    // Without a tag no change would reach it.
    if (!LIVE.has(verdict) || token === undefined || entry.tags.length === 0) return undefined;
    const identity = identityOf(token);
    const notBefore = milliseconds(entry.notBeforeTime);
    const { scopes, audiences, expire } = identity;
    const learnt = { ...version, tags: entry.tags, identity, facts: { scopes, audiences, expire, notBefore } };
    this.cache.store(key, learnt, since);
    return learnt;
  }
}

function plain(verdict: Verdict): Check {
  return { verdict, missingScopes: [] };
}

function identityOf(token: ValidatedToken): Identity {
  const { id, tenant, principal, profile, scopes, audiences, annotations, expireTime } = token;
  const expire = milliseconds(expireTime);
  return { tokenId: id, tenant, principal, profile, scopes, audiences, annotations, expire };
}

/** The same hooks, but none can fail a check. */
function quiet(hooks: Hooks): Hooks {
  const safe =
    <A extends unknown[]>(hook: ((...args: A) => void) | undefined) =>
    (...args: A) => {
      try {
        hook?.apply(hooks, args);
      } catch {
        // A hook observes; it must not decide.
      }
    };
  return {
    checked: safe(hooks.checked),
    lease: safe(hooks.lease),
    feed: safe(hooks.feed),
    stream_ended: safe(hooks.stream_ended),
  };
}

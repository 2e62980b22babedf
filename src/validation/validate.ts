import type { Clock } from "../domain/clock.ts";
import {
  type Decision,
  decide,
  type RefusalReason,
  type RequestContext,
  type Requirement,
  type TimeBounds,
  type Verdict,
} from "../domain/decide.ts";
import type { Freshness } from "../domain/freshness.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import { digestAt, digestOf } from "../domain/token-string.ts";
import type { Events, Tier } from "../telemetry/events.ts";
import type { Lookup, LookupResult } from "./lookup.ts";
import type { CacheEntry } from "./ports.ts";
import type { Signatures } from "./signatures.ts";

/** A decision, and the tier that it rests on; `none` if nothing was looked up. */
export interface ValidationResult extends Decision {
  readonly tier: Tier;
  /** For the client caches; absent if none was asked for, or if the answer must not be reused. */
  readonly entry?: CacheEntry | undefined;
}

/**
 * Validates one token string. The answer is a value, not a promise, if no I/O was needed. `deadline` is a monotonic
 * time. At the latest then, and whenever the store fails, the verdict is UNDETERMINED.
 */
export type Validate = (
  tokenString: string,
  requirement: Requirement,
  context: RequestContext,
  deadline: number,
) => ValidationResult | Promise<ValidationResult>;

/**
 * Validates the characters bytes[from, to) of a token string that is cached, without I/O and without building a string.
 * Undefined for any other string, and then nothing is counted.
 */
export type ValidateKnown = (
  bytes: Uint8Array,
  from: number,
  to: number,
  requirement: Requirement,
  context: RequestContext,
) => ValidationResult | undefined;

/** `now` is a monotonic time. MUST NOT keep `context` or `requirement`, which may hold on to a buffer. */
export type Recorded = (
  snapshot: TokenSnapshot,
  verdict: Verdict,
  reason: RefusalReason | undefined,
  requirement: Requirement,
  context: RequestContext,
  now: number,
) => void;

export interface ValidateDeps {
  readonly keyring: Keyring;
  readonly lookup: Lookup;
  readonly freshness: Freshness;
  readonly clock: Clock;
  readonly events: Events;
  /** Checks the signatures for this listener, if it has a budget of its own. */
  readonly signatures?: Signatures;
  /** Called for each allowed use with its monotonic time, for the record of last use. */
  readonly used?: (tokenId: string, context: RequestContext, now: number) => void;
  /** Called for each use of a known token, live or dead, for the record of uses. Absent if no profile has one. */
  readonly recorded?: Recorded | undefined;
  /** Makes the entries of answers for client caches, in the tick of the answer. */
  readonly entryOf?: (found: LookupResult, verdict: Verdict) => CacheEntry | undefined;
}

/**
 * The one path of every validation: shape, look-up, decision. Each answer is counted here, once, with its true reason.
 * The caller of this function shows only what its client may see.
 */
export function validateWith(deps: Omit<ValidateDeps, "freshness">): Validate {
  const { keyring, lookup, clock, entryOf, signatures } = deps;
  return (tokenString, requirement, context, deadline) => {
    const start = clock.mono();
    const none = (answer: ValidationResult) => counted(deps, answer, undefined, start, clock.mono());
    const answered = (found: LookupResult): ValidationResult => {
      if (found.kind === "undetermined") return none({ verdict: "UNDETERMINED", tier: "none" });
      if (found.kind === "malformed") return none({ verdict: "INVALID_TOKEN", reason: "malformed", tier: "none" });
      if (found.kind === "unknown") return none({ verdict: "INVALID_TOKEN", reason: "unknown", tier: found.tier });
      return judged(deps, found.snapshot, requirement, context, found.time, found.tier, start, clock.mono());
    };
    const withEntry = (found: LookupResult): ValidationResult => {
      const plain = answered(found);
      // A client cache judges no tenants.
      if (requirement.tenant !== "") return plain;
      return { ...plain, entry: entryOf?.(found, plain.verdict) };
    };
    const answer = entryOf === undefined ? answered : withEntry;
    const parsed = digestOf(tokenString, keyring);
    if (parsed === undefined) return answer({ kind: "malformed" });
    return lookup.find(tokenString, parsed, deadline, answer, signatures);
  };
}

/** The fast path for a cached string, which is the most frequent case. */
export function validateKnownWith(deps: ValidateDeps): ValidateKnown {
  const { keyring, lookup, freshness, clock } = deps;
  return (bytes, from, to, requirement, context) => {
    const start = clock.mono();
    const digest = digestAt(bytes, from, to, keyring);
    if (digest === undefined) return undefined;
    const now = clock.mono();
    const snapshot = lookup.known(digest, now);
    return snapshot && judged(deps, snapshot, requirement, context, freshness.time(now), "l1", start, now);
  };
}

type UsageEvents = Pick<ValidateDeps, "events" | "used" | "recorded">;

function judged(
  deps: UsageEvents,
  snapshot: TokenSnapshot,
  requirement: Requirement,
  context: RequestContext,
  time: TimeBounds,
  tier: Tier,
  start: number,
  now: number,
): ValidationResult {
  const { verdict, reason, missingScopes, snapshot: shown } = decide(snapshot, requirement, context, time);
  deps.recorded?.(snapshot, verdict, reason, requirement, context, now);
  if (verdict === "ALLOW") deps.used?.(snapshot.id, context, now);
  else if (snapshot.rotated && reason !== undefined && time.upper >= (snapshot.expire ?? Infinity)) {
    deps.events.tokenReused(snapshot.id);
  }
  return counted(deps, { verdict, reason, missingScopes, snapshot: shown, tier }, snapshot, start, now);
}

function counted(
  { events }: UsageEvents,
  answer: ValidationResult,
  snapshot: TokenSnapshot | undefined,
  start: number,
  now: number,
): ValidationResult {
  events.validated(answer.verdict, answer.reason, answer.tier, (now - start) / 1000, snapshot?.id);
  return answer;
}

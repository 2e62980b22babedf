import { type Decision, decide, type RequestContext, type Requirement } from "../domain/decide.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Material } from "../domain/material.ts";
import { digestOf } from "../domain/token-string.ts";
import type { Clock, Events, Tier } from "../ports.ts";
import type { Finding, Lookup } from "./lookup.ts";

/** A decision, and which tier it rests on; `none` where nothing was looked up. */
export interface Answer extends Decision {
  readonly tier: Tier;
}

/**
 * Judges one token string. The answer is a value, not a promise, whenever no I/O was needed. `deadline` is a monotonic
 * time: at the latest then the verdict is UNDETERMINED, as it is whenever the store fails.
 */
export type Validate = (
  tokenString: string,
  requirement: Requirement,
  context: RequestContext,
  deadline: number,
) => Answer | Promise<Answer>;

export interface ValidateDeps {
  readonly keyring: Keyring;
  readonly lookup: Lookup;
  readonly clock: Clock;
  readonly events: Events;
  /** Told of each use that was allowed: for the time of last use. */
  readonly used?: (tokenId: string, context: RequestContext) => void;
}

/**
 * The one path of every asker: shape, look-up, decision. Each answer is counted here, once, with its true reason; the
 * asker shows only what its caller may see.
 */
export function validateWith(deps: ValidateDeps): Validate {
  const { keyring, lookup, clock, events } = deps;
  return (tokenString, requirement, context, deadline) => {
    const start = clock.mono();
    const count = (answer: Answer, material?: Material): Answer => {
      events.validated(answer.verdict, answer.reason, answer.tier, (clock.mono() - start) / 1000, material?.id);
      if (answer.verdict === "ALLOW") deps.used?.(material!.id, context);
      return answer;
    };
    const parsed = digestOf(tokenString, keyring);
    if (parsed === undefined) return count({ verdict: "INVALID_TOKEN", reason: "malformed", tier: "none" });
    return lookup.find(tokenString, parsed, deadline, (found: Finding) => {
      if (found.kind === "undetermined") return count({ verdict: "UNDETERMINED", tier: "none" });
      if (found.kind === "malformed") return count({ verdict: "INVALID_TOKEN", reason: "malformed", tier: "none" });
      if (found.kind === "unknown") return count({ verdict: "INVALID_TOKEN", reason: "unknown", tier: found.tier });
      const { material, time, tier } = found;
      const decision = decide(material, requirement, context, time);
      if (material.rotated && decision.reason !== undefined && time.upper >= (material.expire ?? Infinity)) {
        events.tokenReused(material.id);
      }
      return count({ ...decision, tier }, material);
    });
  };
}

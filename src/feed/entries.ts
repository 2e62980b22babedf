import type { Clock } from "../domain/clock.ts";
import type { Verdict } from "../domain/decide.ts";
import { Cached, type Freshness } from "../domain/freshness.ts";
import { dependencies, type Parent, type TokenSnapshot } from "../domain/token-snapshot.ts";
import type { LookupResult } from "../validation/lookup.ts";
import type { CacheEntry } from "../validation/ports.ts";
import type { FeedNames } from "./names.ts";

export interface EntriesDeps {
  readonly freshness: Freshness;
  readonly names: FeedNames;
  readonly clock: Pick<Clock, "mono">;
}

/**
 * The entry that a client cache needs to reuse an answer (`docs/protocol.md` §4.8); undefined if it must not. Call it in
 * the tick that answers.
 *
 * A row that the use rule admits has not changed since its own position, up to `applied`. So its entry may carry the later
 * one of the two. All refusals of a string carry `applied`, so that an unknown string looks like a revoked token.
 */
export function entryOf(
  { freshness, names, clock }: EntriesDeps,
  found: LookupResult,
  verdict: Verdict,
): CacheEntry | undefined {
  const now = clock.mono();
  const { applied, epoch } = freshness;
  if (epoch === undefined || found.kind === "undetermined" || !freshness.holdsLease(now)) return undefined;
  const { epoch: name, tag } = names.of(epoch);
  const refusal: CacheEntry = { epoch: name, position: applied, tags: [], notBefore: undefined };
  if (found.kind !== "found") return refusal;
  const { snapshot } = found;
  if (!freshness.usable(new Cached(snapshot), now)) return undefined;
  if (verdict === "INVALID_TOKEN") return refusal;
  if (!canJudgeAlone(snapshot)) return undefined;
  return {
    epoch: name,
    position: Math.max(snapshot.version.position, applied),
    tags: dependencies(snapshot).map(tag),
    notBefore: later(snapshot.notBefore, snapshot.parent?.notBefore),
  };
}

/** False if the answer shows too little for a verdict elsewhere: addresses, or a parent's narrower limits. */
function canJudgeAlone({ allowedCidrs, audiences, expire, parent }: TokenSnapshot): boolean {
  if (allowedCidrs.length > 0) return false;
  return parent === undefined || addsNothing(parent, audiences, expire);
}

function addsNothing(parent: Parent, audiences: readonly string[], expire: number | undefined): boolean {
  if (parent.allowedCidrs.length > 0) return false;
  if ((parent.expire ?? Infinity) < (expire ?? Infinity)) return false;
  if (parent.audiences.length === 0) return true;
  return audiences.length > 0 && audiences.every((audience) => parent.audiences.includes(audience));
}

function later(one: number | undefined, other: number | undefined): number | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return Math.max(one, other);
}

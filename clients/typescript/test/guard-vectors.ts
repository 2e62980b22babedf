import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { expect } from "vitest";
import type { Entry, FeedCache } from "../src/cache.ts";
import type { Check } from "../src/checker.ts";
import type { Verdict } from "../src/decide.ts";
import type { GuardClock, StreamGuard } from "../src/guard.ts";

/* The guard's vectors, on a clock by hand. */
/** The code under test: ours, or a broken variant. */
export interface GuardCode {
  readonly StreamGuard: typeof StreamGuard;
  readonly FeedCache: typeof FeedCache;
}

interface EntryCase {
  readonly epoch: string;
  readonly position: number;
  readonly tags: number[];
}
interface Step {
  readonly at: number;
  readonly feed?: {
    readonly epoch: string;
    readonly position: number;
    readonly changed: number[];
    readonly lease: number;
    /** The stream is suspended in the very step of the answer, before an acknowledgement can leave. */
    readonly suspends?: boolean;
  };
  readonly message?: string;
  readonly answer?: { readonly verdict: Verdict; readonly entry: EntryCase | null };
  readonly passed?: string[];
  readonly pending?: boolean;
  readonly ended?: Verdict | null;
}
export interface GuardCase {
  readonly name: string;
  readonly cache?: "off";
  readonly expire?: number;
  readonly entry: EntryCase | null;
  readonly steps: readonly Step[];
}
export const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, "../../vectors/guard.json"), "utf8")) as {
  cases: GuardCase[];
};

class Clock implements GuardClock {
  now = 0;
  readonly #timers = new Set<{ readonly at: number; readonly then: () => void }>();

  mono(): number {
    return this.now;
  }

  after(ms: number, then: () => void): () => void {
    const timer = { at: this.now + ms, then };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  async to(at: number): Promise<void> {
    for (;;) {
      const [due] = [...this.#timers].filter((timer) => timer.at <= at).sort((a, b) => a.at - b.at);
      if (due === undefined) break;
      this.#timers.delete(due);
      this.now = Math.max(this.now, due.at);
      due.then();
      await setImmediate();
    }
    this.now = at;
  }
}

/** Runs a case; throws where the code differs from the vector. */
export async function runGuardCase({ cache: mode, expire, entry, steps }: GuardCase, code: GuardCode): Promise<void> {
  const clock = new Clock();
  const cache = new code.FeedCache(() => clock.now);
  const time = () => ({ lower: clock.now, upper: clock.now });
  const answer = { epoch: "e", position: 5n, lease: 1300, changed: [], floor: 0n };
  cache.apply({ ...answer, time: time() }, 0);
  const entryOf = (of: EntryCase | null): Pick<Check, "entry"> =>
    of === null ? {} : { entry: { ...of, position: BigInt(of.position), tags: of.tags.map(BigInt), ...facts(expire) } };
  const asked: ((check: Check) => void)[] = [];
  let passed: string[] = [];
  const ends: Verdict[] = [];
  const streamEnds: Verdict[] = [];
  const guard = new code.StreamGuard({
    checker: {
      cache: mode === "off" ? undefined : cache,
      check: () => new Promise((resolve) => asked.push(resolve)),
      hooks: { stream_ended: (verdict) => streamEnds.push(verdict) },
    },
    token: "t",
    requirement: {},
    opened: { verdict: "ALLOW", missingScopes: [], ...entryOf(entry) },
    end: (verdict) => ends.push(verdict),
    clock,
  });
  for (const step of steps) {
    await clock.to(step.at);
    if (step.feed !== undefined) {
      const { epoch, position, changed, lease } = step.feed;
      const given = { epoch, position: BigInt(position), changed: changed.map(BigInt), floor: 0n, lease, time: time() };
      cache.apply(given, clock.now);
      if (step.feed.suspends !== undefined)
        expect(asked.length > 0, `suspended at ${step.at}`).toBe(step.feed.suspends);
    } else if (step.message !== undefined) {
      guard.pass(() => passed.push(step.message!));
    } else if (step.answer !== undefined) {
      const resolve = asked.shift();
      if (resolve === undefined) throw new Error(`no check is in flight at ${step.at}`);
      resolve({ verdict: step.answer.verdict, missingScopes: [], ...entryOf(step.answer.entry) });
    } else {
      const seen = { passed, pending: asked.length > 0, ended: ends[0] ?? null };
      expect(seen, `at ${step.at}`).toEqual({ passed: step.passed, pending: step.pending, ended: step.ended });
      passed = [];
    }
    await setImmediate();
  }
  expect(ends.length).toBeLessThanOrEqual(1);
  expect(streamEnds).toEqual(ends);
  guard.close();
}

function facts(expire: number | undefined): Pick<Entry, "identity" | "facts"> {
  const lists = { scopes: [], audiences: [] };
  const identity = { tokenId: "tok_1", tenant: "default", principal: "user:ann", profile: "pat", annotations: {} };
  return { identity: { ...identity, ...lists }, facts: { ...lists, expire } };
}

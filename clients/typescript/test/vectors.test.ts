import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Entry, FeedCache } from "../src/cache.ts";
import { decide, type Facts, type TimeBounds, type Verdict } from "../src/decide.ts";
import { CHECKED_PREFIXES, refusedOffline } from "../src/offline.ts";
import { type Requirement, RequirementMap, type Requirements } from "../src/requirement.ts";
import { refusalOf } from "../src/status.ts";

/* The vectors that the client of every language must satisfy. */
type Named<T> = T & { readonly name: string };
interface Vectors<T> {
  readonly cases: readonly Named<T>[];
}

function vectors<T, More = unknown>(name: string): Vectors<T> & More {
  return JSON.parse(readFileSync(join(import.meta.dirname, `../../vectors/${name}.json`), "utf8"));
}

interface OfflineCase {
  readonly token: string;
  readonly repeat?: number;
  readonly prefixes?: string[];
  readonly refused: boolean;
}
describe("offline", () => {
  test.each(vectors<OfflineCase>("offline").cases)("$name", ({ token, repeat = 1, prefixes, refused }) => {
    expect(refusedOffline(token.repeat(repeat), prefixes ?? CHECKED_PREFIXES)).toBe(refused);
  });
});

interface DecideCase {
  readonly facts: Facts;
  readonly requirement: Requirement;
  readonly time: TimeBounds;
  readonly verdict: Verdict;
  readonly missing: string[];
}
describe("decide", () => {
  test.each(vectors<DecideCase>("decide").cases)("$name", ({ facts, requirement, time, verdict, missing }) => {
    expect(decide(facts, requirement, time)).toEqual({ verdict, missingScopes: missing });
  });
});

describe("requirement", () => {
  const { rules, bad, cases } = vectors<
    { readonly method: string; readonly requirement: Requirement | "public" },
    { readonly rules: Requirements; readonly bad: string[] }
  >("requirement");
  const map = new RequirementMap(rules);
  test.each(cases)("$name", ({ method, requirement }) => {
    expect(map.of(method)).toEqual(requirement);
  });
  test.each(bad)("%s is no method", (key) => {
    expect(() => new RequirementMap({ [key]: "public" })).toThrow("is no method");
  });
});

describe("status", () => {
  const { cases } = vectors<{ readonly verdict: string; readonly code: number }>("status");
  test.each(cases)("$name", ({ verdict, code }) => {
    expect(refusalOf(verdict as Verdict).code).toBe(code);
  });
});

interface Kept {
  readonly key: string;
  readonly epoch: string;
  readonly position: number;
  readonly tags: number[];
  readonly asked: number;
}
interface Step {
  readonly at: number;
  readonly answer?: {
    readonly sent: number;
    readonly epoch: string;
    readonly position: number;
    readonly lease: number | null;
    readonly changed: number[];
    readonly floor: number;
    readonly lower: number;
    readonly upper: number;
  };
  readonly store?: Kept;
  readonly refuse?: Kept;
  readonly find?: string;
  readonly refused?: string;
  readonly found?: boolean;
  readonly acknowledges?: { readonly epoch: string; readonly position: number };
  readonly time?: TimeBounds;
}
describe("feed", () => {
  test.each(vectors<{ readonly steps: readonly Step[] }>("feed").cases)("$name", ({ steps }) => {
    let now = 0;
    const cache = new FeedCache(() => now);
    for (const step of steps) {
      now = step.at;
      const { answer, store, refuse, acknowledges } = step;
      if (answer !== undefined) {
        const { sent, epoch, position, lease, changed, floor, lower, upper } = answer;
        const tags = changed.map(BigInt);
        const time = { lower, upper };
        cache.apply(
          { epoch, position: BigInt(position), lease: lease ?? undefined, changed: tags, floor: BigInt(floor), time },
          sent,
        );
      } else if (store !== undefined) {
        cache.store(store.key, entryOf(store), store.asked);
      } else if (refuse !== undefined) {
        cache.storeRefusal(refuse.key, { epoch: refuse.epoch, position: BigInt(refuse.position) }, refuse.asked);
      } else if (step.find !== undefined) {
        expect(cache.entry(step.find) !== undefined, `${step.find} at ${now}`).toBe(step.found);
      } else if (step.refused !== undefined) {
        expect(cache.refused(step.refused), `${step.refused} at ${now}`).toBe(step.found);
      } else if (acknowledges !== undefined) {
        expect(cache.version).toEqual({ epoch: acknowledges.epoch, position: BigInt(acknowledges.position) });
      } else if (step.time !== undefined) {
        expect(cache.time()).toEqual(step.time);
      } else {
        throw new Error(`no such step: ${JSON.stringify(step)}`);
      }
    }
  });
});

function entryOf({ epoch, position, tags }: Kept): Entry {
  const identity = {
    tokenId: "tok_1",
    tenant: "default",
    principal: "user:ann",
    profile: "pat",
    scopes: [],
    audiences: [],
    annotations: {},
  };
  return { epoch, position: BigInt(position), tags: tags.map(BigInt), identity, facts: { scopes: [], audiences: [] } };
}

import type { Facts, TimeBounds } from "./decide.ts";

/** The identity that a live token gives its caller. */
export interface Identity {
  readonly tokenId: string;
  readonly tenant: string;
  readonly principal: string;
  readonly profile: string;
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  /** Milliseconds since 1970; not set: the token never expires. */
  readonly expire?: number | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** The version of an answer: which changes it includes. */
export interface Version {
  /** Text of the epoch's bytes. */
  readonly epoch: string;
  readonly position: bigint;
}

/** A live token's facts as of a version. They are no verdict: that is made anew at each use. */
export interface Entry extends Version {
  readonly tags: readonly bigint[];
  readonly facts: Facts;
  readonly identity: Identity;
}

/** An answer of the change feed. */
export interface FeedAnswer extends Version {
  /** Milliseconds from the send of the request; undefined: no new lease. */
  readonly lease: number | undefined;
  readonly changed: readonly bigint[];
  readonly floor: bigint;
  readonly time: TimeBounds;
}

interface Stored<T> {
  readonly value: T;
  /** The moment, on the monotonic clock, from which the life counts. */
  readonly since: number;
}

const MAX_ENTRIES = 10_000;
const MAX_TAGS = 100_000;
/** An entry's absolute life: so the server's record of last use is exact to a minute. */
const ENTRY_LIFE_MS = 60_000;
const REFUSAL_LIFE_MS = 5_000;

/**
 * The cache of a client that follows the change feed. Nothing in it is used without a lease, and nothing that a change
 * has reached. The clock is monotonic, in milliseconds. No method awaits: each is one step.
 */
export class FeedCache {
  readonly #mono: () => number;
  readonly #entries = new Map<string, Stored<Entry>>();
  readonly #refusals = new Map<string, Stored<Version>>();
  /** The highest position at which each tag changed. */
  readonly #changed = new Map<bigint, bigint>();
  readonly #watchers = new Set<() => void>();
  #epoch = "";
  #position = -1n;
  #floor = 0n;
  #leaseUntil = Number.NEGATIVE_INFINITY;
  #clock: { readonly time: TimeBounds; readonly sent: number; readonly received: number } | undefined;

  constructor(mono: () => number) {
    this.#mono = mono;
  }

  /** What is applied: the next request acknowledges it. */
  get version(): Version {
    return { epoch: this.#epoch, position: this.#position };
  }

  /** Milliseconds for which entries may still be used; 0 without a lease. */
  get lease(): number {
    return Math.max(0, this.#leaseUntil - this.#mono());
  }

  /** True if the entry may be used now. It is asked in the step that uses the entry. */
  usable(entry: Entry): boolean {
    if (entry.epoch !== this.#epoch || this.#mono() >= this.#leaseUntil || entry.position < this.#floor) return false;
    for (const tag of entry.tags) {
      const changed = this.#changed.get(tag);
      if (changed !== undefined && entry.position < changed) return false;
    }
    return true;
  }

  /** Bounds of the database's time now. Only meaningful with a lease. */
  time(): TimeBounds {
    if (this.#clock === undefined) return { lower: Number.NEGATIVE_INFINITY, upper: Number.POSITIVE_INFINITY };
    const { time, sent, received } = this.#clock;
    const now = this.#mono();
    return { lower: time.lower + (now - received), upper: time.upper + (now - sent) };
  }

  /** The usable entry of a key. One that is not usable is dropped, unless only the lease is missing. */
  entry(key: string): Entry | undefined {
    const stored = this.#entries.get(key);
    if (stored === undefined) return undefined;
    if (this.#mono() - stored.since < ENTRY_LIFE_MS) {
      if (this.usable(stored.value)) return stored.value;
      if (this.lease === 0) return undefined;
    }
    this.#entries.delete(key);
    return undefined;
  }

  /** True if the key was refused lately and nothing at all has changed since, so that the refusal still stands. */
  refused(key: string): boolean {
    const stored = this.#refusals.get(key);
    if (stored === undefined) return false;
    const { epoch, position } = stored.value;
    const stands = this.#mono() - stored.since < REFUSAL_LIFE_MS && epoch === this.#epoch && this.#position <= position;
    if (stands) return this.lease > 0;
    this.#refusals.delete(key);
    return false;
  }

  /** Keeps the facts of a token that was asked for at `since`. */
  store(key: string, entry: Entry, since: number): void {
    if (!this.usable(entry)) return;
    this.#refusals.delete(key);
    put(this.#entries, key, { value: entry, since });
  }

  /** Keeps the answer that a string is no live token, asked for at `since`. */
  storeRefusal(key: string, version: Version, since: number): void {
    this.#entries.delete(key);
    if (version.epoch === this.#epoch && this.#position <= version.position) {
      put(this.#refusals, key, { value: version, since });
    }
  }

  /**
   * Applies an answer to the request that was sent at `sent`, whole and in one step, and tells the watchers before the
   * next request can acknowledge it.
   */
  apply(answer: FeedAnswer, sent: number): void {
    if (answer.epoch !== this.#epoch) {
      this.#forget();
      this.#epoch = answer.epoch;
    }
    for (const tag of answer.changed) this.#changed.set(tag, max(this.#changed.get(tag) ?? -1n, answer.position));
    this.#floor = max(this.#floor, answer.floor);
    this.#position = max(this.#position, answer.position);
    if (this.#changed.size > MAX_TAGS) {
      this.#floor = this.#position;
      this.#changed.clear();
    }
    this.#clock = { time: answer.time, sent, received: this.#mono() };
    if (answer.lease !== undefined) this.#leaseUntil = Math.max(this.#leaseUntil, sent + answer.lease);
    for (const watcher of this.#watchers) watcher();
  }

  /** Ends the lease, for a cache that leaves the feed. */
  dropLease(): void {
    this.#leaseUntil = Number.NEGATIVE_INFINITY;
    for (const watcher of this.#watchers) watcher();
  }

  /** Calls `watcher` in the step of every answer. Returns the function that ends it. */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  #forget(): void {
    this.#leaseUntil = Number.NEGATIVE_INFINITY;
    this.#entries.clear();
    this.#refusals.clear();
    this.#changed.clear();
    this.#floor = 0n;
    this.#position = -1n;
  }
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/** Stores a value as the newest; the oldest goes if there are too many. */
function put<T>(map: Map<string, T>, key: string, value: T): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_ENTRIES) map.delete(map.keys().next().value!);
}

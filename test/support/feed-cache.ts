import type { TimeBounds } from "../../src/domain/decide.ts";

/** An answer of WatchChanges, as the cache applies it. */
export interface Answer {
  readonly epoch: Uint8Array;
  readonly changes: { readonly position: number; readonly floor: number; readonly tags: readonly bigint[] };
  readonly leaseMs: number | undefined;
  readonly time: TimeBounds | undefined;
}

export interface Entry<T> {
  readonly epoch: Uint8Array;
  readonly position: number;
  readonly tags: readonly bigint[];
  readonly notBefore: number | undefined;
  /** Undefined for INVALID_TOKEN. */
  readonly value: T | undefined;
  readonly storedAt: number;
}

/** Mistakes that a client must not make. */
export interface ClientFaults {
  /** The lease counts from the receipt of the answer. */
  readonly leaseFromReceipt?: boolean;
  /** The next poll, which acknowledges, is sent before the answer is applied. */
  readonly ackBeforeApply?: boolean;
  /** A refusal is reused whatever changed. */
  readonly refusalReused?: boolean;
}

const LIFE_MS = 60_000;

/** The rules of a client cache (`docs/protocol.md` §4.8), without I/O. Times are of its own monotonic clock. */
export class FeedCache<T> {
  epoch: Uint8Array = new Uint8Array(0);
  position = 0;
  floor = 0;
  leaseUntil = Number.NEGATIVE_INFINITY;
  readonly #changed = new Map<bigint, number>();
  readonly #entries = new Map<string, Entry<T>>();
  #time = { lower: 0, upper: 0, sent: 0, received: 0 };
  readonly #faults: ClientFaults;
  readonly #refusalMs: number;

  constructor(refusalMs = 5_000, faults: ClientFaults = {}) {
    this.#refusalMs = refusalMs;
    this.#faults = faults;
  }

  /** Applies an answer in one step. `sent`: the time before its poll was sent. */
  apply({ epoch, changes, leaseMs, time }: Answer, sent: number, received: number): void {
    if (!same(epoch, this.epoch)) {
      this.drop();
      this.epoch = epoch;
    }
    for (const tag of changes.tags) this.#changed.set(tag, changes.position);
    this.floor = Math.max(this.floor, changes.floor);
    this.position = Math.max(this.position, changes.position);
    if (time !== undefined) this.#time = { ...time, sent, received };
    const from = this.#faults.leaseFromReceipt ? received : sent;
    if (leaseMs !== undefined) this.leaseUntil = Math.max(this.leaseUntil, from + leaseMs);
  }

  drop(): void {
    this.leaseUntil = Number.NEGATIVE_INFINITY;
    this.#entries.clear();
    this.#changed.clear();
    this.position = 0;
    this.floor = 0;
  }

  store(key: string, entry: Entry<T>): void {
    this.#entries.set(key, entry);
  }

  /** The entry, if it may be used now. */
  get(key: string, now: number): Entry<T> | undefined {
    const entry = this.#entries.get(key);
    return entry !== undefined && this.#usable(entry, now) ? entry : undefined;
  }

  time(now: number): TimeBounds {
    const { lower, upper, sent, received } = this.#time;
    return { lower: lower + (now - received), upper: upper + (now - sent) };
  }

  #usable({ epoch, position, tags, value, storedAt }: Entry<T>, now: number): boolean {
    if (!(now < this.leaseUntil) || position < this.floor) return false;
    if (!same(epoch, this.epoch)) return false;
    if (value !== undefined)
      return now - storedAt < LIFE_MS && tags.every((tag) => position >= (this.#changed.get(tag) ?? 0));
    return now - storedAt < this.#refusalMs && (this.#faults.refusalReused || this.position <= position);
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

import type { Cached } from "../domain/freshness.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";

export interface L1CacheOptions {
  readonly most: number;
  readonly mostBytes: number;
  /** Returns the same size for the same snapshot, always. */
  readonly sizeOf: (snapshot: TokenSnapshot) => number;
}

/**
 * The unit of an entry's end: for eight months it fits into a small integer, which an object holds in place.
 * Milliseconds.
 */
const TICK_MS = 10;

/**
 * Entries by digest, bounded in number and bytes. When it is full, a hand walks the entries in the order of arrival and
 * evicts those without a use since its last visit (CLOCK; Corbató 1968), so that a hit costs one look-up and one store.
 * An entry is in one cache only.
 */
export class L1Cache {
  readonly #options: L1CacheOptions;
  readonly #entries = new Map<string, Cached>();
  #bytes = 0;
  /** Continues from its place, over entries that come and go meanwhile. */
  #hand: MapIterator<Cached> = this.#entries.values();

  constructor(options: L1CacheOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(digest: string, now: number): Cached | undefined {
    const entry = this.#entries.get(digest);
    if (entry === undefined) return undefined;
    if (now >= entry.until * TICK_MS) {
      this.#drop(entry);
      return undefined;
    }
    entry.used = true;
    return entry;
  }

  /** `until` is an absolute monotonic time, however often the entry is used. */
  set(entry: Cached, until: number): void {
    const { most, mostBytes, sizeOf } = this.#options;
    const { digest } = entry.snapshot;
    const bytes = sizeOf(entry.snapshot);
    const known = this.#entries.get(digest);
    if (known !== undefined) this.#drop(known);
    if (bytes > mostBytes || most < 1) return;
    while (this.#entries.size >= most || this.#bytes + bytes > mostBytes) this.#evict();
    entry.until = Math.floor(until / TICK_MS);
    this.#entries.set(digest, entry);
    this.#bytes += bytes;
  }

  clear(): void {
    this.#entries.clear();
    this.#hand = this.#entries.values();
    this.#bytes = 0;
  }

  #evict(): void {
    for (;;) {
      const { value, done } = this.#hand.next();
      if (done) this.#hand = this.#entries.values();
      else if (value.used) value.used = false;
      else {
        this.#drop(value);
        return;
      }
    }
  }

  #drop(entry: Cached): void {
    this.#entries.delete(entry.snapshot.digest);
    this.#bytes -= this.#options.sizeOf(entry.snapshot);
  }
}

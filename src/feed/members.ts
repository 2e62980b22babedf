import { leaseOver } from "../domain/freshness.ts";

/** One client cache. Times are of this process's monotonic clock. */
interface Member {
  /** The position that it has applied, by its last poll; -1 if its last poll named no position of this epoch. */
  ack: number;
  /** The position of the last answer. A cache that has not applied it gets no lease. */
  shown: number;
  /** No lease that was given to it lasts longer. */
  until: number;
}

/**
 * The caches that this process acknowledges for: what each has applied, and the end of the leases that it was given
 * (`docs/protocol.md` §4.8). A state machine without I/O. Callers pass the time.
 */
export class Members {
  readonly #members = new Map<string, Member>();

  has(id: string): boolean {
    return this.#members.has(id);
  }

  get size(): number {
    return this.#members.size;
  }

  /** Forgets caches whose leases are over. */
  prune(now: number): void {
    for (const [id, { until }] of this.#members) if (until <= now) this.#members.delete(id);
  }

  /** A poll arrived. It says what the cache has applied, which may be less than it said before. */
  reported(id: string, position: number): void {
    const member = this.#members.get(id);
    if (member !== undefined) member.ack = position;
  }

  /** True if a lease may go to this cache: it is new here, or it has applied the last answer. */
  mayHaveLease(id: string): boolean {
    const member = this.#members.get(id);
    return member === undefined || member.ack >= member.shown;
  }

  /** A poll that reported `ack` is answered up to `shown`, with a lease or without. A cache becomes a member by a lease. */
  answered(id: string, ack: number, shown: number, leaseMs: number | undefined, now: number): void {
    let member = this.#members.get(id);
    if (member === undefined) {
      if (leaseMs === undefined) return;
      this.#members.set(id, (member = { ack, shown, until: Number.NEGATIVE_INFINITY }));
    }
    member.shown = shown;
    if (leaseMs !== undefined) member.until = Math.max(member.until, now + leaseOver(leaseMs));
  }

  /** The cache says that it holds no lease any more. */
  left(id: string): void {
    this.#members.delete(id);
  }

  /** The position that every cache with a lease has applied, at most `applied`. */
  acknowledged(applied: number, now: number): number {
    this.prune(now);
    let least = applied;
    for (const { ack } of this.#members.values()) least = Math.min(least, ack);
    return least;
  }

  /** The number of caches that may hold a lease. */
  leased(now: number): number {
    let count = 0;
    for (const { until } of this.#members.values()) if (until > now) count++;
    return count;
  }

  /** When the next lease is over that is not over yet. */
  nextEnd(now: number): number | undefined {
    let next: number | undefined;
    for (const { until } of this.#members.values()) if (until > now) next = Math.min(next ?? until, until);
    return next;
  }

  forget(): void {
    this.#members.clear();
  }
}

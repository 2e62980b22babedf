/*
 * When a cached row may be used.
 *
 *   usable(e) := e.epoch == epoch  AND  mono < leaseUntil  AND  e.n >= floor
 *                AND  for every dependency d of e: e.n >= (deny[d] or 0)
 *
 * Every change of authority has a position n in a commit-ordered log. This process polls that log; a good poll sent at
 * monotonic time t is a lease until t + L on all that is cached here. Whoever changes authority waits until every
 * validator has acknowledged its position, or until every lease that could still rest on older rows has run out. So
 * a row that this rule admits shows every change whose call had returned before the answer's call began.
 *
 * The state only ever gets stricter inside an epoch: a row refused for its position is never admitted later.
 */
import type { TimeBounds } from "./decide.ts";
import { incarnationOf, isWhole } from "./epoch.ts";
import { dependencies, EVERYTHING, type TokenSnapshot, type Version } from "./token-snapshot.ts";

/** One poll's answer, as far as it says what is fresh. All of it from one snapshot of the primary. */
export interface LogPage {
  readonly inRecovery: boolean;
  readonly epoch: string;
  readonly position: number;
  readonly dbTime: number;
  readonly ownRowLive: boolean;
  readonly floorN: number;
  /** The newest rows with a position above `applied`. */
  readonly rows: readonly { readonly position: number; readonly key: string }[];
  /** Older rows above `applied` may be missing. */
  readonly full: boolean;
}

/**
 * What a poll did. `granted`: all applied, the lease moved. `recovery`, `epoch`, `unregistered`: nothing was applied.
 * `backwards`: history went backwards inside an epoch; everything is refused until one of another incarnation begins.
 * `unsealed`: rows were put back by a restore, and no epoch may begin on them.
 */
export type PollOutcome = "granted" | "recovery" | "epoch" | "unregistered" | "backwards" | "unsealed" | "stopped";

/** A row that somebody else read, or that was read before: to be used only through `Freshness.usable`. */
export class Cached {
  readonly snapshot: TokenSnapshot;
  /** The generation at which all dependencies were last found good. */
  checked = -1;
  /** For the cache that holds it: its end on a clock of that cache, and whether it was used lately. */
  until = 0;
  used = false;

  constructor(snapshot: TokenSnapshot) {
    this.snapshot = snapshot;
  }
}

/**
 * How long on one's own clock until every lease of this bound is over, in any process: the clocks may run 20 % apart,
 * and a timer is not exact. Milliseconds.
 */
export function leaseOver(boundMs: number): number {
  return boundMs * 1.2 + 50;
}

/**
 * Lease, floor, deny map and epoch of one process, as a state machine without I/O. Times are milliseconds of the
 * process's own monotonic clock, given by the caller: for a poll, the time before it was sent.
 */
export class Freshness {
  readonly #leaseMs: number;
  readonly #denyLimit: number;
  #epoch: string | undefined;
  #sawEpoch = Number.NEGATIVE_INFINITY;
  #applied = -1;
  #floor = 0;
  #leaseUntil = Number.NEGATIVE_INFINITY;
  #halted = false;
  /** The incarnation in which history went backwards. */
  #backwards: string | undefined;
  #stopped = false;
  #clock = { db: 0, sent: 0, received: 0 };
  /** Counts every change of deny map, floor, applied and epoch. Never falls. */
  #gen = 0;
  /** The log's image: dependency key → highest n. In about the order of n. */
  readonly #deny = new Map<string, number>();

  /** `leaseMs` is L, the bound of this process's registration. `denyLimit` bounds the deny map. */
  constructor(leaseMs: number, denyLimit = 200_000) {
    this.#leaseMs = leaseMs;
    this.#denyLimit = denyLimit;
  }

  get epoch(): string | undefined {
    return this.#epoch;
  }

  /** When this process first saw the epoch. */
  get sawEpoch(): number {
    return this.#sawEpoch;
  }

  /** The position up to which the log is applied; -1 before the first poll of an epoch. */
  get applied(): number {
    return this.#applied;
  }

  get floor(): number {
    return this.#floor;
  }

  get denied(): number {
    return this.#deny.size;
  }

  /** The end of the lease; in the past if there is none. */
  get leaseUntil(): number {
    return this.#leaseUntil;
  }

  /** Whether nothing at all may be answered: history went backwards, or the database does not admit this program. */
  get halted(): boolean {
    return this.#halted;
  }

  holdsLease(mono: number): boolean {
    return mono < this.#leaseUntil;
  }

  /** Begins an epoch: boot, or a poll that showed another one. All that was cached is worthless from here. */
  begin(epoch: string, mono: number): void {
    this.dropLease();
    this.#epoch = epoch;
    this.#sawEpoch = mono;
    this.#applied = -1;
    this.#floor = 0;
    this.#halted = false;
    this.#backwards = undefined;
    this.#deny.clear();
    this.#gen++;
  }

  dropLease(): void {
    this.#leaseUntil = Number.NEGATIVE_INFINITY;
  }

  /** Refuses everything until an epoch begins. */
  halt(): void {
    this.dropLease();
    this.#halted = true;
  }

  /** The process stops: no poll, not even one already sent, gives a lease from here. */
  stop(): void {
    this.dropLease();
    this.#stopped = true;
  }

  /** Takes one poll's answer, in one tick. `sent` was read before the poll went out, `received` now. */
  apply(page: LogPage, sent: number, received: number): PollOutcome {
    if (this.#stopped) return "stopped";
    if (page.inRecovery) {
      this.dropLease();
      return "recovery";
    }
    // However high its head has climbed since: positions were handed out twice.
    if (this.#backwards !== undefined && incarnationOf(page.epoch) === this.#backwards) return "backwards";
    if (!isWhole(page.epoch)) {
      this.dropLease();
      return "unsealed";
    }
    if (page.epoch !== this.#epoch) return "epoch";
    if (page.position < this.#applied) {
      this.halt();
      this.#backwards = incarnationOf(page.epoch);
      return "backwards";
    }
    if (!page.ownRowLive) {
      this.dropLease();
      return "unregistered";
    }
    if (page.position > this.#applied) this.#gen++;
    let floor = Math.max(this.#floor, page.floorN);
    let lowest = page.position;
    for (const { position: n, key } of page.rows.toSorted((a, b) => a.position - b.position)) {
      lowest = Math.min(lowest, n);
      if (key === EVERYTHING) floor = Math.max(floor, n);
      else this.#raise(key, n);
    }
    // The page holds the newest rows, so it is complete above its lowest.
    if (page.full) floor = Math.max(floor, lowest);
    this.#raiseFloor(floor);
    this.#bound();
    this.#applied = page.position;
    this.#clock = { db: page.dbTime, sent, received };
    if (!this.#halted) this.#leaseUntil = Math.max(this.#leaseUntil, sent + this.#leaseMs);
    return "granted";
  }

  /** An own answer refused this key's token as of `version`: no older row of it may be used after that. */
  refused(key: string, version: Version): void {
    if (version.epoch !== this.#epoch || version.position <= this.#floor) return;
    this.#raise(key, version.position);
    this.#bound();
  }

  /** The use rule: the only way to a row that was not read for this very call. Valid in this tick only. */
  usable(cached: Cached, mono: number): boolean {
    const { epoch, position: n } = cached.snapshot.version;
    if (epoch !== this.#epoch || !(mono < this.#leaseUntil) || n < this.#floor) return false;
    if (cached.checked === this.#gen) return true;
    for (const key of dependencies(cached.snapshot)) if (n < (this.#deny.get(key) ?? 0)) return false;
    cached.checked = this.#gen;
    return true;
  }

  /** Database time now, by the last good poll; meaningful under a lease only. */
  time(mono: number): TimeBounds {
    const { db, sent, received } = this.#clock;
    return { lower: db + (mono - received), upper: db + (mono - sent) };
  }

  #raise(key: string, n: number): void {
    if (n <= (this.#deny.get(key) ?? 0)) return;
    this.#deny.delete(key);
    this.#deny.set(key, n);
    this.#gen++;
  }

  #raiseFloor(floor: number): void {
    if (floor <= this.#floor) return;
    this.#floor = floor;
    this.#gen++;
    // Rows at or below the floor say nothing that the floor does not say. Oldest first; own refusals may stand out of
    // order and then hide a few, which costs memory for a while, within the bound.
    for (const [key, n] of this.#deny) {
      if (n > floor) break;
      this.#deny.delete(key);
    }
  }

  /** Drops the oldest sixteenth at once: one walk over a Map's dead slots is paid for by many drops. */
  #bound(): void {
    if (this.#deny.size <= this.#denyLimit) return;
    const keep = this.#denyLimit - (this.#denyLimit >> 4);
    let floor = this.#floor;
    for (const [key, n] of this.#deny) {
      if (this.#deny.size <= keep) break;
      this.#deny.delete(key);
      floor = Math.max(floor, n);
    }
    this.#raiseFloor(floor);
  }
}

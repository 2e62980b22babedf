/*
 * The use rule: it decides when a cached row may be used.
 *
 *   usable(e) := e.epoch == epoch  AND  mono < leaseUntil  AND  e.n >= floor
 *                AND  for every dependency d of e: e.n >= (deny[d] or 0)
 *
 * Every change of authority has a position n in a commit-ordered log. This process polls that log. A good poll that was
 * sent at monotonic time t gives a lease until t + L on everything cached here. A writer waits until every validator
 * has acknowledged its position, or until every lease from before its commit is over. So if this rule admits a row for a
 * call, the row shows every change that returned OK before that call started.
 *
 * Inside an epoch the rule only gets stricter: a row that was refused for its position is never admitted later.
 */
import type { TimeBounds } from "./decide.ts";
import { incarnationOf, isWhole } from "./epoch.ts";
import { dependencies, EVERYTHING, type TokenSnapshot, type Version } from "./token-snapshot.ts";

/** The part of a poll's answer that decides freshness. All of it comes from one snapshot of the primary. */
export interface LogPage {
  readonly inRecovery: boolean;
  readonly epoch: string;
  readonly position: number;
  readonly dbTime: number;
  readonly ownRowLive: boolean;
  /** As far as anybody knows, this epoch lacks no change of an earlier one. */
  readonly proven: boolean;
  readonly floorN: number;
  /** The newest rows with a position above `applied`. */
  readonly rows: readonly { readonly position: number; readonly key: string }[];
  /** The page may lack older rows above `applied`. */
  readonly full: boolean;
}

/**
 * The result of a poll. `granted`: everything is applied and the lease is extended. `unproven`: everything is applied,
 * and there is no lease, because this epoch may lack changes of an earlier one. `recovery`, `epoch`, `unregistered`:
 * nothing is applied. `backwards`: history went backwards inside an epoch; everything is refused until
 * an epoch of another incarnation begins. `unsealed`: a restore put rows back, and no epoch may begin on them.
 */
export type PollOutcome =
  | "granted"
  | "unproven"
  | "recovery"
  | "epoch"
  | "unregistered"
  | "backwards"
  | "unsealed"
  | "stopped";

/** A row from a cache or a shared read. A call that did not read it may use it only if `Freshness.usable` admits it. */
export class Cached {
  readonly snapshot: TokenSnapshot;
  /** The generation at which all dependencies were last found good. */
  checked = -1;
  /** For the cache that holds the row: the end of the row's lifetime in the cache's unit, and a mark of recent use. */
  until = 0;
  used = false;

  constructor(snapshot: TokenSnapshot) {
    this.snapshot = snapshot;
  }
}

/**
 * The milliseconds to wait on this process's clock until every lease of this bound is over in every process. Two clocks
 * may run 20 % apart; 50 ms are slack.
 */
export function leaseOver(boundMs: number): number {
  return boundMs * 1.2 + 50;
}

/**
 * Lease, floor, deny map and epoch of one process: a state machine without I/O. Times are milliseconds of the process's
 * monotonic clock, and the caller passes them in.
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
  /** This epoch has everything that this process remembers of earlier ones. */
  #accounted = false;
  #unproven = false;
  /** The incarnation in which history went backwards; undefined if there is none. */
  #backwards: string | undefined;
  #stopped = false;
  #clock = { db: 0, sent: 0, received: 0 };
  /** Counts every change of the deny map, the floor, `applied` and the epoch. It never falls. */
  #gen = 0;
  /** The image of the log: dependency key → highest n, roughly in the order of n. */
  readonly #deny = new Map<string, number>();

  /** `leaseMs` is L, the bound of this process's registration. `denyLimit` bounds the deny map. */
  constructor(leaseMs: number, denyLimit = 200_000) {
    this.#leaseMs = leaseMs;
    this.#denyLimit = denyLimit;
  }

  get epoch(): string | undefined {
    return this.#epoch;
  }

  /** The time at which this process first saw the epoch. */
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

  /** The end of the lease. It is in the past if there is no lease. */
  get leaseUntil(): number {
    return this.#leaseUntil;
  }

  /**
   * True if nothing at all may be answered: history went backwards, or the database does not admit this program
   * version.
   */
  get halted(): boolean {
    return this.#halted;
  }

  /** Nothing that this process remembers of earlier epochs is missing in this one. */
  get accounted(): boolean {
    return this.#accounted;
  }

  /** The last good poll gave no lease, because the epoch is not proven. */
  get unproven(): boolean {
    return this.#unproven;
  }

  holdsLease(mono: number): boolean {
    return mono < this.#leaseUntil;
  }

  /**
   * Begins an epoch, at start or after a poll that showed another epoch. Everything cached before is unusable from now
   * on. `accounted`: this process remembers nothing that the epoch could lack.
   */
  begin(epoch: string, mono: number, accounted = true): void {
    this.dropLease();
    this.#accounted = accounted;
    this.#epoch = epoch;
    this.#sawEpoch = mono;
    this.#applied = -1;
    this.#floor = 0;
    this.#halted = false;
    this.#backwards = undefined;
    this.#deny.clear();
    this.#gen++;
  }

  /** Everything that this process remembers of earlier epochs is in this one, or was redone. */
  account(): void {
    this.#accounted = true;
  }

  dropLease(): void {
    this.#leaseUntil = Number.NEGATIVE_INFINITY;
  }

  /** Refuses everything until an epoch begins. */
  halt(): void {
    this.dropLease();
    this.#halted = true;
  }

  /** Stops. From now on no poll gives a lease, not even a poll that is already sent. */
  stop(): void {
    this.dropLease();
    this.#stopped = true;
  }

  /** Applies one poll's answer, in one tick. `sent` is the time before the poll went out, `received` the time now. */
  apply(page: LogPage, sent: number, received: number): PollOutcome {
    if (this.#stopped) return "stopped";
    if (page.inRecovery) {
      this.dropLease();
      return "recovery";
    }
    // Also if the position has climbed again: this incarnation may have used the same positions twice.
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
    // The page holds the newest rows, so it is complete above its lowest position.
    if (page.full) floor = Math.max(floor, lowest);
    this.#raiseFloor(floor);
    this.#bound();
    this.#applied = page.position;
    this.#clock = { db: page.dbTime, sent, received };
    this.#unproven = !page.proven || !this.#accounted;
    if (this.#unproven) {
      this.dropLease();
      return "unproven";
    }
    if (!this.#halted) this.#leaseUntil = Math.max(this.#leaseUntil, sent + this.#leaseMs);
    return "granted";
  }

  /** Call this when a read refused the key's token at `version`. No older row of that token is usable afterwards. */
  refused(key: string, version: Version): void {
    if (version.epoch !== this.#epoch || version.position <= this.#floor) return;
    this.#raise(key, version.position);
    this.#bound();
  }

  /** The use rule. A row must pass it unless this call read the row itself. The result is valid in this tick only. */
  usable(cached: Cached, mono: number): boolean {
    const { epoch, position: n } = cached.snapshot.version;
    if (epoch !== this.#epoch || !(mono < this.#leaseUntil) || n < this.#floor) return false;
    if (cached.checked === this.#gen) return true;
    for (const key of dependencies(cached.snapshot)) if (n < (this.#deny.get(key) ?? 0)) return false;
    cached.checked = this.#gen;
    return true;
  }

  /** The database's time now, by the last good poll. Meaningful only under a lease. */
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
    // The floor refuses every snapshot that these rows would refuse, so they are dropped, oldest first. Refusals by
    // reads may be out of order and keep a few rows longer; this costs memory for a while, within the bound.
    for (const [key, n] of this.#deny) {
      if (n > floor) break;
      this.#deny.delete(key);
    }
  }

  /**
   * Drops the oldest sixteenth when the deny map is full, and raises the floor over it. Dropping many at once shares the
   * cost of one walk over the Map's deleted slots.
   */
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

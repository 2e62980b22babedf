import type { Clock, Timers } from "../domain/clock.ts";
import type { TimeBounds } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import type { Freshness } from "../domain/freshness.ts";
import type { FedCaches, PollResult } from "../revocation/ports.ts";
import { Members } from "./members.ts";
import type { FeedNames, Names } from "./names.ts";
import { type Changes, RecentChanges } from "./recent.ts";

/** One poll of a client cache. */
export interface FeedPoll {
  readonly cacheId: string;
  /** The epoch that the cache knows; empty at first. */
  readonly epoch: Uint8Array;
  /** The position that it has applied, in that epoch. */
  readonly position: number;
  readonly leaving: boolean;
}

export interface FeedAnswer {
  readonly epoch: Uint8Array;
  readonly changes: Changes;
  /** Counted from when the cache sent its poll. Undefined: no lease. */
  readonly leaseMs: number | undefined;
  /** Bounds of the database's time; undefined while nothing is known of it. */
  readonly time: TimeBounds | undefined;
}

/** The circumstances of a poll. */
export interface FeedCall {
  /** The connection of the poll. Joining is limited by it. */
  readonly connection: object;
  /** The time at which the poll must be answered. */
  readonly deadline: number;
  readonly signal: AbortSignal;
}

export interface FeedDeps {
  readonly freshness: Freshness;
  readonly names: FeedNames;
  /** The follower that acknowledges for the caches. `me` is undefined while it has no row. */
  readonly follower: () => { readonly me: string | undefined; acknowledge(): void };
  readonly clock: Pick<Clock, "mono">;
  readonly timers: Timers;
  /** False while nobody else knows that this process gives leases, if somebody must. */
  readonly mayLease: () => boolean;
  /** Names this run of the process. */
  readonly instanceId: string;
  /** Runs in the next turn of the event loop. */
  readonly later: (run: () => void) => void;
}

export interface FeedOptions {
  /** The L of the instance. */
  readonly leaseMs: number;
  /** The lease of a cache; at most `leaseMs`. */
  readonly feedLeaseMs: number;
  readonly maxClients: number;
}

interface Held {
  readonly poll: FeedPoll;
  readonly connection: object;
  readonly answer: (answer: FeedAnswer) => void;
  /** Nobody waits for the answer any more. A connection that breaks says nothing about the cache's lease. */
  readonly giveUp: () => void;
}

const HOLD_MS = 600;
/** The most answers of one turn of the event loop. */
const TURN = 64;
const JOIN_EVERY_MS = 1_000;

/**
 * The change feed: it answers the polls of client caches with changes and leases (`docs/protocol.md` §4.8). A lease ends
 * no later than `feedLeaseMs` after the *send* of this process's last good poll. The process acknowledges a position for
 * itself and for all caches that may hold a lease.
 */
export class Feed implements FedCaches {
  readonly #deps: FeedDeps;
  readonly #options: FeedOptions;
  readonly #members = new Members();
  readonly #recent = new RecentChanges();
  /** The polls that wait, by cache. */
  readonly #held = new Map<string, Held>();
  readonly #joined = new WeakMap<object, number>();
  /** Polls whose answer is due, beyond those of this turn. */
  #due: Held[] = [];
  #left = TURN;
  #turning = false;
  #stopped = false;

  constructor(deps: FeedDeps, options: FeedOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get instanceId(): string {
    return this.#deps.instanceId;
  }

  /** Resolves when the answer is due. LIMIT_EXCEEDED for one cache too many. */
  poll(poll: FeedPoll, { connection, deadline, signal }: FeedCall): Promise<FeedAnswer> {
    const { freshness, follower, clock, timers } = this.#deps;
    const { cacheId, leaving } = poll;
    this.#held.get(cacheId)?.giveUp();
    if (leaving) {
      this.#members.left(cacheId);
      follower().acknowledge();
      return Promise.resolve(this.#nothingNew(poll));
    }
    this.#members.reported(cacheId, this.#ackOf(poll));
    follower().acknowledge();
    this.#admit(cacheId);
    const { promise, resolve } = Promise.withResolvers<FeedAnswer>();
    const due = () => this.#answerSoon([held]);
    const cancel = timers.after(Math.max(0, Math.min(HOLD_MS, deadline - clock.mono())), due);
    const held: Held = {
      poll,
      connection,
      answer: (answer) => {
        cancel();
        signal.removeEventListener("abort", held.giveUp);
        if (this.#held.get(cacheId) === held) this.#held.delete(cacheId);
        resolve(answer);
      },
      giveUp: () => held.answer(this.#nothingNew(poll)),
    };
    this.#held.set(cacheId, held);
    signal.addEventListener("abort", held.giveUp);
    if (signal.aborted) held.giveUp();
    else if (this.#stopped || (this.#ackOf(poll) < freshness.applied && this.#mayJoin(held))) due();
    return promise;
  }

  applied(page: PollResult, from: number): void {
    this.#recent.add(page, from, this.#names()!.tag);
    this.#answerSoon([...this.#held.values()]);
  }

  acknowledged(applied: number, now: number): number {
    return this.#members.acknowledged(applied, now);
  }

  leased(now: number): number {
    return this.#members.leased(now);
  }

  nextEnd(now: number): number | undefined {
    return this.#members.nextEnd(now);
  }

  forget(): void {
    this.#members.forget();
  }

  stop(): void {
    this.#stopped = true;
    this.#answerSoon([...this.#held.values()]);
  }

  #names(): Names | undefined {
    const { epoch } = this.#deps.freshness;
    return epoch === undefined ? undefined : this.#deps.names.of(epoch);
  }

  /** The position that the cache has applied in this epoch; -1 if it knows another epoch or none. */
  #ackOf({ epoch, position }: FeedPoll): number {
    const names = this.#names();
    return names !== undefined && Buffer.compare(names.epoch, epoch) === 0 ? position : -1;
  }

  #admit(cacheId: string): void {
    if (this.#members.has(cacheId) || (this.#hasRoom() && this.#held.size < this.#options.maxClients)) return;
    throw new AppError("LIMIT_EXCEEDED", "this instance feeds as many caches as feed.max_clients admits", {
      metadata: { limit: "feed.max_clients" },
      retryAfterMs: 2_000,
    });
  }

  #hasRoom(): boolean {
    const { maxClients } = this.#options;
    if (this.#members.size >= maxClients) this.#members.prune(this.#deps.clock.mono());
    return this.#members.size < maxClients;
  }

  /** A cache that joins and then never polls holds changes back, so a connection may bring one each second. */
  #mayJoin({ poll, connection }: Held): boolean {
    if (this.#members.has(poll.cacheId)) return true;
    const last = this.#joined.get(connection);
    return (last === undefined || this.#deps.clock.mono() - last >= JOIN_EVERY_MS) && this.#hasRoom();
  }

  /** Answers in this tick, as far as the turn has room. A turn with hundreds of answers would delay other calls. */
  #answerSoon(polls: readonly Held[]): void {
    this.#due.push(...polls);
    while (this.#left > 0 && this.#due.length > 0) {
      const held = this.#due.shift()!;
      if (this.#held.get(held.poll.cacheId) !== held) continue;
      this.#left--;
      this.#answer(held);
    }
    if (this.#turning || this.#left === TURN) return;
    this.#turning = true;
    this.#deps.later(() => {
      this.#turning = false;
      this.#left = TURN;
      this.#answerSoon([]);
    });
  }

  /** Everything here happens in one tick: the age of the lease, the changes up to `applied`, the end that is noted. */
  #answer(held: Held): void {
    const { freshness, clock } = this.#deps;
    const names = this.#names();
    // Between the start of an epoch and its first good poll nothing is known.
    if (names === undefined || freshness.applied < 0 || this.#recent.head !== freshness.applied) {
      held.giveUp();
      return;
    }
    const { poll, connection } = held;
    const now = clock.mono();
    const ack = this.#ackOf(poll);
    const changes = this.#recent.since(ack);
    const leaseMs = this.#mayJoin(held) && this.#members.mayHaveLease(poll.cacheId) ? this.#lease(now) : undefined;
    if (leaseMs !== undefined && !this.#members.has(poll.cacheId)) this.#joined.set(connection, now);
    this.#members.answered(poll.cacheId, ack, changes.position, leaseMs, now);
    held.answer({ epoch: names.epoch, changes, leaseMs, time: freshness.time(now) });
  }

  /** The rest of the lease that the last good poll gives, counted from its send. */
  #lease(now: number): number | undefined {
    const { freshness, follower, mayLease } = this.#deps;
    if (!mayLease() || this.#stopped || follower().me === undefined || !freshness.holdsLease(now)) return undefined;
    const age = now - (freshness.leaseUntil - this.#options.leaseMs);
    const left = this.#options.feedLeaseMs - age;
    return left > 0 ? left : undefined;
  }

  /** An answer that changes nothing in the cache. Its lease runs on. */
  #nothingNew({ epoch, position }: FeedPoll): FeedAnswer {
    const { freshness, clock } = this.#deps;
    const time = freshness.applied < 0 ? undefined : freshness.time(clock.mono());
    return { epoch, changes: { position, floor: 0, tags: [] }, leaseMs: undefined, time };
  }
}

import type { Clock, Timers } from "../domain/clock.ts";
import { isWhole } from "../domain/epoch.ts";
import { AppError } from "../domain/errors.ts";
import type { Evidence } from "../domain/evidence.ts";
import type { Freshness } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import type { Lookup } from "../validation/lookup.ts";
import type { TokenReader } from "../validation/ports.ts";
import { Acknowledger } from "./acknowledger.ts";
import type { EpochJournal, FedCaches, PollResult, RevocationLog } from "./ports.ts";
import { Proving } from "./proving.ts";

export interface FollowerOptions {
  /** L: the bound in the validator's row, and the life of a lease. Milliseconds. */
  readonly leaseMs: number;
  /** R: the interval of polls, 20 % more or less. Milliseconds. */
  readonly pollMs: number;
  readonly readerVersion: number;
  /** It may redo changes that an epoch lacks. */
  readonly redoes: boolean;
  /** The peppers of this process at the time when it registers. */
  readonly kids: () => readonly string[];
}

export interface FollowerDeps {
  readonly log: RevocationLog;
  readonly freshness: Freshness;
  readonly lookup: Pick<Lookup, "forget">;
  readonly reader: Pick<TokenReader, "reconnect">;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
  /** A new UUID; never one that was used before. */
  readonly newId: () => string;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** The client caches that this process feeds. */
  readonly feed?: FedCaches;
  /** The journal, if one is configured and this process may redo changes. */
  readonly journal?: EpochJournal;
}

/** The shortest time between two polls, however many wake-ups come. */
const SHORTEST_REST_MS = 20;
const MOST_ORPHANS = 16;
/** An epoch that lasted this long is followed by the next without a rest. */
const STEADY_MS = 1_000;
/** The most polls without a rest between them. */
const MOST_STEPS = 8;
/** The pause after the first error of this program; it doubles with each further one, up to the longest. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A lasting problem is reported again at this interval. */
const SAY_AGAIN_MS = 60_000;

/** The reason to leave an incarnation: its position is below `applied`, or a restore wrote the log's rows. */
type LeaveCause = "head_behind" | "restored_rows";

/**
 * Follows the log for this process, and keeps its row in `validators` (`docs/protocol.md` §4.1, §4.2): boot, register,
 * poll, apply, acknowledge. Only one statement runs at a time. So every poll that gives a lease is sent after the
 * registration was acknowledged.
 */
export class Follower {
  readonly #deps: FollowerDeps;
  readonly #options: FollowerOptions;
  readonly #acknowledger: Acknowledger;
  readonly #proving: Proving;
  readonly #ready = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #me: string | undefined;
  #registered = false;
  /** Ids whose registration failed. Their rows may exist all the same, and are deleted later. */
  #orphans: string[] = [];
  #lastSent = Number.NEGATIVE_INFINITY;
  #lastGrant: number | undefined;
  #turnedAway = false;
  /** Counts the calls of `renew`. */
  #renewals = 0;
  /** Errors of this program since the last lease. */
  #faults = 0;
  #stopping = false;
  #woken = false;
  #onWake: (() => void) | undefined;
  /** The reason why no epoch can begin, and the time at which it was last reported. */
  #hindered: { readonly cause: LeaveCause; readonly at: number } | undefined;
  #settled: string | undefined;
  #named: { readonly names: string; readonly since: number } | undefined;
  #maxBoundMs = 0;

  constructor(deps: FollowerDeps, options: FollowerOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#acknowledger = new Acknowledger(deps);
    this.#proving = new Proving(deps, options);
    deps.log.onWakeUp(() => this.wake());
    this.#ready.promise.catch(() => {});
  }

  /**
   * Resolves with the first lease, or behind a closed guard. Retries while the database is unreachable. Rejects with
   * NOT_DONE if the database does not admit this program version.
   */
  start(): Promise<void> {
    this.#running ??= this.#keepRunning();
    return this.#ready.promise;
  }

  /** The id of the validator's row; undefined before the first registration. */
  get me(): string | undefined {
    return this.#registered ? this.#me : undefined;
  }

  /** The epoch that the last good poll found settled. */
  get settled(): string | undefined {
    return this.#settled;
  }

  /**
   * The state of the names of database, schema and the log's tables, and the time at which this process first saw it.
   * Before that time, other tables may have had these names.
   */
  get named(): { readonly names: string; readonly since: number } | undefined {
    return this.#named;
  }

  /** The longest bound that the database admits, by the last good poll. */
  get maxBoundMs(): number {
    return this.#maxBoundMs;
  }

  /** Polls soon. A lost wake-up costs latency, never safety. */
  wake(): void {
    this.#woken = true;
    this.#onWake?.();
  }

  /** Registers again, because facts in the row, such as the peppers, have changed. */
  renew(): void {
    this.#renewals++;
    this.#registered = false;
    this.wake();
  }

  /** The position in the row, as far as this process knows; -1 if there is none. */
  get acked(): number {
    return this.#acknowledger.acked;
  }

  /** A client cache has reported. This may complete an acknowledgement. */
  acknowledge(): void {
    if (this.#registered && this.#proving.told) void this.#acknowledger.run();
  }

  /**
   * Ends following, and deletes this process's row. No poll gives a lease any more. Call it after the last validation.
   * While a client cache may hold a lease under the row, this process goes on and acknowledges for it.
   */
  async stop(): Promise<void> {
    const { feed, clock } = this.#deps;
    feed?.stop();
    for (let end: number | undefined; (end = feed?.nextEnd(clock.mono())) !== undefined; ) await this.#until(end);
    this.#acknowledger.stop();
    this.#proving.stop();
    this.#stopping = true;
    this.#deps.freshness.stop();
    this.wake();
    await this.#running;
    const rows = this.#me === undefined ? this.#orphans : [this.#me, ...this.#orphans];
    await this.#deregister(rows);
  }

  /** A bug in this program must not end the follower. It starts again under a new row, and has no lease meanwhile. */
  async #keepRunning(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.#run();
      } catch (error) {
        this.#registered = false;
        this.#deps.freshness.dropLease();
        const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#faults++);
        this.#sayFailed(error, pauseMs);
        await this.#pause(pauseMs);
      }
    }
  }

  /** Even an error in reporting does not end the loop. */
  #sayFailed(error: unknown, pauseMs: number): void {
    try {
      this.#deps.events.alarm("follower_failed", { pauseMs });
      this.#deps.events.trouble("follower_failed", error);
    } catch {
      // Nothing is left that could report it.
    }
  }

  /** Wake-ups do not shorten the pause; stopping does. */
  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#deps.timers.after(ms, resolve);
    this.#onWake = () => {
      if (this.#stopping) resolve();
    };
    if (!this.#stopping) await promise;
    cancel();
    this.#onWake = undefined;
  }

  async #run(): Promise<void> {
    while (!this.#stopping && this.#deps.freshness.epoch === undefined) {
      await this.#boot();
      if (this.#deps.freshness.epoch === undefined) await this.#rest();
    }
    while (!this.#stopping) {
      // A step towards the proof of the epoch may be done. Then the next poll shows more. A database that says so again and
      // again does not make it run without a rest.
      for (let more = true, steps = 0; more && steps < MOST_STEPS && !this.#stopping; steps++) {
        if (!this.#registered) await this.#register();
        more = this.#registered && !this.#stopping && (await this.#poll());
      }
      if (!this.#stopping) await this.#rest();
    }
  }

  async #boot(): Promise<void> {
    const { log, clock, events } = this.#deps;
    this.#lastSent = clock.mono();
    try {
      const seen = await log.readEpoch();
      if (seen.inRecovery) return log.reconnect();
      if (!isWhole(seen.epoch)) return await this.#leaveHistory("restored_rows", seen);
      this.#hindered = undefined;
      this.#name(seen.names);
      this.#begin(seen.epoch, clock.mono());
    } catch (error) {
      events.trouble("epoch_read_failed", error);
    }
  }

  async #register(): Promise<void> {
    const { log, freshness, events, newId, clock, feed } = this.#deps;
    const { leaseMs, readerVersion, kids } = this.#options;
    freshness.dropLease();
    const me = newId();
    const renewals = this.#renewals;
    this.#lastSent = clock.mono();
    // No client cache gets a lease until the registration is done.
    const mark = feed !== undefined && feed.leased(clock.mono()) > 0;
    try {
      const entry = { old: this.#me, mark, me, epoch: freshness.epoch!, boundMs: leaseMs, readerVersion, kids: kids() };
      if (!(await log.register(entry))) return this.#refused();
    } catch (error) {
      this.#orphans = [...this.#orphans, me].slice(-MOST_ORPHANS);
      return events.trouble("registration_failed", error);
    }
    this.#me = me;
    this.#acknowledger.begin(me);
    feed?.forget();
    // If `renew` was called during the registration, this row is outdated. Then no poll runs under it, and the next
    // registration replaces it.
    this.#registered = renewals === this.#renewals;
    if (!this.#registered) this.#again();
    if (this.#turnedAway) this.#begin(freshness.epoch!, clock.mono());
    this.#turnedAway = false;
    void this.#deregister(this.#orphans.splice(0));
  }

  /** Deletes rows of this process. If that fails, other processes reap them. */
  async #deregister(rows: readonly string[]): Promise<void> {
    const { log, events } = this.#deps;
    await Promise.all(
      rows.map((row) => log.deregister(row).catch((error) => events.trouble("deregistration_failed", error))),
    );
  }

  /** The database does not admit this lease or this program version. Every token is refused until it does. */
  #refused(): void {
    this.#turnedAway = true;
    this.#deps.freshness.halt();
    this.#deps.events.alarm("not_admitted", { leaseMs: this.#options.leaseMs });
    const text = "the database admits no validator of this version, or with a lease this long";
    this.#ready.reject(new AppError("NOT_DONE", text));
  }

  /** True: poll again at once. */
  async #poll(): Promise<boolean> {
    const { log, freshness, clock, events } = this.#deps;
    this.#woken = false;
    // Read before the send: the poll's snapshot is at least as new as this.
    const sent = clock.mono();
    this.#lastSent = sent;
    const from = freshness.applied;
    let page: PollResult;
    try {
      page = await log.poll(this.#me!, freshness.epoch!, from);
    } catch (error) {
      events.trouble("poll_failed", error);
      return false;
    }
    const received = clock.mono();
    if (!page.inRecovery) this.#name(page.names);
    this.#proving.account(page);
    const outcome = freshness.apply(page, sent, received);
    if (outcome === "granted" || outcome === "unproven") return this.#followed(page, from, outcome, sent, received);
    switch (outcome) {
      case "recovery":
        log.reconnect();
        return false;
      case "epoch": {
        // At once, because nothing is allowed before. Servers that take turns do not make it hurry.
        const steady = received - freshness.sawEpoch > STEADY_MS;
        this.#newEpoch(page, received);
        return steady;
      }
      case "unregistered":
        this.#registered = false;
        this.#again();
        return false;
      case "backwards":
        await this.#leaveHistory("head_behind", page);
        return false;
      case "unsealed":
        await this.#leaveHistory("restored_rows", page);
        return false;
      case "stopped":
        return false;
    }
  }

  /** After a page of this epoch was applied. True: poll again at once. */
  async #followed(
    page: PollResult,
    from: number,
    outcome: "granted" | "unproven",
    sent: number,
    received: number,
  ): Promise<boolean> {
    const { freshness, events, feed, journal } = this.#deps;
    this.#proving.remember(page);
    this.#faults = 0;
    this.#settled = page.settled;
    this.#maxBoundMs = page.maxBoundMs;
    events.guard(page.regressed ? "regressed" : outcome === "granted" ? "ok" : "proving");
    if (outcome === "granted") {
      if (this.#lastGrant !== undefined) events.lease((received - this.#lastGrant) / 1000);
      this.#lastGrant = sent;
    }
    // Behind a closed guard, what takes authority away must still be possible.
    if (outcome === "granted" || page.regressed) this.#ready.resolve();
    feed?.applied(page, from);
    try {
      // Before the acknowledgement, which tells the others that this process has nothing more to report.
      const noted = await this.#proving.report(freshness.epoch!);
      journal?.seen(freshness.epoch!, page.position);
      await this.#acknowledger.run();
      const pending = page.pending || noted;
      if (outcome === "granted" && !pending) return false;
      return await this.#proving.prove(page, pending, freshness.epoch!);
    } catch (error) {
      events.trouble("proof_failed", error);
      return false;
    }
  }

  /**
   * Tries to draw a new incarnation, because this one may have used positions twice. No epoch begins before this or
   * another process has drawn one. Each poll tries again until then.
   */
  async #leaveHistory(cause: LeaveCause, seen: Evidence): Promise<void> {
    const { log, freshness, clock, events } = this.#deps;
    const now = clock.mono();
    const facts = { cause, head: seen.position, applied: freshness.applied };
    const said = this.#hindered?.cause === cause ? this.#hindered.at : undefined;
    const due = said === undefined || now - said >= SAY_AGAIN_MS;
    if (due) this.#hindered = { cause, at: now };
    if (said === undefined) events.alarm("history_regressed", facts);
    try {
      await log.draw(seen.epoch);
      if (said === undefined) this.#again();
    } catch (error) {
      if (due) events.trouble("incarnation_draw_failed", error);
    }
    if (said !== undefined && due) events.note("awaiting_incarnation", facts);
  }

  #name(names: string): void {
    if (this.#named?.names !== names) this.#named = { names, since: this.#deps.clock.mono() };
  }

  #newEpoch(page: PollResult, now: number): void {
    const { freshness, lookup, reader, events, feed } = this.#deps;
    const facts = { head: page.position, applied: freshness.applied };
    if (page.position < freshness.applied) events.alarm("history_regressed_new_server", facts);
    else events.note("new_epoch", facts);
    this.#hindered = undefined;
    this.#begin(page.epoch, now);
    // Their leases began with polls of the old epoch. No acknowledgement counts before all of those are over.
    feed?.forget();
    lookup.forget();
    reader.reconnect();
    this.#registered = false;
    this.#again();
  }

  #begin(epoch: string, now: number): void {
    this.#proving.begin(epoch, now);
  }

  async #until(time: number): Promise<void> {
    const { clock, timers } = this.#deps;
    await new Promise<void>((resolve) => timers.after(Math.max(1, time - clock.mono()), resolve));
  }

  #again(): void {
    this.#woken = true;
  }

  /** Waits until the next poll is due or a wake-up comes. */
  async #rest(): Promise<void> {
    const { clock, timers, random } = this.#deps;
    const { promise, resolve } = Promise.withResolvers<void>();
    const until = (time: number) => timers.after(Math.max(0, time - clock.mono()), resolve);
    let cancel = until(this.#lastSent + this.#options.pollMs * (0.8 + 0.4 * random()));
    this.#onWake = () => {
      this.#onWake = undefined;
      cancel();
      cancel = until(this.#lastSent + (this.#stopping ? 0 : SHORTEST_REST_MS));
    };
    if (this.#woken) this.#onWake();
    await promise;
    this.#onWake = undefined;
  }
}

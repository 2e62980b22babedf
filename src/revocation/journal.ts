import type { Clock, Timers } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Freshness } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import { compareWithJournal, LAST, WHY } from "./journal-evidence.ts";
import type {
  ChangeJournal,
  EpochJournal,
  JournalPage,
  JournalPlace,
  JournalState,
  JournalStore,
  LogRecord,
  RevocationLog,
} from "./ports.ts";

export interface JournalDeps {
  readonly store: JournalStore;
  readonly log: Pick<RevocationLog, "reportLost">;
  readonly freshness: Pick<Freshness, "unproven" | "halt">;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
  /** Makes the follower poll. */
  readonly wake: () => void;
}

interface Waiter {
  readonly epoch: string;
  readonly since: number;
  failures: number;
  readonly resolve: (written: boolean) => void;
}

/** Other processes append what the one that made a change did not. Milliseconds. */
const OTHERS_MS = 300;
/** The pause after a failure. */
const AGAIN_MS = 1_000;
/** The least pause after a failure, also if changes wait. */
const RETRY_MS = 75;
/** A change that waits for the journal lets it fail once: its connection may have been lost while nobody used it. */
const FAILURES = 2;
/** A comparison reads much, and what it lacked is seldom there a second later. */
const MISMATCH_AGAIN_MS = 3_000;
/** The database learns at this interval how far the journal is. */
const REACHED_MS = 10_000;
/** An unreachable journal that holds up the proof of an epoch raises the alarm after the first, and again after the second. */
const ALARM_AFTER_MS = 5_000;
const ALARM_AGAIN_MS = 60_000;

/**
 * Keeps the journal (`docs/protocol.md` §4.9) for one full process: appends the log's changes to it, and compares it with
 * the log when an epoch begins. Works beside the follower, which waits for the journal's server only until a journal is
 * attached for the first time.
 */
export class Journal implements EpochJournal, ChangeJournal {
  readonly #deps: JournalDeps;
  #epoch: string | undefined;
  /** The epochs that are over. */
  readonly #past = new Set<string>();
  #sawEpoch = 0;
  /** This process has seen in its life that a journal is attached. */
  #known = false;
  #begun = false;
  /** The journal has lost this epoch since it began: everything that the log has is appended again. */
  #anew = false;
  /** The journal lacks changes of this epoch that the log has no more. */
  #lost = false;
  #compared = false;
  #comparing: Promise<void> | undefined;
  #compareNext = 0;
  /** The last record of this epoch that this process has appended. */
  #place: JournalPlace & { readonly of?: number } = { position: -1, nr: LAST };
  /** Everything up to this position is in the journal. */
  #covered = -1;
  /** The time since which changes wait for being appended. */
  #behind: number | undefined;
  /** When the last of them was seen. */
  #lastSeen = Number.NEGATIVE_INFINITY;
  #waiters: Waiter[] = [];
  #running: Promise<void> | undefined;
  #again = false;
  #cancel: (() => void) | undefined;
  #dueAt = Number.POSITIVE_INFINITY;
  #notBefore = Number.NEGATIVE_INFINITY;
  #saidReached = Number.NEGATIVE_INFINITY;
  readonly #alarms = new Map<string, number>();
  #stopped = false;

  constructor(deps: JournalDeps) {
    this.#deps = deps;
  }

  /** How long the oldest change that is not in the journal has been waiting. Seconds. */
  get lag(): number {
    return this.#behind === undefined ? 0 : (this.#deps.clock.mono() - this.#behind) / 1000;
  }

  async attach(epoch: string): Promise<void> {
    const { store, events } = this.#deps;
    if (this.#known) return store.attach(epoch);
    const { attached, database } = await store.state(epoch);
    if (!attached) {
      try {
        if ((await store.begin(database, epoch, true)) !== "begun") return;
      } catch (error) {
        // Nothing was attached before, so this epoch needs nothing from it.
        return events.trouble("journal_failed", error);
      }
      await store.attach(epoch);
    }
    this.#known = true;
  }

  seen(epoch: string, position: number): void {
    if (epoch !== this.#epoch) this.#enter(epoch);
    if (!this.#compared) this.#compareSoon(epoch);
    if (position <= this.#covered) return;
    this.#appendIn(OTHERS_MS);
  }

  /** This process has made a change. */
  changed(): void {
    if (this.#epoch !== undefined) this.#appendIn(0);
  }

  written(epoch: string, since: number): Promise<boolean> {
    if (this.#stopped || this.#past.has(epoch)) return Promise.resolve(false);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#waiters.push({ epoch, since, failures: 0, resolve });
    this.#runIn(0);
    return promise;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel?.();
    for (const { resolve } of this.#waiters.splice(0)) resolve(false);
    await this.#comparing;
    await this.#running;
    // The last changes, for which no timer runs any more.
    if (this.#begun && this.#behind !== undefined) await this.#round().catch(() => {});
    await this.#deps.store.close();
  }

  #enter(epoch: string): void {
    if (this.#epoch !== undefined) this.#past.add(this.#epoch);
    this.#epoch = epoch;
    this.#sawEpoch = this.#deps.clock.mono();
    this.#begun = false;
    this.#anew = false;
    this.#lost = false;
    this.#compared = false;
    this.#compareNext = 0;
    this.#place = { position: -1, nr: LAST };
    this.#covered = -1;
    this.#settle(({ epoch: of }) => (of === epoch ? undefined : false));
    this.#runIn(0);
  }

  // ------------------------------------------------------------------------------------------------ appending

  /** A change waits for being appended. */
  #appendIn(ms: number): void {
    this.#lastSeen = this.#deps.clock.mono();
    this.#behind ??= this.#lastSeen;
    this.#runIn(ms);
  }

  #runIn(ms: number): void {
    if (this.#stopped) return;
    const { clock, timers } = this.#deps;
    if (ms === 0 && this.#running !== undefined) this.#again = true;
    const now = clock.mono();
    const at = Math.max(now + ms, this.#notBefore);
    if (at >= this.#dueAt) return;
    this.#cancel?.();
    this.#dueAt = at;
    this.#cancel = timers.after(at - now, () => {
      this.#dueAt = Number.POSITIVE_INFINITY;
      this.#cancel = undefined;
      this.#running ??= this.#run().finally(() => {
        this.#running = undefined;
      });
    });
  }

  async #run(): Promise<void> {
    do {
      this.#again = false;
      const epoch = this.#epoch;
      const round = this.#waiters.filter((waiter) => waiter.epoch === epoch);
      try {
        await this.#round();
      } catch (error) {
        this.#deps.events.trouble("journal_failed", error);
        for (const waiter of round) waiter.failures++;
        this.#settle(({ failures }) => (failures >= FAILURES ? false : undefined));
        // Otherwise the changes stay in the log, and the next round begins where this one did.
        this.#again = false;
        this.#notBefore = this.#deps.clock.mono() + RETRY_MS;
        this.#runIn(this.#waiters.some((waiter) => waiter.epoch === this.#epoch) ? RETRY_MS : AGAIN_MS);
      }
    } while (this.#again && !this.#stopped);
  }

  async #round(): Promise<void> {
    const { store, clock } = this.#deps;
    const epoch = this.#epoch;
    if (epoch === undefined) return;
    if (!(await this.#begin(epoch))) throw new Error("the journal does not take this epoch");
    for (;;) {
      // Read before the send: the page shows everything that was committed before.
      const sent = clock.mono();
      const page = await store.after(epoch, this.#place);
      const { records, head, more } = page;
      if (epoch === this.#epoch && this.#lacks(page)) this.#lost = true;
      const appended = records.length === 0 || (await store.append(epoch, records));
      if (epoch !== this.#epoch) return;
      if (!appended) {
        // The next round finds the reason: another epoch has begun, or somebody has emptied the journal.
        this.#begun = false;
        this.#anew = true;
        throw new Error("the journal has another epoch");
      }
      if (records.length > 0) this.#place = records.at(-1)!;
      // A stop appends one page at most: the others append the rest.
      if (more && this.#stopped) return;
      if (more) continue;
      // The later changes are kept all the same. But a change whose row is gone must not pass for one that is in the journal.
      if (this.#lost && !page.waived) {
        this.#alarm("journal_mismatch", { why: "changes have left the log before the journal had them" });
        throw new Error("the log has lost changes that the journal does not have");
      }
      this.#lost = false;
      this.#covered = head;
      // The page may lack what was seen after it was asked for.
      this.#behind = this.#lastSeen > sent ? this.#lastSeen : undefined;
      if (this.#behind !== undefined) this.#runIn(OTHERS_MS);
      this.#settle((waiter) => (waiter.epoch === epoch && waiter.since <= sent ? true : undefined));
      return this.#tell(epoch);
    }
  }

  /** Rows of the log are gone that this journal never got. A journal that begins takes what there is. */
  #lacks({ floor, journaledN }: JournalPage): boolean {
    const { position, nr, of = nr } = this.#place;
    if (position <= 0) return false;
    return floor > Math.max(nr < of ? position - 1 : position, journaledN);
  }

  /** True if this epoch may be appended to. */
  async #begin(epoch: string): Promise<boolean> {
    if (this.#begun) return true;
    const state = await this.#deps.store.state(epoch);
    const begun = await this.#open(epoch, state);
    if (epoch !== this.#epoch) return false;
    // At the begin of an epoch the comparison says so, and closes the guard.
    if (this.#compared && (begun === "empty" || begun === "other"))
      this.#alarm("journal_mismatch", { why: WHY[begun] });
    if (begun !== "begun") return false;
    this.#place = { position: this.#anew ? -1 : state.journaledN, nr: LAST };
    this.#begun = true;
    return true;
  }

  /** Begins the epoch in the journal, and attaches the journal if that is done. */
  async #open(epoch: string, state: JournalState): Promise<"begun" | keyof typeof WHY> {
    const { store } = this.#deps;
    const begun = await store.begin(state.database, epoch, !state.attached || state.waived);
    if (begun === "older") await this.#deposed(epoch);
    if (begun !== "begun") return begun;
    if (!state.attached) await store.attach(epoch);
    this.#known = true;
    return begun;
  }

  /** Spares the next epoch most of the comparison. */
  async #tell(epoch: string): Promise<void> {
    const now = this.#deps.clock.mono();
    if (!this.#compared || now - this.#saidReached < REACHED_MS || this.#place.position < 0) return;
    this.#saidReached = now;
    await this.#deps.store.reached(epoch, this.#place.position);
  }

  /**
   * A later epoch has begun. If the database still answers in this one, there are two primaries, and the processes of this
   * one must not go on. A process that was only slow finds another epoch there.
   */
  async #deposed(epoch: string): Promise<void> {
    await this.#deps.store.state(epoch);
    if (epoch !== this.#epoch) return;
    this.#deps.freshness.halt();
    this.#alarm("two_primaries");
    this.#settle((waiter) => (waiter.epoch === epoch ? false : undefined));
  }

  /** Ends the waiting of those for which the function has an answer. */
  #settle(answer: (waiter: Waiter) => boolean | undefined): void {
    this.#waiters = this.#waiters.filter((waiter) => {
      const written = answer(waiter);
      if (written !== undefined) waiter.resolve(written);
      return written === undefined;
    });
  }

  // ------------------------------------------------------------------------------------------------ comparing

  #compareSoon(epoch: string): void {
    const { clock, store } = this.#deps;
    if (this.#comparing !== undefined || this.#stopped || clock.mono() < this.#compareNext) return;
    let pauseMs = AGAIN_MS;
    const work = async () => {
      if (!(await this.#compare(epoch))) pauseMs = MISMATCH_AGAIN_MS;
    };
    this.#comparing = store
      .alone(work)
      .catch((error) => this.#failed(error))
      .finally(() => {
        this.#comparing = undefined;
        this.#compareNext = clock.mono() + pauseMs;
      });
  }

  /** False if the journal does not show everything. */
  async #compare(epoch: string): Promise<boolean> {
    const { store, wake } = this.#deps;
    const state = await store.state(epoch);
    if (state.compared !== epoch) {
      const why = await this.#evidence(epoch, state);
      // A wrong journal stops no database that never had one: `journal.url` may be a mistake.
      if (why !== undefined && !state.attached && !this.#known) {
        this.#alarm("journal_mismatch", { why });
        return false;
      }
      if (why !== undefined) {
        const closed = await store.mismatch(epoch, why);
        if (closed) this.#alarm("journal_mismatch", { why });
        // An operator may do without what it lacks. But nothing can be appended before it is this database's.
        if (closed || !this.#begun) return false;
      }
      await store.compared(epoch);
    }
    if (epoch === this.#epoch) this.#compared = true;
    wake();
    return true;
  }

  /** Resolves with the reason why the journal cannot tell what this epoch lacks, or undefined. */
  async #evidence(epoch: string, state: JournalState): Promise<string | undefined> {
    const { store, log } = this.#deps;
    const begun = await this.#open(epoch, state);
    // This process has halted, or is only slow: the guard is not its to close.
    if (begun === "older") throw new Error("a later epoch has begun");
    if (begun !== "begun") return WHY[begun];
    if (epoch === this.#epoch) this.#runIn(0);
    const report = async (of: string, records: readonly LogRecord[]) => {
      if (this.#stopped) throw new Error("this process stops");
      await log.reportLost(of, records);
    };
    return compareWithJournal({ store, report }, epoch, state);
  }

  #failed(error: unknown): void {
    const { events, clock, freshness } = this.#deps;
    const ofJournal = error instanceof AppError && error.metadata["journal"] !== undefined;
    events.trouble(ofJournal ? "journal_failed" : "proof_failed", error);
    if (ofJournal && freshness.unproven && clock.mono() - this.#sawEpoch >= ALARM_AFTER_MS)
      this.#alarm("journal_unreachable");
  }

  #alarm(name: "two_primaries" | "journal_mismatch" | "journal_unreachable", facts: Record<string, string> = {}): void {
    const now = this.#deps.clock.mono();
    if (now - (this.#alarms.get(name) ?? Number.NEGATIVE_INFINITY) < ALARM_AGAIN_MS) return;
    this.#alarms.set(name, now);
    this.#deps.events.alarm(name, facts);
  }
}

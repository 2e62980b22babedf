import type { Clock } from "../domain/clock.ts";
import { type Freshness, leaseOver } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import type { EpochJournal, LogRecord, PollResult, RevocationLog } from "./ports.ts";
import { RememberedChanges } from "./remembered-changes.ts";

export interface ProvingDeps {
  readonly log: Pick<RevocationLog, "reportLost" | "redoLost" | "prove">;
  readonly freshness: Freshness;
  readonly clock: Clock;
  readonly events: Events;
  /** Only where a journal is configured. */
  readonly journal?: EpochJournal;
}

export interface ProvingOptions {
  readonly leaseMs: number;
  /** It may redo changes that an epoch lacks. */
  readonly redoes: boolean;
}

/** Redoing lost changes stops for a poll after this time. */
const REDO_MS = 300;

/**
 * Proves an epoch before it allows tokens (`docs/protocol.md` §4.7): finds what it lacks of the changes that this process
 * remembers, notes that in the database, redoes what is noted, and marks the epoch.
 */
export class Proving {
  readonly #deps: ProvingDeps;
  readonly #options: ProvingOptions;
  readonly #remembered = new RememberedChanges();
  /** The changes that this epoch seems to lack; undefined before its first page. */
  #missing: readonly LogRecord[] | undefined;
  /** The missing changes are noted in the database. */
  #reported = false;
  /** The epoch that needs the journal, or there is none. */
  #attached = false;
  #stopping = false;

  constructor(deps: ProvingDeps, options: ProvingOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** This process has nothing to report that it has not reported. */
  get told(): boolean {
    return (this.#missing === undefined || this.#reported) && (this.#attached || this.#deps.journal === undefined);
  }

  begin(epoch: string, now: number): void {
    const { freshness } = this.#deps;
    this.#remembered.begin();
    this.#missing = undefined;
    this.#reported = false;
    this.#attached = false;
    freshness.begin(epoch, now, !this.#remembered.doubtful);
  }

  /** A redo in progress ends after the change that it is at. */
  stop(): void {
    this.#stopping = true;
  }

  /** Looks for what this process remembers of earlier epochs. The page was not applied yet. */
  account(page: PollResult): void {
    const { freshness } = this.#deps;
    if (freshness.accounted || page.inRecovery || page.epoch !== freshness.epoch) return;
    // The first page of an epoch reaches as far down as pages do.
    if (freshness.applied < 0) this.#missing ??= this.#remembered.missing(page);
    if (this.#missing === undefined) return;
    if (this.#reported ? page.pending : this.#missing.length > 0) return;
    this.#remembered.settle();
    this.#missing = undefined;
    freshness.account();
  }

  /** Keeps what a page of this epoch brought, for the epochs after it. */
  remember(page: PollResult): void {
    this.#remembered.add(page);
  }

  /** Notes in the database what this epoch lacks. True if it did now. */
  async report(epoch: string): Promise<boolean> {
    const { journal } = this.#deps;
    if (journal !== undefined && !this.#attached) {
      await journal.attach(epoch);
      this.#attached = true;
    }
    if (this.#missing === undefined || this.#reported) return false;
    await this.#deps.log.reportLost(epoch, this.#missing);
    this.#reported = true;
    this.#deps.events.note("lost_changes_found", { remembered: this.#missing.length });
    return true;
  }

  /**
   * Does what is left before this epoch allows tokens: redoes what is noted, and marks the epoch as proven. Returns true if
   * something was done.
   */
  async prove(page: PollResult, pending: boolean, epoch: string): Promise<boolean> {
    const { log, freshness, clock } = this.#deps;
    if (pending) return this.#options.redoes ? await this.#redo(epoch) : false;
    if (page.proven || !freshness.accounted) return false;
    const waited = clock.mono() - freshness.sawEpoch >= leaseOver(Math.max(page.maxBoundMs, this.#options.leaseMs));
    return log.prove(epoch, waited);
  }

  async #redo(epoch: string): Promise<boolean> {
    const { log, clock } = this.#deps;
    const counts = { applied: 0, held: 0, noted: 0, late: 0 };
    const until = clock.mono() + REDO_MS;
    let some = false;
    try {
      while (clock.mono() < until && !this.#stopping) {
        const done = await log.redoLost(epoch);
        if (done === "busy") return some;
        // None is left: the next poll shows it.
        if (done === undefined) return true;
        some = true;
        counts[done.state]++;
        if (done.late) counts.late++;
      }
      return some;
    } finally {
      if (some) this.#redone(counts);
    }
  }

  #redone(counts: Readonly<Record<"applied" | "held" | "noted" | "late", number>>): void {
    const { events } = this.#deps;
    events.lostChanges(counts);
    if (counts.applied > 0) events.alarm("lost_changes_replayed", counts);
    if (counts.held > 0) events.alarm("lost_changes_held", counts);
  }
}

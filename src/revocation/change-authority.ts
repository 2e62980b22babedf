import { AppError } from "../domain/errors.ts";
import { leaseOver } from "../domain/freshness.ts";
import { withDeadline } from "../domain/with-deadline.ts";
import { AckWait, type AckWaitDeps } from "./ack-wait.ts";
import type { AuthorityStore } from "./authority-store.ts";
import type { Authority, Effect, WaitOptions } from "./effect.ts";
import type { ChangeJournal, Committed } from "./ports.ts";

export interface ChangeAuthorityDeps extends AckWaitDeps {
  readonly store: AuthorityStore;
  /** Wakes this process's follower and, best effort, the followers of other processes. */
  readonly wake: () => void;
  /** A journal without which no change is reported as done. */
  readonly journal?: ChangeJournal | undefined;
}

type Work<T> = (store: AuthorityStore) => Promise<Committed<T>>;

/** The time limit for a caller without a deadline, and for a wait in the background. */
const LONGEST_MS = 30_000;
/** Time kept in reserve so that EFFECT_PENDING still reaches the caller before its deadline. */
const RESERVE_MS = 50;

/**
 * The one path of every change of authority (`docs/protocol.md` §4.5). It commits, then waits until every validator has
 * acknowledged the change, or until every lease on older cached answers is over. Nothing is denied before the commit. A
 * repeat of a change that was already done waits just the same.
 */
export class ChangeAuthority implements Authority {
  readonly #deps: ChangeAuthorityDeps;
  readonly #effects: AckWait;
  #last: Effect | undefined;

  constructor(deps: ChangeAuthorityDeps) {
    this.#deps = deps;
    this.#effects = new AckWait(deps);
  }

  /** The effect of the last change that this process waited for. */
  get last(): Effect | undefined {
    return this.#last;
  }

  async change<T>(work: Work<T | AppError>, options: WaitOptions): Promise<{ value: T; effect: Effect }> {
    const { value, effect } = await this.#change(work, options);
    if (value instanceof AppError) throw value;
    return { value, effect };
  }

  async #change<T>(work: Work<T>, options: WaitOptions): Promise<{ value: T; effect: Effect }> {
    const deadline = options.deadline ?? this.#deps.clock.mono() + LONGEST_MS;
    if (!options.noWait) return this.#inForce(work, await this.#commit(work, deadline, false), deadline);
    const first = await this.#commit(work, deadline, false);
    await this.#journaled(first, deadline);
    this.#inForce(work, first, this.#deps.clock.mono() + LONGEST_MS).catch((error) =>
      this.#deps.events.trouble("background_wait_failed", error),
    );
    this.#deps.events.authorityChanged("ACCEPTED", 0);
    const { effectiveBy } = first;
    const effect: Effect = { mode: "ACCEPTED", position: 0, acknowledged: 0, validators: 0, waitedMs: 0, effectiveBy };
    return { value: first.commit.value, effect };
  }

  async #inForce<T>(work: Work<T>, first: Done<T>, deadline: number): Promise<{ value: T; effect: Effect }> {
    const { clock, events } = this.#deps;
    for (let done = first; ; done = await this.#commit(work, deadline, true)) {
      const outcome = await withDeadline(
        this.#deps,
        this.#effects.wait(done.commit, done.since),
        deadline - RESERVE_MS,
      );
      if (outcome === "again") continue;
      // Also where the wait is over: what is not in the journal is not durable.
      await this.#journaled(done, deadline);
      if (outcome === undefined) throw pending(done.effectiveBy, done.since + done.longestMs - clock.mono());
      const now = clock.mono();
      const waitedMs = now - first.since;
      events.authorityChanged(outcome.mode, waitedMs / 1000);
      const effect = { ...outcome, waitedMs, effectiveBy: done.committedBy + (now - done.since) };
      this.#last = effect;
      return { value: done.commit.value, effect };
    }
  }

  /** Rejects unless the change is in the journal, if it must be. */
  async #journaled({ journal }: Done<unknown>, deadline: number): Promise<void> {
    if (journal === undefined) return;
    // Its answer comes first, so that it counts also past the deadline.
    if (await Promise.race([journal, withDeadline(this.#deps, journal, deadline - RESERVE_MS)])) return;
    const text =
      "the change is made, but it is not in the journal yet: a failover may lose it; it is safe to repeat the call";
    throw new AppError("OUTCOME_UNKNOWN", text, { metadata: { journal: "pending" }, retryAfterMs: 1000 });
  }

  /** One run of the work, up to the acknowledgement of its commit. */
  async #commit<T>(work: Work<T>, deadline: number, rerun: boolean): Promise<Done<T>> {
    const { store, clock, wake } = this.#deps;
    const started = clock.mono();
    let failure: unknown;
    const attempt = work(store).catch((error) => {
      failure = error;
      return undefined;
    });
    const commit = await withDeadline(this.#deps, attempt, deadline);
    const since = clock.mono();
    if (commit === undefined) throw this.#notDone(failure, rerun);
    wake();
    const longestMs = leaseOver(commit.maxBoundMs);
    // The database's time was read after `started`, so this bound is never too early.
    const committedBy = commit.dbTime + (since - started);
    const journal = this.#deps.journal?.written(commit.epoch, since);
    return { commit, since, journal, longestMs, committedBy, effectiveBy: committedBy + longestMs };
  }

  #notDone(failure: unknown, rerun: boolean): unknown {
    if (failure !== undefined && !rerun) return failure;
    if (failure instanceof AppError && failure.reason === "OUTCOME_UNKNOWN") return failure;
    const text = "it is not known whether the change was made; it is safe to repeat the call";
    return new AppError("OUTCOME_UNKNOWN", text, { retryAfterMs: 1000, cause: failure });
  }
}

/** An acknowledged commit: its time on this process's clock, and the latest time at which it is in force. */
interface Done<T> {
  readonly commit: Committed<T>;
  readonly since: number;
  /** Resolves with true once the change is in the journal; undefined if nobody waits for that. */
  readonly journal: Promise<boolean> | undefined;
  readonly longestMs: number;
  /** Database times: the latest time of the commit, and the latest time at which it is in force. */
  readonly committedBy: number;
  readonly effectiveBy: number;
}

function pending(effectiveBy: number, leftMs: number): AppError {
  const ms = Math.max(0, Math.ceil(leftMs));
  return new AppError("EFFECT_PENDING", `the change is durable, and in force everywhere within ${ms} ms`, {
    metadata: { effective_by: new Date(effectiveBy).toISOString() },
    retryAfterMs: ms,
  });
}

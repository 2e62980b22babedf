import type { JournalPlace, JournalRecord, JournalState, JournalStore, LogRecord } from "./ports.ts";

/*
 * Compares the journal with the log at the begin of an epoch (`docs/protocol.md` §4.9).
 */

export interface EvidenceDeps {
  readonly store: Pick<JournalStore, "epochs" | "newest" | "page" | "common">;
  /** Notes those of the records that the database lacks. */
  readonly report: (epoch: string, records: readonly LogRecord[]) => Promise<void>;
}

/**
 * Notes in the database what the journal has of earlier epochs and this one lacks. Resolves with the reason why the journal
 * does not have everything, or undefined. No earlier epoch appends any more.
 */
export async function compareWithJournal(
  { store, report }: EvidenceDeps,
  epoch: string,
  state: JournalState,
): Promise<string | undefined> {
  const epochs = await store.epochs(state.compared);
  if (epochs === undefined) return "it does not know the last epoch of this database";
  // Only an epoch that was compared raises `journaledN`. Changes that later ones append must not hide what is missing below.
  if (Math.max(0, await store.newest(state.compared)) < state.journaledN)
    return "it lacks the newest changes that this database has put there";
  let gap = false;
  let top = state.journaledN;
  for (const past of epochs) {
    if (past === epoch) continue;
    const begun = past === state.compared ? state.journaledN : undefined;
    const run = new Positions(begun, top);
    let common = Math.max(state.floorN, begun ?? -1);
    for (let place: JournalPlace = { position: begun ?? -1, nr: LAST }; ; ) {
      const records = await store.page(past, place);
      if (records.length === 0) break;
      place = records.at(-1)!;
      await report(epoch, records);
      common = Math.max(common, await store.common(epoch, records));
      for (const record of records) run.add(record);
    }
    run.end();
    // Two histories that share a change share all before it, so a gap below it hides nothing.
    if (run.lastMissing > common) gap = true;
    top = Math.max(top, run.top);
  }
  return gap ? "changes are missing between those that it has" : undefined;
}

/** Why a journal does not take an epoch. */
export const WHY = {
  older: "a later epoch has begun in it",
  empty: "it is empty",
  other: "it is the journal of another database",
};

/** After every record of its position. */
export const LAST = 2 ** 31 - 1;

/** Watches over the positions of one epoch in the journal: each has all its records, and none is left out. */
class Positions {
  /** The highest position that should be there and is not, or not as a whole; -1 if there is none. */
  lastMissing = -1;
  #expected: number | undefined;
  readonly #before: number;
  #open: { readonly position: number; readonly of: number; seen: number } | undefined;

  /** `begun`: the epoch goes on from this position. Undefined: its first position shows it; those up to `before` are there. */
  constructor(begun: number | undefined, before: number) {
    this.#expected = begun === undefined ? undefined : begun + 1;
    this.#before = before;
  }

  get top(): number {
    return (this.#expected ?? 0) - 1;
  }

  add({ position, nr, of }: JournalRecord): void {
    if (this.#open?.position !== position) {
      this.end();
      if (position > (this.#expected ?? this.#before + 1)) this.lastMissing = position - 1;
      this.#expected = position + 1;
      this.#open = { position, of, seen: 0 };
    }
    this.#open.seen++;
    if (nr !== this.#open.seen) this.lastMissing = position;
  }

  /** No record of the position follows. */
  end(): void {
    if (this.#open !== undefined && this.#open.seen < this.#open.of) this.lastMissing = this.#open.position;
    this.#open = undefined;
  }
}

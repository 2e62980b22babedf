import type { LogRecord, PollResult } from "./ports.ts";

/** The newest positions that are kept however old they are: as many as the database keeps when it prunes. */
const POSITIONS = 1_000;
/** As long as the database keeps the log. Microseconds, by its clock. */
const KEPT_US = 600e6;
/** Bounds the memory where thousands change each second. */
const MOST = 100_000;

/**
 * The newest changes of authority that this process has seen, kept across a change of the epoch. A failover or a restored
 * backup can lack some of them; counters cannot show it, because new changes take the same positions.
 */
export class RememberedChanges {
  readonly #most: number;
  /** Of the present epoch, in the order of their positions. */
  #records: LogRecord[] = [];
  /** Of earlier epochs, each list from one history, at most `most` in all. The present epoch may lack some. */
  #earlier: (readonly LogRecord[])[] = [];

  constructor(most = MOST) {
    this.#most = most;
  }

  /** True if there are changes of earlier epochs which nobody has looked for in this one. */
  get doubtful(): boolean {
    return this.#earlier.length > 0;
  }

  get size(): number {
    return this.#records.length;
  }

  /** Another epoch begins. */
  begin(): void {
    if (this.#records.length > 0) this.#earlier.push(this.#records);
    this.#records = [];
    // Epochs may follow each other before one is settled. The newest changes are the likeliest to be lost.
    let room = this.#most;
    for (let i = this.#earlier.length - 1; i >= 0; i--) {
      this.#earlier[i] = room > 0 ? this.#earlier[i]!.slice(-room) : [];
      room -= this.#earlier[i]!.length;
    }
    this.#earlier = this.#earlier.filter(({ length }) => length > 0);
  }

  /** Adds what a poll of this epoch brought. */
  add(page: Pick<PollResult, "rows" | "position" | "dbTime">): void {
    if (page.rows.length > 0) {
      this.#records = this.#records.concat(page.rows.toSorted((a, b) => a.position - b.position));
    }
    let gone = Math.max(0, this.#records.length - this.#most);
    for (const old = page.dbTime * 1000 - KEPT_US; gone < this.#records.length; gone++) {
      const { position, at } = this.#records[gone]!;
      if (position > page.position - POSITIONS || at >= old) break;
    }
    if (gone > 0) this.#records = this.#records.slice(gone);
  }

  /**
   * The changes of earlier epochs that this page, the newest of the whole log, does not show to be here. The database
   * judges those that the page does not reach.
   */
  missing(page: Pick<PollResult, "rows" | "full" | "floorN">): LogRecord[] {
    const here = new Set(page.rows.map(identity));
    // A full page may lack rows of its lowest position.
    const from = page.full ? Math.min(...page.rows.map(({ position }) => position)) : page.floorN;
    return this.#earlier.flatMap((records) => {
      const reached = records.filter(({ position }) => position > from);
      const lost = reached.filter((record) => !here.has(identity(record)));
      // Two histories that share a change share all before it.
      if (lost.length < reached.length) return lost;
      const below = records.filter(({ position }) => position <= from);
      return [...below.filter(({ position, kind }) => position > page.floorN || isFinal(kind)), ...lost];
    });
  }

  /** Everything of earlier epochs is here by now. */
  settle(): void {
    this.#earlier = [];
  }
}

/** Two changes at the same position of two histories differ in this. */
function identity({ position, at, key }: LogRecord): string {
  return `${position} ${at} ${key}`;
}

function isFinal(kind: LogRecord["kind"]): boolean {
  return kind === "revoked" || kind === "cut";
}

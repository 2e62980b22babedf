import { EVERYTHING } from "../domain/token-snapshot.ts";

/** The next step of a cache that has applied an earlier position. Caches that are equally far share one object. */
export interface Changes {
  readonly position: number;
  /** 0, or the position below which every entry is unusable. */
  readonly floor: number;
  readonly tags: readonly bigint[];
}

/** The part of a poll's answer that the feed passes on. */
export interface Polled {
  readonly position: number;
  readonly floorN: number;
  readonly rows: readonly { readonly position: number; readonly key: string }[];
  /** Complete only above its lowest position. */
  readonly full: boolean;
}

const MOST_ROWS = 5_000;
/** The most tags of one answer. */
const MOST_TAGS = 1_000;

/** The newest rows of the log, by tag. For a cache that is further behind, they make way for a floor. */
export class RecentChanges {
  #rows: { readonly position: number; readonly tag: bigint }[] = [];
  /** All rows above this position are here, and none of them says that everything changed. */
  #base = 0;
  #head = -1;
  #made = new Map<number, Changes>();

  /** The position up to which rows were added; -1 at first. */
  get head(): number {
    return this.#head;
  }

  /** Adds the rows of a poll that asked for those above `from`. */
  add(page: Polled, from: number, tag: (key: string) => bigint): void {
    if (from !== this.#head) {
      this.#rows = [];
      this.#base = from;
    }
    // Rows up to the floor may be pruned, also those that this poll asked for.
    this.#base = Math.max(this.#base, page.floorN);
    for (const { position, key } of page.rows.toSorted((a, b) => a.position - b.position)) {
      if (key === EVERYTHING) this.#base = Math.max(this.#base, position);
      else this.#rows.push({ position, tag: tag(key) });
    }
    if (page.full) this.#base = Math.max(this.#base, Math.min(...page.rows.map(({ position }) => position)));
    const surplus = this.#rows.length - MOST_ROWS;
    if (surplus > 0) this.#base = Math.max(this.#base, this.#rows.splice(0, surplus).at(-1)!.position);
    this.#head = page.position;
    this.#made = new Map();
  }

  /** Everything since this position, which a cache has applied; -1 for a cache that has applied nothing. */
  since(position: number): Changes {
    const from = Math.min(position, this.#head);
    let made = this.#made.get(from);
    if (made === undefined) this.#made.set(from, (made = this.#make(from)));
    return made;
  }

  #make(from: number): Changes {
    const position = this.#head;
    if (from === position) return { position, floor: 0, tags: [] };
    const later = this.#rows.slice(this.#firstAbove(from));
    // An answer that lacks a row must have a floor in its place.
    if (from < this.#base || later.length > MOST_TAGS) return { position, floor: position, tags: [] };
    return { position, floor: 0, tags: [...new Set(later.map(({ tag }) => tag))] };
  }

  #firstAbove(position: number): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle]!.position > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

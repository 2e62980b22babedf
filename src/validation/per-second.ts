/** Counts what may happen a limited number of times in each second. */
export class PerSecond {
  readonly #most: number;
  #second = Number.NEGATIVE_INFINITY;
  #count = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** Takes one. False if this second has none left. `now` is monotonic, in milliseconds. */
  take(now: number): boolean {
    const second = Math.floor(now / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#count = 0;
    }
    return ++this.#count <= this.#most;
  }
}

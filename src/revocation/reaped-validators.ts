/**
 * Since when this process has seen validators reaped, by its own clock. A reaped row gives no lease any more, so one
 * lease later its process holds none: then, and not before, it need not be waited for.
 */
export class ReapedValidators {
  readonly #since = new Map<string, number>();
  #epoch = "";

  /** What an answer of the server showed of one row. `now` was read after the answer came. */
  see(epoch: string, row: { readonly id: string; readonly reaped: boolean }, now: number): void {
    if (epoch !== this.#epoch) {
      this.#since.clear();
      this.#epoch = epoch;
    }
    if (!row.reaped) this.#since.delete(row.id);
    else if (!this.#since.has(row.id)) this.#since.set(row.id, now);
  }

  /** For how long the row has been seen reaped; -1 if it has not been. */
  reapedFor(id: string, now: number): number {
    const since = this.#since.get(id);
    return since === undefined ? -1 : now - since;
  }

  /** Forgets all rows but these: the others are gone. */
  keep(ids: ReadonlySet<string>): void {
    for (const id of this.#since.keys()) if (!ids.has(id)) this.#since.delete(id);
  }
}

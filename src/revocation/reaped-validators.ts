/**
 * The times at which this process first saw validators reaped, on its own clock. A reaped row gives no lease any more.
 * One lease later its process holds none, and only then may a wait leave it out.
 */
export class ReapedValidators {
  readonly #since = new Map<string, number>();
  #epoch = "";

  /** Records one row from an answer of the server. `now` was read after the answer came. */
  see(epoch: string, row: { readonly id: string; readonly reaped: boolean }, now: number): void {
    if (epoch !== this.#epoch) {
      this.#since.clear();
      this.#epoch = epoch;
    }
    if (!row.reaped) this.#since.delete(row.id);
    else if (!this.#since.has(row.id)) this.#since.set(row.id, now);
  }

  /** The time for which the row has been seen reaped; -1 if it has not been. */
  reapedFor(id: string, now: number): number {
    const since = this.#since.get(id);
    return since === undefined ? -1 : now - since;
  }

  /** Forgets all other rows, because they are gone. */
  keep(ids: ReadonlySet<string>): void {
    for (const id of this.#since.keys()) if (!ids.has(id)) this.#since.delete(id);
  }
}

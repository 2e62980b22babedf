/*
 * An epoch is one life of one history of positions, as `src/postgres/evidence.ts` makes it: timeline / incarnation / and
 * what else tells two histories apart. Positions, acknowledgements and cached rows are comparable inside one only.
 */

/** The part that can be drawn anew. */
export function incarnationOf(epoch: string): string {
  return epoch.split("/")[1] ?? epoch;
}

/** Whether every row that it rests on was written step by step. If not, a restore is under way, or has just ended. */
export function isWhole(epoch: string): boolean {
  return !epoch.endsWith("~");
}

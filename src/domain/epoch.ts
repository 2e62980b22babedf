/* An epoch is one life of one history of positions. `src/postgres/evidence.ts` builds it from the timeline, the incarnation and everything else that tells two histories apart. Positions, acknowledgements and cached rows are comparable inside one epoch only. */

/** The incarnation: the part of an epoch that a restore draws anew. */
export function incarnationOf(epoch: string): string {
  return epoch.split("/")[1] ?? epoch;
}

/**
 * True if every row of this history was committed in order. False while a restore is under way and until it is sealed.
 */
export function isWhole(epoch: string): boolean {
  return !epoch.endsWith("~");
}

package dev.sallyport.client;

import dev.sallyport.client.gen.WatchChangesResponse;

/**
 * An answer of the change feed.
 *
 * @param lease nanoseconds from the send of the request; null: no new lease
 * @param time null: no new bounds; the earlier ones move on. An answer without it gives no lease
 */
record FeedAnswer(Version version, Long lease, long[] changed, long floor, TimeBounds time) {
  static FeedAnswer of(WatchChangesResponse answer) {
    boolean timed = answer.hasTimeLower() && answer.hasTimeUpper();
    return new FeedAnswer(
        new Version(answer.getEpoch(), answer.getPosition()),
        answer.hasLease() ? Times.nanosOf(answer.getLease()) : null,
        answer.getChangedList().stream().mapToLong(Long::longValue).toArray(),
        answer.getFloor(),
        timed ? new TimeBounds(Times.of(answer.getTimeLower()), Times.of(answer.getTimeUpper())) : null);
  }
}

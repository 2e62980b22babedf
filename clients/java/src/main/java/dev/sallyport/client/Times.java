package dev.sallyport.client;

import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import java.time.Instant;

final class Times {
  private static final long LONGEST_SECONDS = 86_400;

  private Times() {}

  static Instant of(Timestamp time) {
    return Instant.ofEpochSecond(time.getSeconds(), time.getNanos());
  }

  /** Nanoseconds, from none to a day, so that sums of them cannot overflow. */
  static long nanosOf(Duration duration) {
    long seconds = Math.max(0, Math.min(duration.getSeconds(), LONGEST_SECONDS));
    return seconds * 1_000_000_000L + Math.max(0, duration.getNanos());
  }

  /** Nanoseconds from one time to another, a day at most. */
  static long between(Instant from, Instant to) {
    long seconds = to.getEpochSecond() - from.getEpochSecond();
    return seconds > LONGEST_SECONDS
        ? LONGEST_SECONDS * 1_000_000_000L
        : seconds * 1_000_000_000L + to.getNano() - from.getNano();
  }
}

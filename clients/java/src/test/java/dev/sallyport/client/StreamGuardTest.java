package dev.sallyport.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.ByteString;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.Queue;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

class StreamGuardTest {
  private record Timer(long at, Runnable then) {}

  /** A clock by hand. */
  private static final class FakeClock implements StreamGuard.Clock {
    private final List<Timer> timers = new ArrayList<>();
    private long now;

    @Override
    public long mono() {
      return now;
    }

    @Override
    public Runnable after(long nanos, Runnable then) {
      Timer timer = new Timer(now + nanos, then);
      timers.add(timer);
      return () -> timers.removeIf(other -> other == timer);
    }

    void to(long at) {
      while (true) {
        Optional<Timer> due =
            timers.stream().filter(timer -> timer.at() <= at).min(Comparator.comparingLong(Timer::at));
        if (due.isEmpty()) {
          now = at;
          return;
        }
        timers.remove(due.get());
        now = Math.max(now, due.get().at());
        due.get().then().run();
      }
    }
  }

  /** A stream that notes what its guard does. */
  private static final class Noted implements StreamGuard.Stream {
    final Queue<Consumer<Check>> asked = new ArrayDeque<>();
    final List<String> passed = new ArrayList<>();
    final List<String> ends = new ArrayList<>();

    @Override
    public void check(Consumer<Check> done) {
      asked.add(done);
    }

    @Override
    public void end(Verdict verdict) {
      ends.add(verdict.name());
    }
  }

  @TestFactory
  Stream<DynamicTest> guard() {
    return Vectors.cases("guard", StreamGuardTest::run);
  }

  private static void run(JsonObject one) {
    FakeClock clock = new FakeClock();
    FeedCache cache = new FeedCache(clock::mono);
    apply(cache, clock, new Version(ByteString.copyFromUtf8("e"), 5), new long[0], 1300);
    Noted stream = new Noted();
    Instant expire = Vectors.instant(one, "expire");
    boolean off = Vectors.string(one, "cache").equals("off");
    StreamGuard guard = new StreamGuard(off ? null : cache, Requirement.LIVE, clock, stream);
    guard.start(Check.allowed(null, entryOf(one, expire)));
    for (JsonElement each : one.getAsJsonArray("steps")) {
      JsonObject step = each.getAsJsonObject();
      clock.to(Vectors.nanos(step.get("at").getAsDouble()));
      if (step.has("feed")) {
        JsonObject feed = step.getAsJsonObject("feed");
        apply(cache, clock, Vectors.version(feed), Vectors.longs(feed, "changed"), feed.get("lease").getAsDouble());
        if (feed.has("suspends")) {
          assertEquals(feed.get("suspends").getAsBoolean(), !stream.asked.isEmpty(), step::toString);
        }
      } else if (step.has("message")) {
        guard.pass(() -> stream.passed.add(step.get("message").getAsString()));
      } else if (step.has("answer")) {
        JsonObject answer = step.getAsJsonObject("answer");
        Verdict verdict = Verdict.valueOf(answer.get("verdict").getAsString());
        stream.asked.remove().accept(
            verdict == Verdict.ALLOW ? Check.allowed(null, entryOf(answer, expire)) : Check.refused(verdict));
      } else {
        assertEquals(Vectors.strings(step, "passed"), stream.passed, step::toString);
        assertEquals(step.get("pending").getAsBoolean(), !stream.asked.isEmpty(), step::toString);
        assertEquals(
            Vectors.string(step, "ended"), stream.ends.isEmpty() ? "" : stream.ends.get(0), step::toString);
        stream.passed.clear();
      }
    }
    assertTrue(stream.ends.size() <= 1);
    guard.close();
    assertTrue(clock.timers.stream().allMatch(timer -> timer.at() <= clock.now + 20_000_000));
  }

  @Test
  void aMessageNeedsAUsableEntryHoweverLateATimerIs() {
    FakeClock clock = new FakeClock();
    FeedCache cache = new FeedCache(clock::mono);
    Version version = new Version(ByteString.copyFromUtf8("e"), 5);
    apply(cache, clock, version, new long[0], 1300);
    Noted stream = new Noted();
    StreamGuard guard = new StreamGuard(cache, Requirement.LIVE, clock, stream);
    Facts facts = new Facts(List.of(), List.of(), Vectors.at(900), null);
    guard.start(Check.allowed(null, new Entry(version, new long[] {1}, facts, null)));
    clock.now = Vectors.nanos(900); // the token has expired, and no timer has run yet
    guard.pass(() -> stream.passed.add("a"));
    assertEquals(List.of(), stream.passed);
    assertEquals(1, stream.asked.size());
    stream.asked.remove().accept(Check.refused(Verdict.INVALID_TOKEN));
    assertEquals(List.of(), stream.passed);
    assertEquals(List.of("INVALID_TOKEN"), stream.ends);
  }

  private static Entry entryOf(JsonObject of, Instant expire) {
    return Vectors.has(of, "entry") ? Vectors.entry(of.getAsJsonObject("entry"), expire) : null;
  }

  private static void apply(FeedCache cache, FakeClock clock, Version version, long[] changed, double lease) {
    Instant now = Instant.EPOCH.plusNanos(clock.mono());
    cache.apply(
        new FeedAnswer(version, Vectors.nanos(lease), changed, 0, new TimeBounds(now, now)), clock.mono());
  }
}

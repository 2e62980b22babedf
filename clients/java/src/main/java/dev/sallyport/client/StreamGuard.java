package dev.sallyport.client;

import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * Keeps a stream as fresh as a unary call: no message passes, in either direction, on a token that is no longer usable. Such
 * a stream is suspended and checked again; it then goes on or ends. Everything happens under the lock, which the calls of
 * the stream share.
 */
final class StreamGuard {
  private static final long MS = 1_000_000L;
  /** The longest time for which messages wait for a new check. */
  private static final long HOLD = 500 * MS;
  /** Before a check is repeated that is older than a known change, or had no answer. */
  private static final long AGAIN = 20 * MS;
  /** Between the checks of a stream whose token has no usable entry. */
  private static final long EVERY = 1_000 * MS;

  /** The clock and the timers of a guard, in nanoseconds. */
  interface Clock {
    long mono();

    /** Returns the function that prevents the call. */
    Runnable after(long nanos, Runnable then);
  }

  /** What a guard does to its stream. Called under the lock; only {@code end} at most once. */
  interface Stream {
    /** Begins a check, and returns at once. */
    void check(Consumer<Check> done);

    void end(Verdict verdict);

    /** Called when a suspension is over and the stream goes on. */
    default void resumed() {}

    /** Called once, when the guard is of no more use. */
    default void closed() {}
  }

  private enum State {
    OPEN,
    SUSPENDED,
    CLOSED
  }

  final ReentrantLock lock = new ReentrantLock();

  private final FeedCache cache; // null: off
  private final Requirement requirement;
  private final Clock clock;
  private final Stream stream;
  private final Queue<Runnable> held = new ArrayDeque<>();
  private Entry entry;
  private State state = State.OPEN;
  private Runnable cancelLook;
  private Runnable cancelLimit;
  private Runnable unwatch;
  private int round; // the suspensions so far
  private long begun;

  StreamGuard(FeedCache cache, Requirement requirement, Clock clock, Stream stream) {
    this.cache = cache;
    this.requirement = requirement;
    this.clock = clock;
    this.stream = stream;
  }

  /** Begins, with the check that opened the stream: ALLOW. */
  void start(Check opened) {
    locked(() -> {
      if (state == State.CLOSED) {
        return;
      }
      entry = opened.entry();
      if (cache != null) {
        // Called in the step that applies an answer, so before the acknowledgement.
        unwatch = cache.watch(this::look);
      }
      look();
    });
  }

  /** Lets a message pass now, or once a new check admits it. It never passes if the stream ends. */
  void pass(Runnable message) {
    pass(message, message);
  }

  /** The same; {@code late} passes instead if the message has to wait. */
  void pass(Runnable message, Runnable late) {
    locked(() -> {
      if (state == State.OPEN && entry != null && !good()) {
        suspend();
      }
      if (state == State.OPEN) {
        message.run();
      } else if (state == State.SUSPENDED) {
        held.add(late);
      }
    });
  }

  boolean isOpen() {
    lock.lock();
    try {
      return state == State.OPEN;
    } finally {
      lock.unlock();
    }
  }

  /** The stream is over. */
  void close() {
    locked(() -> {
      if (state == State.CLOSED) {
        return;
      }
      state = State.CLOSED;
      held.clear();
      cancelLook = cancel(cancelLook);
      cancelLimit = cancel(cancelLimit);
      unwatch = cancel(unwatch);
      stream.closed();
    });
  }

  /** Ends the stream, unless it is over. */
  void end(Verdict verdict) {
    locked(() -> {
      if (state != State.CLOSED) {
        close();
        stream.end(verdict);
      }
    });
  }

  /** True if the entry is usable and still admits the stream. Without an entry only the timer asks. */
  private boolean good() {
    return cache != null
        && entry != null
        && cache.usable(entry)
        && Decision.of(entry.facts(), requirement, cache.time()).verdict() == Verdict.ALLOW;
  }

  /** Suspends the stream if its entry is not good, and otherwise looks again when the entry can first cease to be. */
  private void look() {
    locked(() -> {
      if (state != State.OPEN) {
        return;
      }
      if (entry == null) {
        if (cancelLook == null) {
          cancelLook = clock.after(EVERY, this::expired);
        }
      } else if (!good()) {
        suspend();
      } else {
        long soonest = cache.lease();
        if (entry.facts().expire() != null) {
          soonest = Math.min(soonest, Times.between(cache.time().upper(), entry.facts().expire()));
        }
        cancel(cancelLook);
        cancelLook = clock.after(Math.max(MS, soonest), this::look);
      }
    });
  }

  private void expired() {
    locked(() -> {
      if (state == State.OPEN) {
        suspend();
      }
    });
  }

  private void suspend() {
    state = State.SUSPENDED;
    round++;
    begun = clock.mono();
    cancelLook = cancel(cancelLook);
    // The limit holds for a check without an answer too.
    cancelLimit = clock.after(HOLD, inRound(() -> end(Verdict.UNDETERMINED)));
    recheck();
  }

  private void recheck() {
    int current = round;
    stream.check(answer -> inRound(current, () -> answered(answer)).run());
  }

  /** Runs a task if the stream is still suspended, in this round. */
  private Runnable inRound(Runnable then) {
    return inRound(round, then);
  }

  private Runnable inRound(int current, Runnable then) {
    return () -> locked(() -> {
      if (state == State.SUSPENDED && round == current) {
        then.run();
      }
    });
  }

  private void answered(Check answer) {
    if (answer.verdict() != Verdict.ALLOW && answer.verdict() != Verdict.UNDETERMINED) {
      end(answer.verdict());
      return;
    }
    entry = answer.entry();
    if (answer.verdict() == Verdict.ALLOW) {
      if (entry != null && (cache == null || cache.lease() == 0)) {
        // The answer was made after the suspension, so the held messages may pass; without a lease the entry is worth
        // nothing more, and the stream is checked by time.
        entry = null;
      }
      if (entry == null || good()) {
        resume();
        return;
      }
    }
    if (clock.mono() - begun >= HOLD) {
      end(Verdict.UNDETERMINED);
      return;
    }
    clock.after(AGAIN, inRound(this::recheck));
  }

  private void resume() {
    state = State.OPEN;
    cancelLimit = cancel(cancelLimit);
    Runnable[] messages = held.toArray(new Runnable[0]);
    held.clear();
    // Each of them looks again: a change may come in between.
    for (Runnable message : messages) {
      pass(message);
    }
    look();
    if (state == State.OPEN) {
      stream.resumed();
    }
  }

  private void locked(Runnable step) {
    lock.lock();
    try {
      step.run();
    } finally {
      lock.unlock();
    }
  }

  private static Runnable cancel(Runnable prevent) {
    if (prevent != null) {
      prevent.run();
    }
    return null;
  }
}

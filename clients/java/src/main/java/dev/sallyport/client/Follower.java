package dev.sallyport.client;

import com.google.protobuf.ByteString;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.LongSupplier;

/** Follows the change feed for a cache: one request in flight, and the next only after its answer is applied. */
final class Follower {
  /** The longest wait for an answer; a later one is ignored. */
  private static final Duration GIVE_UP = Duration.ofMillis(1500);

  private static final Duration LEAVE_TIME = Duration.ofMillis(500);
  private static final long FIRST_PAUSE = 50;
  private static final long LONGEST_PAUSE = 1000;

  private final Validator validator;
  private final FeedCache cache;
  private final LongSupplier mono;
  private final Hooks hooks;
  private final String cacheId = UUID.randomUUID().toString();
  private final CountDownLatch stopping = new CountDownLatch(1);
  private final AtomicBoolean left = new AtomicBoolean();
  private final Thread thread;
  private volatile CompletableFuture<WatchChangesResponse> inFlight;
  // Only of the thread, and of leave() after its end.
  private String instanceId = "";
  private long sequence;
  private String state = "";

  Follower(Validator validator, FeedCache cache, LongSupplier mono, Hooks hooks) {
    this.validator = validator;
    this.cache = cache;
    this.mono = mono;
    this.hooks = hooks;
    thread = Threads.daemon("sallyport-feed").newThread(this::run);
    thread.start();
  }

  /** Ends the lease and tells the server, so that no change waits for this cache. */
  void leave() {
    if (!left.compareAndSet(false, true)) {
      return;
    }
    stopping.countDown();
    CompletableFuture<WatchChangesResponse> pending = inFlight;
    if (pending != null) {
      pending.cancel(true);
    }
    boolean interrupted = join();
    try {
      cache.dropLease();
    } finally {
      try {
        answerOf(validator.watch(request(true), LEAVE_TIME), LEAVE_TIME);
      } catch (Exception e) {
        // The server then waits for the end of the lease that it gave.
        interrupted |= e instanceof InterruptedException;
      }
      enter("left");
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  /** The thread ends soon, whatever happens: each wait of it has an end. Returns true after an interruption. */
  private boolean join() {
    boolean interrupted = false;
    while (true) {
      try {
        thread.join();
        return interrupted;
      } catch (InterruptedException e) {
        interrupted = true;
      }
    }
  }

  private boolean stopped() {
    return stopping.getCount() == 0;
  }

  private void run() {
    long pause = FIRST_PAUSE;
    while (!stopped()) {
      try {
        once();
        pause = FIRST_PAUSE;
      } catch (Exception e) {
        if (stopped()) {
          return;
        }
        enter("lost");
        try {
          stopping.await(pause / 2 + ThreadLocalRandom.current().nextLong(pause / 2), TimeUnit.MILLISECONDS);
        } catch (InterruptedException ignored) {
          // Nobody interrupts this thread; it ends by leave().
        }
        pause = Math.min(2 * pause, LONGEST_PAUSE);
      }
    }
  }

  private void once() throws Exception {
    WatchChangesRequest request = request(false);
    long sent = mono.getAsLong(); // before the send: a lease counts from here
    CompletableFuture<WatchChangesResponse> call = validator.watch(request, GIVE_UP);
    inFlight = call;
    if (stopped()) {
      call.cancel(true);
    }
    WatchChangesResponse answer = answerOf(call, GIVE_UP);
    if (stopped()) {
      return;
    }
    if (answer.getSequence() != request.getSequence()) {
      throw new IllegalStateException("the answer is not this request's");
    }
    if (answer.getEpoch().isEmpty()) {
      throw new IllegalStateException("the answer has no epoch");
    }
    instanceId = answer.getInstanceId();
    cache.apply(FeedAnswer.of(answer), sent);
    enter("following");
    hooks.lease(Duration.ofNanos(cache.lease()));
  }

  /** A late answer is nobody's. */
  private static WatchChangesResponse answerOf(CompletableFuture<WatchChangesResponse> call, Duration timeout)
      throws InterruptedException, ExecutionException, TimeoutException {
    try {
      return call.get(timeout.toNanos(), TimeUnit.NANOSECONDS);
    } finally {
      call.cancel(true);
    }
  }

  private WatchChangesRequest request(boolean leaving) {
    Version applied = cache.applied();
    WatchChangesRequest.Builder request = WatchChangesRequest.newBuilder()
        .setCacheId(cacheId)
        .setSequence(++sequence)
        .setInstanceId(instanceId)
        .setLeaving(leaving);
    if (!applied.epoch().equals(ByteString.EMPTY)) {
      request.setEpoch(applied.epoch()).setPosition(applied.position());
    }
    return request.build();
  }

  private void enter(String next) {
    if (!state.equals(next)) {
      state = next;
      hooks.feed(next);
    }
  }
}

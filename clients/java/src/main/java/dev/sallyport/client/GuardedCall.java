package dev.sallyport.client;

import io.grpc.Context;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.Status;
import java.util.concurrent.RejectedExecutionException;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * A stream that sends when its guard lets it. A server's calls take one thread at a time, and the guard ends the stream from
 * another one than the handler's, so all of them happen under the guard's lock.
 */
final class GuardedCall<Q, A> extends SimpleForwardingServerCall<Q, A> implements StreamGuard.Stream {
  private final Checker checker;
  private final CheckedCall<Q, A> owner;
  private final CheckedCall.Checks checks;
  private final Context.CancellableContext context;
  private final StreamGuard guard;
  // Under the lock.
  private boolean closeCalled;
  private boolean ended;
  private boolean cancelled;
  private boolean waitsForReady;

  GuardedCall(
      ServerCall<Q, A> call,
      Checker checker,
      Requirement requirement,
      CheckedCall<Q, A> owner,
      CheckedCall.Checks checks,
      Context.CancellableContext context) {
    super(call);
    this.checker = checker;
    this.owner = owner;
    this.checks = checks;
    this.context = context;
    guard = new StreamGuard(checker.cache, requirement, checker.clock, this);
  }

  StreamGuard guard() {
    return guard;
  }

  boolean hasEnded() {
    return locked(() -> ended);
  }

  @Override
  public void sendMessage(A message) {
    locked(() -> {
      if (ended || cancelled) {
        throw Status.CANCELLED.withDescription("the stream is over").asRuntimeException();
      }
      if (closeCalled) {
        throw new IllegalStateException("call is closed");
      }
      pass(() -> delegate().sendMessage(message));
      return null;
    });
  }

  /** The status waits for a suspended stream as a message does. */
  @Override
  public void close(Status status, Metadata trailers) {
    locked(() -> {
      if (ended || cancelled) {
        return null;
      }
      if (closeCalled) {
        throw new IllegalStateException("call already closed");
      }
      closeCalled = true;
      pass(() -> {
        guard.close();
        delegate().close(status, trailers);
      });
      return null;
    });
  }

  /** Nobody hears what goes wrong with a message that had to wait, so the call ends by it. */
  private void pass(Runnable message) {
    guard.pass(message, () -> {
      try {
        message.run();
      } catch (RuntimeException e) {
        fail(Status.UNKNOWN.withDescription("Application error processing RPC").withCause(e));
      }
    });
  }

  @Override
  public void request(int messages) {
    unlessOver(() -> delegate().request(messages));
  }

  @Override
  public void sendHeaders(Metadata headers) {
    unlessOver(() -> delegate().sendHeaders(headers));
  }

  @Override
  public void setMessageCompression(boolean enabled) {
    unlessOver(() -> delegate().setMessageCompression(enabled));
  }

  @Override
  public void setCompression(String compressor) {
    unlessOver(() -> delegate().setCompression(compressor));
  }

  @Override
  public void setOnReadyThreshold(int bytes) {
    unlessOver(() -> delegate().setOnReadyThreshold(bytes));
  }

  @Override
  public boolean isReady() {
    return locked(() -> {
      if (ended || cancelled || closeCalled) {
        return false;
      }
      waitsForReady = !guard.isOpen();
      return !waitsForReady && delegate().isReady();
    });
  }

  @Override
  public boolean isCancelled() {
    return locked(() -> ended || cancelled || delegate().isCancelled());
  }

  /** The client has gone. */
  void cancelled() {
    locked(() -> {
      cancelled = true;
      guard.close();
      return null;
    });
  }

  /** The transport is done with the call. */
  void finished() {
    guard.close();
    context.cancel(null);
  }

  /** Ends the call with a status of this service's. */
  void fail(Status status) {
    unlessOver(() -> {
      closeCalled = true;
      guard.close();
      try {
        delegate().close(status, new Metadata());
      } catch (IllegalStateException e) {
        // It is closed already.
      }
    });
  }

  @Override
  public void check(Consumer<Check> done) {
    try {
      // In a thread of its own: here the feed may be waiting.
      checker.workers.execute(() -> checks.begin(done));
    } catch (RejectedExecutionException e) {
      done.accept(Check.refused(Verdict.UNDETERMINED));
    }
  }

  @Override
  public void end(Verdict verdict) {
    ended = true;
    try {
      delegate().close(Refusal.statusOf(verdict), Refusal.trailers(verdict));
    } catch (IllegalStateException e) {
      // It is closed already.
    }
    owner.ended(() -> {
      context.cancel(null);
      checker.hooks.streamEnded(verdict);
    });
  }

  @Override
  public void resumed() {
    if (waitsForReady) {
      waitsForReady = false;
      owner.resumed();
    }
  }

  @Override
  public void closed() {
    checker.released(guard);
  }

  private void unlessOver(Runnable step) {
    locked(() -> {
      if (!ended && !cancelled) {
        step.run();
      }
      return null;
    });
  }

  private <T> T locked(Supplier<T> step) {
    guard.lock.lock();
    try {
      return step.get();
    } finally {
      guard.lock.unlock();
    }
  }
}

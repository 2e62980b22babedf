package dev.sallyport.client;

import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.Status;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;

/**
 * A call from its check on. What the transport says waits for the check, and in a stream for the guard; the handler hears it
 * in order and in one thread at a time.
 */
final class CheckedCall<Q, A> extends ServerCall.Listener<Q> {
  /** Checks the token of the call, now or again. */
  @FunctionalInterface
  interface Checks {
    void begin(Consumer<Check> done);
  }

  private final ServerCall<Q, A> call;
  private final Checker checker;
  private final Requirement requirement;
  private final Checks checks;
  private final Executor executor;
  private final Metadata headers;
  private final ServerCallHandler<Q, A> next;
  private final Context outer = Context.current();
  private final Turns turns = new Turns();
  // Of the turns.
  private ServerCall.Listener<Q> handler;
  private boolean readyBefore;
  private boolean over;
  /** Null in a unary call, and before the check. */
  private volatile GuardedCall<Q, A> guarded;

  CheckedCall(
      ServerCall<Q, A> call,
      Checker checker,
      Requirement requirement,
      Checks checks,
      Executor executor,
      Metadata headers,
      ServerCallHandler<Q, A> next) {
    this.call = call;
    this.checker = checker;
    this.requirement = requirement;
    this.checks = checks;
    this.executor = executor;
    this.headers = headers;
    this.next = next;
  }

  ServerCall.Listener<Q> begin() {
    // Not by the thread: the server and the channel may share a pool, so the answer may come in this thread again.
    AtomicBoolean returned = new AtomicBoolean();
    checks.begin(check -> {
      turns.add(() -> open(check));
      if (returned.get()) {
        soon();
      }
    });
    returned.set(true);
    drain();
    return this;
  }

  private void open(Check check) {
    if (over) {
      return; // the caller has gone
    }
    if (check.verdict() != Verdict.ALLOW) {
      over = true;
      call.close(Refusal.statusOf(check.verdict()), Refusal.trailers(check.verdict()));
      return;
    }
    Context inner = outer.withValue(Identity.KEY, check.identity());
    if (call.getMethodDescriptor().getType() == MethodType.UNARY) {
      handler = Contexts.interceptCall(inner, call, headers, next);
    } else {
      Context.CancellableContext ends = inner.withCancellation();
      guarded = new GuardedCall<>(call, checker, requirement, this, checks, ends);
      checker.guarding(guarded.guard());
      guarded.guard().start(check);
      try {
        handler = Contexts.interceptCall(ends, guarded, headers, next);
      } catch (RuntimeException | Error e) {
        guarded.finished(); // the transport tells nothing more to a call that did not start
        throw e;
      }
    }
    if (readyBefore) {
      handler.onReady();
    }
  }

  @Override
  public void onMessage(Q message) {
    pass(() -> handler.onMessage(message));
  }

  @Override
  public void onHalfClose() {
    pass(() -> handler.onHalfClose());
  }

  @Override
  public void onReady() {
    turns.add(() -> {
      if (handler == null) {
        readyBefore = true;
      } else if (!over) {
        handler.onReady();
      }
    });
    drain();
  }

  @Override
  public void onCancel() {
    GuardedCall<Q, A> stream = guarded;
    if (stream != null) {
      stream.cancelled();
    }
    finish(() -> handler.onCancel());
    drain();
  }

  @Override
  public void onComplete() {
    finish(() -> handler.onComplete());
    drain();
  }

  /** Lets what the client sent come to the handler when the guard admits it. */
  private void pass(Runnable event) {
    Runnable turn = () -> {
      if (!over) {
        event.run();
      }
    };
    GuardedCall<Q, A> stream = guarded;
    if (stream == null) {
      turns.add(turn);
    } else {
      stream.guard().pass(() -> turns.add(turn), () -> {
        turns.add(turn);
        soon();
      });
    }
    drain();
  }

  private void finish(Runnable event) {
    turns.add(() -> {
      boolean told = over;
      over = true;
      try {
        if (!told && handler != null) {
          event.run();
        }
      } finally {
        GuardedCall<Q, A> stream = guarded;
        if (stream != null) {
          stream.finished();
        }
      }
    });
  }

  /** The guard has resumed the stream, so the handler may send again. */
  void resumed() {
    turns.add(() -> {
      if (!over && call.isReady()) {
        handler.onReady();
      }
    });
    soon();
  }

  /** The guard has ended the stream. A handler that is busy hears it by its context, or when it sends. */
  void ended(Runnable first) {
    finish(() -> handler.onCancel());
    try {
      executor.execute(() -> {
        first.run();
        drainHere();
      });
    } catch (RejectedExecutionException e) {
      first.run();
    }
  }

  private void soon() {
    try {
      executor.execute(this::drainHere);
    } catch (RejectedExecutionException e) {
      refuse(Status.UNAVAILABLE.withDescription("the service is closing"));
    }
  }

  /** A handler that goes on after its stream was ended may throw, because it cannot send any more. */
  private void drain() {
    try {
      turns.drain();
    } catch (RuntimeException e) {
      GuardedCall<Q, A> stream = guarded;
      if (stream == null || !stream.hasEnded()) {
        throw e;
      }
    }
  }

  /** In a thread of ours, what a handler throws ends the call as it does in the server's own. */
  private void drainHere() {
    try {
      drain();
    } catch (RuntimeException | Error e) {
      refuse(Status.UNKNOWN.withDescription("Application error processing RPC").withCause(e));
      throw e;
    }
  }

  private void refuse(Status status) {
    GuardedCall<Q, A> stream = guarded;
    if (stream != null) {
      stream.fail(status);
      return;
    }
    try {
      call.close(status, new Metadata());
    } catch (IllegalStateException e) {
      // The handler has closed it.
    }
  }
}

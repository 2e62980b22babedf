package dev.sallyport.client;

import com.google.protobuf.Message;
import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import io.grpc.CallOptions;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.protobuf.ProtoUtils;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** A way to the server by gRPC, with one connection for checks and one for the feed. */
public final class GrpcValidator implements Validator {
  static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private static final MethodDescriptor<ValidateTokenRequest, ValidateTokenResponse> VALIDATE =
      method("ValidateToken", ValidateTokenRequest.getDefaultInstance(), ValidateTokenResponse.getDefaultInstance());
  private static final MethodDescriptor<WatchChangesRequest, WatchChangesResponse> WATCH =
      method("WatchChanges", WatchChangesRequest.getDefaultInstance(), WatchChangesResponse.getDefaultInstance());
  private static final long CLOSE_SECONDS = 5;

  private final Line checks;
  private final Line feed;
  private final String bearer;

  /** Begins to connect. {@code target} is host:port, or a target of gRPC. */
  public GrpcValidator(String target, ChannelCredentials credentials) {
    this(target, credentials, null);
  }

  /**
   * The same.
   *
   * @param bearer a token with sallyport.validate, for a server that asks its callers for one; or null
   */
  public GrpcValidator(String target, ChannelCredentials credentials, String bearer) {
    this(
        Grpc.newChannelBuilder(target, credentials).build(),
        Grpc.newChannelBuilder(target, credentials).build(),
        bearer);
  }

  /** Takes two channels of one's own, not the same one twice, and closes them at the end. */
  public GrpcValidator(ManagedChannel checks, ManagedChannel feed, String bearer) {
    if (checks == feed) {
      throw new IllegalArgumentException("the feed needs a channel of its own");
    }
    this.checks = new Line(checks);
    this.feed = new Line(feed);
    this.bearer = bearer;
    this.checks.connect();
  }

  @Override
  public CompletableFuture<ValidateTokenResponse> validate(
      ValidateTokenRequest request, Duration timeout, boolean wait) {
    if (checks.connect() || wait) {
      return call(checks.channel, VALIDATE, request, timeout);
    }
    return CompletableFuture.failedFuture(new NotSentException());
  }

  @Override
  public CompletableFuture<WatchChangesResponse> watch(WatchChangesRequest request, Duration timeout) {
    feed.connect();
    return call(feed.channel, WATCH, request, timeout);
  }

  @Override
  public void close() {
    checks.channel.shutdownNow();
    feed.channel.shutdownNow();
    try {
      checks.channel.awaitTermination(CLOSE_SECONDS, TimeUnit.SECONDS);
      feed.channel.awaitTermination(CLOSE_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private <Q, A> CompletableFuture<A> call(
      ManagedChannel channel, MethodDescriptor<Q, A> method, Q request, Duration timeout) {
    CallOptions options =
        CallOptions.DEFAULT.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS).withWaitForReady();
    // This service's own credential. What its caller sent is not forwarded, nor is the caller's deadline.
    Metadata headers = new Metadata();
    if (bearer != null) {
      headers.put(AUTHORIZATION, "Bearer " + bearer);
    }
    CompletableFuture<A> answer = new CompletableFuture<>();
    Context.ROOT.run(() -> {
      ClientCall<Q, A> call = channel.newCall(method, options);
      answer.whenComplete((message, failure) -> {
        if (failure != null) {
          call.cancel("the answer is no longer awaited", null);
        }
      });
      call.start(new Answer<>(answer), headers);
      call.sendMessage(request);
      call.halfClose();
      call.request(2);
    });
    return answer;
  }

  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> method(
      String name, Q request, A response) {
    return MethodDescriptor.<Q, A>newBuilder()
        .setType(MethodDescriptor.MethodType.UNARY)
        .setFullMethodName("sallyport.v1.TokenValidator/" + name)
        .setRequestMarshaller(ProtoUtils.marshaller(request))
        .setResponseMarshaller(ProtoUtils.marshaller(response))
        .build();
  }

  private static final class Answer<A> extends ClientCall.Listener<A> {
    private final CompletableFuture<A> answer;
    private A message;

    Answer(CompletableFuture<A> answer) {
      this.answer = answer;
    }

    @Override
    public void onMessage(A received) {
      message = received;
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      if (status.isOk() && message != null) {
        answer.complete(message);
      } else {
        answer.completeExceptionally(status.asRuntimeException());
      }
    }
  }

  /** A channel that connects again within a second: gRPC itself would wait for up to two minutes. */
  private static final class Line {
    private static final long PAUSE = TimeUnit.SECONDS.toNanos(1);

    final ManagedChannel channel;
    private final AtomicLong hurried = new AtomicLong(System.nanoTime() - PAUSE);

    Line(ManagedChannel channel) {
      this.channel = channel;
    }

    /** Begins to connect, if there is no connection. True if there is one. */
    boolean connect() {
      ConnectivityState state = channel.getState(true);
      long last = hurried.get();
      long now = System.nanoTime();
      if (state == ConnectivityState.TRANSIENT_FAILURE && now - last >= PAUSE && hurried.compareAndSet(last, now)) {
        channel.resetConnectBackoff();
      }
      return state == ConnectivityState.READY;
    }
  }
}

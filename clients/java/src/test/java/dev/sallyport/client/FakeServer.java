package dev.sallyport.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;

/** A server by hand: one answer for every check, and a feed with one lease. */
final class FakeServer implements Validator {
  static final ByteString EPOCH = ByteString.copyFrom(new byte[] {0, (byte) 200, (byte) 255});

  final List<ValidateTokenRequest> asked = new CopyOnWriteArrayList<>();
  final List<WatchChangesRequest> polls = new CopyOnWriteArrayList<>();
  private final ValidateTokenResponse answer;

  FakeServer(ValidateTokenResponse answer) {
    this.answer = answer;
  }

  static Timestamp time(Instant of) {
    return Timestamp.newBuilder().setSeconds(of.getEpochSecond()).setNanos(of.getNano()).build();
  }

  @Override
  public CompletableFuture<ValidateTokenResponse> validate(
      ValidateTokenRequest request, java.time.Duration timeout, boolean wait) {
    asked.add(request);
    return CompletableFuture.completedFuture(answer);
  }

  @Override
  public CompletableFuture<WatchChangesResponse> watch(WatchChangesRequest request, java.time.Duration timeout) {
    polls.add(request);
    if (request.getLeaving()) {
      return CompletableFuture.failedFuture(new IllegalStateException("left"));
    }
    if (!request.getEpoch().isEmpty()) {
      return new CompletableFuture<>();
    }
    Timestamp now = time(Instant.now());
    return CompletableFuture.completedFuture(WatchChangesResponse.newBuilder()
        .setSequence(request.getSequence())
        .setEpoch(EPOCH)
        .setPosition(5)
        .setFloor(5)
        .setLease(Duration.newBuilder().setSeconds(3600))
        .setTimeLower(now)
        .setTimeUpper(now)
        .build());
  }

  @Override
  public void close() {}
}

package dev.sallyport.client;

import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;

/** A way to the server. Each method returns at once, and its answer fails after the timeout. */
public interface Validator extends AutoCloseable {
  /**
   * Asks about a token. Fails with NotSentException if no byte of the request left this process; {@code wait} lets it wait
   * for a connection.
   */
  CompletableFuture<ValidateTokenResponse> validate(ValidateTokenRequest request, Duration timeout, boolean wait);

  /** The change feed, on a connection that no check shares: checks must not hold it back. */
  CompletableFuture<WatchChangesResponse> watch(WatchChangesRequest request, Duration timeout);

  @Override
  void close();
}

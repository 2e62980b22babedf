package dev.sallyport.client;

import io.grpc.Metadata;
import io.grpc.Status;

/** What the caller of a refused call is told. */
public final class Refusal {
  /** The trailer that tells a client the verdict. */
  public static final Metadata.Key<String> VERDICT =
      Metadata.Key.of("sallyport-verdict", Metadata.ASCII_STRING_MARSHALLER);

  private Refusal() {}

  /** The status of every verdict but ALLOW. The message never says why a token is not live. */
  public static Status statusOf(Verdict verdict) {
    return switch (verdict) {
      case NO_CREDENTIAL -> Status.UNAUTHENTICATED.withDescription("a bearer token is required");
      case INVALID_TOKEN -> Status.UNAUTHENTICATED.withDescription("the token is not valid");
      case WRONG_AUDIENCE -> Status.UNAUTHENTICATED.withDescription("the token is not for this service");
      case INSUFFICIENT_SCOPE -> Status.PERMISSION_DENIED.withDescription("the token lacks a scope");
      case WRONG_TENANT -> Status.PERMISSION_DENIED.withDescription("the token is not valid in this tenant");
      case ADDRESS_NOT_ALLOWED ->
          Status.PERMISSION_DENIED.withDescription("the token is not accepted from this address");
      case RATE_LIMITED -> Status.RESOURCE_EXHAUSTED.withDescription("too many requests with this token");
      default -> Status.UNAVAILABLE.withDescription("the token cannot be checked now");
    };
  }

  static Metadata trailers(Verdict verdict) {
    Metadata trailers = new Metadata();
    trailers.put(VERDICT, verdict.name());
    return trailers;
  }
}

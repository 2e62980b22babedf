package dev.sallyport.client;

import dev.sallyport.client.gen.ValidatedToken;
import io.grpc.Context;
import java.time.Instant;
import java.util.List;
import java.util.Map;

/**
 * What a live token says about its caller.
 *
 * @param expire null: the token never expires
 */
public record Identity(
    String tokenId,
    String tenant,
    String principal,
    String profile,
    List<String> scopes,
    List<String> audiences,
    Instant expire,
    Map<String, String> annotations) {

  static final Context.Key<Identity> KEY = Context.key("sallyport-identity");

  /** The identity that admitted the current call, in its handler; null for a public method. */
  public static Identity current() {
    return KEY.get();
  }

  static Identity of(ValidatedToken token) {
    return new Identity(
        token.getId(),
        token.getTenant(),
        token.getPrincipal(),
        token.getProfile(),
        List.copyOf(token.getScopesList()),
        List.copyOf(token.getAudiencesList()),
        token.hasExpireTime() ? Times.of(token.getExpireTime()) : null,
        Map.copyOf(token.getAnnotationsMap()));
  }
}

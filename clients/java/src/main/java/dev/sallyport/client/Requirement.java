package dev.sallyport.client;

import java.util.List;
import java.util.Objects;

/**
 * What a method demands of a token.
 *
 * @param open true: no token is needed, and the rest is ignored
 * @param scopes that the token must have, all of them; exact scopes, at most 32
 * @param audience that must be among the token's, unless the token has none
 * @param tenant in which the token must be live: its own, or one that it is attached to
 */
public record Requirement(boolean open, List<String> scopes, String audience, String tenant) {
  /** Demands a live token, and nothing more. */
  public static final Requirement LIVE = new Requirement(false, List.of(), "", "");

  /** The requirement of a method without a token. */
  public static final Requirement PUBLIC = new Requirement(true, List.of(), "", "");

  /** Throws IllegalArgumentException if the server would refuse it. */
  public Requirement {
    scopes = List.copyOf(scopes);
    Objects.requireNonNull(audience);
    Objects.requireNonNull(tenant);
    if (scopes.size() > 32) {
      throw new IllegalArgumentException("more than 32 scopes");
    }
    if (audience.length() > 256) {
      throw new IllegalArgumentException("an audience of more than 256 characters");
    }
    if (tenant.length() > 63) {
      throw new IllegalArgumentException("a tenant of more than 63 characters");
    }
  }

  /** Demands scopes. */
  public static Requirement scopes(String... scopes) {
    return new Requirement(false, List.of(scopes), "", "");
  }

  /** The same, with an audience. */
  public Requirement withAudience(String audience) {
    return new Requirement(open, scopes, audience, tenant);
  }

  /** The same, with a tenant. */
  public Requirement withTenant(String tenant) {
    return new Requirement(open, scopes, audience, tenant);
  }
}

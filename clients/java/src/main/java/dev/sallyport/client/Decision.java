package dev.sallyport.client;

import java.util.ArrayList;
import java.util.List;

/** A verdict by facts, as the server makes it: the same verdicts in the same order. */
record Decision(Verdict verdict, List<String> missing) {
  private static final Decision ALLOW = new Decision(Verdict.ALLOW, List.of());
  private static final Decision INVALID = new Decision(Verdict.INVALID_TOKEN, List.of());
  private static final Decision AUDIENCE = new Decision(Verdict.WRONG_AUDIENCE, List.of());

  /**
   * Judges expiry by the upper bound and not-before by the lower, so a token ends early or begins late by milliseconds,
   * never the other way round.
   */
  static Decision of(Facts facts, Requirement requirement, TimeBounds now) {
    if (facts.expire() != null && !now.upper().isBefore(facts.expire())) {
      return INVALID;
    }
    if (facts.notBefore() != null && now.lower().isBefore(facts.notBefore())) {
      return INVALID;
    }
    if (!facts.audiences().isEmpty() && !facts.audiences().contains(requirement.audience())) {
      return AUDIENCE;
    }
    List<String> missing = null;
    for (String scope : requirement.scopes()) {
      if (!covered(facts.scopes(), scope)) {
        missing = missing == null ? new ArrayList<>() : missing;
        missing.add(scope);
      }
    }
    return missing == null ? ALLOW : new Decision(Verdict.INSUFFICIENT_SCOPE, List.copyOf(missing));
  }

  private static boolean covered(List<String> granted, String required) {
    for (String scope : granted) {
      if (covers(scope, required)) {
        return true;
      }
    }
    return false;
  }

  /** True if a granted scope is equal to an exact one, or ends in ".*" or ":*" and is its beginning. */
  private static boolean covers(String granted, String required) {
    if (granted.equals(required)) {
      return true;
    }
    int stem = granted.length() - 1;
    return (granted.endsWith(".*") || granted.endsWith(":*"))
        && required.length() >= granted.length()
        && required.regionMatches(0, granted, 0, stem);
  }
}

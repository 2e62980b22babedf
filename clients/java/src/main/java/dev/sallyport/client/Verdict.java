package dev.sallyport.client;

/** The answer about a request's token. */
public enum Verdict {
  ALLOW,
  NO_CREDENTIAL,
  INVALID_TOKEN,
  INSUFFICIENT_SCOPE,
  WRONG_AUDIENCE,
  WRONG_TENANT,
  ADDRESS_NOT_ALLOWED,
  RATE_LIMITED,
  UNDETERMINED;

  /** The verdict of a name. One that this version does not know is an outage, never an allow. */
  public static Verdict of(String name) {
    for (Verdict verdict : values()) {
      if (verdict.name().equals(name)) {
        return verdict;
      }
    }
    return UNDETERMINED;
  }

  static Verdict of(dev.sallyport.client.gen.Verdict verdict) {
    return switch (verdict) {
      case VERDICT_ALLOW -> ALLOW;
      case VERDICT_INVALID_TOKEN -> INVALID_TOKEN;
      case VERDICT_INSUFFICIENT_SCOPE -> INSUFFICIENT_SCOPE;
      case VERDICT_WRONG_AUDIENCE -> WRONG_AUDIENCE;
      case VERDICT_ADDRESS_NOT_ALLOWED -> ADDRESS_NOT_ALLOWED;
      case VERDICT_RATE_LIMITED -> RATE_LIMITED;
      case VERDICT_WRONG_TENANT -> WRONG_TENANT;
      default -> UNDETERMINED;
    };
  }
}

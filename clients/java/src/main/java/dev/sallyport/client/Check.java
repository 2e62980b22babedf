package dev.sallyport.client;

import java.util.List;

/** The answer about a request. */
public final class Check {
  private final Verdict verdict;
  private final Identity identity;
  private final List<String> missingScopes;
  private final Entry entry;

  private Check(Verdict verdict, Identity identity, List<String> missingScopes, Entry entry) {
    this.verdict = verdict;
    this.identity = identity;
    this.missingScopes = missingScopes;
    this.entry = entry;
  }

  static Check allowed(Identity identity, Entry entry) {
    return new Check(Verdict.ALLOW, identity, List.of(), entry);
  }

  static Check refused(Verdict verdict) {
    return new Check(verdict, null, List.of(), null);
  }

  static Check refused(Verdict verdict, List<String> missingScopes) {
    return new Check(verdict, null, List.copyOf(missingScopes), null);
  }

  public Verdict verdict() {
    return verdict;
  }

  /** Of the caller; null unless the verdict is ALLOW. */
  public Identity identity() {
    return identity;
  }

  /** The required scopes that the token lacks, for INSUFFICIENT_SCOPE. */
  public List<String> missingScopes() {
    return missingScopes;
  }

  /** What the verdict rests on, if it may be cached; otherwise null. */
  Entry entry() {
    return entry;
  }

  @Override
  public String toString() {
    return verdict.name();
  }
}

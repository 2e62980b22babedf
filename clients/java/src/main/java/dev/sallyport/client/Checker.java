package dev.sallyport.client;

import dev.sallyport.client.gen.RequestContext;
import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.LongSupplier;

/** Checks the tokens of requests, from any thread. There is no setting by which an outage admits a request. */
public final class Checker implements AutoCloseable {
  private static final String OFFLINE = "offline";
  private static final String CACHE = "cache";
  private static final String SERVER = "server";

  final FeedCache cache; // null: off
  final Hooks hooks;
  final ExecutorService workers = Executors.newCachedThreadPool(Threads.daemon("sallyport-check"));
  final StreamGuard.Clock clock = new Timers();

  private final Validator validator;
  private final List<String> checkedPrefixes;
  private final Duration timeout;
  private final LongSupplier mono;
  private final Follower follower;
  private final ScheduledThreadPoolExecutor timers =
      new ScheduledThreadPoolExecutor(1, Threads.daemon("sallyport-timer"));
  private final Set<StreamGuard> guards = ConcurrentHashMap.newKeySet();

  private Checker(Builder options) {
    validator = options.validator;
    checkedPrefixes = options.checkedPrefixes;
    timeout = options.timeout;
    hooks = Hooks.harmless(options.hooks);
    long begun = System.nanoTime();
    mono = () -> System.nanoTime() - begun;
    timers.setRemoveOnCancelPolicy(true);
    cache = options.feed ? new FeedCache(mono) : null;
    follower = options.feed ? new Follower(validator, cache, mono, hooks) : null;
  }

  /** Begins a checker of a way to the server. */
  public static Builder builder(Validator validator) {
    return new Builder(validator);
  }

  /** The settings of a checker. */
  public static final class Builder {
    private final Validator validator;
    private boolean feed;
    private List<String> checkedPrefixes = Offline.CHECKED_PREFIXES;
    private Hooks hooks = Hooks.NONE;
    private Duration timeout = Duration.ofMillis(300);

    private Builder(Validator validator) {
      this.validator = validator;
    }

    /** Keeps the facts of live tokens and follows the server's changes. Otherwise the server is asked each time. */
    public Builder feed() {
      feed = true;
      return this;
    }

    /** The prefixes of token strings that carry a checksum; by default {@code sp_}. */
    public Builder checkedPrefixes(List<String> prefixes) {
      checkedPrefixes = List.copyOf(prefixes);
      return this;
    }

    public Builder hooks(Hooks hooks) {
      this.hooks = hooks;
      return this;
    }

    /** The longest time of one check, its retry included; by default 300 ms. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    public Checker build() {
      return new Checker(this);
    }
  }

  /**
   * Judges a token string against a requirement; null: the request carries none. Without an answer the verdict is
   * UNDETERMINED. Never throws.
   */
  public Check check(String token, Requirement requirement, Origin origin) {
    if (token == null) {
      return none();
    }
    CompletableFuture<Check> answer = new CompletableFuture<>();
    check(token, requirement, origin, answer::complete);
    return answer.join();
  }

  /** Judges a token string, and gives the answer in this thread or in another one; never waits. */
  void check(String token, Requirement requirement, Origin origin, Consumer<Check> done) {
    long begun = mono.getAsLong();
    if (Offline.refused(token, checkedPrefixes)) {
      done.accept(report(Check.refused(Verdict.INVALID_TOKEN), OFFLINE, begun));
      return;
    }
    TokenHash key = cache == null ? null : TokenHash.of(token);
    Check known = key == null ? null : cached(key, requirement);
    if (known != null) {
      done.accept(report(known, CACHE, begun));
      return;
    }
    ValidateTokenRequest request = request(token, requirement, origin);
    ask(request, begun, false)
        .exceptionallyCompose(failure -> notSent(failure) && left(begun) > 0
            ? ask(request, begun, true)
            : CompletableFuture.failedFuture(failure))
        .thenApply(answer -> judge(key, answer, requirement, begun))
        .exceptionally(failure -> Check.refused(Verdict.UNDETERMINED))
        .thenAccept(check -> done.accept(report(check, SERVER, begun)));
  }

  /** Reports a request without a credential. */
  Check none() {
    return report(Check.refused(Verdict.NO_CREDENTIAL), OFFLINE, mono.getAsLong());
  }

  private Check report(Check check, String tier, long begun) {
    if (hooks != Hooks.NONE) {
      hooks.checked(check.verdict(), tier, Duration.ofNanos(mono.getAsLong() - begun));
    }
    return check;
  }

  /** Never answers a check that names a tenant: the server knows which tenants a token may act in. */
  private Check cached(TokenHash key, Requirement requirement) {
    if (!requirement.tenant().isEmpty()) {
      return null;
    }
    Entry entry = cache.entry(key);
    if (entry == null) {
      return cache.refused(key) ? Check.refused(Verdict.INVALID_TOKEN) : null;
    }
    Decision decision = Decision.of(entry.facts(), requirement, cache.time());
    return decision.verdict() == Verdict.ALLOW
        ? Check.allowed(entry.identity(), entry)
        : Check.refused(decision.verdict(), decision.missing());
  }

  private ValidateTokenRequest request(String token, Requirement requirement, Origin origin) {
    return ValidateTokenRequest.newBuilder()
        .setTokenString(token)
        .addAllRequiredScopes(requirement.scopes())
        .setAudience(requirement.audience())
        .setTenant(requirement.tenant())
        .setContext(RequestContext.newBuilder().setClientAddress(origin.clientAddress()).setPath(origin.path()))
        .setWantEntry(cache != null)
        .build();
  }

  private long left(long begun) {
    return timeout.toNanos() - (mono.getAsLong() - begun);
  }

  private static boolean notSent(Throwable failure) {
    return failure instanceof NotSentException || failure.getCause() instanceof NotSentException;
  }

  private CompletableFuture<ValidateTokenResponse> ask(ValidateTokenRequest request, long begun, boolean wait) {
    long left = Math.max(1, left(begun));
    CompletableFuture<ValidateTokenResponse> answer;
    try {
      answer = validator.validate(request, Duration.ofNanos(left), wait);
    } catch (RuntimeException e) {
      answer = CompletableFuture.failedFuture(e);
    }
    return answer.orTimeout(left, TimeUnit.NANOSECONDS);
  }

  /** The verdict of an answer, after the cache has learnt from it. */
  private Check judge(TokenHash key, ValidateTokenResponse answer, Requirement requirement, long begun) {
    Verdict verdict = Verdict.of(answer.getVerdict());
    Entry entry = learn(key, answer, verdict, begun);
    if (verdict != Verdict.ALLOW) {
      return Check.refused(verdict, answer.getMissingScopesList());
    }
    if (!answer.hasToken()) {
      return Check.refused(Verdict.UNDETERMINED);
    }
    String tenant = requirement.tenant();
    if (!tenant.isEmpty() && !answer.getToken().getTenant().equals(tenant)) {
      // A server that does not know the field answers ALLOW. An entry says nothing about further tenants.
      if (!answer.getToken().getTenantsList().contains(tenant)) {
        return Check.refused(Verdict.WRONG_TENANT);
      }
      entry = null;
    }
    return Check.allowed(Identity.of(answer.getToken()), entry);
  }

  private Entry learn(TokenHash key, ValidateTokenResponse answer, Verdict verdict, long since) {
    if (cache == null || !answer.hasEntry()) {
      return null;
    }
    Version version = new Version(answer.getEntry().getEpoch(), answer.getEntry().getPosition());
    switch (verdict) {
      case INVALID_TOKEN -> {
        cache.storeRefusal(key, version, since);
        return null;
      }
      case ALLOW, INSUFFICIENT_SCOPE, WRONG_AUDIENCE -> {}
      default -> {
        return null;
      }
    }
    // Without a tag no change would reach it.
    if (!answer.hasToken() || answer.getEntry().getTagsCount() == 0) {
      return null;
    }
    Identity identity = Identity.of(answer.getToken());
    Entry entry = new Entry(
        version,
        answer.getEntry().getTagsList().stream().mapToLong(Long::longValue).toArray(),
        new Facts(
            identity.scopes(),
            identity.audiences(),
            identity.expire(),
            answer.getEntry().hasNotBeforeTime() ? Times.of(answer.getEntry().getNotBeforeTime()) : null),
        identity);
    cache.store(key, entry, since);
    return entry;
  }

  /** Ends the streams whose token can no longer be checked, once the checker closes. */
  void guarding(StreamGuard guard) {
    guards.add(guard);
    if (timers.isShutdown()) {
      guard.end(Verdict.UNDETERMINED);
    }
  }

  void released(StreamGuard guard) {
    guards.remove(guard);
  }

  /** Leaves the feed, ends the guarded streams that are open, and closes the connections and threads. */
  @Override
  public void close() {
    try {
      if (follower != null) {
        follower.leave();
      }
    } finally {
      timers.shutdownNow();
      guards.forEach(guard -> guard.end(Verdict.UNDETERMINED));
      validator.close();
      workers.shutdown();
    }
  }

  private final class Timers implements StreamGuard.Clock {
    @Override
    public long mono() {
      return mono.getAsLong();
    }

    @Override
    public Runnable after(long nanos, Runnable then) {
      try {
        ScheduledFuture<?> timer = timers.schedule(then, nanos, TimeUnit.NANOSECONDS);
        return () -> timer.cancel(false);
      } catch (RejectedExecutionException e) {
        return () -> {}; // the checker is closed, which ends the stream
      }
    }
  }
}

package dev.sallyport.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonObject;
import dev.sallyport.client.gen.CacheEntry;
import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.ValidatedToken;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import io.grpc.InsecureChannelCredentials;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

class CheckerTest {
  private static final String TOKEN = "opaque-secret";

  private static ValidateTokenResponse.Builder answer(String verdict) {
    return ValidateTokenResponse.newBuilder()
        .setVerdict(dev.sallyport.client.gen.Verdict.valueOf("VERDICT_" + verdict))
        .setEntry(CacheEntry.newBuilder().setEpoch(FakeServer.EPOCH).setPosition(5).addTags(7));
  }

  @TestFactory
  Stream<DynamicTest> tenant() {
    return Vectors.cases("tenant", one -> {
      JsonObject of = one.getAsJsonObject("answer");
      ValidateTokenResponse.Builder answer = answer(of.get("verdict").getAsString());
      if (Vectors.has(of, "token")) {
        JsonObject token = of.getAsJsonObject("token");
        answer.setToken(ValidatedToken.newBuilder()
            .setId("tok_1")
            .setTenant(token.get("tenant").getAsString())
            .addAllTenants(Vectors.strings(token, "tenants")));
      }
      FakeServer server = new FakeServer(answer.build());
      String tenant = one.get("tenant").getAsString();
      CountDownLatch leased = new CountDownLatch(1);
      try (Checker checker = Checker.builder(server).feed().hooks(whenLeased(leased)).build()) {
        leased.await();
        for (int time = 0; time < 2; time++) {
          Check check = checker.check(TOKEN, Requirement.LIVE.withTenant(tenant), Origin.UNKNOWN);
          assertEquals(Verdict.valueOf(one.get("verdict").getAsString()), check.verdict());
          assertEquals(check.verdict() == Verdict.ALLOW, check.identity() != null);
          assertEquals(one.get("entry").getAsBoolean(), check.entry() != null);
        }
      }
      assertEquals(
          Collections.nCopies(one.get("calls").getAsInt(), tenant),
          server.asked.stream().map(ValidateTokenRequest::getTenant).toList());
    });
  }

  private static Hooks whenLeased(CountDownLatch leased) {
    return new Hooks() {
      @Override
      public void lease(Duration left) {
        leased.countDown();
      }
    };
  }

  @Test
  void aRequirementIsOneThatTheServerTakes() {
    assertThrows(IllegalArgumentException.class, () -> Requirement.LIVE.withTenant("t".repeat(64)));
    assertThrows(IllegalArgumentException.class, () -> Requirement.LIVE.withAudience("a".repeat(257)));
    String[] many = Stream.generate(() -> "s").limit(33).toArray(String[]::new);
    assertThrows(IllegalArgumentException.class, () -> Requirement.scopes(many));
  }

  /** Answers by a function that may fail, and never to the feed. */
  private record Scripted(List<Boolean> waits, List<Object> answers) implements Validator {
    @Override
    public CompletableFuture<ValidateTokenResponse> validate(
        ValidateTokenRequest request, Duration timeout, boolean wait) {
      waits.add(wait);
      Object answer = answers.remove(0);
      if (answer instanceof RuntimeException failure) {
        return CompletableFuture.failedFuture(failure);
      }
      return answer instanceof ValidateTokenResponse response
          ? CompletableFuture.completedFuture(response)
          : new CompletableFuture<>();
    }

    @Override
    public CompletableFuture<WatchChangesResponse> watch(WatchChangesRequest request, Duration timeout) {
      return new CompletableFuture<>();
    }

    @Override
    public void close() {}
  }

  private static Verdict verdictOf(List<Boolean> waits, Object... answers) {
    try (Checker checker = Checker.builder(new Scripted(waits, new ArrayList<>(List.of(answers)))).build()) {
      return checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN).verdict();
    }
  }

  @Test
  void aCallIsRepeatedOnceIfNothingWasSent() {
    List<Boolean> waits = new ArrayList<>();
    assertEquals(Verdict.INVALID_TOKEN,
        verdictOf(waits, new NotSentException(), answer("INVALID_TOKEN").build()));
    assertEquals(List.of(false, true), waits);
    waits.clear();
    assertEquals(Verdict.UNDETERMINED, verdictOf(waits, new NotSentException(), new NotSentException()));
    assertEquals(2, waits.size());
    waits.clear();
    assertEquals(Verdict.UNDETERMINED, verdictOf(waits, new IllegalStateException(), answer("ALLOW").build()));
    assertEquals(1, waits.size());
  }

  @Test
  void aCheckWithoutAnAnswerIsUndeterminedAfterItsTime() {
    long begun = System.nanoTime();
    assertEquals(Verdict.UNDETERMINED, verdictOf(new ArrayList<>(), "silence"));
    assertTrue(System.nanoTime() - begun >= Duration.ofMillis(300).toNanos());
  }

  @Test
  void aServerThatCannotBeReachedIsAnOutage() {
    GrpcValidator nowhere = new GrpcValidator("127.0.0.1:1", InsecureChannelCredentials.create());
    try (Checker checker = Checker.builder(nowhere).feed().build()) {
      assertEquals(Verdict.UNDETERMINED, checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN).verdict());
    }
  }

  @Test
  void anAnswerWithoutATagIsNotKept() throws InterruptedException {
    ValidateTokenResponse.Builder bare = answer("ALLOW").setToken(ValidatedToken.newBuilder().setId("tok_1"));
    bare.getEntryBuilder().clearTags();
    FakeServer server = new FakeServer(bare.build());
    CountDownLatch leased = new CountDownLatch(1);
    try (Checker checker = Checker.builder(server).feed().hooks(whenLeased(leased)).build()) {
      leased.await();
      assertNull(checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN).entry());
      checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN);
    }
    assertEquals(2, server.asked.size());
  }

  @Test
  void itAcknowledgesWhatItAppliedAndLeavesInGoodOrder() throws InterruptedException {
    FakeServer server = new FakeServer(answer("INVALID_TOKEN").build());
    CountDownLatch leased = new CountDownLatch(1);
    List<String> states = new ArrayList<>();
    Checker checker = Checker.builder(server).feed().hooks(new Hooks() {
      @Override
      public void lease(Duration left) {
        leased.countDown();
      }

      @Override
      public void feed(String state) {
        states.add(state);
        throw new IllegalStateException("a hook harms nothing");
      }
    }).build();
    leased.await();
    checker.close();
    checker.close();
    assertEquals(List.of("following", "left"), states);
    WatchChangesRequest last = server.polls.get(server.polls.size() - 1);
    assertTrue(last.getLeaving());
    assertEquals(1, server.polls.stream().filter(WatchChangesRequest::getLeaving).count());
    assertEquals(5, last.getPosition());
    assertEquals(Verdict.INVALID_TOKEN, checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN).verdict());
    assertFalse(Thread.getAllStackTraces().keySet().stream().anyMatch(
        thread -> thread.getName().equals("sallyport-feed") || thread.getName().equals("sallyport-timer")));
  }

  @Test
  void noTokenStringIsInWhatIsPrinted() {
    AtomicReference<Check> seen = new AtomicReference<>();
    FakeServer server = new FakeServer(
        answer("ALLOW").setToken(ValidatedToken.newBuilder().setId("tok_1").setPrincipal("user:ann")).build());
    try (Checker checker = Checker.builder(server).build()) {
      assertEquals(Verdict.NO_CREDENTIAL, checker.check(null, Requirement.LIVE, Origin.UNKNOWN).verdict());
      assertEquals(Verdict.INVALID_TOKEN, checker.check("", Requirement.LIVE, Origin.UNKNOWN).verdict());
      seen.set(checker.check(TOKEN, Requirement.LIVE, Origin.UNKNOWN));
      for (Object printed : List.of(checker, seen.get(), seen.get().identity(), TokenHash.of(TOKEN)))
        assertFalse(printed.toString().contains(TOKEN));
    }
  }

  @Test
  void aBearerIsOneValueOfThatScheme() {
    assertEquals("t", AuthInterceptor.bearerOf(List.of("Bearer t")));
    assertEquals("t", AuthInterceptor.bearerOf(List.of("bEARER   t ")));
    for (List<String> bad : List.of(
        List.<String>of(), List.of("Bearer a", "Bearer b"), List.of("Bearer"), List.of("Bearer "), List.of("Basic t"),
        List.of("Bearer a b"), List.of("Bearer a,b"), List.of("Bearer\ta"), List.of("Bearer a\tb"), List.of("")))
      assertNull(AuthInterceptor.bearerOf(bad), bad.toString());
    assertNull(AuthInterceptor.bearerOf(null));
  }
}

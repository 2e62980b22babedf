package dev.sallyport.client;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.sun.management.OperatingSystemMXBean;
import dev.sallyport.client.gen.CacheEntry;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.ValidatedToken;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** Prints the CPU time of a check that the cache answers, and of the SHA-256 in it, in microseconds, as medians. */
final class Bench {
  private static final int CALLS = 1_000_000;
  private static final int WARM = 5;
  private static final int ROUNDS = 7;

  private static long checksum;

  private Bench() {}

  private static double cpuPerCall(Runnable call) {
    OperatingSystemMXBean process = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    double[] rounds = new double[ROUNDS];
    for (int round = -WARM; round < ROUNDS; round++) {
      long before = process.getProcessCpuTime();
      for (int i = 0; i < CALLS; i++) {
        call.run();
      }
      if (round >= 0) {
        rounds[round] = (process.getProcessCpuTime() - before) / 1000.0 / CALLS;
      }
    }
    Arrays.sort(rounds);
    return rounds[ROUNDS / 2];
  }

  public static void main(String[] args) throws InterruptedException {
    String token = Vectors.each(Vectors.read("offline").getAsJsonArray("cases"))
        .map(one -> (JsonObject) one)
        .filter(one -> !one.get("refused").getAsBoolean())
        .map(one -> one.get("token").getAsString())
        .filter(text -> text.length() > 60)
        .findFirst()
        .orElseThrow();
    FakeServer server = new FakeServer(ValidateTokenResponse.newBuilder()
        .setVerdict(dev.sallyport.client.gen.Verdict.VERDICT_ALLOW)
        .setToken(ValidatedToken.newBuilder()
            .setId("tok_1")
            .setTenant("default")
            .setPrincipal("user:ann")
            .setProfile("pat")
            .addAllScopes(List.of("orders.read", "billing.*"))
            .setExpireTime(FakeServer.time(Instant.now().plus(Duration.ofDays(1)))))
        .setEntry(CacheEntry.newBuilder().setEpoch(FakeServer.EPOCH).setPosition(5).addTags(1).addTags(2).addTags(3))
        .build());
    Requirement requirement = Requirement.scopes("orders.read");
    try (Checker checker = Checker.builder(server).feed().build()) {
      while (checker.cache.lease() == 0) {
        Thread.sleep(1);
      }
      // An entry of the fake server lives for a minute, so a round may find none; it then asks once.
      double check = cpuPerCall(() -> checker.check(token, requirement, Origin.UNKNOWN, answer -> {
        if (answer.verdict() != Verdict.ALLOW) {
          throw new IllegalStateException(answer.toString());
        }
      }));
      double hash = cpuPerCall(() -> checksum += TokenHash.of(token).a());
      if (server.asked.size() > 5) {
        throw new IllegalStateException("the cache answered too few checks");
      }
      System.out.println(new Gson().toJson(Map.of("check", check, "hash", hash)));
    }
  }
}

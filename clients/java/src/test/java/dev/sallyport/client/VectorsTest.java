package dev.sallyport.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.fail;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

class VectorsTest {
  @TestFactory
  Stream<DynamicTest> offline() {
    return Vectors.cases("offline", one -> {
      String token = one.get("token").getAsString();
      String repeated = token.repeat(one.has("repeat") ? one.get("repeat").getAsInt() : 1);
      boolean refused = Offline.refused(
          repeated, one.has("prefixes") ? Vectors.strings(one, "prefixes") : Offline.CHECKED_PREFIXES);
      assertEquals(one.get("refused").getAsBoolean(), refused);
    });
  }

  @TestFactory
  Stream<DynamicTest> decide() {
    return Vectors.cases("decide", one -> {
      JsonObject facts = one.getAsJsonObject("facts");
      JsonObject time = one.getAsJsonObject("time");
      Decision decision = Decision.of(
          new Facts(
              Vectors.strings(facts, "scopes"),
              Vectors.strings(facts, "audiences"),
              Vectors.instant(facts, "expire"),
              Vectors.instant(facts, "notBefore")),
          requirement(one.get("requirement")),
          new TimeBounds(Vectors.instant(time, "lower"), Vectors.instant(time, "upper")));
      assertEquals(
          new Decision(Verdict.valueOf(one.get("verdict").getAsString()), Vectors.strings(one, "missing")), decision);
    });
  }

  private static Requirement requirement(JsonElement of) {
    if (of.isJsonPrimitive()) {
      return Requirement.PUBLIC;
    }
    JsonObject rule = of.getAsJsonObject();
    return Requirement.scopes(Vectors.strings(rule, "scopes").toArray(new String[0]))
        .withAudience(Vectors.string(rule, "audience"))
        .withTenant(Vectors.string(rule, "tenant"));
  }

  @TestFactory
  Stream<DynamicTest> requirement() {
    Map<String, Requirement> rules = new HashMap<>();
    Vectors.read("requirement").getAsJsonObject("rules").asMap().forEach((method, of) ->
        rules.put(method, requirement(of)));
    Requirements requirements = Requirements.of(rules);
    return Vectors.cases("requirement", one -> assertEquals(
        requirement(one.get("requirement")), requirements.of(one.get("method").getAsString())));
  }

  @Test
  void noMethod() {
    for (String bad : Vectors.strings(Vectors.read("requirement"), "bad")) {
      Map<String, Requirement> rules = Map.of(bad, Requirement.LIVE);
      assertThrows(IllegalArgumentException.class, () -> Requirements.of(rules), bad);
    }
  }

  @TestFactory
  Stream<DynamicTest> status() {
    return Vectors.cases("status", one -> {
      Verdict verdict = Verdict.of(one.get("verdict").getAsString());
      assertEquals(one.get("code").getAsInt(), Refusal.statusOf(verdict).getCode().value());
    });
  }

  @TestFactory
  Stream<DynamicTest> feed() {
    return Vectors.cases("feed", one -> {
      long[] now = {0};
      FeedCache cache = new FeedCache(() -> now[0]);
      for (JsonElement each : one.getAsJsonArray("steps")) {
        JsonObject step = each.getAsJsonObject();
        now[0] = Vectors.nanos(step.get("at").getAsDouble());
        take(cache, step);
      }
    });
  }

  private static void take(FeedCache cache, JsonObject step) {
    if (step.has("answer")) {
      JsonObject of = step.getAsJsonObject("answer");
      boolean timed = Vectors.has(of, "lower") && Vectors.has(of, "upper");
      cache.apply(
          new FeedAnswer(
              Vectors.version(of),
              Vectors.has(of, "lease") ? Vectors.nanos(of.get("lease").getAsDouble()) : null,
              Vectors.longs(of, "changed"),
              of.get("floor").getAsLong(),
              timed ? new TimeBounds(Vectors.instant(of, "lower"), Vectors.instant(of, "upper")) : null),
          Vectors.nanos(of.get("sent").getAsDouble()));
    } else if (step.has("store")) {
      JsonObject of = step.getAsJsonObject("store");
      cache.store(key(of), Vectors.entry(of, null), Vectors.nanos(of.get("asked").getAsDouble()));
    } else if (step.has("refuse")) {
      JsonObject of = step.getAsJsonObject("refuse");
      cache.storeRefusal(key(of), Vectors.version(of), Vectors.nanos(of.get("asked").getAsDouble()));
    } else if (step.has("find")) {
      assertEquals(found(step), cache.entry(step.get("find").getAsString()) != null, step::toString);
    } else if (step.has("refused")) {
      assertEquals(found(step), cache.refused(step.get("refused").getAsString()), step::toString);
    } else if (step.has("acknowledges")) {
      assertEquals(Vectors.version(step.getAsJsonObject("acknowledges")), cache.applied());
    } else if (step.has("time")) {
      JsonObject of = step.getAsJsonObject("time");
      assertEquals(new TimeBounds(Vectors.instant(of, "lower"), Vectors.instant(of, "upper")), cache.time());
    } else {
      fail("no such step: " + step);
    }
  }

  private static String key(JsonObject of) {
    return of.get("key").getAsString();
  }

  private static boolean found(JsonObject step) {
    return step.get("found").getAsBoolean();
  }
}

package dev.sallyport.client;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.function.Executable;

/** The vectors that the client of every language must satisfy. */
final class Vectors {
  private Vectors() {}

  static JsonObject read(String name) {
    try {
      return JsonParser.parseString(Files.readString(Path.of("../vectors", name + ".json"))).getAsJsonObject();
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  @FunctionalInterface
  interface Case {
    void run(JsonObject of) throws Exception;
  }

  static Stream<DynamicTest> cases(String name, Case test) {
    return each(read(name).getAsJsonArray("cases")).map(JsonElement::getAsJsonObject).map(one -> {
      Executable run = () -> test.run(one);
      return DynamicTest.dynamicTest(one.get("name").getAsString(), run);
    });
  }

  static Stream<JsonElement> each(JsonArray array) {
    return StreamSupport.stream(array.spliterator(), false);
  }

  static boolean has(JsonObject of, String name) {
    return of.has(name) && !of.get(name).isJsonNull();
  }

  static List<String> strings(JsonObject of, String name) {
    return has(of, name) ? each(of.getAsJsonArray(name)).map(JsonElement::getAsString).toList() : List.of();
  }

  static long[] longs(JsonObject of, String name) {
    return each(of.getAsJsonArray(name)).mapToLong(JsonElement::getAsLong).toArray();
  }

  static String string(JsonObject of, String name) {
    return has(of, name) ? of.get(name).getAsString() : "";
  }

  static Instant instant(JsonObject of, String name) {
    return has(of, name) ? at(of.get(name).getAsDouble()) : null;
  }

  static Instant at(double ms) {
    return Instant.EPOCH.plusNanos(nanos(ms));
  }

  static long nanos(double ms) {
    return (long) (ms * 1_000_000);
  }

  static Version version(JsonObject of) {
    return new Version(ByteString.copyFromUtf8(of.get("epoch").getAsString()), of.get("position").getAsLong());
  }

  static Entry entry(JsonObject of, Instant expire) {
    return new Entry(version(of), longs(of, "tags"), new Facts(List.of(), List.of(), expire, null), null);
  }
}

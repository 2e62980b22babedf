package dev.sallyport.client;

import java.util.Map;
import java.util.regex.Pattern;

/**
 * The requirements of methods. A method that is not listed needs a live token; only health checks are public by themselves.
 */
public final class Requirements {
  private static final Pattern KEY = Pattern.compile("[A-Za-z_][\\w.]*/(\\*|[A-Za-z_]\\w*)");

  private final Map<String, Requirement> rules;

  private Requirements(Map<String, Requirement> rules) {
    this.rules = rules;
  }

  /**
   * Takes a map of a full method (orders.v1.Orders/Get), or all methods of a service (orders.v1.Orders/*), to its
   * requirement. Throws IllegalArgumentException if a key is no method.
   */
  public static Requirements of(Map<String, Requirement> rules) {
    for (String method : rules.keySet()) {
      if (!KEY.matcher(method).matches()) {
        throw new IllegalArgumentException(
            "\"" + method + "\" is no method: write package.Service/Method or package.Service/*");
      }
    }
    return new Requirements(Map.copyOf(rules));
  }

  /** The requirement of a method, with or without a slash before it. */
  public Requirement of(String method) {
    String name = method.startsWith("/") ? method.substring(1) : method;
    Requirement rule = rules.get(name);
    if (rule != null) {
      return rule;
    }
    int slash = name.indexOf('/');
    String service = slash < 0 ? name : name.substring(0, slash);
    rule = rules.get(service + "/*");
    if (rule != null) {
      return rule;
    }
    return service.equals("grpc.health.v1.Health") ? Requirement.PUBLIC : Requirement.LIVE;
  }
}

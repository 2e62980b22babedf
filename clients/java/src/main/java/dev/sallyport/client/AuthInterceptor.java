package dev.sallyport.client;

import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Executor;

/**
 * Checks each call before its handler starts, and guards a stream to its end. The handler gets the identity, never the
 * credential. It never blocks a thread. Add it last, because a server calls its interceptors in reverse order: then the
 * others see only calls that are admitted.
 */
public final class AuthInterceptor implements ServerInterceptor {
  /** The client's address, for services behind a proxy. */
  @FunctionalInterface
  public interface ClientAddress {
    /** An IP address without a port, or the empty string. */
    String of(ServerCall<?, ?> call, Metadata headers);
  }

  private final Checker checker;
  private final Requirements requirements;
  private final ClientAddress clientAddress;
  private final Executor executor;

  /** Takes the requirements of methods, as in {@link Requirements#of}. */
  public AuthInterceptor(Checker checker, Map<String, Requirement> requirements) {
    this(checker, Requirements.of(requirements), (call, headers) -> peerOf(call), checker.workers);
  }

  private AuthInterceptor(
      Checker checker, Requirements requirements, ClientAddress clientAddress, Executor executor) {
    this.checker = checker;
    this.requirements = requirements;
    this.clientAddress = Objects.requireNonNull(clientAddress);
    this.executor = Objects.requireNonNull(executor);
  }

  /** The same, with another way to the client's address than the connection's peer. */
  public AuthInterceptor withClientAddress(ClientAddress clientAddress) {
    return new AuthInterceptor(checker, requirements, clientAddress, executor);
  }

  /**
   * The same, with the threads in which handlers go on once the server has answered a check. It must not run a task in the
   * thread that gives it. By default the checker has threads of its own, as many as are needed.
   */
  public AuthInterceptor withExecutor(Executor executor) {
    return new AuthInterceptor(checker, requirements, clientAddress, executor);
  }

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
    String method = call.getMethodDescriptor().getFullMethodName();
    Requirement requirement = requirements.of(method);
    if (requirement.open()) {
      return next.startCall(call, headers);
    }
    String token = bearerOf(headers.getAll(GrpcValidator.AUTHORIZATION));
    if (token == null) {
      call.close(Refusal.statusOf(checker.none().verdict()), Refusal.trailers(Verdict.NO_CREDENTIAL));
      return new ServerCall.Listener<>() {};
    }
    Origin origin = new Origin(clientAddress.of(call, headers), "/" + method);
    Metadata stripped = new Metadata();
    stripped.merge(headers);
    stripped.discardAll(GrpcValidator.AUTHORIZATION);
    CheckedCall.Checks checks = done -> checker.check(token, requirement, origin, done);
    return new CheckedCall<>(call, checker, requirement, checks, executor, stripped, next).begin();
  }

  /** The token string of authorization values; null if there is not exactly one, of the scheme Bearer. */
  static String bearerOf(Iterable<String> values) {
    String found = null;
    for (String value : values == null ? List.<String>of() : values) {
      if (found != null) {
        return null;
      }
      found = value;
    }
    int space = found == null ? -1 : found.indexOf(' ');
    if (space < 0 || !found.substring(0, space).equalsIgnoreCase("bearer")) {
      return null;
    }
    int begin = space;
    int end = found.length();
    while (begin < end && found.charAt(begin) == ' ') {
      begin++;
    }
    while (end > begin && found.charAt(end - 1) == ' ') {
      end--;
    }
    for (int i = begin; i < end; i++) {
      char c = found.charAt(i);
      if (c == ' ' || c == '\t' || c == ',') {
        return null;
      }
    }
    return begin == end ? null : found.substring(begin, end);
  }

  private static String peerOf(ServerCall<?, ?> call) {
    SocketAddress address = call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR);
    if (!(address instanceof InetSocketAddress internet) || internet.getAddress() == null) {
      return "";
    }
    String host = internet.getAddress().getHostAddress();
    int zone = host.indexOf('%');
    return zone < 0 ? host : host.substring(0, zone);
  }
}

package dev.sallyport.client;

import com.google.gson.Gson;
import com.google.protobuf.StringValue;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;

/**
 * An echo service for the tests of the client. SALLYPORT is the address of the data listener; CACHE is off or feed. It
 * prints its port, and ends with its input.
 */
final class Testee {
  private static final String SERVICE = "test.v1.Echo";
  private static final Context.Key<List<String>> CREDENTIALS = Context.key("credentials");
  private static final Map<String, Integer> SEEN = new ConcurrentHashMap<>();

  private Testee() {}

  private static void seen(String what) {
    SEEN.merge(what, 1, Integer::sum);
  }

  private static final Hooks HOOKS = new Hooks() {
    @Override
    public void checked(Verdict verdict, String tier, Duration took) {
      seen(tier);
      seen(tier + " " + verdict);
    }

    @Override
    public void lease(Duration left) {
      seen("lease");
    }

    @Override
    public void feed(String state) {
      seen(state);
    }

    @Override
    public void streamEnded(Verdict reason) {
      seen("ended " + reason);
    }
  };

  /** Notes the credentials that a handler can see. */
  private static final class Inner implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
      List<String> credentials = new ArrayList<>();
      Iterable<String> values = headers.getAll(GrpcValidator.AUTHORIZATION);
      if (values != null) {
        values.forEach(credentials::add);
      }
      return Contexts.interceptCall(Context.current().withValue(CREDENTIALS, credentials), call, headers, next);
    }
  }

  private static StringValue said(String text) {
    List<Object> answer = Arrays.asList(text, Identity.current().principal(), CREDENTIALS.get());
    return StringValue.of(new Gson().toJson(answer).replace("\",", "\", "));
  }

  private static MethodDescriptor<StringValue, StringValue> method(String name, MethodType type) {
    return MethodDescriptor.<StringValue, StringValue>newBuilder()
        .setType(type)
        .setFullMethodName(SERVICE + "/" + name)
        .setRequestMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
        .setResponseMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
        .build();
  }

  private static void say(StringValue text, StreamObserver<StringValue> to) {
    to.onNext(said(text.getValue()));
    to.onCompleted();
  }

  private static void seen(StringValue text, StreamObserver<StringValue> to) {
    to.onNext(StringValue.of(new Gson().toJson(SEEN)));
    to.onCompleted();
  }

  private static void count(StringValue text, StreamObserver<StringValue> to) {
    to.onNext(said(text.getValue()));
    ServerCallStreamObserver<StringValue> call = (ServerCallStreamObserver<StringValue>) to;
    for (int number = 0; !call.isCancelled(); ) {
      if (call.isReady()) {
        call.onNext(StringValue.of(number++ + " " + "x".repeat(10_000)));
      } else {
        LockSupport.parkNanos(1_000_000);
      }
    }
  }

  /** Blocks its thread until its context ends. */
  private static void stuck(StringValue text, StreamObserver<StringValue> to) {
    to.onNext(said(text.getValue()));
    CountDownLatch over = new CountDownLatch(1);
    Context.current().addListener(context -> over.countDown(), Runnable::run);
    try {
      over.await();
      seen("unstuck");
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static void gone(StringValue text, StreamObserver<StringValue> to) {
    to.onNext(said(text.getValue()));
    to.onError(Status.NOT_FOUND.asRuntimeException());
  }

  private static StreamObserver<StringValue> talk(StreamObserver<StringValue> to) {
    return new Each(to);
  }

  /** Goes on after its stream is cancelled. */
  private static StreamObserver<StringValue> stubborn(StreamObserver<StringValue> to) {
    ((ServerCallStreamObserver<StringValue>) to).setOnCancelHandler(() -> to.onNext(said("after the end")));
    return new Each(to);
  }

  private static StreamObserver<StringValue> total(StreamObserver<StringValue> to) {
    List<String> texts = new ArrayList<>();
    return new Each(to) {
      @Override
      public void onNext(StringValue text) {
        texts.add(text.getValue());
      }

      @Override
      public void onCompleted() {
        to.onNext(said(String.join(" ", texts)));
        to.onCompleted();
      }
    };
  }

  private static class Each implements StreamObserver<StringValue> {
    private final StreamObserver<StringValue> to;

    Each(StreamObserver<StringValue> to) {
      this.to = to;
    }

    @Override
    public void onNext(StringValue text) {
      to.onNext(said(text.getValue()));
    }

    @Override
    public void onError(Throwable failure) {}

    @Override
    public void onCompleted() {
      to.onCompleted();
    }
  }

  private static ServerServiceDefinition service() {
    ServerServiceDefinition.Builder service = ServerServiceDefinition.builder(SERVICE);
    for (String name : List.of("Say", "Write", "Audience", "Tenant")) {
      service.addMethod(method(name, MethodType.UNARY), ServerCalls.asyncUnaryCall(Testee::say));
    }
    return service
        .addMethod(method("Seen", MethodType.UNARY), ServerCalls.asyncUnaryCall(Testee::seen))
        .addMethod(method("Count", MethodType.SERVER_STREAMING), ServerCalls.asyncServerStreamingCall(Testee::count))
        .addMethod(method("Stuck", MethodType.SERVER_STREAMING), ServerCalls.asyncServerStreamingCall(Testee::stuck))
        .addMethod(method("Gone", MethodType.SERVER_STREAMING), ServerCalls.asyncServerStreamingCall(Testee::gone))
        .addMethod(method("Talk", MethodType.BIDI_STREAMING), ServerCalls.asyncBidiStreamingCall(Testee::talk))
        .addMethod(method("Stubborn", MethodType.BIDI_STREAMING), ServerCalls.asyncBidiStreamingCall(Testee::stubborn))
        .addMethod(method("Total", MethodType.CLIENT_STREAMING), ServerCalls.asyncClientStreamingCall(Testee::total))
        .build();
  }

  public static void main(String[] args) throws Exception {
    Validator validator =
        new GrpcValidator(System.getenv("SALLYPORT"), InsecureChannelCredentials.create());
    Checker.Builder options = Checker.builder(validator).hooks(HOOKS);
    Checker checker = ("feed".equals(System.getenv("CACHE")) ? options.feed() : options).build();
    AuthInterceptor auth = new AuthInterceptor(checker, Map.of(
        SERVICE + "/Write", Requirement.scopes("orders.write"),
        SERVICE + "/Audience", Requirement.LIVE.withAudience("orders"),
        SERVICE + "/Tenant", Requirement.LIVE.withTenant("another"),
        SERVICE + "/Seen", Requirement.PUBLIC));
    Server server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
        .addService(service())
        .intercept(new Inner())
        .intercept(auth)
        .build()
        .start();
    System.out.println(new Gson().toJson(Map.of("port", server.getPort())));
    while (System.in.read() >= 0) {
      // until its end
    }
    server.shutdownNow().awaitTermination();
    checker.close();
    long threads = Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().equals("sallyport-feed") || thread.getName().equals("sallyport-timer"))
        .count();
    System.out.println(new Gson().toJson(Map.of(
        "left", SEEN.getOrDefault("left", 0), "unstuck", SEEN.getOrDefault("unstuck", 0), "threads", threads)));
  }
}

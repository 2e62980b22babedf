package dev.sallyport.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.StringValue;
import dev.sallyport.client.gen.ValidateTokenRequest;
import dev.sallyport.client.gen.ValidateTokenResponse;
import dev.sallyport.client.gen.ValidatedToken;
import dev.sallyport.client.gen.WatchChangesRequest;
import dev.sallyport.client.gen.WatchChangesResponse;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.ServerCalls;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class InterceptorTest {
  private static final MethodDescriptor<StringValue, StringValue> SAY =
      MethodDescriptor.<StringValue, StringValue>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("test.v1.Echo/Say")
          .setRequestMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
          .setResponseMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
          .build();

  /** Answers in a thread of the pool that the service runs in, once that is free. */
  private record SamePool(ExecutorService pool, String verdict) implements Validator {
    @Override
    public CompletableFuture<ValidateTokenResponse> validate(
        ValidateTokenRequest request, Duration timeout, boolean wait) {
      CompletableFuture<ValidateTokenResponse> answer = new CompletableFuture<>();
      pool.execute(() -> answer.complete(ValidateTokenResponse.newBuilder()
          .setVerdict(dev.sallyport.client.gen.Verdict.valueOf(verdict))
          .setToken(ValidatedToken.newBuilder().setPrincipal("user:ann"))
          .build()));
      return answer;
    }

    @Override
    public CompletableFuture<WatchChangesResponse> watch(WatchChangesRequest request, Duration timeout) {
      return new CompletableFuture<>();
    }

    @Override
    public void close() {}
  }

  private static String say(String verdict, boolean fails) throws Exception {
    ExecutorService one = Executors.newSingleThreadExecutor();
    Checker checker = Checker.builder(new SamePool(one, verdict)).build();
    Server server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
        .executor(one)
        .addService(ServerServiceDefinition.builder("test.v1.Echo")
            .addMethod(SAY, ServerCalls.asyncUnaryCall((text, to) -> {
              if (fails) {
                throw new IllegalStateException("a handler's fault");
              }
              to.onNext(StringValue.of(Identity.current().principal()));
              to.onCompleted();
            }))
            .build())
        .intercept(new AuthInterceptor(checker, Map.of()))
        .build()
        .start();
    ManagedChannel channel =
        Grpc.newChannelBuilder("127.0.0.1:" + server.getPort(), InsecureChannelCredentials.create()).build();
    try {
      Metadata headers = new Metadata();
      headers.put(GrpcValidator.AUTHORIZATION, "Bearer opaque");
      Channel asked = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
      return ClientCalls.blockingUnaryCall(
          asked, SAY, CallOptions.DEFAULT.withDeadlineAfter(10, TimeUnit.SECONDS), StringValue.of("hi")).getValue();
    } finally {
      channel.shutdownNow();
      server.shutdownNow().awaitTermination();
      checker.close();
      one.shutdown();
    }
  }

  @Test
  void theAnswerMayComeInTheThreadThatAsked() throws Exception {
    assertEquals("user:ann", say("VERDICT_ALLOW", false));
  }

  @Test
  void aRefusalTellsItsVerdict() {
    StatusRuntimeException refusal =
        assertThrows(StatusRuntimeException.class, () -> say("VERDICT_INSUFFICIENT_SCOPE", false));
    assertEquals(Status.Code.PERMISSION_DENIED, refusal.getStatus().getCode());
    assertEquals("INSUFFICIENT_SCOPE", refusal.getTrailers().get(Refusal.VERDICT));
  }

  @Test
  void whatAHandlerThrowsEndsItsCall() {
    StatusRuntimeException failure = assertThrows(StatusRuntimeException.class, () -> say("VERDICT_ALLOW", true));
    assertEquals(Status.Code.UNKNOWN, failure.getStatus().getCode());
  }
}

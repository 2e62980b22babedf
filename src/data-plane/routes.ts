import { ConnectError } from "@connectrpc/connect";
import type { Clock } from "../domain/clock.ts";
import { Health as HealthDesc } from "../gen/grpc/health/v1/health_pb.ts";
import { TokenValidator } from "../gen/sallyport/v1/token_validator_pb.ts";
import { type Failures, prepareFailures, type Refusal } from "../http2/unary/failures.ts";
import { connectError, connectMessage, grpcMessage, grpcStatus, http, type Reply } from "../http2/unary/reply.ts";
import type { Handler, Routes, UnaryCall, UnaryRoute } from "../http2/unary/routes.ts";
import { whyUnknown } from "../listen/wrong-listener.ts";
import type { Admission } from "../rpc/admission.ts";
import { requestIdFrom } from "../rpc/call.ts";
import { encodedError, toConnectError } from "../rpc/errors.ts";
import { type Health, healthBytes } from "../rpc/health.ts";
import type { JwksPage } from "../rpc/jwks.ts";
import { JWKS_PATH, type Method, methodOf } from "../rpc/methods.ts";
import type { Peer } from "../rpc/peer.ts";
import { type TransportFailure, wireError } from "../rpc/transport-errors.ts";
import { type CheckRoutesDeps, checkRoutes } from "./check/routes.ts";
import type { DataCallers } from "./data-caller.ts";
import type { ValidateTokenCodec } from "./validate-token.ts";
import type { WatchChangesCodec } from "./watch-changes.ts";

export interface DataRoutesDeps {
  readonly clock: Clock;
  readonly callers: DataCallers;
  readonly wire: ValidateTokenCodec;
  readonly feed: WatchChangesCodec;
  readonly health: Health;
  readonly admission: Admission;
  /** Returns the peer of a call's connection. */
  readonly peerOf: (call: UnaryCall) => Peer;
  readonly checks: CheckRoutesDeps;
  readonly jwks: () => JwksPage;
  /** Counts answered calls of a method. */
  readonly answered: (method: string) => () => void;
  /** Counts and logs a failed call, after the answer. */
  readonly failed: (method: string, requestId: string, error: unknown, address: string) => void;
}

const VALIDATE = methodOf(TokenValidator.method.validateToken);
const BATCH = methodOf(TokenValidator.method.batchValidateTokens);
const WATCH = methodOf(TokenValidator.method.watchChanges);
const HEALTH = methodOf(HealthDesc.method.check);

const REFUSALS: Readonly<Record<Refusal, TransportFailure>> = {
  bad_head: "undecodable",
  head_too_large: "oversized",
  unknown_path: "unknown_method",
  wrong_method: "wrong_method",
  wrong_type: "wrong_type",
};
const PREPARED = prepareFailures(
  (failure, protocol) => {
    const error = wireError(failure);
    if (failure === "compressed")
      error.metadata.set(protocol === "grpc" ? "grpc-accept-encoding" : "accept-encoding", "identity");
    return errorReply({ protocol }, error);
  },
  (refusal) => errorReply({ protocol: "connect-json" }, wireError(REFUSALS[refusal])).body,
);
const FAILURES: Failures = {
  ...PREPARED,
  unknown: (path, protocol) => {
    const message = whyUnknown(path, "data");
    const reply = errorReply({ protocol }, wireError("unknown_method", { message }));
    return protocol === "grpc" ? reply : http(404, [["content-type", "application/json"]], reply.body);
  },
};

/** The routes of the data listener. The built-in HTTP/2 server and both servers of Node serve the same routes. */
export function dataRoutes(deps: DataRoutesDeps): Routes {
  const exact = new Map<string, UnaryRoute>([
    route(VALIDATE, validateHandler(deps)),
    route(BATCH, batchHandler(deps)),
    route(WATCH, watchHandler(deps)),
    route(HEALTH, (message, call) => {
      try {
        return answer(call, healthBytes(deps.health, message, formOf(call)));
      } catch (error) {
        return failure(deps, call, error);
      }
    }),
  ]);
  exact.set(JWKS_PATH, jwksRoute(deps));
  const checks = checkRoutes(deps.checks);
  return { exact: new Map([...exact, ...checks.exact]), prefix: checks.prefix, failures: FAILURES };
}

/** Public keys, for everybody who can connect: a trusted peer and a stranger see the same. */
function jwksRoute(deps: DataRoutesDeps): UnaryRoute {
  const handler: Handler = (_body, call) => {
    if (call.method !== "GET" && call.method !== "HEAD") return http(405, [["allow", "GET, HEAD"]]);
    const { type, body, cache } = deps.jwks();
    return http(
      200,
      [
        ["content-type", type],
        ["cache-control", cache],
        ["x-content-type-options", "nosniff"],
      ],
      Buffer.from(body),
    );
  };
  return { kind: "http", byHead: true, handler, maxMessage: 1024, deadlineMs: 2_000 };
}

function route({ path, limits }: Method, handler: Handler): [string, UnaryRoute] {
  return [path, { handler, maxMessage: limits.readMaxBytes, deadlineMs: limits.deadlineMs }];
}

/**
 * The hot path: a trusted peer without a credential asks over gRPC, the answer is cached, and its reply is prepared. It
 * awaits nothing and keeps no allocation.
 */
function validateHandler(deps: DataRoutesDeps): Handler {
  const { callers, wire } = deps;
  const answered = deps.answered(VALIDATE.name);
  return (message, call) => {
    if (call.protocol === "connect-json" || !callers.trusts(deps.peerOf(call)) || hasCredential(call)) {
      return validateSlowly(deps, call.copy(message), call, answered);
    }
    try {
      const encoded = wire.binary(message, { deadline: call.deadline, reasons: false });
      if (encoded instanceof Promise)
        return withAdmission(deps, call, 1, answered, () => encoded.then((later) => later.reply(call)));
      answered();
      return encoded.reply(call);
    } catch (error) {
      return failure(deps, call, error);
    }
  };
}

function validateSlowly(
  deps: DataRoutesDeps,
  message: Uint8Array,
  call: UnaryCall,
  answered: () => void,
): Promise<Reply> {
  return withAdmission(deps, call, 1, answered, async () => {
    const { reasons } = await deps.callers.admit(deps.peerOf(call), credentialOf(call));
    const options = { deadline: call.deadline, reasons };
    if (call.protocol === "connect-json") return answer(call, await deps.wire.json(message, options));
    return (await deps.wire.binary(message, options)).reply(call);
  });
}

function batchHandler(deps: DataRoutesDeps): Handler {
  const answered = deps.answered(BATCH.name);
  return (borrowed, call) => {
    const message = call.copy(borrowed);
    return withAdmission(deps, call, 8, answered, async () => {
      const { reasons } = await deps.callers.admit(deps.peerOf(call), credentialOf(call));
      return answer(call, await deps.wire.batch(message, formOf(call), { deadline: call.deadline, reasons }));
    });
  };
}

/** A long poll takes no slot of the listener's limits: the feed bounds how many wait. */
function watchHandler(deps: DataRoutesDeps): Handler {
  const answered = deps.answered(WATCH.name);
  return async (message, call) => {
    try {
      await deps.callers.admit(deps.peerOf(call), credentialOf(call));
      const reply = answer(call, await deps.feed.answer(message, formOf(call), call));
      answered();
      return reply;
    } catch (error) {
      return failure(deps, call, error);
    }
  };
}

/** Runs asynchronous work within the listener's limits. An exception becomes the error of this call. */
async function withAdmission(
  deps: DataRoutesDeps,
  call: UnaryCall,
  weight: number,
  answered: () => void,
  work: () => Promise<Reply>,
): Promise<Reply> {
  try {
    const leave = await deps.admission.enter("validate", weight, call.deadline - deps.clock.mono());
    try {
      const reply = await work();
      answered();
      return reply;
    } finally {
      leave();
    }
  } catch (error) {
    return failure(deps, call, error);
  }
}

function hasCredential(call: UnaryCall): boolean {
  return call.metadata("authorization") !== undefined;
}

/** All values of the header, joined by a comma. Two values are not a valid credential (RFC 6750). */
function credentialOf(call: UnaryCall): string | null {
  return call.metadata("authorization") ?? null;
}

function formOf(call: UnaryCall): "binary" | "json" {
  return call.protocol === "connect-json" ? "json" : "binary";
}

function answer(call: UnaryCall, bytes: Uint8Array): Reply {
  if (call.protocol === "grpc") return grpcMessage(bytes);
  return connectMessage(bytes, call.protocol === "connect-json" ? "application/json" : "application/proto");
}

function failure(deps: DataRoutesDeps, call: UnaryCall, error: unknown): Reply {
  if (error instanceof ConnectError) return errorReply(call, error); // The client caused this error, and the error has its answer.
  const requestId = requestIdFrom(call.metadata("x-request-id"));
  deps.failed(call.path.slice(1), requestId, error, deps.peerOf(call).address);
  return errorReply(call, toConnectError(error, requestId));
}

/** An error in the call's protocol, with its details. */
function errorReply(call: Pick<UnaryCall, "protocol">, error: ConnectError): Reply {
  const headers = [...error.metadata].map(([name, value]) => [name, value] as const);
  const { details, status } = encodedError(error);
  if (call.protocol !== "grpc") return connectError(error.code, error.rawMessage, details, headers);
  return grpcStatus(error.code, error.rawMessage, status, headers);
}

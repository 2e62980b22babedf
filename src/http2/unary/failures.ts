import * as codes from "./codes.ts";
import type { Failure, Protocol } from "./protocol.ts";
import { connectError, grpcStatus, type HeaderPair, http, type Reply } from "./reply.ts";

// Bare answers of the protocols, for failures that neither a handler nor a route's hook answers.

interface BareFailure {
  readonly code: number;
  readonly message: string;
  readonly httpStatus: number;
  readonly headers: readonly HeaderPair[];
}
const BARE: Readonly<Record<Failure, BareFailure>> = {
  undecodable: { code: codes.INVALID_ARGUMENT, message: "malformed request", httpStatus: 400, headers: [] },
  oversized: { code: codes.RESOURCE_EXHAUSTED, message: "request too large", httpStatus: 413, headers: [] },
  compressed: {
    code: codes.UNIMPLEMENTED,
    message: "compression is not supported",
    httpStatus: 415,
    headers: [["accept-encoding", "identity"]],
  },
  deadline: { code: codes.DEADLINE_EXCEEDED, message: "deadline exceeded", httpStatus: 504, headers: [] },
  overloaded: { code: codes.RESOURCE_EXHAUSTED, message: "overloaded", httpStatus: 503, headers: [] },
  internal: { code: codes.INTERNAL, message: "internal error", httpStatus: 500, headers: [] },
};
const GRPC_IDENTITY: readonly HeaderPair[] = [["grpc-accept-encoding", "identity"]];

/** A failure on the wire. The two of gRPC alone reach no route. */
export type WireFailure = Failure | "cardinality" | "unknown_method";

/** A reason to refuse by the head of the request alone, with an HTTP status. */
export type Refusal = "bad_head" | "head_too_large" | "unknown_path" | "wrong_method" | "wrong_type";

const REFUSALS: Readonly<Record<Refusal, readonly [status: number, headers: readonly HeaderPair[]]>> = {
  bad_head: [400, []],
  head_too_large: [431, []],
  unknown_path: [404, []],
  wrong_method: [405, [["allow", "POST"]]],
  wrong_type: [415, []],
};

/** The answers to failures in each protocol, prepared once. */
export interface Failures extends Readonly<Record<WireFailure, Readonly<Record<Protocol, Reply>>>> {
  readonly refusals: Readonly<Record<Refusal, Reply>>;
  /** The answer to a path without a route, where it says more than "unknown_method". */
  readonly unknown?: (path: string, protocol: Protocol) => Reply;
}

/**
 * The answers to failures: for RPCs the errors that `tell` makes; without it, and in plain HTTP, bare ones. `bodyOf`
 * gives refusals a JSON body.
 */
export function prepareFailures(
  tell?: (failure: WireFailure, protocol: Exclude<Protocol, "http">) => Reply,
  bodyOf?: (refusal: Refusal) => Uint8Array,
): Failures {
  const refuse = (refusal: Refusal): Reply => {
    const [status, headers] = REFUSALS[refusal];
    if (bodyOf === undefined) return http(status, headers);
    return http(status, [["content-type", "application/json"], ...headers], bodyOf(refusal));
  };
  const prepare = (failure: WireFailure): Readonly<Record<Protocol, Reply>> => {
    const bare = bareReplies(failure);
    if (tell === undefined) return bare;
    return {
      grpc: tell(failure, "grpc"),
      "connect-proto": tell(failure, "connect-proto"),
      "connect-json": tell(failure, "connect-json"),
      http: bare.http,
    };
  };
  return {
    undecodable: prepare("undecodable"),
    oversized: prepare("oversized"),
    compressed: prepare("compressed"),
    deadline: prepare("deadline"),
    overloaded: prepare("overloaded"),
    internal: prepare("internal"),
    cardinality: prepare("cardinality"),
    unknown_method: prepare("unknown_method"),
    refusals: {
      bad_head: refuse("bad_head"),
      head_too_large: refuse("head_too_large"),
      unknown_path: refuse("unknown_path"),
      wrong_method: refuse("wrong_method"),
      wrong_type: refuse("wrong_type"),
    },
  };
}

function bareReplies(failure: WireFailure): Readonly<Record<Protocol, Reply>> {
  if (failure === "cardinality") return everywhere(codes.UNIMPLEMENTED, "a unary call has one message", http(400, []));
  if (failure === "unknown_method") return everywhere(codes.UNIMPLEMENTED, "unknown method", http(404, []));
  const { code, message, httpStatus, headers } = BARE[failure];
  return everywhere(code, message, http(httpStatus, headers), headers, failure === "compressed" ? GRPC_IDENTITY : []);
}

function everywhere(
  code: number,
  message: string,
  plain: Reply,
  headers: readonly HeaderPair[] = [],
  grpcHeaders: readonly HeaderPair[] = [],
): Readonly<Record<Protocol, Reply>> {
  const connect = connectError(code, message, [], headers);
  return {
    grpc: grpcStatus(code, message, undefined, grpcHeaders),
    "connect-proto": connect,
    "connect-json": connect,
    http: plain,
  };
}

import { connectMessage, grpcMessage, type Reply } from "../http2/unary/reply.ts";
import type { UnaryCall } from "../http2/unary/routes.ts";

/** The octets of a gRPC body before its message. */
const GRPC_PREFIX = 5;

/**
 * An encoded answer that never changes, with its reply for each protocol, built once. There may be one for each token of
 * the cache, so the message has one place: its own, or the gRPC reply.
 */
export class Encoded {
  #message: Uint8Array | undefined;
  #grpc: Reply | undefined;
  #connect: Reply | undefined;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  reply({ protocol }: Pick<UnaryCall, "protocol">): Reply {
    if (protocol !== "grpc") return (this.#connect ??= connectMessage(this.bytes, "application/proto"));
    if (this.#grpc === undefined) {
      this.#grpc = grpcMessage(this.bytes);
      this.#message = undefined;
    }
    return this.#grpc;
  }

  /** The message alone. */
  get bytes(): Uint8Array {
    return this.#message ?? this.#grpc!.body.subarray(GRPC_PREFIX);
  }
}

import { connectMessage, grpcMessage, type Reply } from "../http2/unary/reply.ts";
import type { UnaryCall } from "../http2/unary/routes.ts";
import type { Encoded } from "./validate-token.ts";

/** The reply for an encoded answer, built once for each protocol and kept with the answer. */
export function preparedReply(encoded: Encoded, call: Pick<UnaryCall, "protocol">): Reply {
  const kept = encoded.prepared as { grpc?: Reply; connect?: Reply } | undefined;
  if (call.protocol === "grpc") {
    if (kept?.grpc !== undefined) return kept.grpc;
    const reply = grpcMessage(encoded.bytes);
    encoded.prepared = { ...kept, grpc: reply };
    return reply;
  }
  if (kept?.connect !== undefined) return kept.connect;
  const reply = connectMessage(encoded.bytes, "application/proto");
  encoded.prepared = { ...kept, connect: reply };
  return reply;
}

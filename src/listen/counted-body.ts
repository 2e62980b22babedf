import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { DescMessage } from "@bufbuild/protobuf";
import { overfull, overfullJson } from "../rpc/entry-counts.ts";
import type { CallState } from "../rpc/transport-errors.ts";

const inflate = promisify(gunzip);
const ENVELOPE = 5;

/** The facts about a unary request that are known before its body. */
export interface Content {
  readonly input: DescMessage;
  readonly type: string;
  readonly grpc: boolean;
  readonly encoding: "identity" | "gzip" | "other";
  readonly maxBytes: number;
  readonly state: CallState;
}

/**
 * The body of a unary request, complete and in one piece, unless a list in it has more entries than it may have. Then
 * `state.excess` names the list, and the iteration throws before anything is decoded.
 */
export async function* countedBody(body: AsyncIterable<Uint8Array>, content: Content): AsyncGenerator<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const message = await messageIn(bytes, content);
  if (message !== undefined) {
    const excess = content.type.includes("json")
      ? overfullJson(content.input, message.toString("utf8"))
      : overfull(content.input, message);
    if (excess !== undefined) {
      content.state.excess = excess;
      content.state.fault = "overfull";
      throw new Error("overfull");
    }
  }
  yield bytes;
}

/** The encoded message. Undefined for what the transport refuses anyway. */
async function messageIn(bytes: Buffer, { grpc, encoding, maxBytes }: Content): Promise<Buffer | undefined> {
  const message = grpc ? bytes.subarray(ENVELOPE, ENVELOPE + lengthIn(bytes)) : bytes;
  const zipped = encoding === "gzip" && (!grpc || (bytes[0]! & 1) === 1);
  if (!zipped || message.length === 0) return message;
  return inflate(message, { maxOutputLength: maxBytes }).catch(() => undefined);
}

function lengthIn(bytes: Buffer): number {
  return bytes.length < ENVELOPE ? 0 : bytes.readUInt32BE(1);
}

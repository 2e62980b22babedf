import type { Http2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";
import { ByteBudget, DEFAULT_LIMITS } from "../server/limits.ts";
import { peerOf } from "../server/peer.ts";
import { NO_ERROR, PROTOCOL_ERROR } from "../wire/frame.ts";
import { type HeadLimits, HeadReader } from "./head.ts";
import { headOf, MountedCall, pairsIn, type Read } from "./mounted-call.ts";
import type { HeaderPair, Reply } from "./reply.ts";
import { type ConnectionPeer, type Routes, RouteTable, type UnaryCall } from "./routes.ts";

/** Time for an answer to leave after its last byte was written, before the next check. */
const LINGER_MS = 100;

export interface MountOptions {
  readonly routes: Routes;
  /** Shared with the other servers of the listener; by default the mount has its own. */
  readonly budget?: ByteBudget;
  /** By default those of the built-in server. */
  readonly limits?: HeadLimits;
  /** The listener is a unix socket. */
  readonly unix?: boolean;
  /** Gets the error of a handler or a `failed` hook; the call was answered "internal". Must not throw. */
  readonly onHandlerError?: (error: unknown, call: UnaryCall) => void;
}

type StreamHandler = (stream: ServerHttp2Stream, headers: unknown, flags: number, rawHeaders: string[]) => void;

/**
 * The same routes on `node:http2`: a listener for its server's 'stream' event. Header and stream limits, timeouts and
 * the drain are that server's to keep.
 */
export function mountNode(options: MountOptions): StreamHandler {
  const { unix = false, limits = DEFAULT_LIMITS } = options;
  const reader = new HeadReader(new RouteTable(options.routes), limits, unix);
  const peers = new WeakMap<Http2Session, ConnectionPeer>();
  const tell = options.onHandlerError ?? (() => {});
  const budget = options.budget ?? new ByteBudget(DEFAULT_LIMITS.maxBuffered);

  return (stream, _headers, _flags, rawHeaders) => {
    stream.on("error", () => {}); // 'close' follows
    const { session } = stream;
    if (session === undefined || session.destroyed) return;
    const head = headOf(reader, pairsIn(rawHeaders));
    if (head.malformed) {
      stream.close(PROTOCOL_ERROR);
      return;
    }
    let peer = peers.get(session);
    if (peer === undefined) {
      peer = peerOf(session.socket as Socket, unix);
      peers.set(session, peer);
    }
    const call = new MountedCall(
      head,
      peer,
      (reply, read) => send(stream, head.method, reply, read),
      tell,
      budget,
      false,
    );
    stream.once("close", () => call.abandon());
    call.serve(stream);
  };
}

function send(stream: ServerHttp2Stream, method: string, reply: Reply, read: Read): void {
  if (stream.destroyed || stream.closed) return;
  const { trailers } = reply;
  const bodiless = method === "HEAD" || (reply.dataLength === 0 && trailers === undefined);
  // The client may stop sending what nobody will read (RFC 9113 §8.1).
  if (read !== "wholly" && !stream.endAfterHeaders) {
    stream.once("finish", () => setTimeout(resetAnswered, LINGER_MS, stream).unref());
  }
  if (trailers !== undefined) stream.once("wantTrailers", () => stream.sendTrailers(outgoing(trailers)));
  stream.respond(
    { ":status": reply.status, ...outgoing(reply.headers) },
    { endStream: bodiless, waitForTrailers: trailers !== undefined },
  );
  if (!bodiless) stream.end(reply.body);
  stream.resume();
}

/** A reset would overtake an answer that has not left. */
function resetAnswered(stream: ServerHttp2Stream): void {
  if (stream.destroyed || stream.closed || stream.readableEnded) return;
  if (stream.state.localClose === 1) stream.close(NO_ERROR);
  else setTimeout(resetAnswered, LINGER_MS, stream).unref();
}

/** Node wants the values of a repeated name as an array. */
function outgoing(pairs: readonly HeaderPair[]): Record<string, string | string[]> {
  const fields: Record<string, string | string[]> = Object.create(null);
  for (const [name, value] of pairs) {
    const had = fields[name];
    fields[name] = had === undefined ? value : [...(Array.isArray(had) ? had : [had]), value];
  }
  return fields;
}

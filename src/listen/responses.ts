import type { IncomingMessage, ServerResponse } from "node:http";
import { constants, type Http2ServerRequest } from "node:http2";
import { type ByteBudget, SMALL } from "../http2/server/limits.ts";
import { connectionOf, type HttpRequest, type HttpResponse } from "./peers.ts";

/**
 * Time in which the rest of a request is read and dropped after its answer, so that the client can read it: most send
 * their whole body first. A connection that is closed on unread bytes is reset, and the answer may be lost with it.
 */
const LINGER_MS = 5_000;
/** Time for trailers to leave after the body; the sweep checks again. */
const TRAILERS_MS = 20;

interface Open {
  readonly req: HttpRequest;
  readonly res: HttpResponse;
  /** The bytes taken from the budget. */
  readonly held: number;
  pending: number;
  still: number;
}

/** The responses that a listener is writing: counted, watched for clients that do not read, and closed properly. */
export class OpenResponses {
  readonly #open = new Set<Open>();
  readonly #budget: ByteBudget;
  readonly #mostUnread: number;

  /** `budget` is for the bytes of requests; `mostUnread` is the limit of unread bytes of all answers together. */
  constructor(budget: ByteBudget, mostUnread: number) {
    this.#budget = budget;
    this.#mostUnread = mostUnread;
  }

  get size(): number {
    return this.#open.size;
  }

  /** True if a response on this HTTP/1.1 connection has begun: no error may be written between its bytes. */
  begun(socket: object): boolean {
    for (const { req, res } of this.#open) if (res.headersSent && connectionOf(req) === socket) return true;
    return false;
  }

  /**
   * Follows a response to its end. The rest of its request is then dropped: HTTP/2 resets, HTTP/1.1 lingers. False
   * when the budget does not hold the request's `weight`.
   */
  add(req: HttpRequest, res: HttpResponse, weight: number): boolean {
    const isWhole = weight <= SMALL || !hasBody(req);
    const fits = isWhole ? this.#budget.take(weight) : this.#budget.takeWaiting(weight);
    const entry: Open = { req, res, held: fits ? weight : 0, pending: 0, still: 0 };
    this.#open.add(entry);
    if ("stream" in req) {
      // The response's own `finish` waits for the request; the stream's comes when the answer has left.
      req.stream.once("finish", () => {
        if (!req.stream.readableEnded) setTimeout(resetAnswered, TRAILERS_MS, req).unref();
      });
    } else {
      res.once("finish", () => linger(req));
    }
    res.once("close", () => {
      this.#open.delete(entry);
      this.#budget.give(entry.held);
    });
    return fits;
  }

  /** From now on every HTTP/1.1 response ends its connection (RFC 9112 §9.6). */
  closeAfter(): void {
    for (const { res } of this.#open) lastOfConnection(res);
  }

  /**
   * Called every `intervalMs`. Resets responses that had unread bytes and no movement for `stalledMs`. If all together
   * have too many unread bytes, resets those that have not moved.
   */
  sweep(intervalMs: number, stalledMs: number): void {
    let unread = 0;
    for (const entry of this.#open) {
      const pending = pendingBytes(entry.res);
      unread += pending;
      entry.still = pending > 0 && pending === entry.pending ? entry.still + intervalMs : 0;
      entry.pending = pending;
      if (entry.still >= stalledMs || (entry.still > 0 && unread > this.#mostUnread)) abandon(entry.req);
      else if ("stream" in entry.req) resetAnswered(entry.req);
    }
  }
}

/** Marks an HTTP/1.1 response whose head is not yet written as the last one of its connection. */
export function lastOfConnection(res: HttpResponse): void {
  if (!("stream" in res) && !res.headersSent) (res as ServerResponse).shouldKeepAlive = false;
}

/** Ends a request's stream, or its connection, because HTTP/1.1 has no smaller unit. */
export function abandon(req: HttpRequest): void {
  if ("stream" in req) req.stream.close(constants.NGHTTP2_CANCEL);
  else req.socket.destroy();
}

function hasBody(req: HttpRequest): boolean {
  if ("stream" in req) return !req.stream.endAfterHeaders;
  return req.headers["transfer-encoding"] !== undefined || (req.headers["content-length"] ?? "0") !== "0";
}

function pendingBytes(res: HttpResponse): number {
  return "stream" in res ? (res.stream?.writableLength ?? 0) : (res as ServerResponse).writableLength;
}

/** Answered whole, while the client is still sending: RST_STREAM(NO_ERROR), RFC 9113 §8.1. */
function resetAnswered({ stream }: Http2ServerRequest): void {
  if (stream.destroyed || stream.closed || stream.state.localClose !== 1 || stream.readableEnded) return;
  stream.close(constants.NGHTTP2_NO_ERROR);
}

/** Reads and drops the rest of a request for a while, because closing at once could lose the answer. */
function linger(message: IncomingMessage): void {
  if (message.complete || message.socket.destroyed) return;
  // After a pause of the whole process the timer is due before the bytes that arrived meanwhile, so those are read
  // first.
  const end = (): void => void setImmediate(() => message.complete || message.socket.destroy());
  const timer = setTimeout(end, LINGER_MS).unref();
  message.once("end", () => clearTimeout(timer));
  message.resume();
}

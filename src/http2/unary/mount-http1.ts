import type { IncomingMessage, ServerResponse } from "node:http";
import { ByteBudget, DEFAULT_LIMITS } from "../server/limits.ts";
import { peerOf } from "../server/peer.ts";
import { HeadReader } from "./head.ts";
import type { MountOptions } from "./mount-node.ts";
import { headOf, MountedCall, pairsIn, type Read } from "./mounted-call.ts";
import type { Reply } from "./reply.ts";
import { RouteTable } from "./routes.ts";

// Fields of this connection only (RFC 9110 §7.6.1) are no part of the request; HTTP/2 has none of them.
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
]);

/** After the answer, the time that a body which may never come is waited for. */
const LINGER_MS = 500;

/**
 * The same routes on `node:http`: a listener for its server's 'request' event. Connect unary and plain HTTP; gRPC needs
 * HTTP/2 and is answered 415. Header limits (431) and timeouts are that server's to keep.
 */
export function mountHttp1(options: MountOptions): (request: IncomingMessage, response: ServerResponse) => void {
  const { unix = false, limits = DEFAULT_LIMITS } = options;
  const reader = new HeadReader(new RouteTable(options.routes), limits, unix);
  const tell = options.onHandlerError ?? (() => {});
  const budget = options.budget ?? new ByteBudget(DEFAULT_LIMITS.maxBuffered);

  return (request, response) => {
    request.on("error", () => {}); // 'close' follows
    response.on("error", () => {});
    const head = headOf(reader, fieldsOf(request));
    if (head.malformed) {
      response.writeHead(400, { connection: "close", "content-length": "0" }).end();
      return;
    }
    if (head.protocol === "grpc") head.protocol = "http";
    const peer = peerOf(request.socket, unix);
    const call = new MountedCall(head, peer, (reply, read) => send(request, response, reply, read), tell, budget, true);
    response.once("close", () => call.abandon());
    call.serve(request);
  };
}

function* fieldsOf(request: IncomingMessage): Generator<readonly [string, string]> {
  yield [":method", request.method ?? ""];
  yield [":scheme", "http"];
  yield [":path", request.url ?? ""];
  for (const pair of pairsIn(request.rawHeaders)) if (!HOP_BY_HOP.has(pair[0].toLowerCase())) yield pair;
}

/**
 * The rest of the request is read and dropped, within that server's time limits. A connection that is closed while its
 * client still writes is reset, and the answer is lost with it (RFC 9112 §9.6).
 */
function send(request: IncomingMessage, response: ServerResponse, reply: Reply, read: Read): void {
  if (response.destroyed || response.headersSent) return;
  const fields = reply.headers.flat();
  // Node stops its parser while an answer drains, and takes the next request, come too early, for a bad one: its client
  // would be cut off without an answer.
  const large = reply.dataLength >= request.socket.writableHighWaterMark;
  // The next request must not be taken for a body that was announced.
  const owed = read === "by-head" && hasBody(request);
  if (large || owed) fields.push("connection", "close");
  response.writeHead(reply.status, fields);
  if (!owed) {
    response.end(reply.body);
    return;
  }
  if (reply.dataLength > 0) response.write(reply.body);
  else response.flushHeaders();
  const end = () => {
    clearTimeout(timer);
    response.end();
  };
  const timer = setTimeout(end, LINGER_MS).unref();
  request.once("end", end).resume();
}

/** RFC 9112 §6.3. */
function hasBody(request: IncomingMessage): boolean {
  return request.headers["transfer-encoding"] !== undefined || (request.headers["content-length"] ?? "0") !== "0";
}

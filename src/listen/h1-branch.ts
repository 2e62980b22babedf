import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import type { Socket } from "node:net";
import type { ListenerLimits } from "./limits.ts";
import type { HttpHandler } from "./peers.ts";

/**
 * The HTTP/1.1 half of a listener: a server that never listens and gets its connections from the listener. Bytes that
 * it cannot parse get 400, 408 or 431 if no response has begun, and end the connection.
 */
export function h1Branch(
  limits: ListenerLimits["h1"],
  listener: HttpHandler,
  hooks: { begun(socket: Socket): boolean; onRefused(): void },
): Server {
  const server = createServer(
    {
      maxHeaderSize: limits.maxHeaderBytes,
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: 1_000,
      requireHostHeader: false, // the guard requires it, for HTTP/1.0 as well
      insecureHTTPParser: false,
      joinDuplicateHeaders: false,
    },
    listener as RequestListener,
  );
  server.maxHeadersCount = limits.maxHeaders;
  const ending = new WeakSet<Socket>();
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    if (ending.has(socket)) return; // each further piece of unparsable bytes is an error again
    ending.add(socket);
    hooks.onRefused();
    if (socket.writable && !hooks.begun(socket)) socket.write(statusLine(error.code));
    socket.destroySoon();
  });
  // CONNECT and, with a listener, Upgrade would hand out the bare socket.
  server.on("connect", (_req: IncomingMessage, socket: Socket) => socket.destroy());
  server.on("dropRequest", (_req: IncomingMessage, socket: Socket) => socket.destroy());
  // A server that never listens does not start its timeouts and its list of connections.
  server.emit("listening");
  return server;
}

function statusLine(code: string | undefined): string {
  const status =
    code === "HPE_HEADER_OVERFLOW"
      ? "431 Request Header Fields Too Large"
      : code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? "408 Request Timeout"
        : code === "HPE_CHUNK_EXTENSIONS_OVERFLOW"
          ? "413 Payload Too Large"
          : "400 Bad Request";
  return `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`;
}

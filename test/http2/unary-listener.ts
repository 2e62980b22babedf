import { createServer, type Server, type Socket } from "node:net";
import { DEFAULT_LIMITS } from "../../src/http2/server/limits.ts";
import { createUnaryServer, type UnaryServer, type UnaryServerOptions } from "../../src/http2/server/server.ts";
import { PREFACE } from "../../src/http2/wire/frame.ts";

export interface UnaryListenerOptions extends UnaryServerOptions {
  /** Given every connection that does not open with the HTTP/2 preface; `head` is what was read of it. */
  readonly onHttp1: (socket: Socket, head: Buffer) => void;
  readonly trust: "trusted" | "untrusted";
}

export interface UnaryListener {
  /** Listens as `net.Server` does; a unix path, or a port on an address. */
  readonly listener: Server;
  readonly server: UnaryServer;
}

/** A cleartext port that tells HTTP/2 with prior knowledge from the rest by its first octets. */
export function createUnaryListener(options: UnaryListenerOptions): UnaryListener {
  const server = createUnaryServer(options);
  const silence = options.limits?.prefaceMs ?? DEFAULT_LIMITS.prefaceMs;
  const listener = createServer({ noDelay: true }, (socket) => {
    socket.on("error", () => {}); // 'close' follows
    const silent = setTimeout(() => socket.destroy(), silence);
    socket.once("close", () => clearTimeout(silent));
    sniff(socket, (http2, head) => {
      clearTimeout(silent);
      if (http2) server.accept(socket, head, options.trust);
      else options.onHttp1(socket, head);
    });
  });
  return { listener, server };
}

/** Reads until the octets are the preface or can no longer become it. */
function sniff(socket: Socket, decided: (http2: boolean, head: Buffer) => void): void {
  let head: Buffer = Buffer.alloc(0);
  const onData = (bytes: Buffer): void => {
    head = head.length === 0 ? bytes : Buffer.concat([head, bytes]);
    const seen = Math.min(head.length, PREFACE.length);
    const http2 = head.compare(PREFACE, 0, seen, 0, seen) === 0;
    if (http2 && seen < PREFACE.length) return;
    socket.off("data", onData);
    socket.pause();
    decided(http2, head);
  };
  socket.on("data", onData);
}

// This server exists because node:http2 takes about eight times the CPU per call. It serves unary calls only, so it
// needs few parts of HTTP/2. `listeners.data.http2: node` serves the same routes on Node's server.
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { GRPC_PREFIX } from "../unary/exchange.ts";
import { HeadReader } from "../unary/head.ts";
import type { ConnectionPeer } from "../unary/routes.ts";
import { type Routes, RouteTable, type UnaryCall } from "../unary/routes.ts";
import { INITIAL_WINDOW } from "../wire/frame.ts";
import { Connection } from "./connection.ts";
import type { ConnectionError, ServerContext, ServerStats, Wakeable } from "./context.ts";
import { ByteBudget, DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Output } from "./output.ts";
import { peerOf } from "./peer.ts";
import { lendReads } from "./shared-reads.ts";

export interface UnaryServerOptions {
  readonly routes: Routes;
  readonly limits?: Partial<Limits>;
  /** The listener is a unix socket. */
  readonly unix?: boolean;
  /** Shared with the other servers of the listener. By default the server has its own, of `limits.maxBuffered`. */
  readonly budget?: ByteBudget;
  /** Must not throw. */
  readonly onConnectionError?: (error: ConnectionError) => void;
  /** Gets the error of a handler or a `failed` hook; the call was answered "internal". Must not throw. */
  readonly onHandlerError?: (error: unknown, call: UnaryCall) => void;
  /** "shared" (the default) reads all cleartext connections into one buffer where Node allows it; "own" never does. */
  readonly reads?: "shared" | "own";
}

export interface UnaryServer {
  /**
   * Serves HTTP/2 on a connected socket whose handshake, if any, is done. `head` is what the caller has already read of
   * it. The caller keeps its listeners and may destroy the socket; it reads and writes it no more.
   */
  accept(socket: Socket, head: Buffer | undefined, trust: "trusted" | "untrusted"): void;
  /** Drains every connection (RFC 9113 §6.8) and destroys what is left after `graceMs`. Resolves when none is left. */
  drain(graceMs: number): Promise<void>;
  /** Destroys every connection. */
  close(): void;
  stats(): Readonly<ServerStats>;
}

const ignore = (): void => {};

/** A server of unary calls over HTTP/2 with prior knowledge (RFC 9113) on sockets that the caller accepts. */
export function createUnaryServer(options: UnaryServerOptions): UnaryServer {
  const limits: Limits = { ...DEFAULT_LIMITS, ...options.limits };
  const { unix = false } = options;
  const table = new RouteTable(options.routes);
  const connections = new Map<Connection, Socket>();
  const stats: ServerStats = {
    connections: 0,
    requests: 0,
    refused: 0,
    cancelled: 0,
    connectionErrors: 0,
    buffered: 0,
  };
  let woken = new Set<Wakeable>();
  let sweeper: NodeJS.Timeout | undefined;
  let draining = false;
  let emptied = ignore;

  const context: ServerContext = {
    limits,
    output: new Output(),
    headReader: new HeadReader(table, limits, unix),
    budget: options.budget ?? new ByteBudget(limits.maxBuffered),
    initialWindow: Math.max(INITIAL_WINDOW, table.largestMessage + GRPC_PREFIX),
    stats,
    wake(connection) {
      if (woken.size === 0) setImmediate(wakeAll);
      woken.add(connection);
    },
    connectionError: options.onConnectionError ?? ignore,
    handlerError: options.onHandlerError ?? ignore,
  };

  function wakeAll(): void {
    const due = woken;
    woken = new Set();
    for (const connection of due) connection.wake();
  }

  function sweep(): void {
    const now = performance.now();
    for (const connection of connections.keys()) connection.lifetime.tick(now);
  }

  function serve(
    socket: Socket,
    peer: ConnectionPeer,
    trust: "trusted" | "untrusted",
    writes: "lend" | "copy",
  ): Connection {
    socket.setNoDelay(true);
    const connection = new Connection(context, socket, peer, trust, writes);
    connections.set(connection, socket);
    stats.connections++;
    sweeper ??= setInterval(sweep, limits.sweepMs).unref();
    socket.on("error", ignore); // 'close' follows
    socket.on("drain", () => connection.drained());
    socket.once("close", () => {
      connection.closed();
      connections.delete(connection);
      stats.connections--;
      if (connections.size > 0) return;
      clearInterval(sweeper);
      sweeper = undefined;
      emptied();
    });
    if (draining) connection.lifetime.drain();
    return connection;
  }

  return {
    accept(socket, head, trust) {
      if (socket.destroyed) return;
      // Of this socket, not of the one that shares its handle: a client that has left since has no address there.
      const peer = peerOf(socket, unix);
      const lent = options.reads !== "own" && lendReads(socket, (shared) => serve(shared, peer, trust, "lend"), head);
      if (lent) return;
      const connection = serve(socket, peer, trust, socket instanceof TLSSocket ? "copy" : "lend");
      socket.on("data", (bytes: Buffer) => connection.receive(bytes, 0, bytes.length));
      if (head !== undefined) connection.receive(head, 0, head.length);
      socket.resume();
    },
    drain(graceMs) {
      draining = true;
      if (connections.size === 0) return Promise.resolve();
      return new Promise((resolve) => {
        const deadline = setTimeout(() => destroyAll(connections.values()), graceMs);
        emptied = () => {
          clearTimeout(deadline);
          resolve();
        };
        for (const connection of connections.keys()) connection.lifetime.drain();
      });
    },
    close: () => destroyAll(connections.values()),
    stats: () => ({ ...stats }),
  };
}

function destroyAll(sockets: Iterable<Socket>): void {
  for (const socket of sockets) socket.destroy();
}

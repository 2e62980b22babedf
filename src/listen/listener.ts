import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from "node:tls";
import { ByteBudget } from "../http2/server/limits.ts";
import { peerOf } from "../http2/server/peer.ts";
import type { Peer } from "../rpc/peer.ts";
import { listen, listenShared, parseBind } from "./bind.ts";
import { onFirstBytes } from "./first-bytes.ts";
import { guarded } from "./guard.ts";
import { h1Branch } from "./h1-branch.ts";
import { h2Branch, type StreamHandler } from "./h2-branch.ts";
import type { ListenerLimits } from "./limits.ts";
import { describePeer, type HttpHandler, rememberPeer } from "./peers.ts";
import { OpenResponses } from "./responses.ts";
import { certificateEnd, loadTls, type TlsFiles } from "./tls.ts";

const SWEEP_MS = 1_000;
/** During a drain: the time that a connection without a request is kept, because a request may be on the wire. */
const SILENCE_MS = 500;

/** A listener's own faults, by the names of `telemetry/events.ts`. */
export type ListenerTrouble = "accept_failed" | "certificate_reload_failed" | "handler_failed";

export interface ListenerOptions {
  readonly name: Peer["listener"];
  /** `127.0.0.1:7400` or `unix:/path`; port 0 takes a free one. */
  readonly bind: string;
  /** The mode of the socket file; 0600 by default. */
  readonly unixMode?: number;
  /** Called just before the primary of this worker is asked for the socket, which it makes. */
  readonly binding?: (() => void) | undefined;
  readonly tls?: TlsFiles;
  readonly limits: ListenerLimits;
  /** Bytes that peers make the listener hold, shared with the readers of bodies; by default `limits.bufferedBytes`. */
  readonly budget?: ByteBudget;
  /** Answers requests of both protocols. It runs behind the guard. */
  readonly handler: HttpHandler;
  /**
   * Takes the HTTP/2 connections instead of `node:http2`: the socket, paused, and the bytes read so far. It drains them
   * itself; the listener destroys the rest at the end.
   */
  readonly http2?: (socket: Socket, head: Buffer, peer: Peer) => void;
  /**
   * Answers HTTP/2 on `node:http2` stream by stream, in place of `listener`. It checks authority and headers itself.
   */
  readonly onStream?: StreamHandler;
  /** A fault on our side. Faults of peers are only counted, in `stats()`. */
  onTrouble(name: ListenerTrouble, error: unknown): void;
  /** A TLS handshake that failed: the peer's address, and a code for the reason. */
  onHandshakeFailed?(address: string, why: string): void;
  /** The server's certificate is in use, from the start or after a reload: when it ends, in seconds since 1970. */
  onCertificate?(endsAt: number): void;
}

export interface ListenerStats {
  readonly sockets: number;
  readonly sessions: number;
  readonly openResponses: number;
  /** The connections that a limit refused, and the malformed frames and requests, since the start. */
  readonly refusedSockets: number;
  readonly refusedRequests: number;
}

export interface Listener {
  /** `127.0.0.1`, or the path of the socket file. */
  readonly address: string;
  /** 0 for a unix socket. */
  readonly port: number;
  /** Stops accepting, lets requests in progress finish for at most `graceMs`, then closes. Never rejects. */
  drain(graceMs: number): Promise<void>;
  close(): Promise<void>;
  /**
   * Reloads the certificate files. Returns false if a file is bad; the old state stays then, and the problem is
   * reported.
   */
  reloadTls(): boolean;
  stats(): ListenerStats;
}

/**
 * Opens one port that speaks HTTP/1.1 and HTTP/2: by first bytes in cleartext, by ALPN and first bytes under TLS.
 * Rejects with StartError.
 */
export async function openListener(options: ListenerOptions): Promise<Listener> {
  const { limits, tls } = options;
  const bind = parseBind(options.bind);
  const unix = "path" in bind;
  const sockets = new Set<Socket>();
  const undecided = new Set<Socket>();
  const perAddress = new Map<string, number>();
  const responses = new OpenResponses(options.budget ?? new ByteBudget(limits.bufferedBytes), limits.bufferedBytes);
  let draining = false;
  let refusedSockets = 0;
  let refusedRequests = 0;
  const onRefused = (): void => void refusedRequests++;

  const listener = guarded(options.handler, {
    responses,
    maxHeaderBytes: limits.h2.maxHeaderBytes,
    authority: { unix, probes: options.name === "ops" },
    draining: () => draining,
    onRefused,
    onHandlerError: (error) => options.onTrouble("handler_failed", error),
  });
  const h1 = h1Branch(limits.h1, listener, { begun: (socket) => responses.begun(socket), onRefused });
  const h2 = h2Branch(limits, options.onStream ?? listener, options.onStream ? "streams" : "requests", {
    onSession: (session, socket) => rememberPeer(session, peerBySocket.get(socket)!),
    onRefused,
    onTrouble: (error) => options.onTrouble("handler_failed", error),
  });
  const peerBySocket = new WeakMap<Socket, Peer>();

  const describe = (socket: Socket): Peer => {
    const peer = peerOf(socket, unix);
    // A client that has reset its connection has no address any more. It was read when the connection was accepted.
    const address = peer.address || (peerBySocket.get(acceptedAs(socket))?.address ?? "");
    return describePeer(options.name, { ...peer, address }, tls?.allowedSans ?? []);
  };

  const certificate = (files: TlsFiles) => {
    const loaded = loadTls(files);
    options.onCertificate?.(certificateEnd(loaded));
    return loaded;
  };

  /** Applies the limits of sockets; returns false if the connection was refused. */
  const admit = (socket: Socket): boolean => {
    socket.on("error", () => {});
    const peer = describe(socket);
    const same = perAddress.get(peer.address) ?? 0;
    const left = !unix && peer.address === ""; // its peer is gone, so no rule about addresses could be applied
    if (
      draining ||
      left ||
      sockets.size >= limits.maxSockets ||
      (peer.from === "remote" && same >= limits.maxSocketsPerAddress)
    ) {
      refusedSockets++;
      socket.destroy();
      return false;
    }
    sockets.add(socket);
    perAddress.set(peer.address, same + 1);
    peerBySocket.set(socket, peer);
    socket.once("close", () => {
      sockets.delete(socket);
      const others = (perAddress.get(peer.address) ?? 1) - 1;
      if (others > 0) perAddress.set(peer.address, others);
      else perAddress.delete(peer.address);
    });
    return true;
  };

  const serve = (socket: Socket, peer: Peer, alpn: string | false): void => {
    peerBySocket.set(socket, peer);
    undecided.add(socket);
    socket.once("close", () => undecided.delete(socket));
    onFirstBytes(socket, limits.firstRequestMs, (protocol, head) => {
      undecided.delete(socket);
      if (alpn && (alpn === "h2") !== (protocol === "h2")) return void socket.destroy();
      rememberPeer(socket, peer);
      if (protocol === "h2") socket.allowHalfOpen = false; // a client that ends has left
      if (protocol === "h2" && options.http2) {
        socket.pause();
        options.http2(socket, head, peer);
        return;
      }
      socket.unshift(head);
      if (protocol === "h1") h1.emit("connection", socket);
      else h2.accept(socket);
    });
  };

  let server: Server | TlsServer;
  if (tls === undefined) {
    server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) => {
      if (admit(socket)) serve(socket, peerBySocket.get(socket)!, false);
    });
  } else {
    const named = (tls.allowedSans?.length ?? 0) > 0;
    server = createTlsServer({
      ...certificate(tls),
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: limits.firstRequestMs,
      requestCert: tls.clientCaFile !== undefined,
      // A client without a certificate may come to the data listener with a bearer.
      rejectUnauthorized: options.name !== "data" && named,
      allowHalfOpen: false, // a client that ends in the handshake has disconnected
      noDelay: true,
      keepAlive: true,
    });
    server.on("connection", (socket: Socket) => admit(socket)); // before the handshake
    const failed = (socket: TLSSocket, why: string): void => {
      onRefused();
      options.onHandshakeFailed?.(describe(socket).address, why);
    };
    server.on("tlsClientError", (error: NodeJS.ErrnoException, socket: TLSSocket) => {
      // A refused certificate ends the connection, which alone would look as if the client had left.
      failed(socket, String(socket.authorizationError ?? error.code ?? "error"));
      socket.destroy(); // Node does not end a handshake that timed out
    });
    server.on("secureConnection", (socket: TLSSocket) => {
      socket.on("error", () => {});
      socket.disableRenegotiation();
      const peer = describe(socket);
      if (named && !peer.sanAllowed && socket.getPeerX509Certificate() !== undefined) {
        failed(socket, "SAN_NOT_ALLOWED");
        return void socket.destroy();
      }
      serve(socket, peer, socket.alpnProtocol ?? false);
    });
  }
  if (options.binding === undefined) await listen(server, bind, options.unixMode ?? 0o600);
  else {
    options.binding();
    await listenShared(server, bind);
  }
  server.on("error", (error) => options.onTrouble("accept_failed", error));
  const sweep = setInterval(() => responses.sweep(SWEEP_MS, limits.stalledMs), SWEEP_MS).unref();

  const ended = new Promise<void>((resolve) => server.once("close", () => resolve()));
  const end = async (): Promise<void> => {
    draining = true;
    if (server.listening) server.close();
    const gone = [...sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve).destroy()));
    clearInterval(sweep);
    h1.closeAllConnections();
    h1.emit("close"); // ends the timer that `listening` began
    await Promise.all([ended, ...gone]);
  };
  const address = unix ? bind.path : (server.address() as AddressInfo).address;
  return {
    address,
    port: unix ? 0 : (server.address() as AddressInfo).port,
    async drain(graceMs) {
      draining = true;
      if (server.listening) server.close();
      responses.closeAfter();
      h2.closeAll();
      const silent = setTimeout(() => {
        h1.closeIdleConnections();
        for (const socket of undecided) socket.destroy();
      }, SILENCE_MS);
      let grace: NodeJS.Timeout | undefined;
      await Promise.race([ended, new Promise((resolve) => (grace = setTimeout(resolve, graceMs)))]);
      clearTimeout(grace);
      clearTimeout(silent);
      await end();
    },
    close: end,
    reloadTls() {
      if (tls === undefined) return true;
      try {
        (server as TlsServer).setSecureContext(certificate(tls));
        return true;
      } catch (error) {
        options.onTrouble("certificate_reload_failed", error);
        return false;
      }
    },
    stats: () => ({
      sockets: sockets.size,
      sessions: h2.sessions,
      openResponses: responses.size,
      refusedSockets,
      refusedRequests,
    }),
  };
}

/** The socket under a TLS socket, which the server accepted. Node has no public name for it. */
function acceptedAs(socket: Socket): Socket {
  return (socket as { _parent?: Socket })._parent ?? socket;
}

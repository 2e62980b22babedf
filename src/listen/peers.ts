import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { ConnectionPeer, UnaryCall } from "../http2/unary/routes.ts";
import type { Peer } from "../rpc/peer.ts";

export type HttpRequest = IncomingMessage | Http2ServerRequest;
export type HttpResponse = ServerResponse | Http2ServerResponse;
/** Answers one request, HTTP/1.1 or HTTP/2. An error that it throws is answered with 500. */
export type HttpHandler = (req: HttpRequest, res: HttpResponse) => void | Promise<void>;

const peers = new WeakMap<object, Peer>();

/** Remembers the peer of a socket or an HTTP/2 session. */
export function rememberPeer(connection: object, peer: Peer): void {
  peers.set(connection, peer);
}

/** The connection of a request: its HTTP/2 session, or its socket. Limits per connection count by it. */
export function connectionOf(req: HttpRequest): object {
  return "stream" in req ? (req.stream.session ?? req.stream) : req.socket;
}

/** The peer of a request. A request whose connection is gone has a peer without any rights. */
export function peerOf(req: HttpRequest): Peer {
  return peers.get(connectionOf(req)) ?? { listener: "data", address: "", from: "remote", sans: [], sanAllowed: false };
}

/** A connection's peer, for permissions and limits. `allowedSans` are the listener's. */
export function describePeer(
  listener: Peer["listener"],
  { address, unix, certificateSans }: ConnectionPeer,
  allowedSans: readonly string[],
): Peer {
  const loopback = address === "::1" || address.startsWith("127.");
  const sans = certificateSans();
  const sanAllowed = sans.some((san) => allowedSans.includes(san));
  return { listener, address, from: unix ? "unix" : loopback ? "loopback" : "remote", sans, sanAllowed };
}

/** The peer behind a call of the data listener's routes, described once per connection. */
export function peersByCall(allowedSans: readonly string[]): (call: Pick<UnaryCall, "peer">) => Peer {
  const known = new WeakMap<ConnectionPeer, Peer>();
  return ({ peer }) => {
    let described = known.get(peer);
    if (described === undefined) {
      described = describePeer("data", peer, allowedSans);
      known.set(peer, described);
    }
    return described;
  };
}

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { UnaryCall } from "../http2/unary/routes.ts";
import type { Peer } from "../rpc/peer.ts";

export type HttpRequest = IncomingMessage | Http2ServerRequest;
export type HttpResponse = ServerResponse | Http2ServerResponse;
/** Answers one request, HTTP/1.1 or HTTP/2. What it throws is answered with 500. */
export type HttpHandler = (req: HttpRequest, res: HttpResponse) => void | Promise<void>;

const peers = new WeakMap<object, Peer>();

/** Remembers who is behind a socket or an HTTP/2 session. */
export function rememberPeer(connection: object, peer: Peer): void {
  peers.set(connection, peer);
}

/** What a request arrived on: its HTTP/2 session, or its socket. Limits per connection are counted by it. */
export function connectionOf(req: HttpRequest): object {
  return "stream" in req ? (req.stream.session ?? req.stream) : req.socket;
}

/** Who sent a request. A request whose connection is already gone has a peer without any rights. */
export function peerOf(req: HttpRequest): Peer {
  return peers.get(connectionOf(req)) ?? { listener: "data", address: "", from: "remote", sans: [], sanAllowed: false };
}

/** Reads a peer off a fresh connection. IPv4 addresses are shown without their IPv6 mapping. */
export function describePeer(listener: Peer["listener"], socket: Socket, unix: boolean): Peer {
  const address = unix ? "" : (socket.remoteAddress ?? "").replace(/^::ffff:(?=\d+\.)/, "");
  const loopback = address === "::1" || address.startsWith("127.");
  return { listener, address, from: unix ? "unix" : loopback ? "loopback" : "remote", sans: [], sanAllowed: false };
}

// One name of Node's `subjectaltname`: values with anything special in them are JSON strings.
const SAN = /(DNS|URI|[A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
const SAN_MAX = 64 * 1024;

/**
 * The DNS and URI names (RFC 5280 §4.2.1.6) of a client certificate that was verified against the listener's CA. A DNS name
 * that looks like a URI, a URI without a scheme and a list that cannot be read whole name nobody.
 */
export function sansOf(socket: TLSSocket): string[] {
  if (!socket.authorized) return [];
  const list = socket.getPeerX509Certificate()?.subjectAltName ?? "";
  return list.length > SAN_MAX ? [] : parseSans(list);
}

export function parseSans(list: string): string[] {
  const names: string[] = [];
  SAN.lastIndex = 0;
  while (SAN.lastIndex < list.length) {
    const found = SAN.exec(list);
    if (found === null) return [];
    const [, kind, raw] = found;
    let value = raw!;
    if (value.startsWith('"')) {
      try {
        value = JSON.parse(value) as string;
      } catch {
        return [];
      }
    }
    if (kind === "DNS" && /^[A-Za-z0-9.*_-]+$/.test(value)) names.push(value);
    if (kind === "URI" && /^[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+$/.test(value)) names.push(value);
  }
  return names;
}

const USABLE_SAN = /^(?:DNS:([A-Za-z0-9.*_-]+)|URI:([A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+))$/;

/** The peer behind a call of the data listener's routes, read once per connection. `allowedSans` are the listener's. */
export function peersByCall(allowedSans: readonly string[]): (call: Pick<UnaryCall, "peer">) => Peer {
  const known = new WeakMap<UnaryCall["peer"], Peer>();
  return ({ peer }) => {
    let described = known.get(peer);
    if (described === undefined) {
      const address = (peer.address ?? "").replace(/^::ffff:(?=\d+\.)/, "");
      const loopback = address === "::1" || address.startsWith("127.");
      const sans = peer.certificateSans().flatMap((san) => USABLE_SAN.exec(san)?.slice(1).find(Boolean) ?? []);
      const from = peer.unix ? "unix" : loopback ? "loopback" : "remote";
      described = { listener: "data", address, from, sans, sanAllowed: sans.some((san) => allowedSans.includes(san)) };
      known.set(peer, described);
    }
    return described;
  };
}

import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { ConnectionPeer } from "../unary/routes.ts";

const NO_SANS: string[] = [];
/** A longer list names nobody. */
const LONGEST_LIST = 64 * 1024;
// One name of Node's `subjectaltname`. A value with special characters is a JSON string.
const SAN = /(DNS|URI|[A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
const DNS_NAME = /^[A-Za-z0-9.*_-]+$/;
const URI_NAME = /^[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+$/;

/**
 * The other end of a socket. `unix` comes from the listener: a TCP socket whose peer has left has no address either.
 * The names of its certificate are read at the first call; they do not change.
 */
export function peerOf(socket: Socket, unix: boolean): ConnectionPeer {
  // An IPv4 address without its IPv6 mapping.
  const address = unix ? "" : (socket.remoteAddress ?? "").replace(/^::ffff:(?=\d+\.)/, "");
  let sans: string[] | undefined;
  return { address, unix, certificateSans: () => (sans ??= sansOf(socket)) };
}

function sansOf(socket: Socket): string[] {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return NO_SANS;
  const list = socket.getPeerX509Certificate()?.subjectAltName ?? "";
  return list.length > LONGEST_LIST ? NO_SANS : parseSans(list);
}

/**
 * The DNS and URI names (RFC 5280 §4.2.1.6) in a list as Node writes it. A DNS name that looks like a URI and a URI
 * without a scheme are left out. A list that cannot be read to its end names nobody.
 */
export function parseSans(list: string): string[] {
  const names: string[] = [];
  SAN.lastIndex = 0;
  while (SAN.lastIndex < list.length) {
    const found = SAN.exec(list);
    if (found === null) return [];
    const [, kind, raw] = found;
    const value = raw!.startsWith('"') ? unquoted(raw!) : raw!;
    if (value === undefined) return [];
    if (kind === "DNS" && DNS_NAME.test(value)) names.push(value);
    if (kind === "URI" && URI_NAME.test(value)) names.push(value);
  }
  return names;
}

function unquoted(json: string): string | undefined {
  try {
    return JSON.parse(json) as string;
  } catch {
    return undefined;
  }
}

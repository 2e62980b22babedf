import { isIPv4, isIPv6 } from "node:net";
import { isAuthority as isRfcAuthority } from "../http2/unary/authority.ts";
import type { HttpRequest } from "./peers.ts";

const MAX_BYTES = 255;
const HOST_PORT = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/;

/**
 * Whether a string is `host[:port]` (RFC 3986 §3.2 without user information): a name of letters, digits, `.`, `_`, `-`,
 * an IPv4 or a bracketed IPv6 address. A name that ends in a number must be a whole IPv4 address. Never `new URL()`: it
 * throws on what a peer may send.
 */
export function isAuthority(value: string): boolean {
  if (value.length > MAX_BYTES) return false;
  const found = HOST_PORT.exec(value);
  if (found === null) return false;
  const [, ipv6, name, port] = found;
  if (port !== undefined && Number(port) > 65_535) return false;
  if (ipv6 !== undefined) return isIPv6(ipv6);
  const labels = name!.split(".");
  const last = (labels.length > 1 && labels.at(-1) === "" ? labels.at(-2) : labels.at(-1))!;
  return !/^(?:\d+|0[xX][0-9a-fA-F]*)$/.test(last) || isIPv4(name!);
}

/** The size of a request's headers as RFC 9113 §6.5.2 counts it. */
export function headerListSize(req: HttpRequest): number {
  let size = 0;
  for (let i = 0; i < req.rawHeaders.length; i += 2)
    size += req.rawHeaders[i]!.length + req.rawHeaders[i + 1]!.length + 32;
  return size;
}

/** Where one kind of listener bears more than the others. */
export interface AuthorityRules {
  /** A unix socket: clients of gRPC make an authority of its path, `%2Frun%2Fsallyport.sock`. */
  readonly unix: boolean;
  /** Probes come, and those of HTTP/1.0 need no `Host` (RFC 9112 §3.2). */
  readonly probes: boolean;
}

/**
 * What is wrong with the frame of a request, before anything looks at its meaning: exactly one well-formed authority
 * (RFC 9112 §3.2, RFC 9113 §8.3.1) and a path that begins with a slash. Undefined when it may be served.
 */
export function requestFault(req: HttpRequest, rules: AuthorityRules): string | undefined {
  let authority: string | undefined;
  let host: string | undefined;
  const raw = req.rawHeaders;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase();
    if (name === ":authority") {
      if (authority !== undefined) return "more than one authority";
      authority = raw[i + 1]!;
    } else if (name === "host") {
      if (host !== undefined) return "more than one authority";
      host = raw[i + 1]!;
    }
  }
  if (authority !== undefined && host !== undefined && authority.toLowerCase() !== host.toLowerCase())
    return "two different authorities";
  const named = authority ?? host;
  if (named === undefined) {
    if (!rules.probes || req.httpVersion !== "1.0") return "no authority";
  } else if (!(rules.unix ? isRfcAuthority : isAuthority)(named)) return "malformed authority";
  if (typeof req.url !== "string" || !req.url.startsWith("/")) return "malformed path";
  return undefined;
}

import { isAuthority, isUnixAuthority } from "../http2/unary/authority.ts";
import type { HttpRequest } from "./peers.ts";

/** The size of a request's headers as RFC 9113 §6.5.2 counts it. */
export function headerListSize(req: HttpRequest): number {
  let size = 0;
  for (let i = 0; i < req.rawHeaders.length; i += 2)
    size += req.rawHeaders[i]!.length + req.rawHeaders[i + 1]!.length + 32;
  return size;
}

/** Requests that one listener accepts and the others do not. */
export interface AuthorityRules {
  /** The listener is a unix socket. */
  readonly unix: boolean;
  /** Probes ask this listener. A probe in HTTP/1.0 needs no `Host` (RFC 9112 §3.2). */
  readonly probes: boolean;
}

/**
 * The fault of a request that does not have exactly one well-formed authority (RFC 9112 §3.2, RFC 9113 §8.3.1) and a
 * path that begins with a slash. Undefined when the request may be served.
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
  } else if (!(rules.unix ? isUnixAuthority : isAuthority)(named)) return "malformed authority";
  if (typeof req.url !== "string" || !req.url.startsWith("/")) return "malformed path";
  return undefined;
}

import { wireError } from "../rpc/transport-errors.ts";
import { answerError } from "./guard.ts";
import type { HttpHandler, HttpRequest } from "./peers.ts";

const ORIGIN = /^https?:\/\/([^/?#@\s]+)$/i;

/**
 * Refuses what a page of another site makes a browser send, before anybody asks for a credential. A browser names the
 * page in `origin` and `sec-fetch-site`; other clients send neither. `ownHosts` are hosts, with port, besides the
 * request's own authority.
 */
export function sameOriginOnly(ownHosts: readonly string[], handler: HttpHandler): HttpHandler {
  return (req, res) => {
    if (!isForeign(req, ownHosts)) return handler(req, res);
    answerError(req, res, 403, wireError("cross_origin"));
  };
}

function isForeign({ headers }: HttpRequest, ownHosts: readonly string[]): boolean {
  const site = headers["sec-fetch-site"];
  if (site === "cross-site" || site === "same-site") return true;
  const { origin } = headers;
  if (origin === undefined) return false;
  const host = ORIGIN.exec(origin)?.[1]?.toLowerCase();
  const own = (headers[":authority"] ?? headers.host)?.toString().toLowerCase();
  return host === undefined || (host !== own && !ownHosts.includes(host));
}

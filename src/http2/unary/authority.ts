import { isIPv4, isIPv6 } from "node:net";

const LONGEST = 255;
// RFC 3986 reg-name, and `|`: Istio names its clusters, and so its authorities, `outbound|9000||authz.ns.svc`.
const REG_NAME = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=|]|%[0-9A-Fa-f]{2})+$/;
const DIGITS_AND_DOTS = /^[0-9.]+$/;
const PORT = /^[0-9]{1,5}$/;

/**
 * Whether the text is one `host[:port]` of at most 255 characters, by RFC 3986 §3.2 without user information. It is
 * decided here and by nothing that can throw: a library that parses a URL of it ends the process on `[::1`.
 */
export function isAuthority(text: string): boolean {
  if (text.length === 0 || text.length > LONGEST) return false;
  const afterBracket = text.startsWith("[") ? text.indexOf("]") : -1;
  const colon = text.indexOf(":", Math.max(afterBracket, 0));
  const host = colon < 0 ? text : text.slice(0, colon);
  return isHost(host) && (colon < 0 || isPort(text.slice(colon + 1)));
}

function isHost(host: string): boolean {
  if (host.startsWith("[")) return host.endsWith("]") && !host.includes("%") && isIPv6(host.slice(1, -1));
  return REG_NAME.test(host) && (!DIGITS_AND_DOTS.test(host) || isIPv4(host));
}

function isPort(port: string): boolean {
  return PORT.test(port) && Number(port) <= 65_535;
}

import { isIPv4, isIPv6 } from "node:net";

const MAX_LENGTH = 255;
// `_` and `|`: Envoy sends the name of its cluster, such as `outbound|9000||authz.ns.svc`, where no authority is set.
const HOST_PORT = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._|-]+))(?::(\d{1,5}))?$/;
const NUMBER = /^(?:\d+|0[xX][0-9a-fA-F]*)$/;
/** RFC 3986 §3.2.2, reg-name. */
const REG_NAME = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=|]|%[0-9A-Fa-f]{2})+$/;

/**
 * True if the text is one `host[:port]` of at most 255 characters: a name, an IPv4 address or a bracketed IPv6 address.
 * A name whose last label is a number must be an IPv4 address: other programs read `0x7f.1` as one. Nothing here throws;
 * a library that parses a URL from such a text ends the process on `[::1`.
 */
export function isAuthority(text: string): boolean {
  if (text.length > MAX_LENGTH) return false;
  const found = HOST_PORT.exec(text);
  if (found === null) return false;
  const [, ipv6, name, port] = found;
  if (port !== undefined && Number(port) > 65_535) return false;
  if (ipv6 !== undefined) return isIPv6(ipv6);
  return !NUMBER.test(lastLabel(name!)) || isIPv4(name!);
}

/**
 * True if the text is an authority for a unix socket. Stock gRPC clients send `localhost`, or the socket's path with
 * `%2F` for each slash. Such a text names no host, so any reg-name is good.
 */
export function isUnixAuthority(text: string): boolean {
  return isAuthority(text) || (text.length <= MAX_LENGTH && REG_NAME.test(text));
}

/** A dot at the end of a name is the root and no label. */
function lastLabel(name: string): string {
  const labels = name.split(".");
  return (labels.length > 1 && labels.at(-1) === "" ? labels.at(-2) : labels.at(-1))!;
}

import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { ConnectionPeer } from "../unary/routes.ts";

/** The other end of a socket. Its certificate's names are read when first asked for; they do not change. */
export function peerOf(socket: Socket): ConnectionPeer {
  const address = socket.remoteAddress;
  let sans: string[] | undefined;
  return {
    address,
    unix: address === undefined,
    certificateSans: () => (sans ??= socket instanceof TLSSocket && socket.authorized ? sansOf(socket) : []),
  };
}

function sansOf(socket: TLSSocket): string[] {
  return splitSans(socket.getPeerX509Certificate()?.subjectAltName ?? "");
}

/** Node separates the names with ", " and writes a name that holds special characters as a JSON string. */
export function splitSans(text: string): string[] {
  const names: string[] = [];
  let at = 0;
  let quote = text.indexOf('"');
  while (at < text.length) {
    if (quote >= 0 && quote < at) quote = text.indexOf('"', at);
    const comma = text.indexOf(", ", at);
    const quoted = quote >= 0 && (comma < 0 || quote < comma);
    const end = quoted ? endOfQuoted(text, quote) : comma < 0 ? text.length : comma;
    // What is not as Node writes it names nobody, nor does what follows it.
    if (end < 0 || (end < text.length && !text.startsWith(", ", end))) break;
    names.push(quoted ? text.slice(at, quote) + unquote(text.slice(quote, end)) : text.slice(at, end));
    at = end + 2;
  }
  return names;
}

/** Behind the quote that ends the JSON string at `start`; -1 where none does. */
function endOfQuoted(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === '"') return at + 1;
  }
  return -1;
}

function unquote(quoted: string): string {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted; // not a name anybody is allowed by
  }
}

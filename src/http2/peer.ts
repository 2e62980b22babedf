import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { Peer } from "./routes.ts";

/** The other end of a socket. Its certificate's names are read when first asked for; they do not change. */
export function peerOf(socket: Socket): Peer {
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
  const names = text.match(/[^",\s][^",]*(?:"(?:[^"\\]|\\.)*")?/g) ?? [];
  return names.map((name) => name.replace(/"(?:[^"\\]|\\.)*"$/, unquote));
}

function unquote(quoted: string): string {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted; // not a name anybody is allowed by
  }
}

import { type ContextKey, createContextKey } from "@connectrpc/connect";

/** The other end of a connection, as the socket itself shows it. Forwarding headers are ignored. */
export interface Peer {
  readonly listener: "data" | "admin" | "ops";
  /** The IP address; empty on a unix socket. */
  readonly address: string;
  readonly from: "unix" | "loopback" | "remote";
  /** The DNS and URI names of a client certificate that our CA signed; empty without one. */
  readonly sans: readonly string[];
  /** True if one of `sans` is among the listener's `allowed_sans`. */
  readonly sanAllowed: boolean;
}

/** Set for every call before the request gate runs. */
export const peerKey: ContextKey<Peer> = createContextKey<Peer>(
  { listener: "data", address: "", from: "remote", sans: [], sanAllowed: false },
  { description: "peer" },
);

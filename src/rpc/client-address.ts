import { isIP } from "node:net";
import { addressAllowed } from "../domain/networks.ts";
import type { Peer } from "./peer.ts";

/** The most hops that are examined, from the right. Nobody has more proxies in a row. */
const MOST_HOPS = 32;

/**
 * The address in a hop of X-Forwarded-For. Some proxies write it with a port, and then an IPv6 address in brackets
 * (`203.0.113.7:51234`, `[2001:db8::5]:443`). A hop without an address is returned unchanged.
 */
export function addressOfHop(hop: string): string {
  const text = hop.trim();
  if (text.length > 64) return text;
  const found = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?$/.exec(text);
  const address = found?.[1] ?? found?.[2] ?? "";
  return isIP(address) === 0 ? text : address;
}

/** The networks whose peers may name the client that they speak for. */
export class TrustedProxies {
  readonly #networks: readonly string[];

  /** Addresses or networks in CIDR form, already checked by the configuration. */
  constructor(networks: readonly string[]) {
    this.#networks = [...networks];
  }

  /**
   * The peer for limits and audit. Behind a trusted proxy it is the right-most hop of X-Forwarded-For that is not a
   * trusted proxy itself. From any other peer the header is ignored.
   */
  behind(peer: Peer, forwardedFor: string | null): Peer {
    if (!this.#trusts(peer.address)) return peer;
    const header = forwardedFor ?? "";
    for (let hops = 0, end = header.length; hops < MOST_HOPS && end >= 0; hops++) {
      const comma = end === 0 ? -1 : header.lastIndexOf(",", end - 1);
      const hop = addressOfHop(header.slice(comma + 1, end));
      if (isIP(hop) === 0) break;
      if (!this.#trusts(hop)) return { ...peer, address: hop, from: "remote" };
      end = comma;
    }
    return { ...peer, from: "remote" };
  }

  #trusts(address: string): boolean {
    return this.#networks.length > 0 && addressAllowed(this.#networks, address);
  }
}

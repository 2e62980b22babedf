import { BlockList, isIP } from "node:net";
import type { Peer } from "./peer.ts";

/** The networks whose peers may say for whom they speak. */
export class TrustedProxies {
  readonly #networks = new BlockList();
  readonly #any: boolean;

  /** Addresses or networks in CIDR form, as the configuration has checked them. */
  constructor(networks: readonly string[]) {
    this.#any = networks.length > 0;
    for (const network of networks) {
      const [address = "", bits] = network.split("/");
      const family = isIP(address) === 6 ? "ipv6" : "ipv4";
      this.#networks.addSubnet(address, bits === undefined ? (family === "ipv6" ? 128 : 32) : Number(bits), family);
    }
  }

  /**
   * The peer as limits and audit see it: behind a trusted proxy the right-most hop of X-Forwarded-For that is not one
   * itself. From anybody else the header counts for nothing.
   */
  behind(peer: Peer, forwardedFor: string | null): Peer {
    if (!this.#any || !this.#has(peer.address)) return peer;
    const hops = (forwardedFor ?? "").split(",").map((hop) => hop.trim());
    for (const hop of hops.reverse()) {
      if (isIP(hop) === 0) return { ...peer, from: "remote" };
      if (!this.#has(hop)) return { ...peer, address: hop, from: "remote" };
    }
    return { ...peer, from: "remote" };
  }

  #has(address: string): boolean {
    const family = isIP(address);
    return family !== 0 && this.#networks.check(address, family === 6 ? "ipv6" : "ipv4");
  }
}

import { holds } from "../domain/caller.ts";
import { AppError } from "../domain/errors.ts";
import { TokenValidator } from "../gen/sallyport/v1/token_validator_pb.ts";
import { bearerOf } from "../rpc/bearer.ts";
import type { Callers } from "../rpc/caller.ts";
import { methodOf } from "../rpc/methods.ts";
import type { Peer } from "../rpc/peer.ts";

/** One permission opens TokenValidator and introspection. */
const { permission } = methodOf(TokenValidator.method.validateToken);

/**
 * Admits callers to the data listener, so that nobody can test stolen tokens there. Peers on loopback and unix sockets
 * are trusted, like a sidecar's peers, unless SANs are configured. Other peers show a client certificate with an
 * allowed SAN, which opens every service of the listener, or a token with `sallyport.validate`, which opens
 * TokenValidator and introspection.
 */
export class DataCallers {
  readonly #callers: Callers;
  readonly #trustPeers: boolean;

  /** `trustPeers`: the listener is bound to loopback or a unix socket and trusts its peers. */
  constructor(callers: Callers, trustPeers: boolean) {
    this.#callers = callers;
    this.#trustPeers = trustPeers;
  }

  /** True if the connection alone identifies a trusted peer. Check and the HTTP check accept no other proof. */
  trusts(peer: Peer): boolean {
    return this.#trustPeers || peer.sanAllowed;
  }

  /**
   * Admits a caller that asks about tokens. `reasons`: the caller may see why a token was refused.
   * CALLER_UNAUTHENTICATED if a valid credential is required and missing, CALLER_FORBIDDEN if the permission is
   * missing.
   */
  async admit(peer: Peer, authorization: string | null): Promise<{ readonly reasons: boolean }> {
    const trusted = this.trusts(peer);
    if (trusted && (authorization === null || authorization === "")) return { reasons: false };
    try {
      const bearer = bearerOf(authorization);
      if (bearer === undefined)
        throw new AppError("CALLER_UNAUTHENTICATED", "a credential is required: authorization: Bearer …");
      const caller = await this.#callers.token(bearer, peer.address, peer.from !== "remote");
      if (!trusted && !holds(caller, permission)) {
        throw new AppError("CALLER_FORBIDDEN", `the caller lacks the permission ${permission}`, {
          metadata: { permission },
        });
      }
      return { reasons: holds(caller, "sallyport.reasons") };
    } catch (error) {
      // A trusted peer needs no credential. An invalid one changes nothing.
      if (trusted) return { reasons: false };
      throw error;
    }
  }
}

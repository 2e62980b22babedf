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
 * Who may ask the data listener. Peers on loopback and unix sockets are trusted, as a sidecar's are, unless SANs are named;
 * others show a client certificate with an allowed SAN, which opens every service of the listener, or a token with `sallyport.validate`, which
 * opens TokenValidator and introspection. Never an open token oracle.
 */
export class DataCallers {
  readonly #callers: Callers;
  readonly #trustPeers: boolean;

  /** `trustPeers`: the listener is bound to loopback or a unix socket and its peers are believed. */
  constructor(callers: Callers, trustPeers: boolean) {
    this.#callers = callers;
    this.#trustPeers = trustPeers;
  }

  /** Whether the connection alone is enough: for Check and the HTTP check nothing else is. */
  trusts(peer: Peer): boolean {
    return this.#trustPeers || peer.sanAllowed;
  }

  /**
   * Lets a caller ask about tokens; `reasons`: it may be told why one was refused. CALLER_UNAUTHENTICATED without a good
   * credential where one is needed, CALLER_FORBIDDEN without the permission.
   */
  async admit(peer: Peer, authorization: string | null): Promise<{ readonly reasons: boolean }> {
    const trusted = this.trusts(peer);
    if (trusted && (authorization === null || authorization === "")) return { reasons: false };
    try {
      const bearer = bearerOf(authorization);
      if (bearer === undefined)
        throw new AppError("CALLER_UNAUTHENTICATED", "a credential is needed: authorization: Bearer …");
      const caller = await this.#callers.token(bearer, peer.address, peer.from !== "remote");
      if (!trusted && !holds(caller, permission)) {
        throw new AppError("CALLER_FORBIDDEN", `the caller lacks the permission ${permission}`, {
          metadata: { permission },
        });
      }
      return { reasons: holds(caller, "sallyport.reasons") };
    } catch (error) {
      // A trusted peer needs no credential: one that is not good gives nothing, and takes nothing.
      if (trusted) return { reasons: false };
      throw error;
    }
  }
}

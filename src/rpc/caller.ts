import { createHash } from "node:crypto";
import type { Caller } from "../domain/caller.ts";
import type { Clock } from "../domain/clock.ts";
import { NO_REQUIREMENT } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import { sameSecret } from "../domain/mac.ts";
import { addressAllowed } from "../domain/networks.ts";
import type { Secret } from "../domain/secret.ts";
import type { Token } from "../domain/token.ts";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";
import { type Reach, reachOf } from "../management/access.ts";
import type { AuditLog } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";
import type { Validate } from "../validation/validate.ts";
import { bearerOf } from "./bearer.ts";
import { type Method, methodOf } from "./methods.ts";
import type { Peer } from "./peer.ts";

export interface CallerDeps {
  readonly validate: Validate;
  readonly audit: AuditLog;
  readonly clock: Clock;
  readonly breakGlass: Secret | undefined;
  readonly events: Pick<Events, "alarm">;
  /** For those who rotated themselves and did not hear the answer. */
  readonly rotated?: RotatedCallers;
  /** `scopes`: what it may give to tokens besides. */
  readonly mtls: readonly {
    readonly san: string;
    readonly tenant: string;
    readonly permissions: readonly string[];
    readonly scopes: readonly string[];
  }[];
}

export interface RotatedCallers {
  /** As `validate`, but that the use of a string after its rotation is no signal yet. */
  readonly validate: Validate;
  /** The record behind a string, dead or not, and that of its parent. */
  find(bearer: string): Promise<{ readonly token: Token; readonly parent: Token | undefined } | undefined>;
}

/** The one method in which a token that a rotation ended may still be a caller. */
const ROTATE = methodOf(TokenAdmin.method.rotateToken);

/** Turns a credential into a caller. */
export class Callers {
  readonly #deps: CallerDeps;
  readonly #breakGlass: Buffer | undefined;

  constructor(deps: CallerDeps) {
    this.#deps = deps;
    this.#breakGlass = deps.breakGlass === undefined ? undefined : sha256(deps.breakGlass.reveal());
  }

  /**
   * The caller behind a request of the admin listener. CALLER_UNAUTHENTICATED without a good credential; STORE_UNAVAILABLE
   * where its token can not be judged.
   */
  async authenticate(peer: Peer, authorization: string | null, method: Method, requestId: string): Promise<Caller> {
    const bearer = bearerOf(authorization);
    const address = peer.address;
    const direct = peer.from !== "remote";
    if (bearer === undefined) {
      const mapped = this.#deps.mtls.find(({ san }) => peer.sans.includes(san));
      if (mapped === undefined)
        throw new AppError("CALLER_UNAUTHENTICATED", "a credential is required: authorization: Bearer …");
      return {
        kind: "mtls",
        provenance: `mtls:${mapped.san}`,
        tenant: mapped.tenant,
        principal: "",
        scopes: [...mapped.permissions, ...mapped.scopes],
        address,
        direct,
      };
    }
    // Compared as hashes: equal lengths, so that the time tells nothing.
    if (this.#breakGlass !== undefined && sameSecret(sha256(bearer), this.#breakGlass)) {
      await this.#deps.audit.append(
        { actor: "break-glass", address, requestId },
        {
          tenant: "default",
          action: "caller.break-glass",
          target: `rpc:${method.name}`,
          owner: "",
          outcome: "OK",
          metadata: {},
        },
      );
      // It is there for the day on which nothing else helps: each use is worth a look.
      this.#deps.events.alarm("break_glass_used", { method: method.name, address, requestId });
      return {
        kind: "break-glass",
        provenance: "break-glass",
        tenant: "",
        principal: "",
        scopes: ["sallyport.operator"],
        address,
        direct,
      };
    }
    const { rotated } = this.#deps;
    if (method !== ROTATE || rotated === undefined) return this.token(bearer, address, direct);
    try {
      return await this.token(bearer, address, direct, rotated.validate);
    } catch (error) {
      const ended = isUnauthenticated(error) ? await rotated.find(bearer) : undefined;
      if (ended === undefined || ended.token.rotatedTo === "" || !this.#isOver(ended.token)) throw error;
      // A child is bound by its parent's networks at every use.
      for (const { allowedCidrs } of ended.parent === undefined ? [ended.token] : [ended.token, ended.parent]) {
        if (allowedCidrs.length > 0 && !addressAllowed(allowedCidrs, address || LOCAL)) throw error;
      }
      return this.#ended(ended.token, address, direct);
    }
  }

  /** A rotation ended it: what refuses it for another reason (its principal, its parent) is no repeat and no reuse. */
  #isOver({ revokeTime, expireTime }: Token): boolean {
    return revokeTime !== undefined || (expireTime !== undefined && expireTime <= this.#deps.clock.wall());
  }

  /** One who may repeat the rotation that ended its token; what it names decides, where the rotation is. */
  #ended(token: Token, address: string, direct: boolean): Caller {
    const { hint, tenant, principal, id } = token;
    const who = { tenant, principal, tokenId: id, address, direct };
    return { kind: "token", provenance: `token:${hint}`, scopes: [], ended: true, ...who };
  }

  /** The caller behind one of our own tokens. */
  async token(bearer: string, address: string, direct: boolean, validate = this.#deps.validate): Promise<Caller> {
    const deadline = this.#deps.clock.mono() + 2_000;
    // A caller on this machine has no network address to be held against the token's networks.
    const clientAddress = address || LOCAL;
    const decision = await validate(bearer, NO_REQUIREMENT, { clientAddress }, deadline);
    if (decision.verdict === "UNDETERMINED") {
      throw new AppError("STORE_UNAVAILABLE", "the caller's token cannot be validated now", { retryAfterMs: 1000 });
    }
    if (decision.verdict !== "ALLOW" || decision.snapshot === undefined) {
      throw new AppError("CALLER_UNAUTHENTICATED", "the credential is not good");
    }
    const { snapshot } = decision;
    return {
      kind: "token",
      provenance: `token:${snapshot.hint}`,
      tenant: snapshot.tenant,
      principal: snapshot.principal,
      scopes: snapshot.scopes,
      tokenId: snapshot.id,
      expireTime: snapshot.expire,
      address,
      direct,
    };
  }
}

/** How far the caller reaches in this method; CALLER_FORBIDDEN where not at all. */
export function permit(caller: Caller, { permission, own }: Method): Reach {
  if (permission === "open" || permission === "trusted peer")
    throw new AppError("CALLER_FORBIDDEN", "no credential opens this call");
  return reachOf(caller, permission, own === "anyone" || (own === "session" && caller.kind === "session"));
}

/** What a caller on this machine, which has no network address, counts as. */
const LOCAL = "127.0.0.1";

function isUnauthenticated(error: unknown): boolean {
  return error instanceof AppError && error.reason === "CALLER_UNAUTHENTICATED";
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

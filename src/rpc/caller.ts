import { createHash } from "node:crypto";
import { type Caller, isOperator } from "../domain/caller.ts";
import type { Clock } from "../domain/clock.ts";
import { NO_REQUIREMENT } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import { sameSecret } from "../domain/mac.ts";
import { addressAllowed, LOCAL_ADDRESS } from "../domain/networks.ts";
import type { Secret } from "../domain/secret.ts";
import type { Session } from "../domain/session.ts";
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
  /** For callers with a session JWT. Absent if no issuer is configured. */
  readonly sessions?: SessionCallers;
  /** True if a credential in JWT form has a header of ours: it is a token, good or not, and never a session. */
  readonly isJwtToken?: (bearer: string) => boolean;
  /** For callers that rotated themselves and lost the answer. */
  readonly rotated?: RotatedCallers;
  /** `scopes`: the additional scopes that it may grant to tokens. */
  readonly mtls: readonly {
    readonly san: string;
    readonly tenant: string;
    readonly permissions: readonly string[];
    readonly scopes: readonly string[];
  }[];
}

export interface SessionCallers {
  /** True if the credential has the form of a session's. */
  owns(bearer: string): boolean;
  /** The session behind the credential, in the tenant that the header names. */
  authenticate(bearer: string, tenantHeader: string | null): Promise<Session>;
  /** The scopes of the session's roles. CALLER_UNAUTHENTICATED unless its principal and tenants are active. */
  confirm(
    session: Pick<Session, "tenant" | "tenants" | "principal" | "scopes" | "roles">,
  ): Promise<{ readonly roleScopes: readonly string[] }>;
  /** The refusal of a credential that is longer than any session's. */
  tooLong(): AppError;
}

export interface RotatedCallers {
  /** Like `validate`, except that the use of a string after its rotation does not count as reuse yet. */
  readonly validate: Validate;
  /** The record behind a string, dead or not, and the record of its parent. */
  find(bearer: string): Promise<{ readonly token: Token; readonly parent: Token | undefined } | undefined>;
}

/** The only method that a token may still call after a rotation ended it. */
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
   * Returns the caller behind a request of the admin listener. The form of the credential decides its kind, and nothing
   * is tried as another kind. CALLER_UNAUTHENTICATED without a valid credential; STORE_UNAVAILABLE and
   * ISSUER_UNAVAILABLE if it cannot be validated. `tenantHeader` names the tenant of a session.
   */
  async authenticate(
    peer: Peer,
    authorization: string | null,
    method: Method,
    requestId: string,
    tenantHeader: string | null = null,
  ): Promise<Caller> {
    const { sessions } = this.#deps;
    if (sessions !== undefined && (authorization?.length ?? 0) > LONGEST_CREDENTIAL) throw sessions.tooLong();
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
    // Compared as hashes of equal length, so that the time reveals nothing.
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
      // Break-glass is for emergencies, so each use raises an alarm.
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
    if (sessions?.owns(bearer) && this.#deps.isJwtToken?.(bearer) !== true) {
      return { kind: "session", ...(await sessions.authenticate(bearer, tenantHeader)), address, direct };
    }
    const { rotated } = this.#deps;
    if (method !== ROTATE || rotated === undefined) return this.token(bearer, address, direct);
    try {
      return await this.token(bearer, address, direct, rotated.validate);
    } catch (error) {
      const ended = isUnauthenticated(error) ? await rotated.find(bearer) : undefined;
      if (ended === undefined || ended.token.rotatedTo === "" || !this.#isOver(ended.token)) throw error;
      // The networks of its parent bind a child at every use.
      for (const { allowedCidrs } of ended.parent === undefined ? [ended.token] : [ended.token, ended.parent]) {
        if (allowedCidrs.length > 0 && !addressAllowed(allowedCidrs, address || LOCAL_ADDRESS)) throw error;
      }
      return this.#ended(ended.token, address, direct);
    }
  }

  /**
   * The session with the scopes of its roles. Refuses one whose principal or tenant is not active. It reads the database,
   * so the call must be admitted.
   */
  async confirm(session: Caller): Promise<Caller> {
    const { tenant, tenants = [tenant], principal, scopes, roles = [] } = session;
    const found = await this.#deps.sessions!.confirm({ tenant, tenants, principal, scopes, roles });
    const roleScopes = found.roleScopes.filter((scope) => !scopes.includes(scope));
    return roleScopes.length === 0 ? session : { ...session, scopes: [...scopes, ...roleScopes], roleScopes };
  }

  /**
   * The rotation ended it, and nothing else does: a token that is refused because of its principal or parent is neither
   * a repeat nor a reuse.
   */
  #isOver({ revokeTime, expireTime }: Token): boolean {
    return revokeTime !== undefined || (expireTime !== undefined && expireTime <= this.#deps.clock.wall());
  }

  /** A caller that may repeat the rotation that ended its token. The rotation decides if the request is that repeat. */
  #ended(token: Token, address: string, direct: boolean): Caller {
    const { hint, tenant, principal, id } = token;
    const who = { tenant, principal, tokenId: id, address, direct };
    return { kind: "token", provenance: `token:${hint}`, scopes: [], ended: true, ...who };
  }

  /** The caller behind one of our own tokens. */
  async token(bearer: string, address: string, direct: boolean, validate = this.#deps.validate): Promise<Caller> {
    const deadline = this.#deps.clock.mono() + 2_000;
    // A caller on this machine has no network address to check against the token's networks.
    const clientAddress = address || LOCAL_ADDRESS;
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

/** The caller's reach in this method; CALLER_FORBIDDEN if it has none. */
export function permit(caller: Caller, { permission, own }: Method): Reach {
  if (permission === "open" || permission === "trusted peer")
    throw new AppError("CALLER_FORBIDDEN", "no credential opens this call");
  // Such a method shows nothing but the caller itself.
  if (permission === "any caller") return isOperator(caller) ? "everywhere" : "own";
  return reachOf(caller, permission, own === "anyone" || (own === "session" && caller.kind === "session"));
}

/** `Bearer `, and 8 KiB. */
const LONGEST_CREDENTIAL = 7 + 8 * 1024;

function isUnauthenticated(error: unknown): boolean {
  return error instanceof AppError && error.reason === "CALLER_UNAUTHENTICATED";
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

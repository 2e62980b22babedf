import { createHash } from "node:crypto";
import type { Caller, Permission } from "../domain/caller.ts";
import type { Clock } from "../domain/clock.ts";
import { NO_REQUIREMENT } from "../domain/decide.ts";
import { AppError } from "../domain/errors.ts";
import { sameSecret } from "../domain/mac.ts";
import { addressAllowed } from "../domain/networks.ts";
import type { Secret } from "../domain/secret.ts";
import type { Token } from "../domain/token.ts";
import { type Reach, reachOf } from "../management/access.ts";
import type { AuditLog } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";
import type { Validate } from "../validation/validate.ts";
import { bearerOf } from "./bearer.ts";
import type { Peer } from "./peer.ts";

/** Who may call an RPC without its permission: nobody, a session for itself, or any live token or session for itself. */
type Own = "nobody" | "session" | "anyone";

/** What an RPC needs. `open`: nothing at all. */
export type PermissionRow = "open" | { readonly permission: Permission; readonly own: Own };

const need = (permission: Permission, own: Own = "nobody"): PermissionRow => ({ permission, own });

/** Method → permission. A method without a row is refused; a test walks every method of every service. */
export const PERMISSIONS: Readonly<Record<string, PermissionRow>> = {
  "sallyport.v1.TokenAdmin/CreateToken": need("sallyport.tokens.create", "session"),
  "sallyport.v1.TokenAdmin/GetToken": need("sallyport.tokens.read", "anyone"),
  "sallyport.v1.TokenAdmin/ListTokens": need("sallyport.tokens.read", "anyone"),
  "sallyport.v1.TokenAdmin/UpdateToken": need("sallyport.tokens.create", "session"),
  "sallyport.v1.TokenAdmin/RevokeToken": need("sallyport.tokens.revoke", "anyone"),
  "sallyport.v1.TokenAdmin/RevokeTokens": need("sallyport.tokens.revoke", "anyone"),
  "sallyport.v1.TokenAdmin/RotateToken": need("sallyport.tokens.create", "anyone"),
  "sallyport.v1.PrincipalAdmin/CreatePrincipal": need("sallyport.principals.write"),
  "sallyport.v1.PrincipalAdmin/GetPrincipal": need("sallyport.principals.write"),
  "sallyport.v1.PrincipalAdmin/ListPrincipals": need("sallyport.principals.write"),
  "sallyport.v1.PrincipalAdmin/UpdatePrincipal": need("sallyport.principals.write"),
  "sallyport.v1.PrincipalAdmin/DeletePrincipal": need("sallyport.principals.write"),
  "sallyport.v1.TenantAdmin/CreateTenant": need("sallyport.operator"),
  "sallyport.v1.TenantAdmin/GetTenant": need("sallyport.operator"),
  "sallyport.v1.TenantAdmin/ListTenants": need("sallyport.operator"),
  "sallyport.v1.TenantAdmin/UpdateTenant": need("sallyport.operator"),
  "sallyport.v1.AuditLog/ListAuditEvents": need("sallyport.audit.read"),
  "sallyport.v1.TokenValidator/ValidateToken": need("sallyport.validate"),
  "sallyport.v1.TokenValidator/BatchValidateTokens": need("sallyport.validate"),
  "envoy.service.auth.v3.Authorization/Check": need("sallyport.validate"),
  "grpc.health.v1.Health/Check": "open",
  "grpc.health.v1.Health/List": "open",
  "grpc.health.v1.Health/Watch": "open",
  "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "open",
  "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "open",
};

/** The row of a method; CALLER_FORBIDDEN where there is none: deny by default. */
export function rowOf(method: string): PermissionRow {
  const row = Object.hasOwn(PERMISSIONS, method) ? PERMISSIONS[method] : undefined;
  if (row === undefined) throw new AppError("CALLER_FORBIDDEN", "this call is not offered");
  return row;
}

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
const ROTATE = "sallyport.v1.TokenAdmin/RotateToken";

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
  async authenticate(peer: Peer, authorization: string | null, method: string, requestId: string): Promise<Caller> {
    const bearer = bearerOf(authorization);
    const address = peer.address;
    const direct = peer.from !== "remote";
    if (bearer === undefined) {
      const mapped = this.#deps.mtls.find(({ san }) => peer.sans.includes(san));
      if (mapped === undefined)
        throw new AppError("CALLER_UNAUTHENTICATED", "a credential is needed: authorization: Bearer …");
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
          target: `rpc:${method}`,
          owner: "",
          outcome: "OK",
          metadata: {},
        },
      );
      // It is there for the day on which nothing else helps: each use is worth a look.
      this.#deps.events.alarm("break_glass_used", { method, address, requestId });
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
      throw new AppError("STORE_UNAVAILABLE", "the caller's token can not be judged now", { retryAfterMs: 1000 });
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
export function permit(caller: Caller, row: Exclude<PermissionRow, "open">): Reach {
  const own = row.own === "anyone" || (row.own === "session" && caller.kind === "session");
  return reachOf(caller, row.permission, own);
}

/** What a caller on this machine, which has no network address, counts as. */
const LOCAL = "127.0.0.1";

function isUnauthenticated(error: unknown): boolean {
  return error instanceof AppError && error.reason === "CALLER_UNAUTHENTICATED";
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

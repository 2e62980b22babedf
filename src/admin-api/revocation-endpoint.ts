import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import { type HttpHandler, type HttpRequest, peerOf } from "../listen/peers.ts";
import type { TokenManager } from "../management/token-manager.ts";
import type { Call } from "../rpc/call.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import { REVOKE_ENDPOINT } from "../rpc/methods.ts";
import { bearerOfClient, clientSecretOf, NO_STORE, oauthFailure, parametersOf } from "../rpc/oauth.ts";
import type { Pipeline } from "../rpc/pipeline.ts";
import { bodyOf, headerOf, oauthPath } from "./oauth-path.ts";

const { limits } = REVOKE_ENDPOINT;

export interface RevocationPathDeps {
  readonly clock: Clock;
  readonly pipeline: Pipeline;
  readonly tokens: Pick<TokenManager, "byString" | "revoke">;
}

/** `POST /v1/revoke` of the admin listener (RFC 7009). Every other request goes to `otherwise`. */
export function revocationPath(deps: RevocationPathDeps, otherwise: HttpHandler): HttpHandler {
  return oauthPath(REVOKE_ENDPOINT, (req) => revocation(deps, req).catch(oauthFailure), otherwise);
}

/**
 * Revokes a token and waits until that is in force everywhere. A string that is no token of the caller's world answers 200
 * and changes nothing.
 */
async function revocation({ clock, pipeline, tokens }: RevocationPathDeps, req: HttpRequest): Promise<HttpAnswer> {
  const contentType = headerOf(req, "content-type") ?? undefined;
  let body: Uint8Array | undefined;
  let token = "";
  const started = clock.mono();
  const call: Call = {
    method: REVOKE_ENDPOINT,
    started,
    deadline: started + limits.deadlineMs,
    peer: peerOf(req),
    requestId: "",
    header: (name) => headerOf(req, name),
    async credential() {
      const authorization = headerOf(req, "authorization");
      if (authorization !== null) return bearerOfClient(authorization);
      if (call.peer.sans.length > 0) return null;
      body = await bodyOf(req, limits); // nowhere else can it be
      return clientSecretOf(contentType, body);
    },
    async validate() {
      body ??= await bodyOf(req, limits);
      token = parametersOf(contentType, body)?.get("token") ?? refuse();
    },
  };
  await pipeline.begin(call);
  return pipeline.finish(call, async () => {
    const access = call.access!;
    try {
      await tokens.revoke(access, await tokens.byString(access, token), false, "RFC 7009", false);
    } catch (error) {
      if (!(error instanceof AppError && error.reason === "TOKEN_NOT_FOUND")) throw error;
    }
    return { status: 200, headers: [NO_STORE], body: "" };
  });
}

function refuse(): never {
  throw new AppError("INVALID_FIELD", "one parameter token is needed, as form or JSON");
}

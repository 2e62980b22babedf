import type { ServerResponse } from "node:http";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import { type HttpHandler, type HttpRequest, peerOf } from "../listen/peers.ts";
import { lastOfConnection } from "../listen/responses.ts";
import type { TokenManager } from "../management/token-manager.ts";
import type { Call } from "../rpc/call.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import { REVOKE_ENDPOINT } from "../rpc/methods.ts";
import { bearerOfClient, clientSecretOf, NO_STORE, oauthFailure, parametersOf, WRONG_METHOD } from "../rpc/oauth.ts";
import type { Pipeline } from "../rpc/pipeline.ts";

const { path, limits } = REVOKE_ENDPOINT;
/** A client that sends more loses the connection. */
const LONGEST_READ = 1024 * 1024;

export interface RevocationPathDeps {
  readonly clock: Clock;
  readonly pipeline: Pipeline;
  readonly tokens: Pick<TokenManager, "byString" | "revoke">;
}

/** `POST /v1/revoke` of the admin listener (RFC 7009). Every other request goes to `otherwise`. */
export function revocationPath(deps: RevocationPathDeps, otherwise: HttpHandler): HttpHandler {
  return async (req, res) => {
    if (req.url!.split("?", 1)[0] !== path) return otherwise(req, res);
    const { status, headers, body } =
      req.method === "POST" ? await revocation(deps, req).catch(oauthFailure) : WRONG_METHOD;
    if (req.destroyed && !req.complete) lastOfConnection(res); // the rest of its body would be in the way
    (res as ServerResponse).writeHead(status, Object.fromEntries(headers)).end(body);
  };
}

/**
 * Revokes a token and waits until that is in force everywhere. A string that is no token of the caller's world answers 200
 * and changes nothing.
 */
async function revocation({ clock, pipeline, tokens }: RevocationPathDeps, req: HttpRequest): Promise<HttpAnswer> {
  const contentType = header(req, "content-type") ?? undefined;
  let body: Uint8Array | undefined;
  let token = "";
  const started = clock.mono();
  const call: Call = {
    method: REVOKE_ENDPOINT,
    started,
    deadline: started + limits.deadlineMs,
    peer: peerOf(req),
    requestId: "",
    header: (name) => header(req, name),
    async credential() {
      const authorization = header(req, "authorization");
      if (authorization !== null) return bearerOfClient(authorization);
      if (call.peer.sans.length > 0) return null;
      body = await bodyOf(req); // nowhere else can it be
      return clientSecretOf(contentType, body);
    },
    async validate() {
      body ??= await bodyOf(req);
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

/** Every occurrence, joined: two credentials are not a valid one. */
function header(req: HttpRequest, name: string): string | null {
  const values: string[] = [];
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    if (req.rawHeaders[i]!.toLowerCase() === name) values.push(req.rawHeaders[i + 1]!);
  }
  return values.length === 0 ? null : values.join(", ");
}

/**
 * A body that is too large is read to its end, because the connection could not continue otherwise, and counts as none:
 * invalid_request.
 */
async function bodyOf(req: HttpRequest): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > LONGEST_READ) break;
    if (size <= limits.readMaxBytes) chunks.push(chunk);
  }
  return size > limits.readMaxBytes ? new Uint8Array(0) : Buffer.concat(chunks);
}

import type { ServerResponse } from "node:http";
import type { Clock } from "../domain/clock.ts";
import { answer } from "../listen/guard.ts";
import { type HttpHandler, type HttpRequest, peerOf } from "../listen/peers.ts";
import { lastOfConnection } from "../listen/responses.ts";
import type { TokenManager } from "../management/token-manager.ts";
import type { Admission } from "../rpc/admission.ts";
import { requestIdFrom } from "../rpc/call.ts";
import { type Callers, permit, rowOf } from "../rpc/caller.ts";
import type { TrustedProxies } from "../rpc/client-address.ts";
import type { DenialAudit } from "../rpc/denial-audit.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "../rpc/errors.ts";
import { bearerOfClient, clientSecretOf, oauthFailure } from "../rpc/oauth.ts";
import type { CallLine } from "../telemetry/events.ts";
import { revoke } from "./token-revocation.ts";

const PATH = "/v1/revoke";
const BODY_BYTES = 64 * 1024;
/** Whoever sends more loses the connection. */
const LONGEST_READ = 1024 * 1024;
const LONGEST_MS = 10_000;
/** The same right, whichever way one asks. */
const METHOD = "sallyport.v1.TokenAdmin/RevokeToken";

export interface RevocationPathDeps {
  readonly clock: Clock;
  readonly admission: Admission;
  readonly called: (line: CallLine) => void;
  readonly denials: DenialAudit;
  readonly callers: Callers;
  readonly tokens: TokenManager;
  readonly proxies: TrustedProxies;
}

/** `POST /v1/revoke` of the admin listener (RFC 7009); everything else goes to `otherwise`. */
export function revocationPath(deps: RevocationPathDeps, otherwise: HttpHandler): HttpHandler {
  return async (req, res) => {
    if (req.url!.split("?", 1)[0] !== PATH) return otherwise(req, res);
    if (req.method !== "POST")
      return answer(res, 405, { code: "unimplemented", message: "method not allowed" }, { allow: "POST" });
    const { status, headers, body } = await revocation(deps, req).catch((error) => oauthFailure(asAppError(error)));
    if (req.destroyed && !req.complete) lastOfConnection(res); // the rest of its body would be in the way
    (res as ServerResponse).writeHead(status, Object.fromEntries(headers)).end(body);
  };
}

/** Logged, limited and audited as the RPC is that does the same. */
async function revocation(deps: RevocationPathDeps, req: HttpRequest) {
  const { clock, denials, called } = deps;
  const requestId = requestIdFrom(header(req, "x-request-id"));
  const started = clock.mono();
  const peer = deps.proxies.behind(peerOf(req), header(req, "x-forwarded-for"));
  let caller: Awaited<ReturnType<Callers["authenticate"]>> | undefined;
  const tell = (facts: Pick<CallLine, "code" | "level" | "reason" | "address" | "cause">) =>
    called({
      requestId,
      method: METHOD,
      actor: caller?.provenance,
      seconds: (clock.mono() - started) / 1000,
      ...facts,
    });
  try {
    // Before the body is read, where it can be: a stranger's bytes are not worth it.
    const contentType = header(req, "content-type") ?? undefined;
    let authorization = header(req, "authorization");
    let body: Uint8Array | undefined;
    if (authorization !== null) authorization = bearerOfClient(authorization);
    else if (peer.sans.length === 0) {
      body = await bodyOf(req);
      authorization = clientSecretOf(contentType, body);
    }
    caller = await deps.callers.authenticate(peer, authorization, METHOD, requestId);
    const row = rowOf(METHOD);
    const reach = row === "open" ? "own" : permit(caller, row);
    const leave = await deps.admission.enter("revoke", 1, LONGEST_MS);
    try {
      const access = { caller, reach, requestId, deadline: started + LONGEST_MS };
      const reply = await revoke(deps.tokens, access, contentType, body ?? (await bodyOf(req)));
      tell({ code: "OK", level: "info" });
      return reply;
    } finally {
      leave();
    }
  } catch (thrown) {
    const { reason, cause } = asAppError(thrown);
    if (caller !== undefined && (reason === "RIGHTS_EXCEEDED" || reason === "CALLER_FORBIDDEN")) {
      denials.record({ caller, reach: "own", requestId }, METHOD, reason);
    }
    const code = statusName(toConnectError(asAppError(thrown), requestId));
    tell({ code, reason, ...from(reason, peer.address), level: levelOf(reason), cause });
    throw thrown;
  }
}

/** Every occurrence, joined: two credentials are none. */
function header(req: HttpRequest, name: string): string | null {
  const values: string[] = [];
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    if (req.rawHeaders[i]!.toLowerCase() === name) values.push(req.rawHeaders[i + 1]!);
  }
  return values.length === 0 ? null : values.join(", ");
}

/** Too large a body is read to its end, or the connection could not go on, and counts as none: invalid_request. */
async function bodyOf(req: HttpRequest): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > LONGEST_READ) break;
    if (size <= BODY_BYTES) chunks.push(chunk);
  }
  return size > BODY_BYTES ? new Uint8Array(0) : Buffer.concat(chunks);
}

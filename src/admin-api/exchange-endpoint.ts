import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import { type HttpHandler, type HttpRequest, peerOf } from "../listen/peers.ts";
import type { ExchangeManager } from "../management/exchange-manager.ts";
import type { Call } from "../rpc/call.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import { EXCHANGE_ENDPOINT } from "../rpc/methods.ts";
import { JSON_TYPE, NO_STORE, oauthError, oauthFailure, parametersOf } from "../rpc/oauth.ts";
import type { Pipeline } from "../rpc/pipeline.ts";
import { bodyOf, headerOf, oauthPath } from "./oauth-path.ts";

const { limits } = EXCHANGE_ENDPOINT;
const GRANT = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
/** Parameters of RFC 8693 that would change what the token is for. Unread, they would promise something. */
const NOT_KNOWN = ["resource", "audience", "actor_token", "actor_token_type"];

export interface ExchangePathDeps {
  readonly clock: Clock;
  readonly pipeline: Pipeline;
  readonly exchanges: Pick<ExchangeManager, "exchange" | "invalid">;
}

/** `POST /v1/token` of the admin listener (RFC 8693). Every other request goes to `otherwise`. */
export function exchangePath(deps: ExchangePathDeps, otherwise: HttpHandler): HttpHandler {
  return oauthPath(EXCHANGE_ENDPOINT, (req) => exchanged(deps, req).catch(failure), otherwise);
}

async function exchanged({ clock, pipeline, exchanges }: ExchangePathDeps, req: HttpRequest): Promise<HttpAnswer> {
  // Before admission: anybody may ask, and a stranger who sends slowly must hold no slot.
  const body = await bodyOf(req, limits);
  const started = clock.mono();
  let asked: Asked | undefined;
  const call: Call = {
    method: EXCHANGE_ENDPOINT,
    started,
    deadline: started + limits.deadlineMs,
    peer: peerOf(req),
    requestId: "",
    header: (name) => headerOf(req, name),
    credential: () => null,
    validate() {
      try {
        asked = askedIn(headerOf(req, "content-type") ?? "", body);
      } catch (error) {
        exchanges.invalid();
        throw error;
      }
    },
  };
  await pipeline.begin(call);
  return pipeline.finish(call, async () => {
    const { requestId, peer } = call;
    const { token, tokenString } = await exchanges.exchange({ ...asked!, address: peer.address, requestId });
    const life =
      token.expireTime === undefined ? {} : { expires_in: secondsBetween(token.createTime, token.expireTime) };
    const answer = {
      access_token: tokenString.reveal(),
      issued_token_type: ACCESS_TOKEN,
      token_type: "Bearer",
      ...life,
      scope: token.scopes.join(" "),
    };
    return { status: 200, headers: [JSON_TYPE, NO_STORE], body: JSON.stringify(answer) };
  });
}

function secondsBetween(from: number, to: number): number {
  return Math.floor((to - from) / 1000);
}

interface Asked {
  readonly rule: string;
  readonly subjectToken: string;
  readonly scope: string | undefined;
}

/** The parameters, of a form alone. None of these refusals says anything about a rule or a JWT. */
function askedIn(contentType: string, body: Uint8Array): Asked {
  const isForm = /^application\/x-www-form-urlencoded *(;|$)/i.test(contentType);
  const form = isForm ? parametersOf(contentType, body) : undefined;
  if (form === undefined) throw invalid("the parameters must be a form, each of them once");
  if (form.get("grant_type") !== GRANT) throw invalid(`grant_type must be ${GRANT}`);
  if (form.get("subject_token_type") !== JWT) throw invalid(`subject_token_type must be ${JWT}`);
  if ((form.get("requested_token_type") ?? ACCESS_TOKEN) !== ACCESS_TOKEN) {
    throw invalid(`requested_token_type must be ${ACCESS_TOKEN}, or be left out`);
  }
  if (NOT_KNOWN.some((name) => form.has(name))) throw invalid(`${NOT_KNOWN.join(", ")} must be left out`);
  const [rule, subjectToken] = [form.get("rule"), form.get("subject_token")];
  if (!rule || !subjectToken) throw invalid("rule and subject_token must be given");
  return { rule, subjectToken, scope: form.get("scope") };
}

function invalid(text: string): AppError {
  return new AppError("UNDECODABLE", text);
}

/** The error in OAuth's form. One body for every JWT and rule that is not good. */
function failure(error: unknown): HttpAnswer {
  if (!(error instanceof AppError)) return oauthFailure(error);
  switch (error.reason) {
    case "INVALID_GRANT":
      return oauthError(400, "invalid_grant", error.message, error.reason);
    case "INVALID_SCOPE":
      return oauthError(400, "invalid_scope", error.message, error.reason);
    case "LIMIT_EXCEEDED": {
      const after = String(Math.ceil((error.retryAfterMs ?? 1000) / 1000));
      return oauthError(429, "temporarily_unavailable", error.message, error.reason, [["retry-after", after]]);
    }
    default:
      return oauthFailure(error);
  }
}

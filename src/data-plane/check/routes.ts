import type { Clock } from "../../domain/clock.ts";
import { AppError } from "../../domain/errors.ts";
import { Authorization } from "../../gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { Failure } from "../../http2/unary/protocol.ts";
import { http, type Reply } from "../../http2/unary/reply.ts";
import type { Handler, UnaryCall, UnaryRoute } from "../../http2/unary/routes.ts";
import type { Admission } from "../../rpc/admission.ts";
import { requestIdFrom } from "../../rpc/call.ts";
import type { HttpAnswer } from "../../rpc/http-answer.ts";
import { CHECK_ENDPOINT, INTROSPECT_ENDPOINT, type Method, methodOf } from "../../rpc/methods.ts";
import { oauthError, oauthFailure, WRONG_METHOD } from "../../rpc/oauth.ts";
import type { Peer } from "../../rpc/peer.ts";
import { reasonOf } from "../../rpc/transport-errors.ts";
import type { Validate } from "../../validation/validate.ts";
import type { DataCallers } from "../data-caller.ts";
import { introspect } from "../introspection.ts";
import type { ExtAuthz } from "./ext-authz.ts";
import type { HttpCheck } from "./http-check.ts";

export interface CheckRoutesDeps {
  readonly clock: Clock;
  readonly callers: DataCallers;
  readonly validate: Validate;
  readonly authz: ExtAuthz;
  readonly httpCheck: HttpCheck;
  readonly admission: Admission;
  readonly peerOf: (call: UnaryCall) => Peer;
  readonly answered: (method: string) => () => void;
  /** Counted and logged, after the answer. */
  readonly failed: (method: string, requestId: string, error: unknown, address: string) => void;
}

const CHECK = methodOf(Authorization.method.check);
/** Time kept in reserve before the deadline, so that the answer still arrives. */
const WAY_BACK_MS = 5;

/** The routes for proxies: Envoy's Check, the HTTP check and introspection. */
export function checkRoutes(deps: CheckRoutesDeps): { exact: [string, UnaryRoute][]; prefix: [string, UnaryRoute][] } {
  const check: UnaryRoute = {
    handler: checkHandler(deps),
    ...limitsOf(CHECK),
    failed: checkFailed(deps),
  };
  const httpCheck: UnaryRoute = {
    kind: "http",
    handler: httpCheckHandler(deps),
    byHead: true,
    ...limitsOf(CHECK_ENDPOINT),
    failed: (call, kind) => plain(deps.httpCheck.refuse(call.path, whyOf(kind))),
  };
  const introspection: UnaryRoute = {
    kind: "http",
    handler: introspectHandler(deps),
    ...limitsOf(INTROSPECT_ENDPOINT),
    failed: (_call, kind) =>
      plain(
        kind === "oversized"
          ? oauthError(413, "invalid_request", "the request is too large", reasonOf(kind))
          : oauthFailure(new AppError(reasonOf(kind), "the request cannot be read")),
      ),
  };
  return {
    exact: [
      [CHECK.path, check],
      [INTROSPECT_ENDPOINT.path, introspection],
    ],
    prefix: [[CHECK_ENDPOINT.path, httpCheck]],
  };
}

function limitsOf({ limits }: Method): Pick<UnaryRoute, "maxMessage" | "deadlineMs"> {
  return { maxMessage: limits.readMaxBytes, deadlineMs: limits.deadlineMs };
}

function checkHandler(deps: CheckRoutesDeps): Handler {
  const { authz, callers } = deps;
  const answered = deps.answered(CHECK.name);
  return (message, call) => {
    if (call.protocol === "connect-json") return http(415, []);
    const encoded = authz.check(message, callers.trusts(deps.peerOf(call)), call.deadline - WAY_BACK_MS);
    answered();
    if (!(encoded instanceof Promise)) return encoded.reply(call);
    return withAdmission(
      deps,
      call,
      () => authz.refuse("undetermined").reply(call),
      async () => (await encoded).reply(call),
    );
  };
}

/** Envoy allows a request on an RPC error if it fails open. So every failure becomes a denial inside an OK answer. */
function checkFailed(deps: CheckRoutesDeps): UnaryRoute["failed"] {
  return (call, kind) => deps.authz.refuse(whyOf(kind)).reply(call);
}

function whyOf(kind: Failure): "undetermined" | "undecodable" {
  return kind === "undecodable" || kind === "oversized" || kind === "compressed" ? "undecodable" : "undetermined";
}

function httpCheckHandler(deps: CheckRoutesDeps): Handler {
  const { httpCheck, callers } = deps;
  const answered = deps.answered(CHECK_ENDPOINT.name);
  return (_body, call) => {
    const question = { path: call.path, method: call.method, headers: call.rawHeaders() };
    const answer = httpCheck.check(question, callers.trusts(deps.peerOf(call)), call.deadline - WAY_BACK_MS);
    answered();
    if (!(answer instanceof Promise)) return plain(answer);
    const shed = () => plain(httpCheck.refuse(call.path, "undetermined"));
    return withAdmission(deps, call, shed, async () => plain(await answer));
  };
}

function introspectHandler(deps: CheckRoutesDeps): Handler {
  const answered = deps.answered(INTROSPECT_ENDPOINT.name);
  return async (body, call) => {
    if (call.method !== "POST") return plain(WRONG_METHOD);
    try {
      // An untrusted peer always needs a credential or a certificate.
      await deps.callers.admit(deps.peerOf(call), call.metadata("authorization") ?? null);
      const answer = await introspect(deps.validate, call.metadata("content-type"), body, call.deadline - WAY_BACK_MS);
      answered();
      return plain(answer);
    } catch (error) {
      const requestId = requestIdFrom(call.metadata("x-request-id"));
      deps.failed(INTROSPECT_ENDPOINT.name, requestId, error, deps.peerOf(call).address);
      return plain(oauthFailure(error));
    }
  };
}

async function withAdmission(
  deps: CheckRoutesDeps,
  call: UnaryCall,
  shed: () => Reply,
  work: () => Promise<Reply>,
): Promise<Reply> {
  let leave: () => void;
  try {
    leave = await deps.admission.enter("validate", 1, call.deadline - deps.clock.mono());
  } catch {
    return shed();
  }
  try {
    const reply = await work();
    // A long turn of the event loop can end before a timer that is already due. The deadline is checked here, too.
    return call.signal.aborted || deps.clock.mono() >= call.deadline ? shed() : reply;
  } finally {
    leave();
  }
}

/** A header can hold only Latin-1; bodies are ASCII. For HEAD the server sends only the length of the body. */
function plain({ status, headers, body }: HttpAnswer): Reply {
  return http(status, headers, Buffer.from(body, "utf8"));
}

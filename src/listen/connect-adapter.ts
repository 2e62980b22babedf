import { type ConnectError, createContextValues } from "@connectrpc/connect";
import type { UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import type { ByteBudget } from "../http2/server/limits.ts";
import { requestIdFrom } from "../rpc/call.ts";
import type { RpcLimits } from "../rpc/methods.ts";
import { peerKey } from "../rpc/peer.ts";
import {
  type CallState,
  callStateKey,
  codeOf,
  faultOf,
  messageOf,
  type TransportFailure,
  violationOf,
  type WireMore,
  wireError,
} from "../rpc/transport-errors.ts";
import { type Content, countedBody } from "./counted-body.ts";
import { answerError, answerHttp } from "./guard.ts";
import { connectionOf, type HttpHandler, type HttpRequest, type HttpResponse, peerOf } from "./peers.ts";
import {
  type BodyRules,
  clampDeadline,
  encodingOf,
  headersOf,
  limitedBody,
  release,
  speaksGrpc,
} from "./request-limits.ts";
import { abandon } from "./responses.ts";
import { type RpcRoute, type RpcRouteOptions, refusal, rpcRoutes } from "./rpc-routes.ts";
import { writeResponse } from "./write-response.ts";
import { whyUnknown } from "./wrong-listener.ts";

export interface ConnectListenerOptions extends RpcRouteOptions {
  /** The bytes that all requests of the listener hold together. */
  readonly budget: ByteBudget;
  readonly streamsPerConnection: number;
  /** Called when the transport answered a call, before or beside its handler. Counted and logged. */
  readonly refused?: (call: RefusedCall) => void;
}

export interface RefusedCall {
  /** `sallyport.v1.TokenAdmin/GetToken` */
  readonly method: string;
  readonly requestId: string;
  readonly fault: TransportFailure;
  readonly error: ConnectError;
}

type Refuse = (fault: TransportFailure, more?: WireMore) => Promise<UniversalServerResponse>;

/** Connect parses the URL that it gets. This fixed origin keeps the peer's authority out of it. */
const ORIGIN = "http://sallyport";
/** If a handler overlooks its deadline, the transport answers for it after this time. */
const DEADLINE_SLACK_MS = 40;

/**
 * Serves RPCs (gRPC, Connect, optionally gRPC-Web) on any HTTP server of Node. It adds to connect's own adapter a limit
 * on every body, a deadline on every unary call and fixed texts for undecodable requests, and no peer can end the
 * process.
 */
export function connectHandler(options: ConnectListenerOptions): HttpHandler {
  const routes = rpcRoutes(options);
  const streams = new WeakMap<object, number>();
  return (req, res) => {
    const [path, query = ""] = req.url!.split("?", 2) as [string, string?];
    const route = routes.get(path);
    if (route === undefined) return unknownPath(req, res);
    if (!route.stream) return serve(options, route, query, req, res);
    const connection = connectionOf(req);
    const open = streams.get(connection) ?? 0;
    if (open >= options.streamsPerConnection) return serve(options, route, query, req, res, "too_many_streams");
    streams.set(connection, open + 1);
    res.once("close", () => streams.set(connection, (streams.get(connection) ?? 1) - 1));
    return serve(options, route, query, req, res);
  };
}

/**
 * The answer to an unknown path: 404, or UNIMPLEMENTED to a gRPC client. It names the listener that serves the path.
 */
export const unknownPath: HttpHandler = (req, res) => {
  const message = whyUnknown(req.url!, peerOf(req).listener);
  answerError(req, res, 404, wireError("unknown_method", { message }));
};

async function serve(
  options: ConnectListenerOptions,
  route: RpcRoute,
  query: string,
  req: HttpRequest,
  res: HttpResponse,
  early?: TransportFailure,
): Promise<void> {
  if ("stream" in req) {
    // A stream that is opened and reset at once costs no more than this.
    await new Promise(setImmediate);
    if (req.stream.destroyed) return;
  }
  if (req.method === "POST" && !route.handle.supportedContentType(req.headers["content-type"] ?? ""))
    return answerHttp(res, 415, wireError("wrong_type"));
  const header = headersOf(req);
  if (header === undefined)
    return answerError(req, res, 400, wireError("undecodable", { message: "malformed header" }));
  const state: CallState = { decoded: false, admitted: false };
  const values = createContextValues().set(peerKey, peerOf(req)).set(callStateKey, state);
  const stop = new AbortController();
  const rules: BodyRules = {
    ...route,
    budget: options.budget,
    grpc: speaksGrpc(header),
    state,
    stop: stop.signal,
    held: 0,
  };
  const drain = route.stream ? options.drain : undefined;
  const onDrain = (): void => stop.abort();
  drain?.addEventListener("abort", onDrain);
  let gone = false;
  res.once("close", () => {
    gone = true;
    drain?.removeEventListener("abort", onDrain);
    stop.abort();
    release(rules);
  });
  const request: UniversalServerRequest = {
    httpVersion: req.httpVersion,
    method: req.method ?? "",
    url: ORIGIN + req.url,
    header,
    body: route.stream
      ? limitedBody(req, rules)
      : countedBody(limitedBody(req, rules), contentOf(route, header, query, state)),
    signal: stop.signal,
    contextValues: values,
  };
  const deadline = clampDeadline(header, route.limits);
  const fault = early ?? frameFault(route.limits, query, rules, header);
  const requestId = requestIdFrom(header.get("x-request-id"));
  const refuse: Refuse = (fault, more) => {
    const error = wireError(fault, { ...more, requestId });
    const method = route.handle.requestPath.slice(1);
    options.refused?.({ method, requestId, fault, error });
    return refuseWith(route, request, error);
  };
  const response =
    fault !== undefined
      ? await refuse(fault)
      : typeof deadline === "string"
        ? await refuse(deadline)
        : await withinDeadline(route, request, state, route.stream ? 0 : deadline, refuse);
  if (response === undefined || gone) return abandon(req);
  try {
    await writeResponse(response, res);
  } catch {
    abandon(req); // the client disconnected, or a stream broke after its headers
  }
}

function contentOf({ handle, limits }: RpcRoute, header: Headers, query: string, state: CallState): Content {
  const type = header.get("content-type")?.toLowerCase() ?? "";
  const encoding = encodingOf(header, query, limits.gzip);
  return { input: handle.method.input, type, grpc: speaksGrpc(header), encoding, maxBytes: limits.readMaxBytes, state };
}

/** The fault of a request that its headers alone show. */
function frameFault(limits: RpcLimits, query: string, rules: BodyRules, header: Headers): TransportFailure | undefined {
  const encoding = encodingOf(header, query, limits.gzip);
  if (encoding === "other") return "compressed";
  if (!rules.stream && Number(header.get("content-length") ?? 0) > limits.readMaxBytes + 5) return "oversized";
  if (encoding === "gzip") {
    if (!rules.budget.take(limits.readMaxBytes)) return "overloaded"; // what it may become
    rules.held += limits.readMaxBytes;
  }
  return undefined;
}

/** Runs a call. If the call overlooks its deadline, answers for it. Undefined if the client has left. */
async function withinDeadline(
  route: RpcRoute,
  request: UniversalServerRequest,
  state: CallState,
  deadlineMs: number,
  refuse: Refuse,
): Promise<UniversalServerResponse | undefined> {
  const answered = run(route, request, state, refuse);
  if (deadlineMs === 0) return answered;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(resolve, deadlineMs + DEADLINE_SLACK_MS, "late");
  });
  const first = await Promise.race([answered, late]);
  clearTimeout(timer);
  return first === "late" ? refuse("deadline") : first;
}

/** Runs a call through connect, and replaces connect's own texts about undecodable requests by ours. */
async function run(
  route: RpcRoute,
  request: UniversalServerRequest,
  state: CallState,
  refuse: Refuse,
): Promise<UniversalServerResponse | undefined> {
  const response = await route.handle(request);
  if (state.decoded || !state.admitted) return response;
  const code = await codeOf(response);
  if (code === undefined) return response;
  const fault = state.fault ?? faultOf(code);
  if (fault === undefined) return undefined;
  if (fault === "overfull") return refuse(fault, { violation: state.excess });
  const violation = fault === "undecodable" ? violationOf(await messageOf(response)) : undefined;
  return refuse(fault, violation === undefined ? {} : { violation });
}

function refuseWith(
  route: RpcRoute,
  request: UniversalServerRequest,
  error: ConnectError,
): Promise<UniversalServerResponse> {
  const header = new Headers(request.header);
  for (const name of ["grpc-timeout", "connect-timeout-ms"]) header.delete(name);
  return route.refuse({ ...request, header, body: nothing(), contextValues: refusal(error) });
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerResponse } from "node:http2";
import type { ConnectError } from "@connectrpc/connect";
import { weightOfHead } from "../http2/server/limits.ts";
import { connectError } from "../http2/unary/reply.ts";
import { encodedError } from "../rpc/errors.ts";
import { wireError } from "../rpc/transport-errors.ts";
import { type AuthorityRules, headerListSize, requestFault } from "./authority.ts";
import type { HttpHandler, HttpRequest, HttpResponse } from "./peers.ts";
import { abandon, lastOfConnection, type OpenResponses } from "./responses.ts";

export interface GuardHooks {
  readonly responses: OpenResponses;
  /** The limit of an HTTP/2 request's headers. Node enforces it only once the client has acknowledged our SETTINGS. */
  readonly maxHeaderBytes: number;
  readonly authority: AuthorityRules;
  /** While true, HTTP/1.1 responses end their connections. */
  draining(): boolean;
  /** A peer sent bytes that are no request. Counted. */
  onRefused(): void;
  /** A listener threw or rejected, which is a bug of ours. */
  onHandlerError(error: unknown): void;
}

/**
 * Stands before every handler of every listener, so that nothing a peer sends can end the process. A request without
 * exactly one well-formed authority gets 400 before any library sees it, because some libraries crash on it. If a
 * listener throws or rejects, the answer is 500 with a fixed text.
 */
export function guarded(listener: HttpHandler, hooks: GuardHooks): HttpHandler {
  return (req, res) => {
    try {
      (req as IncomingMessage).on("error", ignore);
      (res as ServerResponse).on("error", ignore);
      const listSize = headerListSize(req);
      const fits = hooks.responses.add(req, res, weightOfHead(listSize));
      if (hooks.draining() || !fits) lastOfConnection(res);
      if (!fits) {
        hooks.onRefused();
        // The listener holds as many bytes for its peers as it may.
        answerError(req, res, 503, wireError("overloaded", { message: "overloaded" }), { "retry-after": "1" });
        return;
      }
      if ("stream" in req && listSize > hooks.maxHeaderBytes) {
        hooks.onRefused();
        // gRPC clients do not know 431, so they get RESOURCE_EXHAUSTED.
        answerError(req, res, 431, wireError("oversized", { message: "headers too large" }));
        return;
      }
      const fault = requestFault(req, hooks.authority);
      if (fault !== undefined) {
        hooks.onRefused();
        answerError(req, res, 400, wireError("undecodable", { message: fault }));
        return;
      }
      const done = listener(req, res);
      if (done instanceof Promise) done.catch((error: unknown) => failed(req, res, hooks, error));
    } catch (error) {
      failed(req, res, hooks, error);
    }
  };
}

function answerJson(
  res: HttpResponse,
  status: number,
  body: Uint8Array,
  headers: Readonly<Record<string, string>>,
): void {
  const response = res as ServerResponse;
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": body.length,
    "cache-control": "no-store",
    ...headers,
  });
  response.end(body);
}

/**
 * Answers a gRPC or gRPC-Web client with a status in headers that end the stream, because after a DATA frame, even an
 * empty one, stock clients look for it only in trailers. Returns false, and does nothing, if the client speaks neither.
 * The text must hold no byte of the request.
 */
export function answerGrpc(req: HttpRequest, res: HttpResponse, error: ConnectError): boolean {
  const type = req.headers["content-type"];
  if (!type?.startsWith("application/grpc")) return false;
  const headers = {
    "content-type": type.startsWith("application/grpc-web") ? "application/grpc-web+proto" : "application/grpc",
    "cache-control": "no-store",
    "grpc-status": String(error.code),
    "grpc-message": encodeURIComponent(error.rawMessage),
    "grpc-status-details-bin": Buffer.from(encodedError(error).status)
      .toString("base64")
      .replace(/={1,2}$/, ""),
  };
  if ("stream" in req) {
    const { stream } = res as Http2ServerResponse;
    if (!stream.destroyed && !stream.headersSent) stream.respond({ ":status": 200, ...headers }, { endStream: true });
  } else (res as ServerResponse).writeHead(200, { ...headers, "content-length": "0" }).end();
  return true;
}

/** Answers a gRPC client with the error's status, and any other with `httpStatus` and the error in Connect's JSON. */
export function answerError(
  req: HttpRequest,
  res: HttpResponse,
  httpStatus: number,
  error: ConnectError,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (!answerGrpc(req, res, error)) answerHttp(res, httpStatus, error, headers);
}

/** Answers any client with `httpStatus` and the error in Connect's JSON. */
export function answerHttp(
  res: HttpResponse,
  httpStatus: number,
  error: ConnectError,
  headers: Readonly<Record<string, string>> = {},
): void {
  const { body } = connectError(error.code, error.rawMessage, encodedError(error).details);
  answerJson(res, httpStatus, body, headers);
}

function failed(req: HttpRequest, res: HttpResponse, hooks: GuardHooks, error: unknown): void {
  hooks.onHandlerError(error);
  try {
    if (res.headersSent) abandon(req);
    else answerError(req, res, 500, wireError("internal"));
  } catch {
    abandon(req); // the stream ended in between
  }
}

function ignore(): void {}

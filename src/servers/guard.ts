import type { IncomingMessage, ServerResponse } from "node:http";
import { weightOfHead } from "../http2/limits.ts";
import { headerListSize, requestFault } from "./authority.ts";
import type { DoorListener, DoorRequest, DoorResponse } from "./peers.ts";
import { abandon, lastOfConnection, type OpenResponses } from "./responses.ts";

export interface GuardHooks {
  readonly responses: OpenResponses;
  /** Of an HTTP/2 request. Node holds a client to it only once the client has acknowledged our SETTINGS. */
  readonly maxHeaderBytes: number;
  /** While true, HTTP/1.1 responses end their connections. */
  draining(): boolean;
  /** A peer sent what is not a request. Counted. */
  onRefused(): void;
  /** A listener threw or rejected: a bug of ours. */
  onTrouble(what: string, error: unknown): void;
}

/**
 * Stands before every listener of every door: nothing that a peer sends ends the process. A request without exactly one
 * well-formed authority is answered 400 before any library sees it (some end the process over it); whatever a listener
 * throws or rejects with is answered 500, with fixed text.
 */
export function guarded(listener: DoorListener, hooks: GuardHooks): DoorListener {
  return (req, res) => {
    try {
      (req as IncomingMessage).on("error", ignore);
      (res as ServerResponse).on("error", ignore);
      const listSize = headerListSize(req);
      const fits = hooks.responses.add(req, res, weightOfHead(listSize));
      if (hooks.draining() || !fits) lastOfConnection(res);
      if (!fits) {
        hooks.onRefused();
        overloaded(req, res);
        return;
      }
      if ("stream" in req && listSize > hooks.maxHeaderBytes) {
        hooks.onRefused();
        tooLarge(req, res);
        return;
      }
      const fault = requestFault(req);
      if (fault !== undefined) {
        hooks.onRefused();
        answer(res, 400, { code: "invalid_argument", message: fault });
        return;
      }
      const done = listener(req, res);
      if (done instanceof Promise) done.catch((error: unknown) => failed(req, res, hooks, error));
    } catch (error) {
      failed(req, res, hooks, error);
    }
  };
}

/** Answers with a fixed JSON body and nothing to cache. The text must hold no byte of the request. */
export function answer(
  res: DoorResponse,
  status: number,
  body: Readonly<Record<string, unknown>>,
  headers: Readonly<Record<string, string>> = {},
): void {
  const text = JSON.stringify(body);
  (res as ServerResponse).writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
    "cache-control": "no-store",
    ...headers,
  });
  res.end(text);
}

/** 431, or RESOURCE_EXHAUSTED to gRPC, whose clients know no 431. */
function tooLarge(req: DoorRequest, res: DoorResponse): void {
  exhausted(req, res, 431, "headers too large");
}

/** The listener holds as much for its peers as it may. */
function overloaded(req: DoorRequest, res: DoorResponse): void {
  exhausted(req, res, 503, "overloaded", { "retry-after": "1" });
}

function exhausted(
  req: DoorRequest,
  res: DoorResponse,
  httpStatus: number,
  message: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (!req.headers["content-type"]?.startsWith("application/grpc")) {
    answer(res, httpStatus, { code: "resource_exhausted", message }, headers);
    return;
  }
  const status = { "grpc-status": "8", "grpc-message": encodeURIComponent(message) };
  (res as ServerResponse).writeHead(200, { "content-type": "application/grpc", ...status });
  res.end();
}

function failed(req: DoorRequest, res: DoorResponse, hooks: GuardHooks, error: unknown): void {
  hooks.onTrouble("listener failed", error);
  try {
    if (res.headersSent) abandon(req);
    else answer(res, 500, { code: "internal", message: "internal error" });
  } catch {
    abandon(req); // the stream went away in between
  }
}

function ignore(): void {}

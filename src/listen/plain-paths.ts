import type { ServerResponse } from "node:http";
import { wireError } from "../rpc/transport-errors.ts";
import { unknownPath } from "./connect-adapter.ts";
import { answerError } from "./guard.ts";
import type { HttpHandler } from "./peers.ts";

export interface Page {
  readonly status?: number;
  readonly type: string;
  readonly body: string;
  /** How long it may be cached; by default not at all. */
  readonly cache?: string;
}

/**
 * Serves pages by GET and HEAD at exact paths. A query is ignored, another method is 405, and any other path goes to
 * `otherwise` (404).
 */
export function plainPaths(
  pages: Readonly<Record<string, () => Page | Promise<Page>>>,
  otherwise: HttpHandler = unknownPath,
): HttpHandler {
  const byPath = new Map(Object.entries(pages));
  return async (req, res) => {
    const page = byPath.get(req.url!.split("?", 1)[0]!);
    if (page === undefined) return otherwise(req, res);
    if (req.method !== "GET" && req.method !== "HEAD")
      return answerError(req, res, 405, wireError("wrong_method"), { allow: "GET, HEAD" });
    const { status = 200, type, body, cache = "no-store" } = await page();
    const response = res as ServerResponse;
    response.writeHead(status, {
      "content-type": type,
      "content-length": Buffer.byteLength(body),
      "cache-control": cache,
      "x-content-type-options": "nosniff",
    });
    response.end(req.method === "HEAD" ? undefined : body);
  };
}

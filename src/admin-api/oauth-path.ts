import type { ServerResponse } from "node:http";
import type { HttpHandler, HttpRequest } from "../listen/peers.ts";
import { lastOfConnection } from "../listen/responses.ts";
import type { HttpAnswer } from "../rpc/http-answer.ts";
import type { Method, RpcLimits } from "../rpc/methods.ts";
import { WRONG_METHOD } from "../rpc/oauth.ts";

/** A client that sends more loses the connection. */
const LONGEST_READ = 1024 * 1024;

/** An OAuth endpoint of the admin listener. Every other request goes to `otherwise`. */
export function oauthPath(
  { path }: Method,
  answer: (req: HttpRequest) => Promise<HttpAnswer>,
  otherwise: HttpHandler,
): HttpHandler {
  return async (req, res) => {
    if (req.url!.split("?", 1)[0] !== path) return otherwise(req, res);
    const { status, headers, body } = req.method === "POST" ? await answer(req) : WRONG_METHOD;
    if (req.destroyed && !req.complete) lastOfConnection(res); // the rest of its body would be in the way
    (res as ServerResponse).writeHead(status, Object.fromEntries(headers)).end(body);
  };
}

/** Every occurrence, joined: two credentials are not a valid one. */
export function headerOf(req: HttpRequest, name: string): string | null {
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
export async function bodyOf(req: HttpRequest, { readMaxBytes }: RpcLimits): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > LONGEST_READ) break;
    if (size <= readMaxBytes) chunks.push(chunk);
  }
  return size > readMaxBytes ? new Uint8Array(0) : Buffer.concat(chunks);
}

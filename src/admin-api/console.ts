import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { gzipSync } from "node:zlib";
import { answerError } from "../listen/guard.ts";
import type { HttpHandler, HttpRequest } from "../listen/peers.ts";
import { wireError } from "../rpc/transport-errors.ts";
import type { ConsoleAuth } from "./console-auth.ts";
import { HEADERS } from "./console-headers.ts";

/** The settings of the console that its page reads. No credential is among them. */
export interface ConsoleOptions {
  readonly version: string;
  readonly tokenSignIn: boolean;
  /** Milliseconds without a use until the page forgets its token. */
  readonly idleTimeoutMs: number;
  /** Undefined: only a token signs in. */
  readonly auth: ConsoleAuth | undefined;
}

interface File {
  readonly type: string;
  readonly etag: string;
  readonly plain: Buffer;
  readonly packed: Buffer;
  readonly cache: "no-store" | "no-cache";
}

const FOLDER = new URL("../console/dist/", import.meta.url);

/** `/console/` and its files. Every other request goes to `otherwise`. */
export function consolePaths(options: ConsoleOptions, otherwise: HttpHandler): HttpHandler {
  const files = new Map([
    ["/console/", fileOf("index.html", "text/html; charset=utf-8", "no-store")],
    // Fixed names: during a rolling upgrade, the page of one version may ask an instance of another for them.
    ["/console/app.js", fileOf("app.js", "text/javascript; charset=utf-8", "no-cache")],
    ["/console/app.css", fileOf("app.css", "text/css; charset=utf-8", "no-cache")],
    ["/console/icon.svg", fileOf("icon.svg", "image/svg+xml", "no-cache")],
    ["/console/config.json", packed(configOf(options), "application/json", "no-store")],
  ]);
  return (req, res) => {
    const path = req.url!.split("?", 1)[0]!;
    const file = files.get(path);
    const moved = file === undefined ? redirect(req, path) : undefined;
    if (file === undefined && moved === undefined) return otherwise(req, res);
    if (req.method !== "GET" && req.method !== "HEAD")
      return answerError(req, res, 405, wireError("wrong_method"), { allow: "GET, HEAD" });
    const response = res as ServerResponse;
    if (file === undefined) {
      response.writeHead(moved!, {
        ...HEADERS,
        location: "/console/",
        "cache-control": "no-store",
        "content-length": 0,
      });
      response.end();
      return;
    }
    const headers = { ...HEADERS, etag: file.etag, "cache-control": file.cache, vary: "accept-encoding" };
    if (file.cache === "no-cache" && req.headers["if-none-match"] === file.etag) {
      response.writeHead(304, headers).end();
      return;
    }
    const gzip = /\bgzip\b/.test(String(req.headers["accept-encoding"] ?? ""));
    const body = gzip ? file.packed : file.plain;
    response.writeHead(200, {
      ...headers,
      "content-type": file.type,
      "content-length": body.length,
      ...(gzip && { "content-encoding": "gzip" }),
    });
    response.end(req.method === "HEAD" ? undefined : body);
  };
}

/** The status of a redirect to the console; undefined for a path that is not its own. */
function redirect(req: HttpRequest, path: string): 303 | 308 | undefined {
  if (path === "/console") return 308;
  return path === "/" && String(req.headers.accept ?? "").includes("text/html") ? 303 : undefined;
}

function configOf({ version, tokenSignIn, idleTimeoutMs, auth }: ConsoleOptions): Buffer {
  const issuers = auth?.issuers ?? [];
  return Buffer.from(JSON.stringify({ version, tokenSignIn, idleTimeout: idleTimeoutMs / 1000, issuers }));
}

function fileOf(name: string, type: string, cache: File["cache"]): File {
  return packed(readFileSync(new URL(name, FOLDER)), type, cache);
}

function packed(plain: Buffer, type: string, cache: File["cache"]): File {
  const etag = `"${createHash("sha256").update(plain).digest("base64url").slice(0, 22)}"`;
  return { type, etag, plain, packed: gzipSync(plain, { level: 9 }), cache };
}

import type { ServerResponse } from "node:http";
import { answerError } from "../listen/guard.ts";
import type { HttpHandler, HttpRequest, HttpResponse } from "../listen/peers.ts";
import { toConnectError } from "../rpc/errors.ts";
import { wireError } from "../rpc/transport-errors.ts";
import { HEADERS } from "./console-headers.ts";

type Problem = "expired" | "refused" | "forbidden" | "unavailable";

/** Single sign-on, behind the pages. No token of it ever reaches the browser. */
export interface ConsoleAuth {
  readonly issuers: readonly { readonly name: string; readonly label: string }[];
  readonly attemptMs: number;
  readonly maxAgeMs: number;
  begin(issuer: string, tab: boolean): Promise<{ location: string; cookie: string } | { problem: Problem }>;
  finish(
    cookie: string | undefined,
    query: string,
  ): Promise<{ tab: boolean } & ({ cookie: string } | { problem: Problem })>;
  bearer(cookie: string): Promise<string | undefined>;
  end(cookie: string): Promise<void>;
}

const LOGIN = "/console/auth/login";
const CALLBACK = "/console/auth/callback";
const LOGOUT = "/console/auth/logout";
const RPCS = "/sallyport.v1.";

const SESSION_COOKIE = "__Host-sallyport_session";
/** Lax: a browser sends no Strict cookie when the issuer sends it back. */
const ATTEMPT_COOKIE = "__Host-sallyport_login";

/** The two addresses that a link and an issuer open. Every other request goes to `otherwise`. */
export function signInPaths(auth: ConsoleAuth | undefined, otherwise: HttpHandler): HttpHandler {
  if (auth === undefined) return otherwise;
  return async (req, res) => {
    const [path, query = ""] = req.url!.split(/\?(.*)/s);
    if (path !== LOGIN && path !== CALLBACK) return otherwise(req, res);
    if (req.method !== "GET") return answerError(req, res, 405, wireError("wrong_method"), { allow: "GET" });
    if (path === LOGIN) {
      const asked = new URLSearchParams(query);
      const begun = await auth.begin(asked.get("issuer") ?? "", asked.has("tab"));
      if ("problem" in begun) return redirect(res, failed(begun.problem));
      return redirect(res, begun.location, [cookieOf(ATTEMPT_COOKIE, begun.cookie, auth.attemptMs, "Lax")]);
    }
    const done = await auth.finish(cookieIn(req, ATTEMPT_COOKIE), query);
    // One answer for each attempt.
    const over = cookieOf(ATTEMPT_COOKIE, "", 0, "Lax");
    if ("problem" in done) return redirect(res, failed(done.problem), [over]);
    const to = done.tab ? "/console/#/signed-in" : "/console/";
    return redirect(res, to, [over, cookieOf(SESSION_COOKIE, done.cookie, auth.maxAgeMs, "Strict")]);
  };
}

/**
 * A call of the console without a credential of its own has that of its cookie's session. The cookie alone is none: the
 * page's own header and the browser's word that the page is ours must stand beside it. Also the sign-out.
 */
export function sessionCookies(auth: ConsoleAuth | undefined, otherwise: HttpHandler): HttpHandler {
  if (auth === undefined) return otherwise;
  return async (req, res) => {
    const path = req.url!.split("?", 1)[0]!;
    const cookie = isOfConsole(req) ? cookieIn(req, SESSION_COOKIE) : undefined;
    if (path !== LOGOUT && !path.startsWith(RPCS)) return otherwise(req, res);
    if (path !== LOGOUT && cookie === undefined) return otherwise(req, res);
    if (path === LOGOUT && req.method !== "POST")
      return answerError(req, res, 405, wireError("wrong_method"), { allow: "POST" });
    try {
      if (path !== LOGOUT) {
        const bearer = await auth.bearer(cookie!);
        if (bearer !== undefined) req.rawHeaders.push("authorization", `Bearer ${bearer}`);
        return otherwise(req, res);
      }
      if (!isOfConsole(req)) return answerError(req, res, 403, wireError("cross_origin"));
      if (cookie !== undefined) await auth.end(cookie);
      const headers = { "cache-control": "no-store", "set-cookie": cookieOf(SESSION_COOKIE, "", 0, "Strict") };
      (res as ServerResponse).writeHead(204, headers).end();
    } catch (error) {
      answerError(req, res, 503, toConnectError(error));
    }
  };
}

/** A POST that the page itself makes, without another credential. */
function isOfConsole({ method, headers }: HttpRequest): boolean {
  return (
    method === "POST" &&
    headers["x-sallyport-console"] === "1" &&
    headers["sec-fetch-site"] === "same-origin" &&
    headers.authorization === undefined
  );
}

/** The value of a cookie; undefined without one, or with two. */
function cookieIn({ headers }: HttpRequest, name: string): string | undefined {
  const values = (headers.cookie ?? "")
    .split(";")
    .map((pair) => pair.trim())
    .filter((pair) => pair.startsWith(`${name}=`));
  return values.length === 1 ? values[0]!.slice(name.length + 1) : undefined;
}

function cookieOf(name: string, value: string, ms: number, sameSite: "Lax" | "Strict"): string {
  return `${name}=${value}; Path=/; Max-Age=${Math.floor(ms / 1000)}; HttpOnly; Secure; SameSite=${sameSite}`;
}

function failed(problem: Problem): string {
  return `/console/#/sign-in?problem=${problem}`;
}

function redirect(res: HttpResponse, location: string, cookies: readonly string[] = []): void {
  const headers = { ...HEADERS, location, "cache-control": "no-store", "content-length": 0 };
  (res as ServerResponse)
    .writeHead(303, { ...headers, ...(cookies.length > 0 && { "set-cookie": [...cookies] }) })
    .end();
}

import { type LookupAddress, lookup } from "node:dns";
import { readFileSync } from "node:fs";
import { type ClientRequest, request as cleartext, type IncomingHttpHeaders } from "node:http";
import { request as secure } from "node:https";
import { isIP, type LookupFunction } from "node:net";
import { createSecureContext } from "node:tls";
import { addressAllowed } from "../domain/networks.ts";

/** The longest document of an issuer. */
const LONGEST = 1024 * 1024;

/** Clouds serve credentials of the machine there. */
const LINK_LOCAL = ["169.254.0.0/16", "fe80::/10"];
const LOOPBACK = ["127.0.0.0/8", "::1"];

export interface FetchOptions {
  /** PEM: the CA to trust; undefined for the CAs that Node brings. Read at each call, because it may be renewed. */
  readonly caFile: string | undefined;
  readonly signal: AbortSignal;
}

/** A document of an issuer as JSON. Rejects with an error that has a `code`. */
export type FetchDocument = (url: string, options: FetchOptions) => Promise<unknown>;

/**
 * Fetches JSON documents by HTTPS, or by HTTP from this machine only. It follows no redirect, asks no link-local address,
 * and reads at most 1 MiB.
 */
export function documentFetcher(resolve: typeof lookup = lookup): FetchDocument {
  const ask = asking(resolve);
  return async (url, options) => {
    const { status, body } = await ask(url, options);
    if (status !== 200) throw failed(`http_${status}`);
    try {
      return JSON.parse(body.toString("utf8")) as unknown;
    } catch {
      throw failed("not_json"); // without the parser's message, which quotes the text
    }
  };
}

export interface Asked extends FetchOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

interface Answered {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** One request to an issuer, with the bounds of `documentFetcher`. */
export function asking(resolve: typeof lookup = lookup): (url: string, asked: Asked) => Promise<Answered> {
  return async (url, { caFile, signal, method = "GET", headers = {}, body = "" }) => {
    const { protocol, hostname, username, password } = new URL(url);
    const safe = protocol === "https:";
    if ((!safe && protocol !== "http:") || username !== "" || password !== "") throw failed("url_refused");
    const allowed = safe ? (address: string) => !within(LINK_LOCAL, address) : isLoopback;
    const host = hostname.replace(/^\[|\]$/g, "");
    // Node does not look up a host that is an address.
    if (isIP(host) !== 0 && !allowed(host)) throw failed("address_refused");
    const common = { agent: false, signal, method, headers: { accept: "application/json", ...headers } } as const;
    const options = { ...common, lookup: lookingUp(resolve, allowed) };
    const ca = safe && caFile !== undefined ? { ca: readFileSync(caFile) } : {};
    return answerOf(safe ? secure(url, { ...options, ...ca }) : cleartext(url, options), body);
  };
}

function answerOf(request: ClientRequest, sent: string): Promise<Answered> {
  return new Promise((done, reject) => {
    request.on("error", reject);
    request.on("response", (response) => {
      const chunks: Buffer[] = [];
      let size = 0;
      response.on("error", reject);
      response.on("data", (chunk: Buffer) => {
        size += chunk.length;
        if (size > LONGEST) request.destroy(failed("too_long"));
        else chunks.push(chunk);
      });
      const { statusCode: status = 0, headers } = response;
      response.on("end", () => done({ status, headers, body: Buffer.concat(chunks) }));
    });
    request.end(sent);
  });
}

/** The problem of a CA file; undefined if it can be used. */
export function caProblem(file: string): string | undefined {
  try {
    const ca = readFileSync(file, "utf8");
    if (!ca.includes("-----BEGIN CERTIFICATE-----")) return "is not a PEM certificate";
    createSecureContext({ ca });
    return undefined;
  } catch (error) {
    return `cannot be used (${(error as { code?: string }).code ?? "not PEM"})`;
  }
}

/** An error whose `code` the log shows. */
export function failed(code: string): Error {
  return Object.assign(new Error(code), { code });
}

/** Resolves a host to the addresses that are allowed; fails if one of its addresses is not. */
function lookingUp(resolve: typeof lookup, allowed: (address: string) => boolean): LookupFunction {
  return (host, options, callback) => {
    resolve(host, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
      if (error !== null) return callback(error, []);
      if (!addresses.every(({ address }) => allowed(address))) return callback(failed("address_refused"), []);
      if (options.all === true) return callback(null, addresses);
      const first = addresses[0];
      if (first === undefined) return callback(failed("address_unknown"), []);
      callback(null, first.address, first.family);
    });
  };
}

function isLoopback(address: string): boolean {
  return within(LOOPBACK, address);
}

function within(networks: readonly string[], address: string): boolean {
  return addressAllowed(networks, address.split("%", 1)[0]!);
}

import { readFileSync } from "node:fs";
import { createSecureContext } from "node:tls";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { usage } from "./failure.ts";

export const ADMIN_ADDRESS = "http://127.0.0.1:7401";
export const DATA_ADDRESS = "http://127.0.0.1:7400";
/** The file where the first embedded start writes the first admin token, relative to the folder of `npm start`. */
export const EMBEDDED_TOKEN_FILE = "./data/admin-token";

const LONGEST_ANSWER = 64 * 1024 * 1024;

/** The secret that the CLI presents as a caller, and its source, in words for a message. */
export interface Credential {
  readonly secret: string;
  readonly from: string;
  /** The tenant in which a session calls. */
  readonly tenant?: string;
}

/** PEM files: the CA to trust behind `https://`, and the client certificate. */
export interface TlsFiles {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/**
 * Opens a client connection to a listener: `http://host:port`, `https://host:port` or `unix:/path`, by the Connect
 * protocol over HTTP/1.1, which every listener accepts. Every call carries the credential, if there is one, and ends
 * after `timeoutMs`. Calls `tokenEnds` when the server reports that this credential ends soon. Any other address is a
 * usage Failure that names the flag.
 */
export function openListener(
  address: { readonly text: string; readonly flag: string },
  credential: Credential | undefined,
  timeoutMs: number,
  tls: TlsFiles = {},
  tokenEnds?: (time: string) => void,
): Transport {
  const unix = /^unix:(\/.+)$/.exec(address.text)?.[1];
  if (unix === undefined && !isHttp(address.text)) {
    throw usage(`${address.flag} must be http://host:port, https://host:port or unix:/path`);
  }
  return createConnectTransport({
    baseUrl: unix === undefined ? address.text : "http://localhost",
    httpVersion: "1.1",
    nodeOptions: unix !== undefined ? { socketPath: unix } : address.text.startsWith("https:") ? tlsOptions(tls) : {},
    interceptors: credential === undefined ? [] : [bearer(credential), endings(tokenEnds)],
    acceptCompression: [],
    readMaxBytes: LONGEST_ANSWER,
    defaultTimeoutMs: timeoutMs,
  });
}

/** Reads the files and checks that they fit together. A file that cannot be used is a usage Failure that names it. */
function tlsOptions({ caFile, certFile, keyFile }: TlsFiles) {
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw usage("a client certificate needs both --cert-file and --key-file");
  }
  const read = (what: string, file: string | undefined) => {
    if (file === undefined) return undefined;
    try {
      const text = readFileSync(file);
      if (text.includes("-----BEGIN ")) return text;
    } catch (error) {
      throw usage(`cannot read the ${what} ${file}: ${reasonOf(error)}`);
    }
    throw usage(`the ${what} ${file} is not PEM`);
  };
  const options = {
    ...(caFile !== undefined && { ca: read("CA file", caFile) }),
    ...(certFile !== undefined && { cert: read("certificate file", certFile), key: read("key file", keyFile) }),
  };
  try {
    createSecureContext(options);
  } catch {
    throw usage(`the TLS files cannot be used: ${[caFile, certFile, keyFile].filter(Boolean).join(", ")}`);
  }
  return options;
}

/** The credential in a file: one line without blanks. Any other file is a usage Failure that names it. */
export function credentialFromFile(path: string, what: "token" | "session" = "token"): Credential {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw usage(`cannot read the ${what} file ${path}: ${reasonOf(error)}`);
  }
  return { secret: oneWord(text, `the ${what} file ${path}`, what), from: `the file ${path}` };
}

/** The credential in a variable of the environment; undefined if it is not set. */
export function credentialFromEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  name: "SALLYPORT_TOKEN" | "SALLYPORT_SESSION" = "SALLYPORT_TOKEN",
): Credential | undefined {
  const text = env[name];
  if (text === undefined || text === "") return undefined;
  return { secret: oneWord(text, name, name === "SALLYPORT_SESSION" ? "session" : "token"), from: name };
}

/** The reason why Node could not read a file. */
export function reasonOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES") return "this user may not read it";
  if (code === "EISDIR") return "it is a folder";
  return String(code ?? "unknown reason");
}

function bearer({ secret, tenant }: Credential): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${secret}`);
    if (tenant !== undefined) request.header.set("x-sallyport-tenant", tenant);
    return next(request);
  };
}

/** Calls `tokenEnds` when the server reports that the caller's own token ends soon. */
function endings(tokenEnds: ((time: string) => void) | undefined): Interceptor {
  return (next) => async (request) => {
    const response = await next(request);
    const time = response.header.get("sallyport-token-ends");
    if (time !== null) tokenEnds?.(time);
    return response;
  };
}

function oneWord(text: string, where: string, what: "token" | "session"): string {
  const word = text.trim();
  if (!/^[\x21-\x7e]+$/.test(word))
    throw usage(`${where} must hold one ${what === "session" ? "JWT" : "token string"}, on one line`);
  return word;
}

function isHttp(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && (url.protocol === "http:" || url.protocol === "https:") && url.username === "";
}

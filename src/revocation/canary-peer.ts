import { readFileSync } from "node:fs";
import { request as cleartext } from "node:http";
import { request as secure } from "node:https";
import type { Config } from "../config/schema.ts";
import type { Verdict } from "../domain/decide.ts";
import type { Secret } from "../domain/secret.ts";

const PATH = "/sallyport.v1.TokenValidator/ValidateToken";
const WAIT_MS = 2_000;
const LONGEST_ANSWER = 64 * 1024;

/**
 * The TLS identity of the canary, and the CA that it trusts. Files are read at each call, because they may be renewed.
 */
export interface PeerTls {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** The files of the configuration. Without its own certificate, the canary uses the one of this instance. */
export function peerTlsOf({ canary, listeners }: Config): PeerTls {
  const own = listeners.data.tls;
  return {
    caFile: canary.ca_file,
    certFile: canary.cert_file ?? own?.cert_file,
    keyFile: canary.key_file ?? own?.key_file,
  };
}

/**
 * Asks another instance's data listener about a token, over its JSON API: `http://host:port`, `https://host:port` or
 * `unix:/path`. Rejects if there is no answer within 2 s.
 */
export async function askPeer(peer: string, tokenString: Secret, tls: PeerTls): Promise<Verdict> {
  const text = await post(peer, JSON.stringify({ tokenString: tokenString.reveal() }), tls);
  const { verdict } = JSON.parse(text) as { verdict?: string };
  return (verdict?.replace(/^VERDICT_/, "") ?? "UNDETERMINED") as Verdict;
}

function post(peer: string, body: string, tls: PeerTls): Promise<string> {
  const socketPath = /^unix:(\/.+)$/.exec(peer)?.[1];
  const options = {
    method: "POST",
    headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
    signal: AbortSignal.timeout(WAIT_MS),
    agent: false,
  } as const;
  return new Promise((resolve, reject) => {
    const request =
      socketPath !== undefined
        ? cleartext({ ...options, socketPath, path: PATH, host: "localhost" })
        : peer.startsWith("https:")
          ? secure(`${peer}${PATH}`, { ...options, ...filesOf(tls) })
          : cleartext(`${peer}${PATH}`, options);
    request.on("error", reject);
    request.on("response", (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("error", reject);
      response.on("data", (more: string) => {
        text += more;
        if (text.length > LONGEST_ANSWER) request.destroy(new Error("the peer's answer is too long"));
      });
      response.on("end", () => {
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`peer answered ${response.statusCode}`));
      });
    });
    request.end(body);
  });
}

function filesOf({ caFile, certFile, keyFile }: PeerTls) {
  return {
    ...(caFile !== undefined && { ca: readFileSync(caFile) }),
    ...(certFile !== undefined &&
      keyFile !== undefined && { cert: readFileSync(certFile), key: readFileSync(keyFile) }),
  };
}

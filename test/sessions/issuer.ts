import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";
import type { SessionIssuer } from "../../src/domain/session.ts";

export const AUDIENCE = "sallyport";
const RSA = { modulusLength: 2048, extractable: true } as const;
const PAIRS = await Promise.all([generateKeyPair("RS256", RSA), generateKeyPair("RS256", RSA)]);

export interface Made {
  readonly claims?: Record<string, unknown>;
  /** Claims to leave out. */
  readonly without?: readonly string[];
  readonly header?: Record<string, unknown>;
  /** Signs with the second key, which the issuer does not publish at first. */
  readonly key?: 0 | 1;
  /** Seconds since 1970. */
  readonly now?: number;
}

/** An issuer on loopback: its keys, and JWTs that it signs. It can misbehave. */
export class TestIssuer {
  readonly #server: Server;
  readonly url: string;
  /** The paths of all requests. */
  readonly requests: string[] = [];
  /** The key ids that it publishes, each with its key. */
  published: { kid: string; key: 0 | 1 }[] = [{ kid: "k1", key: 0 }];
  /** Further keys that it publishes, as they are. */
  alsoPublished: object[] = [];
  /** Answers in place of the issuer. */
  instead: ((req: IncomingMessage, res: ServerResponse) => void) | undefined;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/realms/corp`;
  }

  static async open(): Promise<TestIssuer> {
    const server = createServer((req, res) => {
      issuer.requests.push(req.url!);
      if (issuer.instead !== undefined) issuer.instead(req, res);
      else void issuer.#answer(req, res);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const issuer = new TestIssuer(server);
    return issuer;
  }

  async #answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const discovery = { issuer: this.url, jwks_uri: `${this.url}/keys` };
    const body = req.url!.endsWith("/keys") ? { keys: await this.keys() } : discovery;
    res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  }

  async keys(): Promise<object[]> {
    const ours = await Promise.all(
      this.published.map(async ({ kid, key }) => ({ ...(await exportJWK(PAIRS[key]!.publicKey)), kid, use: "sig" })),
    );
    return [...ours, ...this.alsoPublished];
  }

  /** A good JWT, but for what the test changes. */
  async jwt({ claims = {}, without = [], header = {}, key = 0, now = Date.now() / 1000 }: Made = {}): Promise<string> {
    const at = Math.floor(now);
    const all: JWTPayload = { iss: this.url, aud: AUDIENCE, sub: "ann", iat: at, exp: at + 300, groups: ["staff"] };
    const payload = { ...all, kind: "access", ...claims };
    for (const name of without) delete (payload as Record<string, unknown>)[name];
    const protectedHeader = { alg: "RS256", typ: "at+jwt", kid: "k1", ...header };
    return new SignJWT(payload)
      .setProtectedHeader(protectedHeader)
      .sign(PAIRS[key]!.privateKey, { crit: { b64: true } });
  }

  publicKey() {
    return PAIRS[0]!.publicKey;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** The settings of an issuer whose sessions are members of tenant acme. */
export function issuerOf(url: string, more: Partial<SessionIssuer> = {}): SessionIssuer {
  return {
    name: "corp",
    issuer: url,
    jwksUri: `${url}/keys`,
    caFile: undefined,
    audiences: [AUDIENCE],
    algorithms: ["RS256"],
    types: ["at+jwt"],
    require: { kind: "access" },
    maxAge: 3_600_000,
    clockSkew: 30_000,
    tenant: "acme",
    tenantClaim: undefined,
    tenants: {},
    principalClaim: "sub",
    subPrefix: "",
    foreignPrefixes: [],
    groupsClaim: "groups",
    groups: [
      { group: "staff", tenant: undefined, permissions: ["sallyport.tokens.read"], scopes: ["repo:*"], roles: [] },
    ],
    ...more,
  };
}

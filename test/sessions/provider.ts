import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair } from "jose";
import { Provider } from "oidc-provider";
import { AUDIENCE } from "./issuer.ts";

const RESOURCE = "https://sallyport.example";
const OTHER = "https://other.example";
const CALLBACK = "https://app.example/callback";
export const CLIENT = { client_id: "app", client_secret: "secret-of-the-app" };

/** What a user gets by logging in. */
export interface Login {
  readonly accessToken: string;
  readonly idToken: string;
}

/**
 * A certified OpenID provider on loopback, with users who log in by the authorization code flow. It needs no page: the
 * user is whoever the test says.
 */
export class RealProvider {
  readonly url: string;
  /** The groups of each user, as the provider puts them into access tokens. */
  readonly groups = new Map<string, readonly string[]>();
  readonly #server: Server;
  readonly #callbacks: readonly string[];
  /** Who logs in, whatever browser comes. */
  user = "";
  /** Seconds. */
  accessTokenLasts = 300;
  /** The requests to its token endpoint. */
  exchanges = 0;

  private constructor(server: Server, host: string, callbacks: readonly string[]) {
    this.#server = server;
    this.#callbacks = callbacks;
    this.url = `http://${host}:${(server.address() as AddressInfo).port}`;
  }

  /** `host`: a name of this machine. `callbacks`: further addresses of the client. */
  static async open({ host = "127.0.0.1", callbacks = [] as string[] } = {}): Promise<RealProvider> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const real = new RealProvider(server, host, [CALLBACK, ...callbacks]);
    const { privateKey } = await generateKeyPair("RS256", { extractable: true });
    const key = { ...(await exportJWK(privateKey)), kid: "provider-1", use: "sig", alg: "RS256" };
    const provider = new Provider(real.url, real.#configuration(key));
    const callback = provider.callback();
    server.on("request", (req, res) => {
      if (req.url === "/token") real.exchanges++;
      if (!req.url!.startsWith("/interaction/")) return callback(req, res);
      void provider.interactionFinished(req, res, { login: { accountId: real.user } });
    });
    return real;
  }

  /** Logs a user in, for this resource or another one. */
  async login(user: string, resource: "sallyport" | "other" = "sallyport"): Promise<Login> {
    this.user = user;
    const verifier = randomBytes(32).toString("base64url");
    const audience = resource === "sallyport" ? RESOURCE : OTHER;
    const query = new URLSearchParams({
      ...{ client_id: CLIENT.client_id, response_type: "code", redirect_uri: CALLBACK, scope: "openid tokens" },
      code_challenge: createHash("sha256").update(verifier).digest("base64url"),
      ...{ code_challenge_method: "S256", resource: audience, prompt: "login" },
    });
    const code = (await this.follow(`${this.url}/auth?${query}`)).searchParams.get("code") ?? "";
    const answer = await fetch(`${this.url}/token`, {
      method: "POST",
      headers: {
        authorization: `Basic ${Buffer.from(`${CLIENT.client_id}:${CLIENT.client_secret}`).toString("base64")}`,
      },
      body: new URLSearchParams({
        ...{ grant_type: "authorization_code", code, redirect_uri: CALLBACK, code_verifier: verifier },
        resource: audience,
      }),
    });
    const { access_token, id_token } = (await answer.json()) as { access_token: string; id_token: string };
    return { accessToken: access_token, idToken: id_token };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  /** Follows the provider's redirects, with its cookies, up to the client's address. */
  async follow(start: string): Promise<URL> {
    const cookies = new Map<string, string>();
    for (let at = start, hops = 0; hops < 10; hops++) {
      const cookie = [...cookies].map((pair) => pair.join("=")).join("; ");
      const response = await fetch(at, { redirect: "manual", headers: { cookie } });
      for (const set of response.headers.getSetCookie()) {
        const [name = "", value = ""] = set.split(";", 1)[0]!.split(/=(.*)/s);
        cookies.set(name, value);
      }
      const location = response.headers.get("location");
      if (location === null) throw new Error(`the provider answered ${response.status}: ${await response.text()}`);
      const next = new URL(location, at);
      if (next.origin !== this.url) return next;
      at = next.href;
    }
    throw new Error("the provider redirects without end");
  }

  #configuration(key: object): object {
    const groupsOf = (user: string | undefined) => this.groups.get(user ?? "") ?? [];
    return {
      clients: [
        {
          ...{ ...CLIENT, redirect_uris: this.#callbacks, response_types: ["code"] },
          grant_types: ["authorization_code", "refresh_token"],
        },
      ],
      jwks: { keys: [key] },
      cookies: { keys: ["only-of-this-test"] },
      interactions: { url: (_: unknown, { uid }: { uid: string }) => `/interaction/${uid}` },
      findAccount: (_: unknown, accountId: string) => ({ accountId, claims: () => ({ sub: accountId }) }),
      extraTokenClaims: (_: unknown, token: { accountId?: string }) => ({ groups: groupsOf(token.accountId) }),
      features: {
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          defaultResource: () => RESOURCE,
          useGrantedResource: () => true,
          getResourceServerInfo: (_: unknown, resource: string) => ({
            scope: "tokens",
            audience: resource === RESOURCE ? AUDIENCE : "other",
            accessTokenFormat: "jwt",
            accessTokenTTL: this.accessTokenLasts,
          }),
        },
      },
      issueRefreshToken: (_: unknown, client: { clientId: string }) => client.clientId === CLIENT.client_id,
      ttl: {
        AccessToken: () => this.accessTokenLasts,
        AuthorizationCode: 60,
        IdToken: 300,
        Interaction: 60,
        Session: 300,
        Grant: 300,
        RefreshToken: 300,
      },
      // Consent without a page.
      loadExistingGrant: async (ctx: {
        oidc: {
          client: { clientId: string };
          session: { accountId: string };
          provider: {
            Grant: new (
              of: object,
            ) => Record<"addOIDCScope" | "addResourceScope" | "save", (...of: string[]) => Promise<void>>;
          };
        };
      }) => {
        const { client, session, provider } = ctx.oidc;
        const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
        grant.addOIDCScope("openid");
        for (const resource of [RESOURCE, OTHER]) grant.addResourceScope(resource, "tokens");
        await grant.save();
        return grant;
      },
    };
  }
}

import * as client from "openid-client";
import type { Clock } from "../domain/clock.ts";
import { clientSecret } from "./client-secret.ts";
import { type Asked, asking, failed } from "./fetch-document.ts";

/** An issuer at which people sign in to the console. */
export interface SignInIssuer {
  readonly name: string;
  readonly label: string;
  readonly issuer: string;
  readonly caFile: string | undefined;
  readonly clientId: string;
  readonly clientSecretFile: string;
  readonly scopes: readonly string[];
}

/** The values that the answer of the issuer must match. They stay with the browser, sealed. */
export interface Attempt {
  readonly issuer: string;
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
}

export interface IssuedTokens {
  readonly accessToken: string;
  readonly refreshToken: string | undefined;
}

const FETCH_MS = 3_000;
/** Its endpoints are read again after this time. */
const FRESH_MS = 10 * 60_000;
/** After a failure nobody makes this program ask again before this time has passed. */
const PAUSE_MS = 5_000;

/** The authorization code flow with PKCE, at one issuer. */
export class SignIn {
  readonly about: SignInIssuer;
  readonly #callback: string;
  readonly #clock: Clock;
  readonly #ask = asking();
  #found: { readonly at: number; readonly config: Promise<client.Configuration> } | undefined;

  constructor(about: SignInIssuer, callback: string, clock: Clock) {
    this.about = about;
    this.#callback = callback;
    this.#clock = clock;
  }

  /** Where the browser goes, and what the answer is checked against. */
  async begin(): Promise<{ readonly url: URL; readonly attempt: Attempt }> {
    const config = await this.#configuration();
    const attempt = {
      issuer: this.about.name,
      state: client.randomState(),
      nonce: client.randomNonce(),
      verifier: client.randomPKCECodeVerifier(),
    };
    const url = client.buildAuthorizationUrl(config, {
      redirect_uri: this.#callback,
      scope: this.about.scopes.join(" "),
      state: attempt.state,
      nonce: attempt.nonce,
      code_challenge: await client.calculatePKCECodeChallenge(attempt.verifier),
      code_challenge_method: "S256",
    });
    return { url, attempt };
  }

  /** Exchanges the code in `query`. Rejects unless state, nonce, issuer and verifier are those of the attempt. */
  async finish({ state, nonce, verifier }: Attempt, query: string): Promise<IssuedTokens> {
    const config = await this.#configuration();
    const answer = await client.authorizationCodeGrant(config, new URL(`${this.#callback}?${query}`), {
      expectedState: state,
      expectedNonce: nonce,
      pkceCodeVerifier: verifier,
    });
    return { accessToken: answer.access_token, refreshToken: answer.refresh_token };
  }

  /** New tokens; undefined if the issuer has ended the session. */
  async renew(refreshToken: string): Promise<IssuedTokens | undefined> {
    try {
      const answer = await client.refreshTokenGrant(await this.#configuration(), refreshToken);
      return { accessToken: answer.access_token, refreshToken: answer.refresh_token ?? refreshToken };
    } catch (error) {
      if (error instanceof client.ResponseBodyError && error.error === "invalid_grant") return undefined;
      throw error;
    }
  }

  #configuration(): Promise<client.Configuration> {
    const now = this.#clock.mono();
    if (this.#found !== undefined && now - this.#found.at < FRESH_MS) return this.#found.config;
    const found = { at: now, config: this.#discover() };
    this.#found = found;
    found.config.catch(() => {
      if (this.#found === found) this.#found = { at: now - FRESH_MS + PAUSE_MS, config: found.config };
    });
    return found.config;
  }

  async #discover(): Promise<client.Configuration> {
    const { issuer, clientId } = this.about;
    // `fetch-document.ts` allows http on loopback only.
    const execute = issuer.startsWith("http:") ? [client.allowInsecureRequests] : [];
    const timeout = FETCH_MS / 1000;
    const config = await client.discovery(new URL(issuer), clientId, undefined, this.#authenticate, {
      [client.customFetch]: (url, options) => this.#fetch(url, options),
      execute,
      timeout,
    });
    if (config.serverMetadata().issuer !== issuer) throw failed("discovery_invalid");
    return config;
  }

  /** By `authorization: Basic`, which every issuer must know, unless this one says that it does not. */
  readonly #authenticate: client.ClientAuth = (server, metadata, body, headers) => {
    const secret = clientSecret(this.about.clientSecretFile).reveal();
    const methods = server.token_endpoint_auth_methods_supported ?? ["client_secret_basic"];
    const basic = methods.includes("client_secret_basic");
    const by = basic ? client.ClientSecretBasic(secret) : client.ClientSecretPost(secret);
    by(server, metadata, body, headers);
  };

  async #fetch(url: string, { method, headers, body, signal }: client.CustomFetchOptions): Promise<Response> {
    const asked: Asked = {
      method,
      headers,
      ...(body !== undefined && body !== null && { body: String(body) }),
      caFile: this.about.caFile,
      signal: signal ?? AbortSignal.timeout(FETCH_MS),
    };
    const answer = await this.#ask(url, asked);
    const type = answer.headers["content-type"];
    return new Response(new Uint8Array(answer.body), {
      status: answer.status,
      headers: type === undefined ? {} : { "content-type": type },
    });
  }
}

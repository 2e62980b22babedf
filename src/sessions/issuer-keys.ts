import { createLocalJWKSet, type JSONWebKeySet } from "jose";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { WorkloadIssuer } from "../domain/exchange.ts";
import type { Events } from "../telemetry/events.ts";
import { type FetchDocument, failed } from "./fetch-document.ts";

export type KeySet = ReturnType<typeof createLocalJWKSet>;

/** The time for one fetch, discovery included. */
const FETCH_MS = 3_000;
/** The least time from the start of one fetch to the start of the next. */
const PAUSE_MS = 30_000;
/** Keys of this age are fetched again before they are used, so that a withdrawn key stops working. */
const FRESH_MS = 10 * 60_000;
/** Keys are used for this long while their issuer does not answer. */
const KEPT_MS = 24 * 3_600_000;

export interface IssuerKeysDeps {
  readonly clock: Clock;
  readonly fetchDocument: FetchDocument;
  readonly events: Pick<Events, "trouble">;
  /** Also takes keys whose use is `jwt-svid`, which SPIFFE gives them. */
  readonly svids?: boolean;
}

/** Where an issuer's keys come from. */
type KeySource = Pick<WorkloadIssuer, "name" | "issuer" | "jwksUri" | "caFile">;

/**
 * The public keys of one issuer. It fetches them by itself, because jose's remote set fails with its issuer. One fetch
 * at a time, and one in 30 s: a stranger who invents key ids cannot make this program attack the issuer.
 */
export class IssuerKeys {
  readonly #issuer: KeySource;
  readonly #deps: IssuerKeysDeps;
  #keys: KeySet | undefined;
  #fetched = 0;
  #started = Number.NEGATIVE_INFINITY;
  #fetching: Promise<void> | undefined;

  constructor(issuer: KeySource, deps: IssuerKeysDeps) {
    this.#issuer = issuer;
    this.#deps = deps;
  }

  /** The seconds since the last good fetch; undefined before the first one. */
  get age(): number | undefined {
    return this.#fetched === 0 ? undefined : (this.#deps.clock.mono() - this.#fetched) / 1000;
  }

  /**
   * Fresh keys, or the last good ones while the issuer is down. ISSUER_UNAVAILABLE if there are none, or none from the
   * last 24 hours.
   */
  async current(): Promise<KeySet> {
    const age = this.#deps.clock.mono() - this.#fetched;
    if (age >= KEPT_MS) this.#keys = undefined;
    if (this.#keys === undefined || age >= FRESH_MS) await this.#fetch();
    if (this.#keys !== undefined) return this.#keys;
    const retryAfterMs = Math.max(1_000, this.#started + PAUSE_MS - this.#deps.clock.mono());
    throw new AppError("ISSUER_UNAVAILABLE", "the keys of the issuer cannot be fetched now", {
      retryAfterMs,
    });
  }

  /** Keys that are newer than these; undefined if a fetch is not due yet or fails. */
  async newerThan(old: KeySet): Promise<KeySet | undefined> {
    if (this.#keys === old) await this.#fetch();
    return this.#keys === old ? undefined : this.#keys;
  }

  /** Starts a fetch if one is due, and waits for the one that runs. Never rejects. */
  #fetch(): Promise<void> {
    const now = this.#deps.clock.mono();
    if (this.#fetching !== undefined) return this.#fetching;
    if (now - this.#started < PAUSE_MS) return Promise.resolve();
    this.#started = now;
    this.#fetching = this.#load()
      .then((keys) => {
        this.#keys = keys;
        this.#fetched = this.#deps.clock.mono();
      })
      .catch((error) => this.#deps.events.trouble("issuer_unreachable", error, { issuer: this.#issuer.name }))
      .finally(() => {
        this.#fetching = undefined;
      });
    return this.#fetching;
  }

  async #load(): Promise<KeySet> {
    const options = { caFile: this.#issuer.caFile, signal: AbortSignal.timeout(FETCH_MS) };
    const uri = this.#issuer.jwksUri ?? (await this.#discovered(options));
    const keys = await this.#deps.fetchDocument(uri, options);
    try {
      const set = keys as JSONWebKeySet;
      return createLocalJWKSet(this.#deps.svids === true ? withoutUse(set) : set);
    } catch {
      throw failed("not_jwks"); // without jose's message
    }
  }

  /** OpenID Connect Discovery: the document names its issuer, byte for byte, and the address of the keys. */
  async #discovered(options: Parameters<FetchDocument>[1]): Promise<string> {
    const { issuer } = this.#issuer;
    const at = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
    const found = (await this.#deps.fetchDocument(at, options)) as { issuer?: unknown; jwks_uri?: unknown } | null;
    if (found?.issuer !== issuer || typeof found.jwks_uri !== "string") throw failed("discovery_invalid");
    // A remote issuer does not make us ask this machine, or any other, in cleartext.
    if (!found.jwks_uri.startsWith("https://") && !issuer.startsWith("http://")) throw failed("url_refused");
    return found.jwks_uri;
  }
}

/** jose takes only keys whose use is `sig`, or that have none. */
function withoutUse({ keys }: JSONWebKeySet): JSONWebKeySet {
  return { keys: keys.map(({ use, ...key }) => (use === "jwt-svid" || use === undefined ? key : { ...key, use })) };
}

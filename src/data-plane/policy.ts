import type { Requirement } from "../domain/decide.ts";

/** Where a credential may stand. None is ever taken from a query. */
export type Carrier = "bearer" | "x-api-key" | "basic";

/** From where the client's address is believed. `peer`: what the proxy saw at the other end of the connection. */
export type AddressSource = "peer" | "x-envoy-external-address" | `xff:${number}`;

/** The identity headers, in the order in which they are sent. */
export const IDENTITY = [
  "x-auth-principal",
  "x-auth-tenant",
  "x-auth-token-id",
  "x-auth-scopes",
  "x-auth-profile",
] as const;

/** What a route asks, and how the answer looks: a named policy of the configuration. */
export interface Policy {
  readonly name: string;
  readonly requirement: Requirement;
  readonly carriers: readonly Carrier[];
  readonly realm: string;
  /** `error`: our own outage is an error to Envoy, which `failure_mode_allow` opens. */
  readonly outage: "deny" | "error";
  /** Another name for an identity header, or false to leave it out. */
  readonly headers: Readonly<Record<string, string | false>>;
  readonly clientAddress: AddressSource;
  /** Leaves the credential in the request to the upstream. */
  readonly keepCredential: boolean;
  readonly allowCorsPreflight: boolean;
}

/** As the configuration has it. */
export interface PolicySettings {
  readonly required_scopes: readonly string[];
  readonly audience: string;
  readonly carriers: readonly Carrier[];
  readonly realm: string;
  readonly outage: "deny" | "error";
  readonly headers: Readonly<Record<string, string | false>>;
  readonly client_address: string;
  readonly keep_credential: boolean;
  readonly allow_cors_preflight: boolean;
}

const DEFAULT: PolicySettings = {
  required_scopes: [],
  audience: "",
  carriers: ["bearer"],
  realm: "sallyport",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};

const MOST_ROUTES = 1_000;
/** Of the extensions of all routes that are remembered, and of one route: those of an operator are far below. */
const MOST_ROUTE_BYTES = 1 << 20;
const LONGEST_ROUTE = 8_192;

/** The named policies; `default` is always there. Reloading replaces them all. */
export class Policies {
  #policies: ReadonlyMap<string, Policy> = new Map();
  readonly #merged = new Map<string, Policy>();
  #mergedBytes = 0;

  constructor(settings: Readonly<Record<string, PolicySettings>>) {
    this.replace(settings);
  }

  replace(settings: Readonly<Record<string, PolicySettings>>): void {
    const all = Object.entries({ default: DEFAULT, ...settings });
    this.#policies = new Map(all.map(([name, of]) => [name, policyOf(name, of)]));
    this.#forget();
  }

  /** The extensions that are remembered, in bytes. */
  get bytes(): number {
    return this.#mergedBytes;
  }

  /**
   * `merged`, once for all requests of a route: `raw` are the bytes of its extensions. Routes come from the operator's
   * configuration: there are few. Bounded in number and bytes; when it is full it starts over.
   */
  forRoute(raw: string, extensions: () => ReadonlyMap<string, string> | undefined): Policy | undefined {
    const known = this.#merged.get(raw);
    if (known !== undefined) return known;
    const read = extensions();
    const made = read && merged(this, read);
    if (made === undefined || raw.length > LONGEST_ROUTE) return made;
    if (this.#merged.size >= MOST_ROUTES || this.#mergedBytes + raw.length > MOST_ROUTE_BYTES) this.#forget();
    this.#merged.set(raw, made);
    this.#mergedBytes += raw.length;
    return made;
  }

  #forget(): void {
    this.#merged.clear();
    this.#mergedBytes = 0;
  }

  get(name: string): Policy | undefined {
    return this.#policies.get(name);
  }
}

/**
 * A policy with what the operator's proxy adds to it for a route: scopes are added, audience and realm replaced. The
 * extensions come from the proxy's own configuration, never from a client. Undefined for an unknown policy.
 */
export function merged(policies: Policies, extensions: ReadonlyMap<string, string>): Policy | undefined {
  const base = policies.get(extensions.get("policy") ?? "default");
  const scopes = extensions.get("required_scopes");
  const audience = extensions.get("audience");
  const realm = extensions.get("realm");
  if (base === undefined || (scopes === undefined && audience === undefined && realm === undefined)) return base;
  const more = (scopes ?? "").split(" ").filter((scope) => scope !== "");
  return {
    ...base,
    requirement: {
      scopes: [...new Set([...base.requirement.scopes, ...more])],
      audience: audience ?? base.requirement.audience,
    },
    realm: realm === undefined ? base.realm : realm.replace(/[^\x20\x21\x23-\x5b\x5d-\x7e]/g, "").slice(0, 64),
  };
}

function policyOf(name: string, of: PolicySettings): Policy {
  return {
    name,
    requirement: { scopes: of.required_scopes, audience: of.audience },
    carriers: of.carriers,
    realm: of.realm,
    outage: of.outage,
    headers: of.headers,
    clientAddress: of.client_address as AddressSource,
    keepCredential: of.keep_credential,
    allowCorsPreflight: of.allow_cors_preflight,
  };
}

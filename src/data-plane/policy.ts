import type { Requirement } from "../domain/decide.ts";
import { isTenantId } from "../domain/principal.ts";

/**
 * The header that may hold a credential: `authorization` with a scheme, or a header whose whole value is the token
 * string. A query never holds one.
 */
export type Carrier = "bearer" | "x-api-key" | "basic" | `header:${string}`;

/** The name of the header that a carrier stands for. */
export function headerOf(carrier: Carrier): string {
  if (carrier === "bearer" || carrier === "basic") return "authorization";
  return carrier === "x-api-key" ? carrier : carrier.slice("header:".length);
}

/** The headers of these carriers, each once, whose whole value is a credential. */
export function keyHeaders(carriers: readonly Carrier[]): string[] {
  return [...new Set(carriers.map(headerOf))].filter((name) => name !== "authorization");
}

/**
 * The trusted source of the client's address. `peer`: the other end of the proxy's connection, as the proxy reports it.
 */
export type AddressSource = "peer" | "x-envoy-external-address" | `xff:${number}`;

/** The identity headers, in the order in which they are sent. */
export const IDENTITY = [
  "x-auth-principal",
  "x-auth-tenant",
  "x-auth-token-id",
  "x-auth-scopes",
  "x-auth-profile",
] as const;

/**
 * The tenants of a token, its own first. Only a policy that gives the header a name sends it: a further header is
 * nothing that every upstream needs.
 */
export const ALL_TENANTS = "x-auth-tenants";

/** A named policy of the configuration: the requirement of a route, and the form of the answer. */
export interface Policy {
  readonly name: string;
  readonly requirement: Requirement;
  /** The header by which a request names the tenant that its token must be live in; undefined for none. */
  readonly tenantFrom: string | undefined;
  readonly carriers: readonly Carrier[];
  /** Headers that only some policies read: of `tenantFrom`, and of further carriers. */
  readonly furtherHeaders: readonly string[];
  readonly realm: string;
  /**
   * `error` reports our own outage to Envoy as an error. Envoy lets such requests pass if `failure_mode_allow` is set.
   */
  readonly outage: "deny" | "error";
  /** Another name for an identity header, or false to omit the header. */
  readonly headers: Readonly<Record<string, string | false>>;
  readonly clientAddress: AddressSource;
  /** Keeps the credential in the request to the upstream. */
  readonly keepCredential: boolean;
  readonly allowCorsPreflight: boolean;
}

/** The settings of a policy, as in the configuration. */
export interface PolicySettings {
  readonly required_scopes: readonly string[];
  readonly audience: string;
  readonly tenant: string;
  readonly tenant_from: string;
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
  tenant: "",
  tenant_from: "",
  carriers: ["bearer"],
  realm: "sallyport",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};

const MAX_ROUTES = 1_000;
/** Bounds of the remembered extensions, in total and for one route. A real configuration stays far below them. */
const MAX_ROUTE_BYTES = 1 << 20;
const LONGEST_ROUTE = 8_192;

/** The named policies. `default` always exists. A reload replaces them all. */
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

  /** The size of the remembered extensions in bytes. */
  get bytes(): number {
    return this.#mergedBytes;
  }

  /**
   * Calls `merged` once for all requests of a route; `raw` are the bytes of the route's extensions. Routes come from
   * the operator's configuration, so there are few. The memory is bounded in number and bytes, and starts over when it
   * is full.
   */
  forRoute(raw: string, extensions: () => ReadonlyMap<string, string> | undefined): Policy | undefined {
    const known = this.#merged.get(raw);
    if (known !== undefined) return known;
    const read = extensions();
    const made = read && merged(this, read);
    if (made === undefined || raw.length > LONGEST_ROUTE) return made;
    if (this.#merged.size >= MAX_ROUTES || this.#mergedBytes + raw.length > MAX_ROUTE_BYTES) this.#forget();
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
 * A policy with the changes that the operator's proxy sends for a route: scopes are added; audience, tenant and realm
 * replaced. The extensions come from the proxy's own configuration, never from a client. Undefined for an unknown policy, and
 * for a tenant that cannot be one: an empty value would else lift the requirement.
 */
export function merged(policies: Policies, extensions: ReadonlyMap<string, string>): Policy | undefined {
  const base = policies.get(extensions.get("policy") ?? "default");
  const scopes = extensions.get("required_scopes");
  const audience = extensions.get("audience");
  const tenant = extensions.get("tenant");
  const realm = extensions.get("realm");
  if (base === undefined || (tenant !== undefined && !isTenantId(tenant))) return undefined;
  if ([scopes, audience, tenant, realm].every((one) => one === undefined)) return base;
  const more = (scopes ?? "").split(" ").filter((scope) => scope !== "");
  return {
    ...base,
    requirement: {
      scopes: [...new Set([...base.requirement.scopes, ...more])],
      audience: audience ?? base.requirement.audience,
      tenant: tenant ?? base.requirement.tenant,
    },
    tenantFrom: tenant === undefined ? base.tenantFrom : undefined,
    realm: realm === undefined ? base.realm : realm.replace(/[^\x20\x21\x23-\x5b\x5d-\x7e]/g, "").slice(0, 64),
  };
}

/**
 * The policy for one request: it requires the tenant that the request names, if the policy lets it name one. Undefined
 * for no name, as where the proxy does not pass the header on; for more than one; and for one that cannot be a tenant. A
 * preflight names none: a browser sends it without such headers.
 */
export function forTenant(
  policy: Policy,
  values: (name: string) => readonly string[],
  preflight: boolean,
): Policy | undefined {
  if (policy.tenantFrom === undefined || (preflight && policy.allowCorsPreflight)) return policy;
  const named = values(policy.tenantFrom);
  const [tenant = ""] = named;
  if (named.length !== 1 || !isTenantId(tenant)) return undefined;
  return { ...policy, requirement: { ...policy.requirement, tenant } };
}

function policyOf(name: string, of: PolicySettings): Policy {
  const tenantFrom = of.tenant_from === "" ? undefined : of.tenant_from.slice("header:".length);
  const further = keyHeaders(of.carriers).filter((header) => header !== "x-api-key");
  return {
    name,
    requirement: { scopes: of.required_scopes, audience: of.audience, tenant: of.tenant },
    tenantFrom,
    carriers: of.carriers,
    furtherHeaders: tenantFrom === undefined ? further : [...further, tenantFrom],
    realm: of.realm,
    outage: of.outage,
    headers: of.headers,
    clientAddress: of.client_address as AddressSource,
    keepCredential: of.keep_credential,
    allowCorsPreflight: of.allow_cors_preflight,
  };
}

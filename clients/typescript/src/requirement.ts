/** What a method demands of a token. Without any: a live token. */
export interface Requirement {
  /** The token must have all of them. Exact scopes, no wildcards; at most 32. */
  readonly scopes?: readonly string[];
  /** The audience that must be among the token's, unless the token has none. */
  readonly audience?: string;
  /** The tenant in which the token must be live: its own, or one that it is attached to. */
  readonly tenant?: string;
}

/**
 * Full method (`orders.v1.Orders/Get`) or all methods of a service (`orders.v1.Orders/*`) to its requirement, or to
 * `public`: no token is asked for.
 */
export type Requirements = Readonly<Record<string, Requirement | "public">>;

const KEY = /^[A-Za-z_][\w.]*\/(\*|[A-Za-z_]\w*)$/;
const HEALTH = "grpc.health.v1.Health";
const LIVE_TOKEN: Requirement = {};

/** The requirements of a server. A method that is not listed needs a live token; only health checks are public. */
export class RequirementMap {
  readonly #rules: ReadonlyMap<string, Requirement | "public">;

  /** Throws if a key is no method, or a requirement is one that the server would refuse. */
  constructor(rules: Requirements = {}) {
    for (const [method, rule] of Object.entries(rules)) {
      if (!KEY.test(method))
        throw new Error(`"${method}" is no method: write package.Service/Method or package.Service/*`);
      if (rule === "public") continue;
      if ((rule.scopes?.length ?? 0) > 32) throw new Error(`${method} requires more than 32 scopes`);
      if ((rule.audience?.length ?? 0) > 256)
        throw new Error(`${method} requires an audience of more than 256 characters`);
      if ((rule.tenant?.length ?? 0) > 63) throw new Error(`${method} requires a tenant of more than 63 characters`);
    }
    this.#rules = new Map(Object.entries(rules));
  }

  /** The requirement of a method, with or without a slash before it. */
  of(method: string): Requirement | "public" {
    const name = method.startsWith("/") ? method.slice(1) : method;
    const service = name.slice(0, name.lastIndexOf("/"));
    const rule = this.#rules.get(name) ?? this.#rules.get(`${service}/*`);
    return rule ?? (service === HEALTH ? "public" : LIVE_TOKEN);
  }
}

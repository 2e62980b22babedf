import type { z } from "zod";
import type { WorkloadIssuer } from "../domain/exchange.ts";
import type { SessionIssuer } from "../domain/session.ts";
import type { schema } from "./schema.ts";

type Parsed = z.output<typeof schema>;

/** The issuers of session JWTs. */
export function issuersOf({ callers }: Pick<Parsed, "callers">): readonly SessionIssuer[] {
  return callers.oidc.map((set) => ({
    name: set.name,
    issuer: set.issuer,
    jwksUri: set.jwks_uri,
    caFile: set.ca_file,
    audiences: set.audiences,
    algorithms: set.algorithms,
    types: set.types,
    require: set.require,
    maxAge: set.max_age,
    clockSkew: set.clock_skew,
    tenant: set.tenant,
    tenantClaim: set.tenant_claim,
    tenants: set.tenants,
    principalClaim: set.principal_claim,
    subPrefix: set.sub_prefix,
    foreignPrefixes: callers.oidc
      .map(({ sub_prefix }) => sub_prefix)
      .filter((prefix) => prefix.length > set.sub_prefix.length && prefix.startsWith(set.sub_prefix)),
    groupsClaim: set.groups_claim,
    groups: set.groups.map(({ group, tenant, permissions, scopes, roles }) => ({
      group,
      tenant,
      permissions,
      scopes,
      roles,
    })),
  }));
}

/** The issuers of the JWTs of workloads. */
export function workloadIssuersOf({ federation }: Pick<Parsed, "federation">): readonly WorkloadIssuer[] {
  return federation.issuers.map((set) => ({
    name: set.name,
    issuer: set.issuer,
    jwksUri: set.jwks_uri,
    caFile: set.ca_file,
    algorithms: set.algorithms,
    types: set.types,
    clockSkew: set.clock_skew,
  }));
}

/** The CA files of all issuers, each with its key. */
export function issuerCaFiles({ callers, federation }: Pick<Parsed, "callers" | "federation">) {
  const named = (list: string, sets: readonly { readonly ca_file?: string | undefined }[]) =>
    sets.flatMap(({ ca_file: file }, i) => (file === undefined ? [] : [[`${list}.${i}.ca_file`, file] as const]));
  return [...named("callers.oidc", callers.oidc), ...named("federation.issuers", federation.issuers)];
}

/** Problems of the issuers of workloads, each with its key. */
export function workloadIssuerProblems({ federation: { issuers }, callers, signing }: Parsed): string[] {
  return issuers.flatMap((set, i) => {
    const at = `federation.issuers.${i}`;
    const before = issuers.slice(0, i);
    const problems = (["name", "issuer"] as const)
      .filter((key) => before.some((other) => other[key] === set[key]))
      .map((key) => `${at}.${key}: is that of another issuer; each issuer needs its own`);
    if (callers.oidc.some(({ name }) => name === set.name)) {
      problems.push(`${at}.name: is that of an issuer of callers.oidc; the metrics name issuers by it`);
    }
    if (signing?.issuer === set.issuer) {
      problems.push(`${at}.issuer: is signing.issuer; a token of ours is exchanged for no other`);
    }
    if (set.clock_skew > 300_000) problems.push(`${at}.clock_skew: must be 0s to 5m`);
    return problems;
  });
}

/** The issuers at which people sign in to the console. */
export function signInsOf({ console: { oidc }, callers }: Pick<Parsed, "console" | "callers">) {
  return oidc.flatMap((set) => {
    const of = callers.oidc.find(({ name }) => name === set.caller);
    if (of === undefined) return [];
    return [
      {
        name: of.name,
        label: set.label ?? of.name,
        issuer: of.issuer,
        caFile: of.ca_file,
        clientId: set.client_id,
        clientSecretFile: set.client_secret_file,
        scopes: set.scopes,
      },
    ];
  });
}

/** Where an issuer sends the browser back to. */
export function callbackOf({ console: { public_url } }: Pick<Parsed, "console">): string {
  return `${public_url}/console/auth/callback`;
}

/** Problems of the issuers of sessions, each with its key. */
export function issuerProblems({ callers: { oidc } }: Pick<Parsed, "callers">): string[] {
  const problems: string[] = [];
  for (const [i, set] of oidc.entries()) {
    const at = `callers.oidc.${i}`;
    for (const key of ["name", "issuer", "sub_prefix"] as const) {
      if (oidc.slice(0, i).some((other) => other[key] === set[key])) {
        problems.push(`${at}.${key}: is that of another issuer; each issuer needs its own`);
      }
    }
    if (set.max_age < 1_000 || set.max_age > 86_400_000) problems.push(`${at}.max_age: must be 1s to 1d`);
    if (set.clock_skew > 300_000) problems.push(`${at}.clock_skew: must be 0s to 5m`);
    const mapped = Object.values(set.tenants);
    if (set.tenant !== undefined && set.tenant_claim !== undefined) {
      problems.push(`${at}.tenant_claim: tenant is set, too; only one of them can be`);
    }
    if (set.tenant_claim !== undefined && mapped.length === 0) {
      problems.push(`${at}.tenants: is required with tenant_claim`);
    }
    if (set.tenant_claim === undefined && mapped.length > 0)
      problems.push(`${at}.tenant_claim: is required with tenants`);
    const limited = set.tenant === undefined ? (set.tenant_claim === undefined ? undefined : mapped) : [set.tenant];
    for (const [j, { tenant }] of set.groups.entries()) {
      const key = `${at}.groups.${j}.tenant`;
      if (tenant === undefined && limited === undefined) {
        problems.push(`${key}: is required without ${at}.tenant and ${at}.tenant_claim`);
      }
      if (tenant !== undefined && limited?.includes(tenant) === false) {
        problems.push(`${key}: no session of the issuer has this tenant, by ${at}.tenant or ${at}.tenants`);
      }
    }
  }
  return problems;
}

import type { z } from "zod";
import { SigningKeys } from "../domain/signing-keys.ts";
import { StartError } from "../domain/start-error.ts";
import { issuerProblems, workloadIssuerProblems } from "./issuers.ts";
import { profilesOf } from "./profiles.ts";
import type { Config, schema } from "./schema.ts";

const DAY = 86_400_000;

export function crossChecks(config: z.output<typeof schema>, blankUrl: boolean): string[] {
  const problems: string[] = [];
  const { lease, poll } = config.revocation;
  if (poll * 1.2 + 500 >= lease)
    problems.push("revocation.poll: poll · 1.2 + 500ms must be less than revocation.lease");
  if (config.feed.lease !== undefined && (config.feed.lease < 1 || config.feed.lease > lease)) {
    problems.push("feed.lease: must be 1ms to revocation.lease, which bounds what a change waits for");
  }
  if ((config.feed.max_clients ?? 0) >= config.listeners.data.max_connections) {
    problems.push("feed.max_clients: must be less than listeners.data.max_connections: each client has a connection");
  }
  // The log keeps changes for ten minutes, so nothing may be cached for longer.
  if (config.cache.negative_ttl < 1 || config.cache.negative_ttl > config.cache.ttl) {
    problems.push("cache.negative_ttl: must be 1ms to cache.ttl");
  }
  if (config.cache.ttl < 1000 || config.cache.ttl > 540_000) problems.push("cache.ttl: must be 1s to 9m");
  if (config.keyring === undefined && config.database.url !== undefined) {
    problems.push("keyring: is required with database.url (or keyring_file); the embedded database makes its own");
  }
  problems.push(...signingProblems(config));
  const { url, direct_url: directUrl } = config.database;
  if (url === undefined && blankUrl && config.keyring !== undefined) {
    problems.push("database.url: is blank (DATABASE_URL, too); with a keyring it must name a database, or be left out");
  }
  if (url === undefined && directUrl !== undefined) problems.push("database.direct_url: needs database.url");
  if (config.journal.mode === "required" && config.journal.url === undefined) {
    problems.push("journal.mode: required needs journal.url");
  }
  if (config.journal.url !== undefined && config.database.url === undefined) {
    problems.push("journal.url: needs database.url; the embedded database has no journal");
  }
  if (config.canary.every !== undefined && (config.mode !== "full" || config.canary.every < 1000)) {
    problems.push("canary.every: must be at least 1s, in mode full");
  }
  if (config.access_audit.retention < DAY || config.access_audit.retention > 3650 * DAY) {
    problems.push("access_audit.retention: must be 1d to 3650d");
  }
  if (config.console.idle_timeout < 60_000 || config.console.idle_timeout > 86_400_000) {
    problems.push("console.idle_timeout: must be 1m to 24h");
  }
  problems.push(...signInProblems(config));
  if (
    config.console.public_url?.startsWith("http:") &&
    !/^http:\/\/(127\.|localhost\b|\[::1\])/.test(config.console.public_url)
  ) {
    problems.push(
      "console.public_url: must begin with https://, except on this machine: browsers keep no secret on http",
    );
  }
  if (config.mode === "validate" && config.database.url === undefined) {
    problems.push("database.url: is required in mode validate");
  }
  if (config.workers > 1 && config.mode === "validate") {
    problems.push("workers: needs mode full, whose process watches the workers; in mode validate start more instances");
  }
  const data = config.listeners.data;
  if (data.trust_peers === true && (data.tls?.allowed_sans.length ?? 0) > 0) {
    problems.push("listeners.data.trust_peers: with allowed_sans certificates identify the peers; remove it");
  }
  if (!isLocal(data.bind) && data.trust_peers === true) {
    problems.push("listeners.data.trust_peers: peers can be trusted only on loopback and unix sockets");
  }
  for (const name of ["data", "admin"] as const) {
    const section = config.listeners[name].tls;
    if (section !== undefined && section.allowed_sans.length > 0 && section.client_ca_file === undefined) {
      problems.push(`listeners.${name}.tls.client_ca_file: is required with allowed_sans`);
    }
  }
  if ((config.canary.cert_file === undefined) !== (config.canary.key_file === undefined)) {
    problems.push("canary.cert_file: needs canary.key_file; set both or none");
  }
  const admitted = config.listeners.admin.tls?.allowed_sans ?? [];
  for (const [i, { san }] of config.callers.mtls.entries()) {
    if (admitted.length > 0 && !admitted.includes(san)) {
      problems.push(
        `callers.mtls.${i}.san: is not in listeners.admin.tls.allowed_sans, so no client with it can connect`,
      );
    }
  }
  if (config.callers.mtls.length > 0 && config.listeners.admin.tls?.client_ca_file === undefined) {
    problems.push("callers.mtls: needs listeners.admin.tls.client_ca_file");
  }
  for (const [name, { tenant, tenant_from, carriers, headers }] of Object.entries(config.policies)) {
    for (const [i, carrier] of carriers.entries()) {
      const header = carrier.replace(/^header:/, "");
      const key = `policies.${name}.carriers.${i}`;
      if (carrier === tenant_from) problems.push(`${key}: is the header of tenant_from`);
      if (Object.values(headers).includes(header)) problems.push(`${key}: is an identity header by headers`);
    }
    if (tenant !== "" && tenant_from !== "") {
      problems.push(`policies.${name}.tenant_from: cannot stand beside tenant: a request would choose another one`);
    }
  }
  problems.push(...issuerProblems(config), ...workloadIssuerProblems(config), ...samePlaces(config));
  return problems;
}

/** The problems of the console's single sign-on. */
function signInProblems({ console: { oidc, public_url, session }, callers }: z.output<typeof schema>): string[] {
  const problems: string[] = [];
  if (oidc.length > 0 && public_url === undefined) {
    problems.push("console.public_url: is required with console.oidc: the issuer sends the browser back to it");
  }
  for (const [i, { caller, scopes }] of oidc.entries()) {
    const at = `console.oidc.${i}`;
    if (!callers.oidc.some(({ name }) => name === caller)) problems.push(`${at}.caller: is no name in callers.oidc`);
    if (oidc.slice(0, i).some((other) => other.caller === caller)) {
      problems.push(`${at}.caller: is that of another entry; each issuer has one`);
    }
    if (!scopes.includes("openid")) problems.push(`${at}.scopes: must have openid`);
  }
  if (session.max_age < 60_000 || session.max_age > 7 * 86_400_000) {
    problems.push("console.session.max_age: must be 1m to 7d");
  }
  if (session.idle < 60_000 || session.idle > session.max_age) {
    problems.push("console.session.idle: must be 1m to console.session.max_age");
  }
  return problems;
}

/** A profile whose tokens nobody could sign, and an issuer that would name tokens and sessions alike. */
function signingProblems(config: z.output<typeof schema>): string[] {
  const { signing, database, callers, mode } = config;
  const problems = callers.oidc.flatMap(({ issuer }, i) =>
    signing?.issuer === issuer
      ? [`signing.issuer: is callers.oidc.${i}.issuer; tokens and sessions need their own`]
      : [],
  );
  const made = signing === undefined && database.url === undefined;
  if (mode !== "full" || made) return problems;
  const jwt = [...profilesOf(config).values()].filter(({ format }) => format === "jwt");
  if (signing === undefined) {
    return jwt.map(({ name }) => `profiles.${name}.format: jwt needs signing (or signing_file): no key could sign`);
  }
  let keys: SigningKeys;
  try {
    keys = new SigningKeys(signing);
  } catch (error) {
    if (error instanceof StartError) return [...problems, ...error.problems];
    throw error;
  }
  return [
    ...problems,
    ...jwt
      .filter(({ alg }) => keys.current(alg)?.private === undefined)
      .map(({ name, alg }) => `profiles.${name}.alg: signing.current must name an ${alg} key with its private half`),
  ];
}

/** Two listeners cannot share an address. Port 0 takes a free port each time. */
function samePlaces({ mode, listeners }: z.output<typeof schema>): string[] {
  const names = mode === "full" ? (["data", "admin", "ops"] as const) : (["data", "ops"] as const);
  return names.flatMap((name, i) =>
    names
      .slice(i + 1)
      .filter((other) => overlaps(listeners[name].bind, listeners[other].bind))
      .map((other) => `listeners.${other}.bind: is the address of listeners.${name}.bind; each listener needs its own`),
  );
}

function overlaps(one: string, other: string): boolean {
  if (one.startsWith("unix:") || other.startsWith("unix:")) return one === other;
  const [a, b] = [one, other].map((bind) => {
    const [, host = "", port = ""] = /^(.*):(\d+)$/.exec(bind) ?? [];
    return { host: host === "localhost" ? "127.0.0.1" : host, port: Number(port) };
  }) as [{ host: string; port: number }, { host: string; port: number }];
  const everywhere = (host: string) => host === "0.0.0.0" || host === "[::]";
  return a.port === b.port && a.port !== 0 && (a.host === b.host || everywhere(a.host) || everywhere(b.host));
}

/** The settings of the change feed. Without them, its lease is no longer than the instance's, and it leaves connections. */
export function feedLimits({ feed, revocation, listeners }: Config): { feedLeaseMs: number; maxClients: number } {
  return {
    feedLeaseMs: feed.lease ?? Math.min(1_300, revocation.lease),
    maxClients: feed.max_clients ?? Math.min(500, listeners.data.max_connections >> 1),
  };
}

/**
 * True if the data listener trusts its peers without a credential: only on this machine, and only if no client
 * certificates are configured.
 */
export function trustsPeers({ bind, trust_peers: trust, tls }: Config["listeners"]["data"]): boolean {
  return trust ?? (isLocal(bind) && (tls?.allowed_sans.length ?? 0) === 0);
}

/** True if an address can be reached only from this machine. */
export function isLocal(bindTo: string): boolean {
  return /^(unix:|127\.|localhost:|\[::1\]:)/.test(bindTo);
}

import type { RequestTarget } from "../../domain/decide.ts";
import { addressOfHop } from "../../rpc/client-address.ts";
import type { HttpAnswer } from "../../rpc/http-answer.ts";
import type { Validate } from "../../validation/validate.ts";
import { credentialIn } from "../credentials.ts";
import { forTenant, type Policies, type Policy } from "../policy.ts";
import {
  type AuthorizationOutcome,
  type AuthorizationQuery,
  addressBy,
  ask,
  credentialHeaders,
  DENIED,
  identityOf,
  problem,
} from "./authorization.ts";

/** The way in which a proxy describes the original request. Our URL names it; we never guess it. */
type Family = "envoy" | "forwarded" | "original";

export interface HttpQuestion {
  /** The raw path, with its query. */
  readonly path: string;
  readonly method: string;
  /** Names in lower case, every occurrence. */
  readonly headers: readonly (readonly [name: string, value: string])[];
}

const PREFIX = "/v1/check/";

const FAMILIES: readonly string[] = ["envoy", "forwarded", "original"];

/** Headers that the proxy sets: they must occur at most once, so that a client cannot add a value. */
const SAID_ONCE: Readonly<Record<Family, readonly string[]>> = {
  envoy: [],
  forwarded: ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto"],
  original: ["x-original-method", "x-original-uri", "x-original-url", "x-original-host", "x-real-ip"],
};

/**
 * `ANY /v1/check/{family}/{policy}[/…]`: the same check for proxies that ask over HTTP, with the same verdicts. 200
 * allows and carries identity headers only. Never rejects.
 */
export class HttpCheck {
  readonly #validate: Validate;
  readonly #policies: Policies;

  constructor(validate: Validate, policies: Policies) {
    this.#validate = validate;
    this.#policies = policies;
  }

  check(question: HttpQuestion, trusted: boolean, deadline: number): HttpAnswer | Promise<HttpAnswer> {
    const { family, policyName } = split(question.path);
    if (family === undefined) return answer("forwarded", DENIED.policy, undefined);
    if (!trusted) return answer(family, DENIED.peer, undefined);
    const policy = this.#policies.get(policyName);
    if (policy === undefined) return answer(family, DENIED.policy, undefined);
    try {
      const values = (name: string) => question.headers.filter(([key]) => key === name).map(([, value]) => value);
      if (SAID_ONCE[family].some((name) => values(name).length > 1)) return answer(family, DENIED.undecodable, policy);
      const query = queryOf(family, question, policy, values);
      const named = forTenant(policy, values, query.preflight);
      if (named === undefined) return answer(family, DENIED.tenant, policy);
      const outcome = ask(this.#validate, named === policy ? query : { ...query, policy: named }, deadline);
      if (!(outcome instanceof Promise)) return answer(family, outcome, named);
      return outcome
        .then((later) => answer(family, later, named))
        .catch(() => answer(family, DENIED.undetermined, policy)); // also if the ALLOW cannot be encoded
    } catch {
      return answer(family, DENIED.undetermined, policy);
    }
  }

  /** The denial for a request that is malformed or too late. */
  refuse(path: string, why: "undetermined" | "undecodable"): HttpAnswer {
    return answer(split(path).family ?? "forwarded", DENIED[why], undefined);
  }
}

/** Family and policy stand at fixed places of the raw path. The query and everything after the policy are ignored. */
function split(path: string): { family: Family | undefined; policyName: string } {
  const [family = "", policyName = ""] = path.slice(PREFIX.length).split("?", 1)[0]!.split("/", 3);
  return { family: FAMILIES.includes(family) ? (family as Family) : undefined, policyName };
}

function queryOf(
  family: Family,
  question: HttpQuestion,
  policy: Policy,
  values: (name: string) => readonly string[],
): AuthorizationQuery {
  const target = targetOf(family, question, values);
  const { method } = target;
  return {
    policy,
    credential: credentialIn(policy.carriers, values),
    clientAddress: addressBy(policy.clientAddress, peerOf(family, values), values),
    target,
    preflight:
      method === "OPTIONS" && values("origin").length > 0 && values("access-control-request-method").length > 0,
  };
}

/** The original request, as the proxies of a family describe it. Read only where somebody records it. */
function targetOf(
  family: Family,
  { method, path }: HttpQuestion,
  values: (name: string) => readonly string[],
): RequestTarget {
  const first = (...names: readonly string[]) => names.map((name) => values(name)[0]).find((one) => one) ?? "";
  const readers = {
    envoy: { method: () => method, host: () => first(":authority", "host"), path: () => behindPolicy(path) },
    forwarded: {
      method: () => first("x-forwarded-method"),
      host: () => first("x-forwarded-host"),
      path: () => first("x-forwarded-uri"),
    },
    original: {
      method: () => first("x-original-method"),
      host: () => first("x-original-host"),
      path: () => first("x-original-uri", "x-original-url").replace(/^[a-z]+:\/\/[^/?#]*/i, ""),
    },
  }[family];
  return {
    get method() {
      return readers.method();
    },
    get host() {
      return readers.host();
    },
    get path() {
      return readers.path();
    },
    workload: "",
  };
}

/** Envoy appends the path of the original request. */
function behindPolicy(path: string): string {
  const [, , ...rest] = path.slice(PREFIX.length).split("?", 1)[0]!.split("/");
  return `/${rest.join("/")}`;
}

/** The other end of the proxy's connection, as the proxy reports it. Our own peer is the proxy. */
function peerOf(family: Family, values: (name: string) => readonly string[]): string {
  if (family === "original") return addressOfHop(values("x-real-ip")[0] ?? "");
  if (family === "forwarded") return addressBy("xff:1", "", values);
  return addressBy("x-envoy-external-address", "", values);
}

function answer(family: Family, outcome: AuthorizationOutcome, policy: Policy | undefined): HttpAnswer {
  if (outcome.kind === "allowed") {
    const { set, removed } = identityOf(policy!, outcome.snapshot);
    // Over HTTP, an omitted header would keep the client's value, so it is sent empty.
    const headers: [string, string][] = [...set, ...removed.map((name): [string, string] => [name, "-"])];
    const remove = credentialHeaders(policy!);
    if (family === "envoy" && remove.length > 0) headers.push(["x-envoy-auth-headers-to-remove", remove.join(",")]);
    return { status: 200, headers, body: "" };
  }
  const headers: [string, string][] = outcome.challenges.map((value) => ["www-authenticate", value]);
  headers.push(["cache-control", "no-store"], ["content-type", "application/problem+json"]);
  if (outcome.retryAfter !== undefined) headers.push(["retry-after", String(outcome.retryAfter)]);
  const status = statusFor(family, outcome.status);
  if (status !== outcome.status) headers.push(["x-auth-status", String(outcome.status)]);
  return { status, headers, body: problem(outcome) };
}

/**
 * nginx turns an unknown status into 500, and Envoy counts a 5xx as an error, which `failure_mode_allow` opens. These
 * proxies get a 403, with the true status in a header.
 */
function statusFor(family: Family, status: number): number {
  if (family === "original") return status === 401 || status === 403 ? status : 403;
  return family === "envoy" && status >= 500 ? 403 : status;
}

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { TokenSnapshot } from "../../domain/token-snapshot.ts";
import {
  HeaderValueOption_HeaderAppendAction,
  type HeaderValueOptionSchema,
} from "../../gen/envoy/config/core/v3/base_pb.ts";
import { CheckResponseSchema } from "../../gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { Validate, ValidateKnown } from "../../validation/validate.ts";
import { credentialIn } from "../credentials.ts";
import { Encoded } from "../encoded.ts";
import { forTenant, merged, type Policies, type Policy } from "../policy.ts";
import {
  type AuthorizationOutcome,
  type AuthorizationQuery,
  addressBy,
  ask,
  credentialHeaders,
  DENIED,
  type Denial,
  facts,
  identityOf,
  outcomeOf,
  problem,
} from "./authorization.ts";
import { type CheckFacts, decodeCheck, factsOf } from "./check-request.ts";
import { CheckRequestScanner } from "./check-request-scanner.ts";

type Option = MessageInitShape<typeof HeaderValueOptionSchema>;

const NO_VALUES: readonly string[] = [];
const MAX_DENIED = 1_000;
const LONGEST_KEY = 1_024;

/**
 * Envoy's `Check`. While the process lives, its answer is never an RPC error, because `failure_mode_allow` opens on an
 * RPC error. Only `allow()` and `deny()` build a CheckResponse, because an empty one would mean ALLOW.
 */
export class ExtAuthz {
  readonly #validate: Validate;
  readonly #known: ValidateKnown;
  readonly #policies: Policies;
  readonly #view = new CheckRequestScanner();
  /** The encoded ALLOW of a cached token, with the policy it was encoded for. */
  readonly #allowed = new WeakMap<TokenSnapshot, { readonly policy: Policy; readonly encoded: Encoded }>();
  /** Answers that depend only on a policy's realm. */
  readonly #denied = new Map<string, Encoded>();

  /** `known` answers first if it can. Without it, every question goes to `validate`. */
  constructor(validate: Validate, policies: Policies, known: ValidateKnown = () => undefined) {
    this.#validate = validate;
    this.#known = known;
    this.#policies = policies;
  }

  /** Reads `message` before the first await. Never throws, never rejects. `trusted`: this peer may ask. */
  check(message: Uint8Array, trusted: boolean, deadline: number): Encoded | Promise<Encoded> {
    let plainText = false;
    let policy: Policy | undefined;
    try {
      if (!trusted) return this.refuse("peer");
      const view = this.#view.read(message) ? this.#view : undefined;
      const known = view && this.#ofKnown(view);
      if (known !== undefined) return known;
      const check = (view && factsOf(view)) ?? decodeCheck(message);
      if (!check.http) return this.#deny(DENIED.undecodable, false, true);
      plainText = (check.headers.get("content-type")?.[0] ?? "").startsWith("application/grpc");
      const found = merged(this.#policies, check.extensions);
      if (found === undefined) return this.#deny(DENIED.policy, plainText);
      policy = found;
      // The scanner keeps only the headers that any policy can use.
      const asked = found.furtherHeaders.length === 0 ? check : decodeCheck(message, found.furtherHeaders);
      const question = questionOf(asked, found);
      const named = forTenant(found, (name) => asked.headers.get(name) ?? NO_VALUES, question.preflight);
      if (named === undefined) return this.#deny(DENIED.tenant, plainText);
      const outcome = ask(this.#validate, named === found ? question : { ...question, policy: named }, deadline);
      if (!(outcome instanceof Promise)) return this.#encoded(outcome, named, plainText);
      return outcome
        .then((later) => this.#encoded(later, named, plainText))
        .catch(() => this.#outage(found, plainText)); // also if the ALLOW cannot be encoded
    } catch {
      return policy === undefined ? this.refuse("undecodable") : this.#outage(policy, plainText);
    }
  }

  /** The usual case: a cached token. Builds no string from the request. */
  #ofKnown(view: CheckRequestScanner): Encoded | undefined {
    if (!view.http || view.isOptions) return undefined;
    const policy = this.#policies.forRoute(view.rawExtensions, () => view.extensions);
    if (policy === undefined || policy.clientAddress !== "peer" || !policy.carriers.includes("bearer"))
      return undefined;
    // One of them may be a second credential.
    if (policy.furtherHeaders.length > 0) return undefined;
    const { peer } = view;
    const token = view.bearer();
    if (token === undefined || peer === undefined) return undefined;
    const answer = this.#known(view.bytes, token.from, token.to, policy.requirement, {
      clientAddress: peer,
      target: view.target,
    });
    if (answer === undefined) return undefined;
    const outcome = outcomeOf(answer, policy);
    return this.#encoded(outcome, policy, outcome.kind === "denied" && view.isGrpc);
  }

  /** The denial for a check that cannot be answered because of its peer, its bytes or its deadline. */
  refuse(why: keyof typeof DENIED): Encoded {
    return this.#deny(DENIED[why], false);
  }

  #encoded(outcome: AuthorizationOutcome, policy: Policy, plainText: boolean): Encoded {
    if (outcome.kind === "denied") {
      return outcome === DENIED.undetermined ? this.#outage(policy, plainText) : this.#deny(outcome, plainText);
    }
    const { snapshot } = outcome;
    if (snapshot === undefined) return new Encoded(allow(policy, undefined));
    const known = this.#allowed.get(snapshot);
    // Of the requirement, which context extensions change, an ALLOW shows the tenant alone.
    if (known !== undefined && looksTheSame(known.policy, policy)) return known.encoded;
    const encoded = new Encoded(allow(policy, snapshot));
    this.#allowed.set(snapshot, { policy, encoded });
    return encoded;
  }

  #outage(policy: Policy, plainText: boolean): Encoded {
    if (policy.outage === "deny") return this.#deny(DENIED.undetermined, plainText);
    return new Encoded(deny(DENIED.undetermined, plainText, "errorResponse"));
  }

  #deny(denied: Denial, plainText: boolean, bare = false): Encoded {
    const key = `${denied.code} ${denied.status} ${plainText} ${bare} ${denied.title} ${denied.challenges.join()}`;
    let encoded = this.#denied.get(key);
    if (encoded === undefined) {
      encoded = new Encoded(deny(denied, plainText, bare ? "none" : "deniedResponse"));
      // Realms and scopes come from the operator's configuration, so there are few and they are short.
      if (key.length <= LONGEST_KEY && this.#denied.size < MAX_DENIED) this.#denied.set(key, encoded);
    }
    return encoded;
  }
}

/** True if both policies give a token the same ALLOW. */
function looksTheSame(a: Policy, b: Policy): boolean {
  if (a.requirement.tenant !== b.requirement.tenant) return false;
  return a.headers === b.headers && a.carriers === b.carriers && a.keepCredential === b.keepCredential;
}

function questionOf(check: CheckFacts, policy: Policy): AuthorizationQuery {
  const values = (name: string) => check.headers.get(name) ?? NO_VALUES;
  return {
    policy,
    credential: credentialIn(policy.carriers, values),
    clientAddress: addressBy(policy.clientAddress, check.peer, values),
    target: check.target,
    preflight:
      check.method === "OPTIONS" && values("origin").length > 0 && values("access-control-request-method").length > 0,
  };
}

function allow(policy: Policy, snapshot: TokenSnapshot | undefined): Uint8Array {
  const { set, removed } = identityOf(policy, snapshot);
  const names = new Set(set.map(([name]) => name));
  const headersToRemove = [...removed, ...credentialHeaders(policy)].filter((name) => !names.has(name));
  return toBinary(
    CheckResponseSchema,
    create(CheckResponseSchema, {
      status: { code: 0 },
      httpResponse: {
        case: "okResponse",
        value: { headers: set.map(([key, value]) => option(key, value)), headersToRemove },
      },
      dynamicMetadata: facts(policy, snapshot),
    }),
  );
}

/** gRPC clients behind Envoy would see a 400 as INTERNAL. UNAUTHENTICATED describes a malformed credential better. */
function deny(denied: Denial, plainText: boolean, as: "deniedResponse" | "errorResponse" | "none"): Uint8Array {
  const unauthenticated = plainText && denied.status === 400;
  const headers = denied.challenges.map((value) => option("www-authenticate", value));
  headers.push(option("cache-control", "no-store"));
  headers.push(option("content-type", plainText ? "text/plain" : "application/problem+json"));
  if (denied.retryAfter !== undefined) headers.push(option("retry-after", String(denied.retryAfter)));
  const value = {
    status: { code: unauthenticated ? 401 : denied.status },
    headers,
    body: plainText ? denied.title : problem(denied),
  };
  return toBinary(
    CheckResponseSchema,
    create(CheckResponseSchema, {
      status: { code: unauthenticated ? 16 : denied.code, message: denied.title },
      ...(as !== "none" && { httpResponse: { case: as, value } }),
      dynamicMetadata: { verdict: denied.verdict },
    }),
  );
}

function option(key: string, value: string): Option {
  return {
    header: { key, value },
    append: false,
    appendAction: HeaderValueOption_HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
  };
}

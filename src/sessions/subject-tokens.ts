import { compactVerify, errors } from "jose";
import { AppError } from "../domain/errors.ts";
import { ExchangeRefused, type WorkloadIssuer } from "../domain/exchange.ts";
import type { TrustRule } from "../domain/trust-rule.ts";
import type { SubjectToken, SubjectTokens } from "../management/ports.ts";
import { IssuerKeys, type IssuerKeysDeps } from "./issuer-keys.ts";
import { isUnusable, JWT, keyOf, LONGEST, reasonOf, unverified } from "./sessions.ts";

/** The platforms that may send no `typ`, because their specifications ask for none. */
const UNTYPED: readonly TrustRule["kind"][] = ["KUBERNETES", "SPIFFE"];

/** The JWTs of workloads. The keys of each issuer are fetched as those of sessions are; nothing else is cached. */
export class IssuedSubjectTokens implements SubjectTokens {
  readonly #issuers: ReadonlyMap<string, { readonly issuer: WorkloadIssuer; readonly keys: IssuerKeys }>;

  constructor(issuers: readonly WorkloadIssuer[], deps: IssuerKeysDeps) {
    const trusted = (issuer: WorkloadIssuer) => ({ issuer, keys: new IssuerKeys(issuer, { ...deps, svids: true }) });
    this.#issuers = new Map(issuers.map((issuer) => [issuer.name, trusted(issuer)]));
  }

  issuer(name: string): WorkloadIssuer | undefined {
    return this.#issuers.get(name)?.issuer;
  }

  read(jwt: string): SubjectToken {
    if (jwt.length > LONGEST) throw new ExchangeRefused("too_long");
    const parts = JWT.test(jwt) ? unverified(jwt) : undefined;
    if (parts === undefined) throw new ExchangeRefused("malformed");
    const { header, claimed } = parts;
    // No extension is known here, so none is understood.
    if (header.crit !== undefined) throw new ExchangeRefused("critical_header");
    const { typ } = header;
    return { jwt, claims: claimed, typ, signed: jwt.slice(0, jwt.lastIndexOf(".")) };
  }

  async verify({ jwt, typ }: SubjectToken, { issuer: name, kind }: TrustRule): Promise<void> {
    const trusted = this.#issuers.get(name);
    if (trusted === undefined) throw new ExchangeRefused("issuer_unknown");
    const { issuer, keys } = trusted;
    const typed = typ === undefined ? UNTYPED.includes(kind) : isOneOf(issuer.types, typ);
    if (!typed) throw new ExchangeRefused("type");
    try {
      await compactVerify(jwt, keyOf(keys), { algorithms: [...issuer.algorithms] });
    } catch (error) {
      if (error instanceof errors.JOSEError) throw new ExchangeRefused(faultOf(error));
      // A published key that cannot verify anything must not look like a fault of this program.
      if (isUnusable(error)) throw new ExchangeRefused("key_unusable");
      throw error instanceof AppError
        ? error
        : new AppError("INTERNAL", "a subject token could not be checked", { cause: error });
    }
  }

  /** The age of the keys of each issuer in seconds, if it has any. */
  ages(): { readonly issuer: string; readonly seconds: number }[] {
    return [...this.#issuers.values()].flatMap(({ issuer, keys }) =>
      keys.age === undefined ? [] : [{ issuer: issuer.name, seconds: keys.age }],
    );
  }
}

function isOneOf(types: readonly string[], typ: unknown): boolean {
  return typeof typ === "string" && types.some((type) => type.toLowerCase() === typ.toLowerCase());
}

function faultOf(error: errors.JOSEError) {
  const fault = reasonOf(error);
  return fault === "claim_required" ? "malformed" : fault;
}

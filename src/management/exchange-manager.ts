import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import {
  auditedSubject,
  checkClaims,
  type ExchangeOutcome,
  ExchangeRefused,
  grantOf,
  onceOf,
  scopesOf,
} from "../domain/exchange.ts";
import { principalType } from "../domain/principal.ts";
import type { Profile } from "../domain/profile.ts";
import type { Secret } from "../domain/secret.ts";
import type { Token } from "../domain/token.ts";
import { isRuleId, type TrustRule } from "../domain/trust-rule.ts";
import type { SubjectTokens, TrustRuleStore } from "./ports.ts";
import type { TokenManager } from "./token-manager.ts";

export interface ExchangeManagerDeps {
  readonly rules: Pick<TrustRuleStore, "byId" | "exchange">;
  readonly tokens: Pick<TokenManager, "newString">;
  readonly subjects: SubjectTokens;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly registeredTypes: readonly string[];
  readonly clock: Clock;
  /** Counts each exchange, by its true outcome. */
  readonly exchanged: (outcome: ExchangeOutcome) => void;
}

export interface ExchangeRequest {
  readonly rule: string;
  readonly subjectToken: string;
  /** As RFC 6749 writes it; undefined for all scopes of the rule. */
  readonly scope: string | undefined;
  readonly address: string;
  readonly requestId: string;
}

/** Exchanges the JWT of a workload for a token. Nobody calls it but the JWT itself: whoever has it gets the token. */
export class ExchangeManager {
  readonly #o: ExchangeManagerDeps;

  constructor(options: ExchangeManagerDeps) {
    this.#o = options;
  }

  /**
   * INVALID_GRANT with one text for every JWT and every rule that is not good; INVALID_SCOPE for scopes beyond the rule, if
   * everything else is good.
   */
  async exchange(request: ExchangeRequest): Promise<{ token: Token; tokenString: Secret }> {
    try {
      const made = await this.#exchange(request);
      this.#o.exchanged("minted");
      return made;
    } catch (error) {
      this.#o.exchanged(outcomeOf(error));
      throw error;
    }
  }

  /** Counts a request that asks for no exchange. */
  invalid(): void {
    this.#o.exchanged("request_invalid");
  }

  /** Cheap checks come first: a stranger's JWT costs one read, and no signature is verified for it. */
  async #exchange({ rule: id, subjectToken, scope, address, requestId }: ExchangeRequest) {
    const { rules, subjects, clock, profiles, tokens } = this.#o;
    if (!isRuleId(id)) throw new ExchangeRefused("rule_unknown");
    const subject = subjects.read(subjectToken);
    const rule = await rules.byId(id);
    if (rule === undefined) throw new ExchangeRefused("rule_unknown");
    const issuer = subjects.issuer(rule.issuer);
    if (issuer === undefined) throw new ExchangeRefused("issuer_unknown");
    const asked = scopesOf(scope);
    const judge = (as: TrustRule) => {
      checkClaims(as, issuer, subject.claims, clock.wall());
      return grantOf(as, profiles.get(as.profile), asked);
    };
    checkClaims(rule, issuer, subject.claims, clock.wall());
    await subjects.verify(subject, rule);
    judge(rule);
    const minting = await tokens.newString(profiles.get(rule.profile)!);
    const token = await rules.exchange({
      rule,
      fresh: minting.fresh,
      mustExist: this.#o.registeredTypes.includes(principalType("principal", rule.principal)),
      judge,
      once: onceOf(issuer, subject.claims, subject.signed),
      subject: auditedSubject(subject.claims),
      address,
      requestId,
    });
    return { token, tokenString: minting.tokenString() };
  }
}

function outcomeOf(error: unknown): ExchangeOutcome {
  if (error instanceof ExchangeRefused) return error.code;
  const reason = error instanceof AppError ? error.reason : "INTERNAL";
  if (reason === "LIMIT_EXCEEDED") return "limit_exceeded";
  return reason === "ISSUER_UNAVAILABLE" ? "issuer_unavailable" : "failed";
}

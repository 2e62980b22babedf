import type { AuditActor } from "../domain/audit-event.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import { checkPrincipal, checkScopeForms } from "../domain/issue.ts";
import { principalType } from "../domain/principal.ts";
import type { Profile } from "../domain/profile.ts";
import { mayNotEnd, rankOf, sparedFrom } from "../domain/rights.ts";
import {
  checkRule,
  checkRuleName,
  checkRuleWriter,
  newRuleId,
  ruleProvenance,
  type TrustRule,
} from "../domain/trust-rule.ts";
import type { Authority, Effect } from "../revocation/effect.ts";
import { type Access, actorOf, guardOf, tenantOf } from "./access.ts";
import { Chunks } from "./chunks.ts";
import { foundNothing } from "./known.ts";
import type { PageStart, Part, SubjectTokens, TokenStore, TrustRuleChange, TrustRuleStore } from "./ports.ts";
import { actorsOf, again } from "./rerun.ts";

export interface FederationManagerDeps {
  readonly rules: TrustRuleStore;
  readonly store: Pick<TokenStore, "select" | "getTenant">;
  readonly authority: Authority;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly registeredTypes: readonly string[];
  readonly subjects: Pick<SubjectTokens, "issuer">;
}

/** A changed rule, and the number of its tokens that the change revoked. */
interface Changed {
  readonly value: TrustRule;
  readonly effect: Effect;
  readonly revoked: number;
}

/** Trust rules, by the rules of their fields. The end of one ends its tokens. */
export class FederationManager {
  readonly #o: FederationManagerDeps;

  constructor(options: FederationManagerDeps) {
    this.#o = options;
  }

  async create(access: Access, asked: Omit<TrustRule, "id" | "state" | "createTime" | "etag">): Promise<TrustRule> {
    checkRuleName("rule.name", asked.name);
    const tenant = tenantOf(access, asked.tenant);
    if (this.#o.subjects.issuer(asked.issuer) === undefined) {
      throw invalidField("rule.issuer", "must name an entry of federation.issuers in the configuration");
    }
    const rule = { ...asked, id: newRuleId(), tenant, scopes: [...new Set(asked.scopes)] };
    this.#check(access, rule);
    const mustExist = this.#o.registeredTypes.includes(principalType("rule.principal", rule.principal));
    const { value } = await this.#o.authority.change(
      again<TrustRule>((_, made) => this.#o.rules.create(rule, mustExist, guardOf(access), actorOf(access), made)),
      { noWait: false, deadline: access.deadline },
    );
    return value;
  }

  async get(access: Access, tenant: string, name: string): Promise<TrustRule> {
    checkRuleName("name", name);
    const found = await this.#o.rules.byName(tenantOf(access, tenant), name);
    if (found === undefined) throw new AppError("RULE_NOT_FOUND", "no such trust rule");
    return found;
  }

  async list(access: Access, asked: string, limit: number, start?: PageStart): Promise<Part<TrustRule>> {
    const tenant = tenantOf(access, asked);
    const part = await this.#o.rules.list(tenant, limit, start, access);
    if (foundNothing(part, start) && (await this.#o.store.getTenant(tenant)) === undefined) {
      throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    }
    return part;
  }

  /** A rule that is disabled exchanges nothing once this resolves, and its tokens are revoked. */
  async update(
    access: Access,
    of: { readonly tenant: string; readonly name: string; readonly etag: string },
    asked: TrustRuleChange,
    noWait: boolean,
  ): Promise<Changed> {
    checkRuleName("rule.name", of.name);
    const tenant = tenantOf(access, of.tenant);
    const change = asked.scopes === undefined ? asked : { ...asked, scopes: [...new Set(asked.scopes)] };
    const check = (rule: TrustRule) => this.#check(access, rule);
    const update = (actor: AuditActor) =>
      this.#o.rules.update(tenant, of.name, change, of.etag, check, guardOf(access), actor);
    if (change.disabled === true) return this.#end(access, tenant, of.name, update, "trust rule disabled", noWait);
    const actor = actorsOf(actorOf(access));
    const done = await this.#o.authority.change(() => update(actor()), { noWait, deadline: access.deadline });
    return { ...done, revoked: 0 };
  }

  async delete(access: Access, asked: string, name: string, noWait: boolean): Promise<Changed> {
    checkRuleName("name", name);
    const tenant = tenantOf(access, asked);
    const remove = (actor: AuditActor) => this.#o.rules.delete(tenant, name, actor);
    return this.#end(access, tenant, name, remove, "trust rule deleted", noWait);
  }

  /**
   * Changes the rule, then revokes what it minted, and what those tokens minted, with one wait. An exchange commits before
   * the change, and is found here, or sees it.
   */
  async #end(
    access: Access,
    tenant: string,
    name: string,
    change: (actor: AuditActor) => ReturnType<TrustRuleStore["delete"]>,
    reason: string,
    noWait: boolean,
  ): Promise<Changed> {
    const minted = ({ id }: TrustRule) => ({ tenant, createdBy: ruleProvenance(id), descendants: true });
    // Each chunk judges this again. Here it is refused as a whole, before the rule is changed.
    const holding = sparedFrom(rankOf(access.caller));
    const found = holding.length > 0 ? await this.#o.rules.byName(tenant, name) : undefined;
    if (found && (await this.#o.store.select({ ...minted(found), holding }, 1, "")).ids.length > 0) throw mayNotEnd();
    // Outside the work, which may run again: tokens of an earlier run stay counted.
    let revoked = 0;
    const actor = actorsOf(actorOf(access));
    const { value, effect } = await this.#o.authority.change(
      async (store) => {
        const by = actor();
        const chunks = new Chunks(store, tenant, reason, by, (more) => (revoked += more));
        const rule = await chunks.commit(() => change(by));
        await chunks.revokeSelected(this.#o.store, minted(rule));
        return { ...(await chunks.end()), value: rule };
      },
      { noWait, deadline: access.deadline },
    );
    return { value, effect, revoked };
  }

  /** The transaction reads the caller again: it commits only if the caller still has the scopes that count here. */
  #check({ caller }: Access, rule: Omit<TrustRule, "state" | "createTime" | "etag">): void {
    checkRule(rule);
    const profile = this.#o.profiles.get(rule.profile);
    if (profile === undefined) {
      throw invalidField("rule.profile", `must be one of ${[...this.#o.profiles.keys()].join(", ")}`);
    }
    checkPrincipal(profile, rule.principal);
    checkScopeForms(rule.scopes);
    checkRuleWriter(profile, caller, rule.scopes);
  }
}

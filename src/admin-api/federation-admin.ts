import type { ServiceImpl } from "@connectrpc/connect";
import { invalidField } from "../domain/errors.ts";
import { RULE_DEFAULTS } from "../domain/trust-rule.ts";
import { type FederationAdmin, type TrustRule, TrustRuleSchema } from "../gen/sallyport/v1/federation_admin_pb.ts";
import type { FederationManager } from "../management/federation-manager.ts";
import type { TrustRuleChange } from "../management/ports.ts";
import { accessOf, maskOf, page, pageSize, unspecified } from "../rpc/call.ts";
import { claimMatches, durationMillis, effectMessage, ruleKind, ruleMessage } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

const UPDATABLE = [
  "audience",
  "match",
  "scopes",
  "max_ttl",
  "max_token_age",
  "single_use",
  "disabled",
  "max_mints_per_hour",
] as const;

/** FederationAdmin: converts the request, calls the manager, converts the answer. */
export function federationAdmin(deps: {
  readonly federation: FederationManager;
  readonly pages: PageTokens;
}): ServiceImpl<typeof FederationAdmin> {
  const { federation, pages } = deps;
  return {
    async createTrustRule(request, context) {
      const asked = request.rule!;
      const { tenant, name, issuer, principal, profile, disabled } = asked;
      const kind = ruleKind(asked.kind);
      if (kind === undefined) throw invalidField("rule.kind", "must be given");
      const { audience, match, scopes, ...others } = fieldsOf(asked);
      const {
        maxTtl = RULE_DEFAULTS.maxTtl,
        maxTokenAge = RULE_DEFAULTS.maxTokenAge,
        singleUse = RULE_DEFAULTS.singleUse(kind),
      } = others;
      const rule = { tenant, name, issuer, kind, audience, match, principal, profile, scopes, disabled };
      const limits = { maxTtl, maxTokenAge, singleUse, maxMintsPerHour: others.maxMintsPerHour };
      return { rule: ruleMessage(await federation.create(accessOf(context), { ...rule, ...limits })) };
    },

    async getTrustRule(request, context) {
      return { rule: ruleMessage(await federation.get(accessOf(context), request.tenant, request.name)) };
    },

    async listTrustRules(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const binding = [context.method.name, access.caller.provenance, access.caller.tenant, request.tenant];
      const part = await federation.list(access, request.tenant, size, pages.open(request.pageToken, binding));
      const place = (of: { createTime: number; id: string }) => ({ time: of.createTime, key: of.id });
      const { items, next } = await page(part, TrustRuleSchema, ruleMessage, place);
      return { rules: items, nextPageToken: pages.issue(next, binding) };
    },

    async updateTrustRule(request, context) {
      const asked = request.rule!;
      const change = changeOf(asked, maskOf(request.updateMask?.paths, UPDATABLE));
      const done = await federation.update(accessOf(context), asked, change, request.noWait);
      return { rule: ruleMessage(done.value), effect: effectMessage(done.effect), revokedCount: done.revoked };
    },

    async deleteTrustRule(request, context) {
      const { tenant, name, noWait } = request;
      const done = await federation.delete(accessOf(context), tenant, name, noWait);
      return { rule: ruleMessage(done.value), effect: effectMessage(done.effect), revokedCount: done.revoked };
    },
  };
}

function fieldsOf(asked: TrustRule) {
  const { audience, scopes, singleUse, maxMintsPerHour } = asked;
  return {
    audience,
    scopes,
    match: claimMatches(asked.match),
    maxTtl: durationMillis("rule.max_ttl", asked.maxTtl),
    maxTokenAge: durationMillis("rule.max_token_age", asked.maxTokenAge),
    singleUse,
    maxMintsPerHour: maxMintsPerHour === 0 ? RULE_DEFAULTS.maxMintsPerHour : maxMintsPerHour,
  };
}

function changeOf(asked: TrustRule, mask: ReadonlySet<(typeof UPDATABLE)[number]>): TrustRuleChange {
  const { audience, scopes, match, maxTtl, maxTokenAge, singleUse, maxMintsPerHour } = fieldsOf(asked);
  return {
    ...(mask.has("audience") && { audience }),
    ...(mask.has("match") && { match }),
    ...(mask.has("scopes") && { scopes }),
    ...(mask.has("max_ttl") && { maxTtl: maxTtl ?? unspecified("rule.max_ttl") }),
    ...(mask.has("max_token_age") && { maxTokenAge: maxTokenAge ?? unspecified("rule.max_token_age") }),
    ...(mask.has("single_use") && { singleUse: singleUse ?? unspecified("rule.single_use") }),
    ...(mask.has("disabled") && { disabled: asked.disabled }),
    ...(mask.has("max_mints_per_hour") && { maxMintsPerHour }),
  };
}

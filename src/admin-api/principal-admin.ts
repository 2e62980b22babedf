import type { ServiceImpl } from "@connectrpc/connect";
import { type Principal, type PrincipalAdmin, PrincipalSchema } from "../gen/sallyport/v1/principal_admin_pb.ts";
import type { PrincipalManager } from "../management/principal-manager.ts";
import type { PrincipalChange } from "../revocation/authority-store.ts";
import { accessOf, maskOf, page, pageSize, unspecified } from "../rpc/call.ts";
import { effectMessage, given, principalMessage, principalState } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

const UPDATABLE = ["display_name", "email", "owner", "state", "annotations"] as const;

/** PrincipalAdmin: converts the request, calls the manager, converts the answer. */
export function principalAdmin(deps: {
  readonly principals: PrincipalManager;
  readonly pages: PageTokens;
}): ServiceImpl<typeof PrincipalAdmin> {
  const { principals, pages } = deps;
  return {
    async createPrincipal(request, context) {
      const asked = request.principal!;
      const made = await principals.createPrincipal(accessOf(context), {
        tenant: asked.tenant,
        name: asked.name,
        displayName: asked.displayName,
        email: asked.email,
        owner: asked.owner,
        annotations: asked.annotations,
        state: principalState(asked.state),
      });
      return { principal: principalMessage(made) };
    },

    async getPrincipal(request, context) {
      return {
        principal: principalMessage(await principals.getPrincipal(accessOf(context), request.tenant, request.name)),
      };
    },

    async listPrincipals(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const { provenance, tenant } = access.caller;
      const { type, state, namePrefix } = request;
      const binding = [context.method.name, provenance, tenant, request.tenant, type, String(state), namePrefix];
      const filter = {
        tenant: request.tenant,
        type: given(type),
        state: principalState(state),
        namePrefix: given(namePrefix),
      };
      const part = await principals.listPrincipals(access, filter, size, pages.open(request.pageToken, binding));
      const place = (of: { createTime: number; name: string }) => ({ time: of.createTime, key: of.name });
      const { items, next } = await page(part, PrincipalSchema, principalMessage, place);
      return { principals: items, nextPageToken: pages.issue(next, binding) };
    },

    async updatePrincipal(request, context) {
      const asked = request.principal!;
      const change = changeOf(asked, maskOf(request.updateMask?.paths, UPDATABLE));
      const done = await principals.updatePrincipal(accessOf(context), asked, change, request.noWait);
      return { principal: principalMessage(done.value), effect: effectMessage(done.effect) };
    },

    async deletePrincipal(request, context) {
      const { tenant, name, noWait } = request;
      const done = await principals.deletePrincipal(accessOf(context), tenant, name, noWait);
      return { principal: principalMessage(done.value), effect: effectMessage(done.effect) };
    },
  };
}

function changeOf(asked: Principal, mask: ReadonlySet<(typeof UPDATABLE)[number]>): PrincipalChange {
  return {
    ...(mask.has("display_name") && { displayName: asked.displayName }),
    ...(mask.has("email") && { email: asked.email }),
    ...(mask.has("owner") && { owner: asked.owner }),
    ...(mask.has("state") && { state: principalState(asked.state) ?? unspecified("principal.state") }),
    ...(mask.has("annotations") && { annotations: asked.annotations }),
  };
}

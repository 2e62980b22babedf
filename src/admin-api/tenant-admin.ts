import type { ServiceImpl } from "@connectrpc/connect";
import { type Tenant, type TenantAdmin, TenantSchema } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import type { PrincipalManager } from "../management/principal-manager.ts";
import type { TenantChange } from "../revocation/authority-store.ts";
import { accessOf, maskOf, page, pageSize, unspecified } from "../rpc/call.ts";
import { effectMessage, tenantMessage, tenantState } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

const UPDATABLE = ["display_name", "state", "annotations"] as const;

/** TenantAdmin: converts the request, calls the manager, converts the answer. */
export function tenantAdmin(deps: {
  readonly principals: PrincipalManager;
  readonly pages: PageTokens;
}): ServiceImpl<typeof TenantAdmin> {
  const { principals, pages } = deps;
  return {
    async createTenant(request, context) {
      const { id, displayName, annotations, state } = request.tenant!;
      const asked = { id, displayName, annotations, state: tenantState(state) };
      return { tenant: tenantMessage(await principals.createTenant(accessOf(context), asked)) };
    },

    async getTenant(request) {
      return { tenant: tenantMessage(await principals.getTenant(request.id)) };
    },

    async listTenants(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const binding = [context.method.name, access.caller.provenance, String(request.state)];
      const start = pages.open(request.pageToken, binding);
      const part = await principals.listTenants(access, { state: tenantState(request.state) }, size, start);
      const place = (of: { createTime: number; id: string }) => ({ time: of.createTime, key: of.id });
      const { items, next } = await page(part, TenantSchema, tenantMessage, place);
      return { tenants: items, nextPageToken: pages.issue(next, binding) };
    },

    async updateTenant(request, context) {
      const asked = request.tenant!;
      const change = changeOf(asked, maskOf(request.updateMask?.paths, UPDATABLE));
      const done = await principals.updateTenant(accessOf(context), asked, change, request.noWait);
      return { tenant: tenantMessage(done.value), effect: effectMessage(done.effect) };
    },
  };
}

function changeOf(asked: Tenant, mask: ReadonlySet<(typeof UPDATABLE)[number]>): TenantChange {
  return {
    ...(mask.has("display_name") && { displayName: asked.displayName }),
    ...(mask.has("state") && { state: tenantState(asked.state) ?? unspecified("tenant.state") }),
    ...(mask.has("annotations") && { annotations: asked.annotations }),
  };
}

import type { ServiceImpl } from "@connectrpc/connect";
import { type Role, type RoleAdmin, RoleSchema } from "../gen/sallyport/v1/role_admin_pb.ts";
import type { RoleManager } from "../management/role-manager.ts";
import type { RoleChange } from "../revocation/authority-store.ts";
import { accessOf, maskOf, page, pageSize } from "../rpc/call.ts";
import { effectMessage, roleMessage } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

const UPDATABLE = ["description", "scopes"] as const;

/** RoleAdmin: converts the request, calls the manager, converts the answer. */
export function roleAdmin(deps: {
  readonly roles: RoleManager;
  readonly pages: PageTokens;
}): ServiceImpl<typeof RoleAdmin> {
  const { roles, pages } = deps;
  return {
    async createRole(request, context) {
      const { tenant, name, description, scopes, administrative } = request.role!;
      const asked = { tenant, name, description, scopes, administrative };
      return { role: roleMessage(await roles.create(accessOf(context), asked)) };
    },

    async getRole(request, context) {
      return { role: roleMessage(await roles.get(accessOf(context), request.tenant, request.name)) };
    },

    async listRoles(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const binding = [context.method.name, access.caller.provenance, access.caller.tenant, request.tenant];
      const part = await roles.list(access, request.tenant, size, pages.open(request.pageToken, binding));
      const place = (of: { createTime: number; id: string }) => ({ time: of.createTime, key: of.id });
      const { items, next } = await page(part, RoleSchema, roleMessage, place);
      return { roles: items, nextPageToken: pages.issue(next, binding) };
    },

    async updateRole(request, context) {
      const asked = request.role!;
      const change = changeOf(asked, maskOf(request.updateMask?.paths, UPDATABLE));
      const done = await roles.update(accessOf(context), asked, change, request.noWait);
      return { role: roleMessage(done.value), effect: effectMessage(done.effect) };
    },

    async deleteRole(request, context) {
      const { tenant, name, force, noWait } = request;
      const done = await roles.delete(accessOf(context), tenant, name, force, noWait);
      return { role: roleMessage(done.value), effect: effectMessage(done.effect) };
    },
  };
}

function changeOf(asked: Role, mask: ReadonlySet<(typeof UPDATABLE)[number]>): RoleChange {
  return {
    ...(mask.has("description") && { description: asked.description }),
    ...(mask.has("scopes") && { scopes: asked.scopes }),
  };
}

import type { ServiceImpl } from "@connectrpc/connect";
import { AuditEventSchema, type AuditLog as AuditLogService } from "../gen/sallyport/v1/audit_log_pb.ts";
import { tenantOf } from "../management/access.ts";
import { foundNothing } from "../management/known.ts";
import type { AuditLog } from "../management/ports.ts";
import type { PrincipalManager } from "../management/principal-manager.ts";
import { accessOf, page, pageSize } from "../rpc/call.ts";
import { auditMessage, given, millis } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

/** AuditLog: only reads. Each change writes its own row. */
export function auditLog(deps: {
  readonly audit: AuditLog;
  readonly principals: Pick<PrincipalManager, "getTenant">;
  readonly pages: PageTokens;
}): ServiceImpl<typeof AuditLogService> {
  const { audit, principals, pages } = deps;
  return {
    async listAuditEvents(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const { tenant, actor, action, target, owner } = request;
      const after = millis("after", request.after);
      const before = millis("before", request.before);
      const bounds = [after ?? "", before ?? ""].map(String);
      const { caller } = access;
      const filters = [tenant, actor, action, target, owner, ...bounds];
      const binding = [`${context.method.name} by time`, caller.provenance, caller.tenant, ...filters];
      const filter = {
        tenant: tenantOf(access, tenant),
        actor: given(actor),
        action: given(action),
        target: given(target),
        owner: given(owner),
        after,
        before,
      };
      const start = pages.open(request.pageToken, binding);
      const part = await audit.list(filter, size, start, access);
      if (foundNothing(part, start)) await principals.getTenant(filter.tenant);
      const place = (of: { time: number; sequence: number }) => ({ time: of.time, key: String(of.sequence) });
      const { items, next } = await page(part, AuditEventSchema, auditMessage, place);
      return { events: items, nextPageToken: pages.issue(next, binding) };
    },
  };
}

import type { ServiceImpl } from "@connectrpc/connect";
import {
  AccessEventSchema,
  AuditEventSchema,
  type AuditLog as AuditLogService,
} from "../gen/sallyport/v1/audit_log_pb.ts";
import { tenantOf } from "../management/access.ts";
import { foundNothing } from "../management/known.ts";
import type { AccessLog, AuditLog } from "../management/ports.ts";
import type { PrincipalManager } from "../management/principal-manager.ts";
import { accessOf, page, pageSize } from "../rpc/call.ts";
import { accessMessage, auditMessage, given, millis, verdictFilter } from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

/** AuditLog: only reads. Each change writes its own row. */
export function auditLog(deps: {
  readonly audit: AuditLog;
  readonly accessLog: AccessLog;
  readonly principals: Pick<PrincipalManager, "getTenant">;
  readonly pages: PageTokens;
}): ServiceImpl<typeof AuditLogService> {
  const { audit, accessLog, principals, pages } = deps;
  const place = (of: { time: number; sequence: number }) => ({ time: of.time, key: String(of.sequence) });
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
      const { items, next } = await page(part, AuditEventSchema, auditMessage, place);
      return { events: items, nextPageToken: pages.issue(next, binding) };
    },

    async listAccessEvents(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const { tenant, principal, tokenId } = request;
      const verdict = verdictFilter(request.verdict);
      const after = millis("after", request.after);
      const before = millis("before", request.before);
      const { caller } = access;
      const filters = [tenant, principal, tokenId, verdict ?? "", ...[after ?? "", before ?? ""].map(String)];
      const binding = [`${context.method.name} by time`, caller.provenance, caller.tenant, ...filters];
      const filter = {
        tenant: tenantOf(access, tenant),
        principal: given(principal),
        tokenId: given(tokenId),
        verdict,
        after,
        before,
      };
      const start = pages.open(request.pageToken, binding);
      const part = await accessLog.list(filter, size, start, access);
      if (foundNothing(part, start)) await principals.getTenant(filter.tenant);
      const { items, next } = await page(part, AccessEventSchema, accessMessage, place);
      return { events: items, nextPageToken: pages.issue(next, binding) };
    },
  };
}

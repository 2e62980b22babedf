import type { DescService } from "@bufbuild/protobuf";
import type { Clock } from "../domain/clock.ts";
import { AuditLog as AuditLogDesc } from "../gen/sallyport/v1/audit_log_pb.ts";
import { FederationAdmin } from "../gen/sallyport/v1/federation_admin_pb.ts";
import { PrincipalAdmin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { RoleAdmin } from "../gen/sallyport/v1/role_admin_pb.ts";
import { ServerInfo as ServerInfoDesc } from "../gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";
import { ByteBudget } from "../http2/server/limits.ts";
import { connectHandler } from "../listen/connect-adapter.ts";
import { sameOriginOnly } from "../listen/cross-origin.ts";
import { listenerLimits } from "../listen/limits.ts";
import { type Listener, openListener } from "../listen/listener.ts";
import type { HttpHandler } from "../listen/peers.ts";
import { plainPaths } from "../listen/plain-paths.ts";
import type { TlsFiles } from "../listen/tls.ts";
import type { BulkRevoke } from "../management/bulk-revoke.ts";
import type { ExchangeManager } from "../management/exchange-manager.ts";
import type { FederationManager } from "../management/federation-manager.ts";
import type { AccessLog, AuditLog } from "../management/ports.ts";
import type { PrincipalManager } from "../management/principal-manager.ts";
import type { RoleManager } from "../management/role-manager.ts";
import type { ServerInfo } from "../management/server-info.ts";
import type { TokenManager } from "../management/token-manager.ts";
import type { Admission } from "../rpc/admission.ts";
import type { Callers } from "../rpc/caller.ts";
import { TrustedProxies } from "../rpc/client-address.ts";
import type { DenialAudit } from "../rpc/denial-audit.ts";
import { statusName } from "../rpc/errors.ts";
import { addHealth, type Health } from "../rpc/health.ts";
import type { JwksPage } from "../rpc/jwks.ts";
import { JWKS_PATH } from "../rpc/methods.ts";
import { Pipeline } from "../rpc/pipeline.ts";
import { addReflection } from "../rpc/reflection.ts";
import { reasonOf } from "../rpc/transport-errors.ts";
import type { Telemetry } from "../telemetry/telemetry.ts";
import type { Tracing } from "../telemetry/tracing.ts";
import { auditLog } from "./audit-log.ts";
import { type ConsoleOptions, consolePaths } from "./console.ts";
import { sessionCookies, signInPaths } from "./console-auth.ts";
import { exchangePath } from "./exchange-endpoint.ts";
import { federationAdmin } from "./federation-admin.ts";
import { openApiPage } from "./openapi.ts";
import type { PageTokens } from "./page-token.ts";
import { principalAdmin } from "./principal-admin.ts";
import { revocationPath } from "./revocation-endpoint.ts";
import { roleAdmin } from "./role-admin.ts";
import { serverInfo } from "./server-info.ts";
import { tenantAdmin } from "./tenant-admin.ts";
import { tokenAdmin } from "./token-admin.ts";

export const ADMIN_SERVICES: readonly DescService[] = [
  TokenAdmin,
  PrincipalAdmin,
  TenantAdmin,
  RoleAdmin,
  FederationAdmin,
  AuditLogDesc,
  ServerInfoDesc,
];

/** The dependencies of the services of the admin listener. */
export interface Managers {
  readonly tokens: TokenManager;
  readonly bulk: BulkRevoke;
  readonly principals: PrincipalManager;
  readonly roles: RoleManager;
  readonly federation: FederationManager;
  readonly exchanges: ExchangeManager;
  readonly audit: AuditLog;
  readonly accessLog: AccessLog;
  readonly info: ServerInfo;
  readonly pages: PageTokens;
}

export interface AdminListenerOptions {
  readonly bind: string;
  readonly unixMode: number | undefined;
  readonly tls: TlsFiles | undefined;
  readonly trustedProxies: readonly string[];
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  readonly callers: Callers;
  readonly denials: DenialAudit;
  readonly admission: Admission;
  readonly managers: Managers;
  readonly jwks: () => JwksPage;
  readonly health: Health;
  /** Undefined: no console. */
  readonly console: ConsoleOptions | undefined;
  /** Hosts, with port, under which browsers reach this listener, besides the one that each request names. */
  readonly ownHosts: readonly string[];
  /** Aborted when health watches must end. */
  readonly drain: AbortSignal;
  /** Undefined: no traces. */
  readonly tracing: Tracing | undefined;
}

/** Opens the admin listener. Every call passes the pipeline. */
export function openAdminListener(options: AdminListenerOptions): Promise<Listener> {
  const { clock, telemetry, callers, denials, admission, managers, tracing } = options;
  const limits = listenerLimits("admin");
  const budget = new ByteBudget(limits.bufferedBytes);
  const proxies = new TrustedProxies(options.trustedProxies);
  const called = (line: Parameters<Telemetry["called"]>[0]) => telemetry.called(line);
  const pipeline = new Pipeline({ clock, proxies, callers, admission, called, denials, tracing });
  const rpc = connectHandler({
    routes(router) {
      router.service(TokenAdmin, tokenAdmin(managers));
      router.service(PrincipalAdmin, principalAdmin(managers));
      router.service(TenantAdmin, tenantAdmin(managers));
      router.service(RoleAdmin, roleAdmin(managers));
      router.service(FederationAdmin, federationAdmin(managers));
      router.service(AuditLogDesc, auditLog(managers));
      router.service(ServerInfoDesc, serverInfo(managers.info));
      addHealth(router, options.health, "all");
      addReflection(router, ADMIN_SERVICES);
    },
    gate: pipeline.gate,
    refused: ({ method, requestId, fault, error }) =>
      called({ requestId, method, code: statusName(error), reason: reasonOf(fault), seconds: 0, level: "info" }),
    interceptors: [pipeline.interceptor],
    grpcWeb: true,
    budget,
    streamsPerConnection: limits.streamsPerConnection,
    drain: options.drain,
  });
  const auth = options.console?.auth;
  const withConsole = (otherwise: HttpHandler) =>
    options.console === undefined ? otherwise : consolePaths(options.console, signInPaths(auth, otherwise));
  const { tokens, exchanges } = managers;
  const withOauth = revocationPath({ clock, pipeline, tokens }, exchangePath({ clock, pipeline, exchanges }, rpc));
  const withCookies = sessionCookies(auth, withOauth);
  return openListener({
    name: "admin",
    bind: options.bind,
    unixMode: options.unixMode,
    tls: options.tls,
    limits,
    budget,
    handler: plainPaths(
      { "/openapi.json": openApiPage, [JWKS_PATH]: options.jwks },
      withConsole(sameOriginOnly(options.ownHosts, withCookies)),
    ),
    onTrouble: (name, error) => telemetry.trouble(name, error, { listener: "admin" }),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("admin", address, why),
    onCertificate: (endsAt) => telemetry.certificate("admin", endsAt),
  });
}

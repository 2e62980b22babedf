import type { Socket } from "node:net";
import { totalmem } from "node:os";
import { getHeapStatistics } from "node:v8";
import type { DescService } from "@bufbuild/protobuf";
import { auditLog } from "./admin-api/audit-log.ts";
import { openApiPage } from "./admin-api/openapi.ts";
import type { PageTokens } from "./admin-api/page-token.ts";
import { principalAdmin } from "./admin-api/principal-admin.ts";
import { revocationPath } from "./admin-api/revocation-endpoint.ts";
import { tenantAdmin } from "./admin-api/tenant-admin.ts";
import { tokenAdmin } from "./admin-api/token-admin.ts";
import { trustsPeers } from "./config/checks.ts";
import type { Config } from "./config/schema.ts";
import { ExtAuthz } from "./data-plane/check/ext-authz.ts";
import { HttpCheck } from "./data-plane/check/http-check.ts";
import type { DataCallers } from "./data-plane/data-caller.ts";
import type { Policies } from "./data-plane/policy.ts";
import { dataRoutes } from "./data-plane/routes.ts";
import { ValidateTokenCodec } from "./data-plane/validate-token.ts";
import type { Clock } from "./domain/clock.ts";
import { Authorization } from "./gen/envoy/service/auth/v3/external_auth_pb.ts";
import { AuditLog as AuditLogDesc } from "./gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "./gen/sallyport/v1/principal_admin_pb.ts";
import { TenantAdmin } from "./gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "./gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator } from "./gen/sallyport/v1/token_validator_pb.ts";
import { ByteBudget } from "./http2/server/limits.ts";
import { createUnaryServer } from "./http2/server/server.ts";
import { mountHttp1 } from "./http2/unary/mount-http1.ts";
import { mountNode } from "./http2/unary/mount-node.ts";
import { connectHandler } from "./listen/connect-adapter.ts";
import { builtinLimits, h1HeadLimits, h2HeadLimits, listenerLimits } from "./listen/limits.ts";
import { type Listener, openListener } from "./listen/listener.ts";
import { type HttpHandler, peersByCall } from "./listen/peers.ts";
import { plainPaths } from "./listen/plain-paths.ts";
import type { BulkRevoke } from "./management/bulk-revoke.ts";
import type { AuditLog } from "./management/ports.ts";
import type { PrincipalManager } from "./management/principal-manager.ts";
import type { TokenManager } from "./management/token-manager.ts";
import { opsHandler } from "./ops/ops.ts";
import { type Admission, createAdmission } from "./rpc/admission.ts";
import type { Callers } from "./rpc/caller.ts";
import { TrustedProxies } from "./rpc/client-address.ts";
import type { DenialAudit } from "./rpc/denial-audit.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "./rpc/errors.ts";
import { addHealth, Health } from "./rpc/health.ts";
import { Pipeline } from "./rpc/pipeline.ts";
import { addReflection } from "./rpc/reflection.ts";
import { reasonOf } from "./rpc/transport-errors.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import type { Validate, ValidateKnown } from "./validation/validate.ts";

const ADMIN_SERVICES: readonly DescService[] = [TokenAdmin, PrincipalAdmin, TenantAdmin, AuditLogDesc];
const DATA_SERVICES: readonly DescService[] = [TokenValidator, Authorization];

export interface ListenerDeps {
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  reasons(): readonly string[];
  readonly callers: Callers;
  readonly dataCallers: DataCallers;
  readonly denials: DenialAudit;
  readonly validate: Validate;
  readonly validateKnown: ValidateKnown;
  readonly policies: Policies;
  readonly admin: {
    readonly tokens: TokenManager;
    readonly bulk: BulkRevoke;
    readonly principals: PrincipalManager;
    readonly audit: AuditLog;
    readonly pages: PageTokens;
  };
}

export interface Listeners {
  readonly data: Listener;
  /** Absent in mode validate. */
  readonly admin: Listener | undefined;
  readonly ops: Listener;
  serving(yes: boolean): void;
  /**
   * Reloads the certificates. Returns false if a file is bad; the old state stays then, and the problem is reported.
   */
  reload(): boolean;
  /**
   * Stops serving in steps. Health reports NOT_SERVING. If somebody watches health, calls are still served for a while,
   * so that watchers can turn away. Then every listener stops accepting and finishes the calls in progress. Takes at
   * most `graceMs`, plus a second for the ops listener. With less than 3 s there is no such while. Never rejects.
   */
  drain(graceMs: number): Promise<void>;
}

/**
 * Health watchers are notified immediately and need a moment to turn away; pollers need one poll interval to notice.
 */
const WATCHER_DELAY_MS = 1_000;
const POLLER_DELAY_MS = 5_000;
/** The longest usual poll interval: Kubernetes polls every 10 s. */
const POLLED_LATELY_MS = 15_000;
/** The part of a drain's time that is kept for calls in progress. */
const TO_FINISH_MS = 3_000;
const OPS_GRACE_MS = 1_000;

/** Opens the listeners, in the order in which they are needed. Rejects with StartError; then none is left open. */
export async function openListeners(config: Config, deps: ListenerDeps): Promise<Listeners> {
  let polled = Number.NEGATIVE_INFINITY;
  const notePoll = () => void (polled = deps.clock.mono());
  const healthOf = (services: readonly DescService[]) =>
    new Health(
      services.map(({ typeName }) => typeName),
      notePoll,
    );
  const health = {
    data: healthOf(DATA_SERVICES),
    admin: healthOf(ADMIN_SERVICES),
    ops: healthOf([...DATA_SERVICES, ...ADMIN_SERVICES]),
  };
  const admission = createAdmission({
    clock: deps.clock,
    onShed: (klass) => deps.telemetry.shed(klass),
    utilization: loopUtilization(),
    memory: memoryInUse,
  });
  const drain = { admin: new AbortController(), ops: new AbortController() };
  let draining = false;
  const reasons = () => {
    notePoll(); // `/readyz`
    return deps.reasons();
  };
  const opened: Listener[] = [];
  try {
    const ops = await opsListener(config, { ...deps, reasons }, health.ops, drain.ops.signal);
    opened.push(ops);
    const admin =
      config.mode === "full"
        ? await adminListener(config, deps, health.admin, admission, drain.admin.signal)
        : undefined;
    if (admin !== undefined) opened.push(admin);
    const data = await dataListener(config, deps, health.data, admission);
    opened.push(data);
    return {
      data,
      admin,
      ops,
      serving: (yes) => {
        for (const each of Object.values(health)) each.set(yes && !draining);
      },
      reload: () => opened.map((listener) => listener.reloadTls()).every(Boolean),
      async drain(graceMs) {
        draining = true;
        const pollers = deps.clock.mono() - polled < POLLED_LATELY_MS;
        const watchers = Object.values(health).some(({ watched }) => watched);
        for (const each of Object.values(health)) each.set(false);
        const wanted = pollers ? POLLER_DELAY_MS : watchers ? WATCHER_DELAY_MS : 0;
        const delay = Math.max(0, Math.min(wanted, graceMs - TO_FINISH_MS));
        await new Promise((resolve) => setTimeout(resolve, delay));
        drain.admin.abort();
        await Promise.all([data.drain(graceMs - delay), admin?.drain(graceMs - delay)]);
        drain.ops.abort(); // probes see NOT_SERVING to the end
        await ops.drain(OPS_GRACE_MS);
        admission.close();
      },
    };
  } catch (error) {
    await Promise.all(opened.map((listener) => listener.close()));
    admission.close();
    throw error;
  }
}

function opsListener(config: Config, deps: ListenerDeps, health: Health, drain: AbortSignal): Promise<Listener> {
  const limits = listenerLimits("ops");
  const budget = new ByteBudget(limits.bufferedBytes);
  const { registry } = deps.telemetry;
  return openListener({
    name: "ops",
    bind: config.listeners.ops.bind,
    unixMode: config.listeners.ops.unix_mode,
    limits,
    budget,
    handler: opsHandler({
      limits,
      budget,
      health,
      metrics: async () => ({ type: registry.contentType, body: await registry.metrics() }),
      reasons: deps.reasons,
      drain,
    }),
    onTrouble: (name, error) => deps.telemetry.trouble(name, error, { listener: "ops" }),
  });
}

function adminListener(
  config: Config,
  deps: ListenerDeps,
  health: Health,
  admission: Admission,
  drain: AbortSignal,
): Promise<Listener> {
  const limits = listenerLimits("admin");
  const budget = new ByteBudget(limits.bufferedBytes);
  const proxies = new TrustedProxies(config.listeners.admin.trusted_proxies);
  const { clock, telemetry, callers, denials, admin } = deps;
  const called = (line: Parameters<Telemetry["called"]>[0]) => telemetry.called(line);
  const pipeline = new Pipeline({ clock, proxies, callers, admission, called, denials });
  const rpc = connectHandler({
    routes(router) {
      router.service(TokenAdmin, tokenAdmin(admin));
      router.service(PrincipalAdmin, principalAdmin(admin));
      router.service(TenantAdmin, tenantAdmin(admin));
      router.service(AuditLogDesc, auditLog(admin));
      addHealth(router, health, "all");
      addReflection(router, ADMIN_SERVICES);
    },
    gate: pipeline.gate,
    refused: ({ method, requestId, fault, error }) =>
      called({ requestId, method, code: statusName(error), reason: reasonOf(fault), seconds: 0, level: "info" }),
    interceptors: [pipeline.interceptor],
    grpcWeb: true,
    budget,
    streamsPerConnection: limits.streamsPerConnection,
    drain,
  });
  return openListener({
    name: "admin",
    bind: config.listeners.admin.bind,
    unixMode: config.listeners.admin.unix_mode,
    tls: tlsOf(config.listeners.admin.tls),
    limits,
    budget,
    handler: plainPaths(
      { "/openapi.json": openApiPage },
      revocationPath({ clock, pipeline, tokens: admin.tokens }, rpc),
    ),
    onTrouble: (name, error) => telemetry.trouble(name, error, { listener: "admin" }),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("admin", address, why),
    onCertificate: (endsAt) => telemetry.certificate("admin", endsAt),
  });
}

async function dataListener(
  config: Config,
  deps: ListenerDeps,
  health: Health,
  admission: Admission,
): Promise<Listener> {
  const { bind, unix_mode, tls, http2, max_connections: maxSockets } = config.listeners.data;
  const trust = trustsPeers(config.listeners.data) ? "trusted" : "untrusted";
  const limits = { ...listenerLimits(trust === "trusted" ? "data-trusted" : "data"), maxSockets };
  const { clock, telemetry, dataCallers, validate } = deps;
  const onHandlerError = (error: unknown) => telemetry.trouble("handler_failed", error, { listener: "data" });
  const common = {
    clock,
    callers: dataCallers,
    admission,
    peerOf: peersByCall(tls?.allowed_sans ?? []),
    answered: (method: string) => telemetry.answered(method),
    failed: (method: string, requestId: string, error: unknown, address: string) => {
      const { reason, cause } = asAppError(error);
      const code = statusName(toConnectError(error));
      const level = levelOf(reason);
      telemetry.called({ requestId, method, code, reason, ...from(reason, address), seconds: 0, level, cause });
    },
  };
  const routes = dataRoutes({
    ...common,
    wire: new ValidateTokenCodec(validate, deps.validateKnown),
    health,
    checks: {
      ...common,
      validate,
      authz: new ExtAuthz(validate, deps.policies, deps.validateKnown),
      httpCheck: new HttpCheck(validate, deps.policies),
    },
  });
  const budget = new ByteBudget(limits.bufferedBytes);
  const unix = bind.startsWith("unix:");
  const own = createUnaryServer({
    routes,
    limits: builtinLimits(limits),
    budget,
    unix,
    onHandlerError,
    onConnectionError: ({ reason, error }) => {
      if (error !== undefined) telemetry.trouble("connection_failed", error, { listener: "data", reason });
    },
  });
  const listener = await openListener({
    name: "data",
    bind,
    unixMode: unix_mode,
    tls: tlsOf(tls),
    limits,
    budget,
    handler: mountHttp1({ routes, limits: h1HeadLimits(limits), budget, unix, onHandlerError }) as HttpHandler,
    ...(http2 === "builtin"
      ? { http2: (socket: Socket, head: Buffer) => own.accept(socket, head, trust) }
      : { onStream: mountNode({ routes, limits: h2HeadLimits(limits), budget, unix, onHandlerError }) }),
    onTrouble: (name, error) => telemetry.trouble(name, error, { listener: "data" }),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("data", address, why),
    onCertificate: (endsAt) => telemetry.certificate("data", endsAt),
  });
  return {
    ...listener,
    async drain(graceMs) {
      // The built-in server drains first, because the listener destroys all remaining connections.
      await Promise.all([own.drain(graceMs), listener.drain(graceMs + 100)]);
    },
  };
}

/** The share of memory in use, 0 to 1: of the container or machine, or of the heap's own limit. */
function memoryInUse(): number {
  const limit = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  const { used_heap_size, heap_size_limit } = getHeapStatistics();
  return Math.max(process.memoryUsage.rss() / limit, used_heap_size / heap_size_limit);
}

/** Measures how busy the event loop was since the last call, 0 to 1. */
function loopUtilization(): () => number {
  let last = performance.eventLoopUtilization();
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, last);
    last = now;
    return utilization;
  };
}

function tlsOf(tls: Config["listeners"]["data"]["tls"]) {
  if (tls === undefined) return undefined;
  return {
    certFile: tls.cert_file,
    keyFile: tls.key_file,
    clientCaFile: tls.client_ca_file,
    allowedSans: tls.allowed_sans,
  };
}

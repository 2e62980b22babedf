import type { Socket } from "node:net";
import { totalmem } from "node:os";
import { getHeapStatistics } from "node:v8";
import type { DescService } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import type { BulkRevoke } from "./app/bulk-revoke.ts";
import type { PrincipalManager } from "./app/principal-manager.ts";
import type { TokenManager } from "./app/token-manager.ts";
import type { Validate, ValidateKnown } from "./app/validate.ts";
import { type Config, trustsPeers } from "./config.ts";
import { Authorization } from "./gen/envoy/service/auth/v3/external_auth_pb.ts";
import { AuditLog as AuditLogDesc } from "./gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "./gen/sallyport/v1/principal_admin_pb.ts";
import { TenantAdmin } from "./gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "./gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator } from "./gen/sallyport/v1/token_validator_pb.ts";
import { ByteBudget } from "./http2/limits.ts";
import { mountHttp1 } from "./http2/mount-http1.ts";
import { mountNode } from "./http2/mount-node.ts";
import { createUnaryServer } from "./http2/server.ts";
import type { AuditLog, Clock } from "./ports.ts";
import { connectListener } from "./servers/connect-handler.ts";
import { dataRoutes } from "./servers/data-routes.ts";
import { type Door, openDoor } from "./servers/door.ts";
import { doorLimits } from "./servers/limits.ts";
import { opsListener } from "./servers/ops.ts";
import { type DoorListener, peersByCall } from "./servers/peers.ts";
import { plainPaths } from "./servers/plain-paths.ts";
import { revocationPath } from "./servers/revocation-path.ts";
import { type Admission, createAdmission } from "./services/admission.ts";
import { auditLog } from "./services/audit-log.ts";
import { bounds } from "./services/bounds.ts";
import { callLog } from "./services/call-log.ts";
import type { Callers } from "./services/caller.ts";
import { TrustedProxies } from "./services/client-address.ts";
import type { DataCallers } from "./services/data-caller.ts";
import { reasonOf } from "./services/decode-errors.ts";
import type { Denials } from "./services/denials.ts";
import { asAppError, from, levelOf, toConnectError } from "./services/errors.ts";
import { ExtAuthz } from "./services/ext-authz.ts";
import { adminGate } from "./services/gates.ts";
import { addHealth, Health } from "./services/health.ts";
import { HttpCheck } from "./services/http-check.ts";
import { openApiPage } from "./services/openapi.ts";
import type { PageTokens } from "./services/page-token.ts";
import type { Policies } from "./services/policy.ts";
import { principalAdmin } from "./services/principal-admin.ts";
import { addReflection } from "./services/reflection.ts";
import { tenantAdmin } from "./services/tenant-admin.ts";
import { tokenAdmin } from "./services/token-admin.ts";
import { ValidateWire } from "./services/validate-wire.ts";
import type { Telemetry } from "./telemetry.ts";

const ADMIN_SERVICES: readonly DescService[] = [TokenAdmin, PrincipalAdmin, TenantAdmin, AuditLogDesc];
const DATA_SERVICES: readonly DescService[] = [TokenValidator, Authorization];

export interface DoorDeps {
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  reasons(): readonly string[];
  readonly callers: Callers;
  readonly dataCallers: DataCallers;
  readonly denials: Denials;
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

export interface Doors {
  readonly data: Door;
  /** Absent in mode validate. */
  readonly admin: Door | undefined;
  readonly ops: Door;
  serving(yes: boolean): void;
  /** Reads certificates again. A bad file keeps the old state and is reported; false then. */
  reload(): boolean;
  /**
   * NOT_SERVING; where somebody watches health, a while in which they can turn away and all is served as before; then
   * every door stops accepting and finishes what is under way. Takes `graceMs`, and a second for the ops
   * door, at most; with less than 3 s there is no such while. Never rejects.
   */
  drain(graceMs: number): Promise<void>;
}

/** Who watches is told at once, and needs a moment; who polls may come but every few seconds. */
const WATCHER_DELAY_MS = 1_000;
const POLLER_DELAY_MS = 5_000;
/** Nobody who polls comes less often: Kubernetes asks every 10 s. */
const POLLED_LATELY_MS = 15_000;
/** What a drain keeps of its time for the calls under way. */
const TO_FINISH_MS = 3_000;
const OPS_GRACE_MS = 1_000;

/** Opens the doors, in the order in which they are needed. Rejects with BindError; then none is left open. */
export async function openDoors(config: Config, deps: DoorDeps): Promise<Doors> {
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
  const opened: Door[] = [];
  try {
    const ops = await opsDoor(config, { ...deps, reasons }, health.ops, drain.ops.signal);
    opened.push(ops);
    const admin =
      config.mode === "full" ? await adminDoor(config, deps, health.admin, admission, drain.admin.signal) : undefined;
    if (admin !== undefined) opened.push(admin);
    const data = await dataDoor(config, deps, health.data, admission);
    opened.push(data);
    return {
      data,
      admin,
      ops,
      serving: (yes) => {
        for (const each of Object.values(health)) each.set(yes && !draining);
      },
      reload: () => opened.map((door) => door.reloadTls()).every(Boolean),
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
    await Promise.all(opened.map((door) => door.close()));
    admission.close();
    throw error;
  }
}

function opsDoor(config: Config, deps: DoorDeps, health: Health, drain: AbortSignal): Promise<Door> {
  const limits = doorLimits("ops");
  const budget = new ByteBudget(limits.bufferedBytes);
  const { registry } = deps.telemetry;
  return openDoor({
    name: "ops",
    bind: config.doors.ops.bind,
    unixMode: config.doors.ops.unix_mode,
    limits,
    budget,
    listener: opsListener({
      limits,
      budget,
      health,
      metrics: async () => ({ type: registry.contentType, body: await registry.metrics() }),
      reasons: deps.reasons,
      drain,
    }),
    onTrouble: (what, error) => deps.telemetry.trouble(what, error),
  });
}

function adminDoor(
  config: Config,
  deps: DoorDeps,
  health: Health,
  admission: Admission,
  drain: AbortSignal,
): Promise<Door> {
  const limits = doorLimits("admin");
  const budget = new ByteBudget(limits.bufferedBytes);
  const proxies = new TrustedProxies(config.doors.admin.trusted_proxies);
  const { clock, telemetry, callers, denials, admin } = deps;
  const called = (line: Parameters<Telemetry["called"]>[0]) => telemetry.called(line);
  const rpc = connectListener({
    routes(router) {
      router.service(TokenAdmin, tokenAdmin(admin));
      router.service(PrincipalAdmin, principalAdmin(admin));
      router.service(TenantAdmin, tenantAdmin(admin));
      router.service(AuditLogDesc, auditLog(admin));
      addHealth(router, health, "all");
      addReflection(router, ADMIN_SERVICES);
    },
    gate: adminGate({
      clock,
      called,
      callers,
      denials,
      proxies,
    }),
    refused: ({ method, requestId, fault, error }) =>
      called({ requestId, method, code: Code[error.code], reason: reasonOf(fault), seconds: 0, level: "info" }),
    interceptors: [
      callLog({ clock, called, denials, okLevel: "info" }), // outermost: sees every outcome
      admission.interceptor, // before any work
      bounds(), // before any handler
    ],
    grpcWeb: true,
    budget,
    streamsPerConnection: limits.streamsPerConnection,
    drain,
  });
  return openDoor({
    name: "admin",
    bind: config.doors.admin.bind,
    unixMode: config.doors.admin.unix_mode,
    tls: tlsOf(config.doors.admin.tls),
    limits,
    budget,
    listener: plainPaths(
      { "/openapi.json": openApiPage },
      revocationPath({ clock, admission, called, denials, callers, tokens: admin.tokens, proxies }, rpc),
    ),
    onTrouble: (what, error) => telemetry.trouble(what, error),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("admin", address, why),
  });
}

async function dataDoor(config: Config, deps: DoorDeps, health: Health, admission: Admission): Promise<Door> {
  const { bind, unix_mode, tls, http2, max_connections: maxSockets } = config.doors.data;
  const trust = trustsPeers(config.doors.data) ? "trusted" : "untrusted";
  const limits = { ...doorLimits(trust === "trusted" ? "data-trusted" : "data"), maxSockets };
  const { clock, telemetry, dataCallers, validate } = deps;
  const onHandlerError = (error: unknown) => telemetry.trouble("a handler failed", error);
  const common = {
    clock,
    callers: dataCallers,
    admission,
    peerOf: peersByCall(tls?.allowed_sans ?? []),
    answered: (method: string) => telemetry.answered(method),
  };
  const routes = dataRoutes({
    ...common,
    wire: new ValidateWire(validate, deps.validateKnown),
    health,
    checks: {
      ...common,
      validate,
      authz: new ExtAuthz(validate, deps.policies, deps.validateKnown),
      httpCheck: new HttpCheck(validate, deps.policies),
    },
    failed: (method, requestId, error, address) => {
      const { reason, cause } = asAppError(error);
      const code = Code[toConnectError(error).code];
      const level = levelOf(reason);
      telemetry.called({ requestId, method, code, reason, ...from(reason, address), seconds: 0, level, cause });
    },
  });
  const budget = new ByteBudget(limits.bufferedBytes);
  const own = createUnaryServer({
    routes,
    budget,
    onHandlerError,
    onConnectionError: ({ reason, error }) => {
      if (error !== undefined) telemetry.trouble(`data door: ${reason}`, error);
    },
  });
  const door = await openDoor({
    name: "data",
    bind,
    unixMode: unix_mode,
    tls: tlsOf(tls),
    limits,
    budget,
    listener: mountHttp1({ routes, budget, onHandlerError }) as DoorListener,
    ...(http2 === "own"
      ? { http2: (socket: Socket, head: Buffer) => own.accept(socket, head, trust) }
      : { onStream: mountNode({ routes, budget, onHandlerError }) }),
    onTrouble: (what, error) => telemetry.trouble(what, error),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("data", address, why),
  });
  return {
    ...door,
    async drain(graceMs) {
      // The own server first: the door destroys whatever is left.
      await Promise.all([own.drain(graceMs), door.drain(graceMs + 100)]);
    },
  };
}

/** Memory in use as a part of what there is, 0 to 1: of the container or machine, and of the heap's own limit. */
function memoryInUse(): number {
  const limit = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  const { used_heap_size, heap_size_limit } = getHeapStatistics();
  return Math.max(process.memoryUsage.rss() / limit, used_heap_size / heap_size_limit);
}

/** How busy the event loop was since the last call, 0 to 1. */
function loopUtilization(): () => number {
  let last = performance.eventLoopUtilization();
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, last);
    last = now;
    return utilization;
  };
}

function tlsOf(tls: Config["doors"]["data"]["tls"]) {
  if (tls === undefined) return undefined;
  return {
    certFile: tls.cert_file,
    keyFile: tls.key_file,
    clientCaFile: tls.client_ca_file,
    allowedSans: tls.allowed_sans,
  };
}

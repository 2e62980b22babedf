import type { Socket } from "node:net";
import type { DescService } from "@bufbuild/protobuf";
import type { Clock } from "../domain/clock.ts";
import type { Feed } from "../feed/server.ts";
import { Authorization } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";
import { TokenValidator } from "../gen/sallyport/v1/token_validator_pb.ts";
import { ByteBudget } from "../http2/server/limits.ts";
import { createUnaryServer } from "../http2/server/server.ts";
import { mountHttp1 } from "../http2/unary/mount-http1.ts";
import { mountNode } from "../http2/unary/mount-node.ts";
import { builtinLimits, h1HeadLimits, h2HeadLimits, listenerLimits } from "../listen/limits.ts";
import { type Listener, openListener } from "../listen/listener.ts";
import { type HttpHandler, peersByCall } from "../listen/peers.ts";
import type { TlsFiles } from "../listen/tls.ts";
import type { Admission } from "../rpc/admission.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "../rpc/errors.ts";
import type { Health } from "../rpc/health.ts";
import type { JwksPage } from "../rpc/jwks.ts";
import type { Telemetry } from "../telemetry/telemetry.ts";
import type { Tracing } from "../telemetry/tracing.ts";
import type { Validate, ValidateKnown } from "../validation/validate.ts";
import { ExtAuthz } from "./check/ext-authz.ts";
import { HttpCheck } from "./check/http-check.ts";
import type { DataCallers } from "./data-caller.ts";
import type { Policies } from "./policy.ts";
import { dataRoutes } from "./routes.ts";
import { tracedRoutes } from "./traced-routes.ts";
import { ValidateTokenCodec } from "./validate-token.ts";
import { WatchChangesCodec } from "./watch-changes.ts";

export const DATA_SERVICES: readonly DescService[] = [TokenValidator, Authorization];

export interface DataListenerOptions {
  readonly bind: string;
  readonly unixMode: number | undefined;
  /** In a worker: called just before the primary is asked for the socket. */
  readonly binding: (() => void) | undefined;
  readonly tls: TlsFiles | undefined;
  readonly http2: "builtin" | "node";
  readonly maxConnections: number;
  /** `trusted`: every client that can connect may ask. */
  readonly trust: "trusted" | "untrusted";
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  readonly callers: DataCallers;
  readonly admission: Admission;
  readonly validate: Validate;
  readonly validateKnown: ValidateKnown;
  /** As `validate`, with an entry for a client cache. */
  readonly validateWithEntry: Validate;
  readonly feed: Feed;
  readonly policies: Policies;
  readonly jwks: () => JwksPage;
  readonly health: Health;
  /** Undefined: no traces. */
  readonly tracing: Tracing | undefined;
}

/** Opens the data listener: HTTP/2 by the built-in server or by `node:http2`, HTTP/1.1 by Node, the same routes on each. */
export async function openDataListener(options: DataListenerOptions): Promise<Listener> {
  const { bind, tls, trust, clock, telemetry, callers, admission, validate, validateKnown, policies } = options;
  const limits = {
    ...listenerLimits(trust === "trusted" ? "data-trusted" : "data"),
    maxSockets: options.maxConnections,
  };
  const onHandlerError = (error: unknown) => telemetry.trouble("handler_failed", error, { listener: "data" });
  const common = {
    clock,
    callers,
    admission,
    peerOf: peersByCall(tls?.allowedSans ?? []),
    answered: (method: string) => telemetry.answered(method),
    failed: (method: string, requestId: string, error: unknown, address: string) => {
      const { reason, cause } = asAppError(error);
      const code = statusName(toConnectError(error));
      const level = levelOf(reason);
      telemetry.called({ requestId, method, code, reason, ...from(reason, address), seconds: 0, level, cause });
    },
  };
  const untraced = dataRoutes({
    ...common,
    wire: new ValidateTokenCodec(validate, validateKnown, options.validateWithEntry),
    feed: new WatchChangesCodec(options.feed),
    health: options.health,
    jwks: options.jwks,
    checks: {
      ...common,
      validate,
      authz: new ExtAuthz(validate, policies, validateKnown),
      httpCheck: new HttpCheck(validate, policies),
    },
  });
  const routes = tracedRoutes(untraced, options.tracing);
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
    unixMode: options.unixMode,
    binding: options.binding,
    tls,
    limits,
    budget,
    handler: mountHttp1({ routes, limits: h1HeadLimits(limits), budget, unix, onHandlerError }) as HttpHandler,
    ...(options.http2 === "builtin"
      ? { http2: (socket: Socket, head: Buffer) => own.accept(socket, head, trust) }
      : { onStream: mountNode({ routes, limits: h2HeadLimits(limits), budget, unix, onHandlerError }) }),
    onTrouble: (name, error) => telemetry.trouble(name, error, { listener: "data" }),
    onHandshakeFailed: (address, why) => telemetry.handshakeFailed("data", address, why),
    onCertificate: (endsAt) => telemetry.certificate("data", endsAt),
  });
  return {
    ...listener,
    async drain(graceMs) {
      // Client caches turn to another instance, and take their leases along.
      options.feed.stop();
      // The built-in server drains first, because the listener destroys all remaining connections.
      await Promise.all([own.drain(graceMs), listener.drain(graceMs + 100)]);
    },
  };
}

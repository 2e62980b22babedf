import type { DescMethod, DescService } from "@bufbuild/protobuf";
import {
  type ConnectError,
  type ConnectRouter,
  type ContextValues,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
  type Interceptor,
  type MethodImpl,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { compressionGzip } from "@connectrpc/connect-node";
import { toConnectError } from "../rpc/errors.ts";
import { jsonTextOf } from "../rpc/json-times.ts";
import { methodOf, type RpcLimits } from "../rpc/methods.ts";
import { callStateKey, decodeGuard, wireError } from "../rpc/transport-errors.ts";
import { RESPONSE_MAX_BYTES } from "./limits.ts";

export interface RpcRouteOptions {
  /** Registers services, as with connect's own adapters. Methods without an implementation answer UNIMPLEMENTED. */
  routes(router: ConnectRouter): void;
  /**
   * Runs after the headers and before the body is read. It authenticates the caller and checks its permission, and
   * refuses by throwing. It finds the peer under `peerKey` and stores its results in `context.values`.
   */
  readonly gate?: (context: HandlerContext) => void | Promise<void>;
  /** The first is outermost. They see only decoded messages. */
  readonly interceptors?: readonly Interceptor[];
  /** Replaces the limits of the method's row. */
  readonly limits?: (method: DescMethod) => RpcLimits;
  readonly grpcWeb: boolean;
  /**
   * Aborted when the listener drains: the signals of server streams abort and their requests end. Unary calls continue.
   */
  readonly drain?: AbortSignal;
}

export interface RpcRoute {
  readonly handle: UniversalHandler;
  /** Answers, in the protocol of the request, with the error in its context values. Reads no body. */
  readonly refuse: UniversalHandler;
  readonly limits: RpcLimits;
  readonly stream: boolean;
}

const refusalKey = createContextKey<ConnectError>(wireError("internal"), { description: "refusal" });

/** Context values that make `Route.refuse` answer with this error. */
export function refusal(error: ConnectError): ContextValues {
  return createContextValues().set(refusalKey, error);
}

/** One handler and one refuser for each method, under the limits of its row. */
export function rpcRoutes(options: RpcRouteOptions): Map<string, RpcRoute> {
  const routes = new Map<string, RpcRoute>();
  const gate = async (context: HandlerContext): Promise<void> => {
    try {
      await options.gate?.(context);
    } catch (error) {
      throw toConnectError(error);
    }
    context.values.get(callStateKey).admitted = true;
  };
  const common = {
    grpcWeb: options.grpcWeb,
    writeMaxBytes: RESPONSE_MAX_BYTES,
  };
  const add = (method: DescMethod, register: (router: ConnectRouter) => void): void => {
    const { path, ...row } = methodOf(method);
    const limits = options.limits?.(method) ?? row.limits;
    const perRoute = {
      ...common,
      // Misspelt fields, broken UTF-8 and impossible dates are errors and are not ignored.
      jsonOptions: { ignoreUnknownFields: false, textDecoder: jsonTextOf(method.input) },
      readMaxBytes: limits.readMaxBytes,
      acceptCompression: limits.gzip ? [compressionGzip] : [],
      interceptors: [decodeGuard, ...(options.interceptors ?? [])],
    };
    const handler = (requestGate: (context: HandlerContext) => void | Promise<void>): UniversalHandler => {
      const router = createConnectRouter({ ...perRoute, requestGate });
      register(router);
      return router.handlers.find((one) => one.requestPath === path)!;
    };
    const handle = handler(gate);
    const refuse = handler((context) => {
      throw context.values.get(refusalKey);
    });
    routes.set(path, { handle, refuse, limits, stream: handle.method.methodKind !== "unary" });
  };
  const router: ConnectRouter = {
    handlers: [],
    service<S extends DescService>(service: S, implementation: Partial<ServiceImpl<S>>) {
      for (const method of service.methods) add(method, (one) => void one.service(service, implementation));
      return router;
    },
    rpc<M extends DescMethod>(method: M, implementation: MethodImpl<M>) {
      add(method, (one) => void one.rpc(method, implementation));
      return router;
    },
  };
  options.routes(router);
  return routes;
}

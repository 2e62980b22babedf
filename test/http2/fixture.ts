// A listener on a free port with routes that the tests of this room share.
import type { AddressInfo } from "node:net";
import type { ConnectionError } from "../../src/http2/server/context.ts";
import type { ByteBudget, Limits } from "../../src/http2/server/limits.ts";
import type { UnaryServer } from "../../src/http2/server/server.ts";
import { connectMessage, grpcMessage, http, type Reply } from "../../src/http2/unary/reply.ts";
import type { Handler, UnaryCall, UnaryRoute } from "../../src/http2/unary/routes.ts";
import { createUnaryListener } from "./unary-listener.ts";

export interface Fixture {
  readonly port: number;
  readonly server: UnaryServer;
  readonly errors: ConnectionError[];
  readonly handlerErrors: unknown[];
  /** Resolves with the first connection error there was or will be. */
  readonly error: Promise<ConnectionError>;
  stop(): Promise<void>;
}

export interface FixtureOptions {
  readonly routes?: Readonly<Record<string, UnaryRoute>>;
  readonly prefix?: readonly (readonly [string, UnaryRoute])[];
  readonly limits?: Partial<Limits>;
  readonly budget?: ByteBudget;
  readonly trust?: "trusted" | "untrusted";
  readonly reads?: "shared" | "own";
}

export const route = (handler: Handler, more: Partial<UnaryRoute> = {}): UnaryRoute => ({
  handler,
  maxMessage: 65_536,
  deadlineMs: 5_000,
  ...more,
});

/** Answers with the message it was given, in the protocol it was asked in. */
export const echo: Handler = (message, call) => answerIn(call, message);

export function answerIn(call: UnaryCall, bytes: Uint8Array): Reply {
  if (call.protocol === "grpc") return grpcMessage(bytes);
  if (call.protocol === "http") return http(200, [["content-type", "text/plain"]], bytes);
  return connectMessage(bytes, call.protocol === "connect-json" ? "application/json" : "application/proto");
}

export async function start(options: FixtureOptions = {}): Promise<Fixture> {
  const errors: ConnectionError[] = [];
  const handlerErrors: unknown[] = [];
  const error = Promise.withResolvers<ConnectionError>();
  const { listener, server } = createUnaryListener({
    routes: {
      exact: new Map(Object.entries({ "/t/Echo": route(echo), ...options.routes })),
      prefix: options.prefix ?? [],
    },
    limits: options.limits,
    budget: options.budget,
    trust: options.trust ?? "trusted",
    reads: options.reads,
    onHttp1: (socket) => socket.destroy(),
    onConnectionError: (one) => {
      errors.push(one);
      error.resolve(one);
    },
    onHandlerError: (one) => handlerErrors.push(one),
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  return {
    port: (listener.address() as AddressInfo).port,
    server,
    errors,
    handlerErrors,
    error: error.promise,
    async stop() {
      server.close();
      await new Promise((resolve) => listener.close(resolve));
    },
  };
}

/** Numbers that are the same in every run of a seed. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
}

import { ByteBudget } from "../http2/server/limits.ts";
import { connectHandler } from "../listen/connect-adapter.ts";
import type { ListenerLimits } from "../listen/limits.ts";
import type { HttpHandler } from "../listen/peers.ts";
import { type Page, plainPaths } from "../listen/plain-paths.ts";
import { addHealth, type Health } from "../rpc/health.ts";
import { addReflection } from "../rpc/reflection.ts";

export interface OpsOptions {
  readonly limits: ListenerLimits;
  readonly health: Health;
  /** The Prometheus text, and its content type. */
  metrics(): Promise<{ readonly type: string; readonly body: string }>;
  /**
   * The reasons why the program cannot answer now; empty if it can. Fixed words without secrets, because everyone who
   * reaches the listener can read them.
   */
  reasons(): readonly string[];
  /** The byte budget that its requests share with the rest of the listener. */
  readonly budget?: ByteBudget;
  /** Aborted when the listener drains, which ends Watch streams. */
  readonly drain?: AbortSignal;
}

/**
 * The ops listener: `/metrics`; `/healthz`, 200 as long as the event loop runs; `/readyz`, 200 or 503 with the reasons;
 * and gRPC health with Watch and reflection. It has no TLS and no callers, because probes come without credentials.
 */
export function opsHandler(options: OpsOptions): HttpHandler {
  const { limits, health } = options;
  const rpc = connectHandler({
    routes: (router) => {
      addHealth(router, health, "all");
      addReflection(router, []);
    },
    budget: options.budget ?? new ByteBudget(limits.bufferedBytes),
    streamsPerConnection: limits.streamsPerConnection,
    grpcWeb: false,
    ...(options.drain === undefined ? {} : { drain: options.drain }),
  });
  return plainPaths(
    {
      "/metrics": () => options.metrics(),
      "/healthz": () => json(200, { status: "alive" }),
      "/readyz": () => {
        const reasons = options.reasons();
        const ready = health.serving && reasons.length === 0;
        return json(ready ? 200 : 503, { status: ready ? "ready" : "not ready", reasons });
      },
    },
    rpc,
  );
}

function json(status: number, body: object): Page {
  return { status, type: "application/json", body: JSON.stringify(body) };
}

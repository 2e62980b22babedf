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
  /** Why the program cannot answer now; empty when it can. Fixed words, no secret: anybody who reaches the listener reads them. */
  reasons(): readonly string[];
  /** What its requests share with what else the listener holds. */
  readonly budget?: ByteBudget;
  /** Aborted when the listener drains: Watch streams end. */
  readonly drain?: AbortSignal;
}

/**
 * The ops listener: `/metrics`; `/healthz`, 200 as long as the event loop runs; `/readyz`, 200 or 503 with the reasons; and
 * gRPC health with Watch and reflection. Never TLS, never a caller: probes come without credentials.
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

import { ByteBudget } from "../http2/server/limits.ts";
import { listenerLimits } from "../listen/limits.ts";
import { type Listener, openListener } from "../listen/listener.ts";
import type { Health } from "../rpc/health.ts";
import type { Telemetry } from "../telemetry/telemetry.ts";
import { opsHandler } from "./ops.ts";

export interface OpsListenerOptions {
  readonly bind: string;
  readonly unixMode: number | undefined;
  readonly telemetry: Telemetry;
  /** The page of all metrics. */
  readonly metrics: () => Promise<string>;
  readonly reasons: () => readonly string[];
  readonly health: Health;
  /** Aborted when health watches must end. */
  readonly drain: AbortSignal;
}

/** Opens the ops listener: always cleartext. */
export function openOpsListener(options: OpsListenerOptions): Promise<Listener> {
  const { bind, unixMode, telemetry, metrics, reasons, health, drain } = options;
  const limits = listenerLimits("ops");
  const budget = new ByteBudget(limits.bufferedBytes);
  return openListener({
    name: "ops",
    bind,
    unixMode,
    limits,
    budget,
    handler: opsHandler({
      limits,
      budget,
      health,
      metrics: async () => ({ type: telemetry.registry.contentType, body: await metrics() }),
      reasons,
      drain,
    }),
    onTrouble: (name, error) => telemetry.trouble(name, error, { listener: "ops" }),
  });
}

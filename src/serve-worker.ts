import { setTimeout as delay } from "node:timers/promises";
import { build } from "./build.ts";
import { createSallyport } from "./sallyport.ts";
import { GRACE_MS, reload, Signals, surviveFaults, tracingOf } from "./serve.ts";
import { createTelemetry, prettyOutput } from "./telemetry/telemetry.ts";
import { Primary } from "./workers/worker.ts";

/** The primary has the same signal, if the whole process group has it, and knows better how to stop. */
const OWN_SIGNAL_MS = 500;
/** The time for everything that must end when the primary is gone. */
const ORPHAN_MS = 5_000;

/**
 * Runs a worker: the data listener alone, in mode validate, with the configuration that the primary sends. It ends when
 * the primary says so, or ends. Returns the exit code.
 */
export async function serveWorker(env: NodeJS.ProcessEnv): Promise<number> {
  const link = new Primary();
  const signals = new Signals();
  const { config, rowKey } = await link.start();
  const forPerson = config.log.format === "pretty" || (config.log.format === "auto" && process.stdout.isTTY);
  const telemetry = createTelemetry(config.log.level, forPerson ? prettyOutput(env) : undefined, link.id);
  surviveFaults(telemetry);
  const { version, commit } = build();
  telemetry.runs({ version, commit }, config.revocation.lease / 1000);
  telemetry.note("starting", { node: process.version, mode: config.mode });
  const tracing = await tracingOf(env, version, telemetry);
  try {
    const sallyport = await createSallyport(config, telemetry, tracing, { primary: { link, rowKey } });
    link.onMetrics = () => telemetry.registry.getMetricsAsJSON();
    link.onReload = (fresh) => reload(sallyport, () => fresh, telemetry);
    link.outliveDisconnect();
    const { because, graceMs, leastDelayMs } = await Promise.race([
      link.stop.then((stop) => ({ because: "primary", ...stop })),
      link.lost.then(() => ({ because: "primary_lost", graceMs: 0, leastDelayMs: 0 })),
      signals.stop.then(async (signal) => {
        await delay(OWN_SIGNAL_MS);
        return { because: signal, graceMs: GRACE_MS[signal], leastDelayMs: 0 };
      }),
    ]);
    void link.lost.then(() => setTimeout(() => process.exit(), ORPHAN_MS).unref());
    telemetry.note("stopping", { because });
    await sallyport.stop(graceMs, leastDelayMs);
    await link.report();
    return 0;
  } finally {
    await tracing?.close();
    telemetry.note("stopped");
    telemetry.flush();
    link.release();
  }
}

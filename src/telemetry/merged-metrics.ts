import { AggregatorRegistry, type Registry } from "prom-client";

/** One metric of `Registry.getMetricsAsJSON`, as far as it matters here. */
interface Snapshot {
  readonly name: string;
  readonly type: string;
  readonly aggregator?: string;
}

/** Metrics that the library would leave out, or add up although that says nothing. */
const INSTEAD: Readonly<Record<string, string>> = { process_start_time_seconds: "min", process_max_fds: "min" };

/**
 * The metrics of several processes as one page. Each metric says how its values are merged. The counts of a process that
 * ended stay: without them the sums would fall, and Prometheus would take that for a restart.
 */
export class MergedMetrics {
  readonly #latest = new Map<number, readonly Snapshot[]>();
  #ended: readonly Snapshot[] = [];

  /** `process` sent these metrics. */
  reported(process: number, metrics: readonly object[]): void {
    this.#latest.set(process, metrics as readonly Snapshot[]);
  }

  /** `process` has ended. Its counts after its last report are lost. */
  ended(process: number): void {
    const last = this.#latest.get(process) ?? [];
    this.#latest.delete(process);
    const counts = last.filter(({ type }) => type === "counter" || type === "histogram");
    this.#ended = merged([this.#ended, counts]).getMetricsAsArray() as unknown as Snapshot[];
  }

  /** The page for Prometheus; `own` are the metrics of this process. */
  async page(own: Registry): Promise<string> {
    const mine = (await own.getMetricsAsJSON()) as unknown as Snapshot[];
    return merged([mine, ...this.#latest.values(), this.#ended]).metrics();
  }
}

function merged(processes: readonly (readonly Snapshot[])[]): Registry {
  const chosen = processes.map((metrics) =>
    metrics.map((one) => (one.name in INSTEAD ? { ...one, aggregator: INSTEAD[one.name] } : one)),
  );
  return AggregatorRegistry.aggregate(chosen);
}

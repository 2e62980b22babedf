import type { MetricObject, Registry } from "prom-client";
import type { Verdict } from "../domain/decide.ts";
import type { Tier } from "./events.ts";

const VERDICTS: readonly Verdict[] = [
  "ALLOW",
  "INVALID_TOKEN",
  "INSUFFICIENT_SCOPE",
  "WRONG_AUDIENCE",
  "WRONG_TENANT",
  "ADDRESS_NOT_ALLOWED",
  "RATE_LIMITED",
  "UNDETERMINED",
];
const TIERS: readonly Tier[] = ["l1", "l2", "store", "none"];
/** Upper bounds of the buckets, seconds. */
const BUCKETS = [0.000005, 0.00002, 0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 1, 5];

/**
 * Counters of the hot path: plain arrays that become Prometheus metrics only when somebody reads them. A labelled
 * counter and histogram of the library would cost more than the decision itself.
 */
export class ValidationMetrics {
  readonly #listeners = new Map<string, Float64Array>();
  readonly #buckets: Float64Array[] = TIERS.map(() => new Float64Array(BUCKETS.length + 1));
  readonly #sums = new Float64Array(TIERS.length);

  constructor(registry: Registry) {
    const add = (metric: { name: string; get(): MetricObject }) =>
      registry.registerMetric(metric as unknown as Parameters<Registry["registerMetric"]>[0]);
    const name = "sallyport_validations_total";
    add({ name, get: () => object(name, "Answers about tokens", "counter", this.#counts()) });
    const seconds = "sallyport_validation_seconds";
    add({
      name: seconds,
      get: () => object(seconds, "Time to an answer about a token", "histogram", this.#times(seconds)),
    });
  }

  /** A counter for one listener: created once, called for each answer. */
  forListener(listener: string): (verdict: Verdict, tier: Tier, seconds: number) => void {
    let counts = this.#listeners.get(listener);
    if (counts === undefined)
      this.#listeners.set(listener, (counts = new Float64Array(VERDICTS.length * TIERS.length)));
    const mine = counts;
    const buckets = this.#buckets;
    const sums = this.#sums;
    return (verdict, tier, seconds) => {
      const t = tier === "l1" ? 0 : TIERS.indexOf(tier);
      const v = verdict === "ALLOW" ? 0 : VERDICTS.indexOf(verdict);
      mine[v * TIERS.length + t]!++;
      let b = 0;
      while (b < BUCKETS.length && seconds > BUCKETS[b]!) b++;
      buckets[t]![b]!++;
      sums[t]! += seconds;
    };
  }

  #counts() {
    const values = [];
    for (const [listener, counts] of this.#listeners) {
      for (const [v, verdict] of VERDICTS.entries()) {
        for (const [t, tier] of TIERS.entries()) {
          const value = counts[v * TIERS.length + t]!;
          if (value > 0) values.push({ labels: { verdict, tier, listener }, value });
        }
      }
    }
    return values;
  }

  #times(name: string) {
    const values = [];
    for (const [t, tier] of TIERS.entries()) {
      let total = 0;
      for (const [b, count] of this.#buckets[t]!.entries()) {
        total += count;
        const le = b < BUCKETS.length ? BUCKETS[b]! : "+Inf";
        values.push({ labels: { le, tier }, value: total, metricName: `${name}_bucket` });
      }
      values.push({ labels: { tier }, value: this.#sums[t]!, metricName: `${name}_sum` });
      values.push({ labels: { tier }, value: total, metricName: `${name}_count` });
    }
    return values;
  }
}

function object(name: string, help: string, type: "counter" | "histogram", values: unknown[]): MetricObject {
  return { name, help, type, aggregator: "sum", values } as unknown as MetricObject;
}

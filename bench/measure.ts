import { cycle } from "./cycle.ts";
import { h2load } from "./h2load.ts";
import { cpuMicros } from "./machine.ts";
import type { Tokens } from "./product.ts";
import type { Row } from "./rows.ts";
import type { Subject } from "./subject.ts";

/** One round of one row. */
export interface Sample {
  /** CPU time of the server process per call, in microseconds. */
  readonly cpu: number;
  /** CPU time per call of the proxy in front of it, if there is one. */
  readonly proxyCpu?: number;
  readonly perSecond: number;
  /** The share of one core that the server used. Well below 1, the load generator was the limit. */
  readonly core: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

/** The row's tier does not answer. Reported as not built, not as a failure. */
export class TierMissing extends Error {}

/**
 * Sends a row's load without measuring, so that code is compiled and caches are filled. Sends every body at least once.
 */
export async function warm(row: Row, subject: Subject, tokens: Tokens, folder: string, seconds: number): Promise<void> {
  const requests = row.requests(tokens);
  if (requests.length > 1) await cycle(subject.address, requests, row.shape, Math.max(seconds, 2), requests.length);
  else await h2load(subject.address, requests[0]!, row.shape, { folder, seconds });
}

/**
 * Measures one row for `seconds`, and its latencies for part of that time in addition. Rejects if answers come from
 * another tier.
 */
export async function measure(
  row: Row,
  subject: Subject,
  tokens: Tokens,
  folder: string,
  seconds: number,
): Promise<Sample> {
  const requests = row.requests(tokens);
  const load = (latencies: boolean) =>
    requests.length > 1
      ? cycle(subject.address, requests, row.shape, seconds)
      : h2load(subject.address, requests[0]!, row.shape, {
          folder,
          seconds: latencies ? seconds * 0.4 : seconds,
          latencies,
        });
  const before = await subject.tiers?.();
  const start = cpuMicros(subject.pid);
  const proxyStart = subject.proxy && cpuMicros(subject.proxy);
  const result = await load(false);
  const used = cpuMicros(subject.pid) - start;
  if (row.tier !== undefined) judgeTiers(row.tier, before!, await subject.tiers!());
  const { p50, p99 } = result.p50 === undefined ? await load(true) : result;
  return {
    cpu: used / result.calls,
    ...(proxyStart !== undefined && { proxyCpu: (cpuMicros(subject.proxy!) - proxyStart) / result.calls }),
    perSecond: result.calls / result.seconds,
    core: used / 1e6 / result.seconds,
    p50: p50!,
    p99: p99!,
  };
}

function judgeTiers(
  tier: string,
  before: Readonly<Record<string, number>>,
  after: Readonly<Record<string, number>>,
): void {
  const gained = (name: string) => (after[name] ?? 0) - (before[name] ?? 0);
  const all = ["l1", "l2", "store", "none"].reduce((sum, name) => sum + gained(name), 0);
  if (tier === "l2" && gained(tier) === 0) throw new TierMissing("not built: no answer rests on an L2 cache");
  if (all === 0 || gained(tier) / all < 0.95) {
    throw new Error(`only ${gained(tier)} of ${all} answers rest on ${tier}`);
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

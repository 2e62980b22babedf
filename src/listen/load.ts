import { totalmem } from "node:os";
import { getHeapStatistics } from "node:v8";

/**
 * The share of memory in use, 0 to 1: of the container or machine, which `processes` like this one share, or of the heap's
 * own limit.
 */
export function memoryInUse(processes: number): number {
  const limit = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  const { used_heap_size, heap_size_limit } = getHeapStatistics();
  return Math.max((processes * process.memoryUsage.rss()) / limit, used_heap_size / heap_size_limit);
}

/** Measures how busy the event loop was since the last call, 0 to 1. */
export function loopUtilization(): () => number {
  let last = performance.eventLoopUtilization();
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, last);
    last = now;
    return utilization;
  };
}

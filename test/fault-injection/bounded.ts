import { setTimeout as delay } from "node:timers/promises";

/** Returns the promise's own outcome. Rejects, and names the work, if it takes longer. */
export async function bounded<T>(work: Promise<T>, ms: number, what: string): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what} did not end within ${ms} ms`)), ms);
  work.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Returns true if the condition holds within that time. A loaded machine needs longer than a quiet one. */
export async function until(holds: () => boolean | Promise<boolean>, withinMs = 15_000, restMs = 25): Promise<boolean> {
  for (const end = performance.now() + withinMs; ; await delay(restMs)) {
    if (await holds()) return true;
    if (performance.now() >= end) return false;
  }
}

import { setTimeout as delay } from "node:timers/promises";

/** The promise's own outcome; a rejection that names the work where it takes longer than that. */
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

/** Whether it comes to hold within that time; a loaded machine takes longer to what a quiet one has at once. */
export async function until(holds: () => boolean | Promise<boolean>, withinMs = 15_000, restMs = 25): Promise<boolean> {
  for (const end = performance.now() + withinMs; ; await delay(restMs)) {
    if (await holds()) return true;
    if (performance.now() >= end) return false;
  }
}

import type { Clock, Timers } from "./clock.ts";

/** The value of a promise that never rejects, or undefined once the deadline passes. */
export function withDeadline<T>(
  deps: { readonly clock: Clock; readonly timers: Timers },
  promise: Promise<T | undefined>,
  deadline: number,
): Promise<T | undefined> {
  const left = deadline - deps.clock.mono();
  if (left <= 0) return Promise.resolve(undefined);
  return new Promise((resolve) => {
    const cancel = deps.timers.after(left, () => resolve(undefined));
    void promise.then((value) => {
      cancel();
      resolve(value);
    });
  });
}

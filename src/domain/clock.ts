/** All time comes from here. Milliseconds. */
export interface Clock {
  /** CLOCK_MONOTONIC: never steps. Leases, waits and deadlines. */
  mono(): number;
  /** Since 1970. Session tokens and certificates only; never a lease, a cache lifetime or an expiry. */
  wall(): number;
}

/** Timers of this process, by its monotonic clock. A timer may fire late; it never decides whether an answer is fresh. */
export interface Timers {
  /** Runs once, not before `ms` have passed. Returns what cancels it. */
  after(ms: number, run: () => void): () => void;
}

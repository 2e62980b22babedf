/** The only source of time. Milliseconds. */
export interface Clock {
  /** CLOCK_MONOTONIC, which never steps. For leases, waits and deadlines. */
  mono(): number;
  /**
   * Milliseconds since 1970. For session tokens and certificates only; never for a lease, a cache lifetime or an
   * expiry.
   */
  wall(): number;
}

/** Timers on this process's monotonic clock. A timer may fire late; it never decides that an answer is fresh. */
export interface Timers {
  /** Runs `run` once, at the earliest after `ms`. Returns a function that cancels it. */
  after(ms: number, run: () => void): () => void;
}

import type { Config } from "../config/schema.ts";
import type { Verdict } from "../domain/decide.ts";

/*
 * The messages of the primary and its workers, over the channel that Node opens between them. Secrets go this way
 * only, because every user of the machine can read arguments, and some can read the environment.
 */

export interface Start {
  /** The worker's own configuration: its share of caches and connections. */
  readonly config: Config;
  /** Makes the secrets of the rows in the registry, so that the primary can delete the row of a worker that ended. */
  readonly rowKey: Uint8Array;
}

/** How to stop. `leastDelayMs`: probes of the primary need this time to turn away, before the listener closes. */
export interface Stop {
  readonly graceMs: number;
  readonly leastDelayMs: number;
}

export type ToWorker =
  | { readonly kind: "start"; readonly start: Start }
  | { readonly kind: "reload"; readonly config: Config }
  | { readonly kind: "metrics" }
  /** A question of the canary. */
  | { readonly kind: "validate"; readonly nr: number; readonly tokenString: string }
  | { readonly kind: "stop"; readonly stop: Stop };

export type ToPrimary =
  /** The worker can hear. */
  | { readonly kind: "hello" }
  /** The worker asks for its socket with the next message. */
  | { readonly kind: "binding" }
  /** A row of the worker, before it is registered. */
  | { readonly kind: "row"; readonly id: string }
  /** From now on client caches may hold leases from this worker. */
  | { readonly kind: "feeds" }
  | { readonly kind: "ready"; readonly ready: boolean }
  /** A string was used after its rotation ended it: the id of its token. */
  | { readonly kind: "reused"; readonly token: string }
  | { readonly kind: "verdict"; readonly nr: number; readonly verdict: Verdict }
  | { readonly kind: "metrics"; readonly metrics: readonly object[] };

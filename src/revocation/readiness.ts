import type { Clock } from "../domain/clock.ts";
import type { Freshness } from "../domain/freshness.ts";

/** A lease that is gone for this long is an outage, not a missed poll. */
const LEASE_GONE_MS = 2_000;

export interface ReadinessDeps {
  readonly freshness: Pick<Freshness, "halted" | "holdsLease" | "unproven">;
  /** `warm`: a connection has answered a look-up. */
  readonly reader: { readonly warm: boolean; warmUp(): void };
  readonly clock: Pick<Clock, "mono">;
}

/** Tells if this instance can answer now. */
export class Readiness {
  readonly #deps: ReadinessDeps;
  #leaseSeen: number;
  #everLeased = false;

  constructor(deps: ReadinessDeps) {
    this.#deps = deps;
    this.#leaseSeen = deps.clock.mono();
  }

  /** Why it cannot answer now; empty when it can. */
  reasons(): readonly string[] {
    const { freshness, reader, clock } = this.#deps;
    if (freshness.halted)
      return [
        "the database's history went backwards, another primary has taken over, or it does not admit this program",
      ];
    const now = clock.mono();
    // Polls can succeed while look-ups fail, so a connection for look-ups must have answered, too.
    if (!reader.warm) reader.warmUp();
    else if (freshness.holdsLease(now)) {
      this.#leaseSeen = now;
      this.#everLeased = true;
    }
    if (now - this.#leaseSeen <= LEASE_GONE_MS && (this.#everLeased || !freshness.unproven)) return [];
    return [
      freshness.unproven
        ? "the epoch is not proven: lost changes are still being redone, the journal was not compared yet, or the guard is closed"
        : "the database does not answer",
    ];
  }
}

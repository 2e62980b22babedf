import type { Clock, Timers } from "../domain/clock.ts";
import { type Freshness, leaseOver } from "../domain/freshness.ts";
import type { Events } from "../telemetry/events.ts";
import type { Follower } from "./follower.ts";
import type { RevocationLog } from "./ports.ts";
import type { ReapedValidators } from "./reaped-validators.ts";

export interface HousekeepingDeps {
  readonly log: RevocationLog;
  readonly freshness: Freshness;
  readonly follower: Pick<Follower, "me" | "acked" | "maxBoundMs" | "named" | "wake">;
  readonly reaped: ReapedValidators;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
}

export interface HousekeepingOptions {
  /** `full` does everything; `validate` only keeps its own row alive. */
  readonly mode: "full" | "validate";
  readonly leaseMs: number;
}

const TICK_MS = 1000;
const HEARTBEAT_MS = 10_000;
const SILENT_MS = 30_000;
const PRUNE_MS = 60_000;
/** Fewer months of the audit ahead need a person. */
const FEW_MONTHS = 3;

/**
 * Keeps the registry and the log small and correct, about once a second in every process (`docs/protocol.md` §4.6).
 * Every task is idempotent and may fail: the next run repeats it.
 */
export class Housekeeping {
  readonly #deps: HousekeepingDeps;
  readonly #options: HousekeepingOptions;
  #cancel: (() => void) | undefined;
  #stopped = false;
  #running: Promise<void> | undefined;
  #beat: number;
  #pruned: number;

  constructor(deps: HousekeepingDeps, options: HousekeepingOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#beat = deps.clock.mono();
    this.#pruned = this.#beat;
  }

  start(): void {
    this.#cancel = this.#deps.timers.after(TICK_MS, () => {
      this.#running = this.#tick()
        .catch((error) => this.#deps.events.trouble("housekeeping_failed", error))
        .then(() => {
          if (!this.#stopped) this.start();
        });
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel?.();
    await this.#running;
  }

  async #tick(): Promise<void> {
    const { log, freshness, follower, clock } = this.#deps;
    const { epoch, applied } = freshness;
    const { me } = follower;
    if (epoch === undefined || me === undefined) return;
    const now = clock.mono();
    if (now - this.#beat >= HEARTBEAT_MS && applied >= 0) {
      this.#beat = now;
      // Repeats the acknowledgement, because the first may be lost with its backend. It also serves as the sign of
      // life. Not `applied`: a client cache may hold that back.
      await log.ack(me, epoch, follower.acked);
    }
    if (this.#options.mode === "validate") return;
    await this.#registry(me, epoch);
    if (now - this.#pruned >= PRUNE_MS) {
      this.#pruned = now;
      const pruned = await log.prune();
      if (pruned !== undefined && pruned.auditMonths < FEW_MONTHS)
        this.#deps.events.alarm("audit_partitions_low", { months: pruned.auditMonths });
    }
  }

  async #registry(me: string, epoch: string): Promise<void> {
    const { log, freshness, follower, reaped, clock, events } = this.#deps;
    const { inRecovery, epoch: seen, rows, settled } = await log.validators();
    const now = clock.mono();
    if (inRecovery) return log.reconnect();
    if (seen !== epoch || freshness.epoch !== epoch) return follower.wake();
    for (const row of rows) reaped.see(epoch, row, now);
    reaped.keep(new Set(rows.map((row) => row.id)));
    const gone = rows.filter((row) => row.reaped).length;
    events.validators({ live: rows.length - gone, reaped: gone });
    const silent = rows.filter((row) => !row.reaped && row.id !== me && row.silentMs > SILENT_MS);
    if (silent.length > 0) {
      await log.reap(silent.map((row) => row.id));
      events.reaped(silent.length);
    }
    const corpses = rows.filter((row) => reaped.reapedFor(row.id, now) >= 2 * row.boundMs);
    if (corpses.length > 0)
      await log.deleteReaped(
        corpses.map((row) => row.id),
        epoch,
      );
    // No lease of an earlier epoch is left by then, nor of tables that had these names in between: the acknowledgements of
    // this epoch's rows are enough.
    const longest = Math.max(follower.maxBoundMs, this.#options.leaseMs);
    const { named } = follower;
    if (named === undefined || follower.maxBoundMs === 0 || settled === epoch) return;
    const since = Math.max(freshness.sawEpoch, named.since);
    if (now - since >= leaseOver(longest)) await log.markSettled(epoch, named.names);
  }
}

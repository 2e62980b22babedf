import type { AuditActor, AuditOutcome } from "../domain/audit-event.ts";
import type { Clock, Timers } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Events } from "../telemetry/events.ts";
import { type Access, actorOf } from "./access.ts";
import type { AuditLog } from "./ports.ts";
import { actorsOf } from "./rerun.ts";

/** The repeats that one principal may make at once, and the time until another is allowed. */
const MOST = 10;
const EVERY_MS = 1_000;
const MOST_PRINCIPALS = 10_000;
/** For this time after a repeat with an audit row, further repeats are only counted. */
const WINDOW_MS = 60_000;
const MOST_WINDOWS = 10_000;

export interface RepeatsDeps {
  readonly clock: Pick<Clock, "mono">;
  readonly timers: Timers;
  readonly audit: Pick<AuditLog, "append">;
  readonly events: Pick<Events, "trouble">;
}

/** The repeats of an actor's action, with one outcome, after the first. */
interface Window {
  further: number;
  readonly tenant: string;
  readonly principal: string;
  readonly action: string;
  readonly outcome: AuditOutcome;
  /** Its address and request id are empty once repeats differ in them. */
  actor: AuditActor;
  readonly cancel: () => void;
}

/**
 * Limits calls that change nothing, and merges their audit rows. Each of them commits, so that a repeat after a lost
 * answer counts like the first call. Without a limit, a token without any permission could fill the disk and the audit
 * log with them. The first repeat of a minute has its own row, and further ones share one. A call that changes
 * something is never counted here.
 */
export class Repeats {
  readonly #deps: RepeatsDeps;
  /** By principal: the time at which all its repeats are free again. The least recent comes first. */
  readonly #until = new Map<string, number>();
  readonly #windows = new Map<string, Window>();
  readonly #telling = new Set<Promise<void>>();

  constructor(deps: RepeatsDeps) {
    this.#deps = deps;
  }

  /**
   * Returns the actor for each run of one call. A later run finds the rows of an earlier run; that is no repeat, and
   * has its row. LIMIT_EXCEEDED if the call is `known` to be one repeat too many; the database is not asked then.
   */
  actors(access: Access, action: string, known = false): () => AuditActor {
    const actor = actorOf(access);
    if (access.reach !== "own") return actorsOf(actor);
    const { tenant, principal } = access.caller;
    let admitted = false;
    const admit = () => {
      if (!admitted) this.#admit(`${tenant} ${principal}`);
      admitted = true;
    };
    let counted: boolean | undefined;
    // A transaction can run again: it is still the same repeat.
    const repeats = (outcome: AuditOutcome = "OK") => {
      admit();
      counted ??= this.#count({ tenant, principal, action, outcome, actor });
      return counted;
    };
    if (known) admit();
    return actorsOf({ ...actor, repeats });
  }

  /** Closes all windows: their counts are audited before it resolves. Never rejects. */
  async stop(): Promise<void> {
    for (const key of [...this.#windows.keys()]) this.#close(key);
    await Promise.all(this.#telling);
  }

  /** Returns true if the repeat has a row of its own: it is the first of its window. */
  #count(repeat: Omit<Window, "further" | "cancel">): boolean {
    const { tenant, principal, action, outcome, actor } = repeat;
    const key = [tenant, principal, actor.actor, action, outcome].join(" ");
    const window = this.#windows.get(key);
    if (window !== undefined) {
      const { address, requestId } = window.actor;
      window.actor = {
        ...actor,
        address: window.further === 0 || address === actor.address ? actor.address : "",
        requestId: window.further === 0 || requestId === actor.requestId ? actor.requestId : "",
      };
      window.further++;
      return false;
    }
    if (this.#windows.size >= MOST_WINDOWS) return true;
    const cancel = this.#deps.timers.after(WINDOW_MS, () => this.#close(key));
    this.#windows.set(key, { ...repeat, further: 0, cancel });
    return true;
  }

  #admit(key: string): void {
    const now = this.#deps.clock.mono();
    const until = Math.max(now, this.#until.get(key) ?? 0) + EVERY_MS;
    if (until - now > MOST * EVERY_MS) {
      throw new AppError("LIMIT_EXCEEDED", "the call changes nothing, and was repeated often enough", {
        retryAfterMs: EVERY_MS,
      });
    }
    this.#until.delete(key);
    this.#until.set(key, until);
    if (this.#until.size > MOST_PRINCIPALS) this.#until.delete(this.#until.keys().next().value!);
  }

  #close(key: string): void {
    const window = this.#windows.get(key);
    if (window === undefined) return;
    window.cancel();
    this.#windows.delete(key);
    if (window.further === 0) return;
    const { tenant, principal, action, outcome, actor, further } = window;
    const written = this.#deps.audit
      .append(actor, {
        tenant,
        action,
        target: `principal:${principal}`,
        owner: principal,
        outcome,
        metadata: { repeat: "true", merged: String(further) },
      })
      .catch((error) => this.#deps.events.trouble("repeat_audit_failed", error))
      .finally(() => this.#telling.delete(written));
    this.#telling.add(written);
  }
}

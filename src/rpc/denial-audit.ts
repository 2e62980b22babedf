import type { Clock } from "../domain/clock.ts";
import { type Access, actorOf } from "../management/access.ts";
import type { AuditLog } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";

/** The most audit rows for refused callers of one tenant in a second. Further refusals are only counted. */
const MOST_OF_TENANT = 10;
/**
 * The most audit rows for all tenants in a second. Above half of it, only tenants without a row in this second get one.
 */
const MOST_OF_ALL = 50;
/** The most tenants whose rows are counted. Beyond it, the least recent is forgotten. */
const MOST_TENANTS = 1_000;

interface Budget {
  /** The rows in this second. */
  written: number;
  /** The refusals without a row since the last row. */
  unaudited: number;
}

/**
 * Writes audit rows for refused calls of authenticated callers, at a rate that the log can bear. A caller that is
 * refused endlessly leaves room for the rows of other tenants.
 */
export class DenialAudit {
  readonly #deps: { readonly audit: AuditLog; readonly clock: Clock; readonly events: Events };
  readonly #tenants = new Map<string, Budget>();
  #second = 0;
  #written = 0;

  constructor(deps: { audit: AuditLog; clock: Clock; events: Events }) {
    this.#deps = deps;
  }

  record(access: Access | undefined, method: string, reason: string): void {
    if (access === undefined) return;
    const tenant = access.caller.tenant || "default";
    this.#deps.events.audited("caller.denied");
    const unaudited = this.#take(tenant);
    if (unaudited === undefined) return;
    const act = {
      tenant,
      action: "caller.denied",
      target: `rpc:${method}`,
      owner: access.caller.principal,
      outcome: "DENIED" as const,
      metadata: { reason, ...(unaudited > 0 && { unaudited: String(unaudited) }) },
    };
    this.#deps.audit.append(actorOf(access), act).catch((error) => {
      this.#deps.events.trouble("denial_audit_failed", error);
    });
  }
  /**
   * The number of the tenant's refusals without a row since its last one; undefined if this refusal gets no row either.
   */
  #take(tenant: string): number | undefined {
    const second = Math.floor(this.#deps.clock.mono() / 1000);
    if (second !== this.#second) this.#begin(second);
    const budget = this.#budgetOf(tenant);
    const { written, unaudited } = budget;
    const full = this.#written >= MOST_OF_ALL || (this.#written >= MOST_OF_ALL / 2 && written > 0);
    if (full || written >= MOST_OF_TENANT) {
      budget.unaudited++;
      return undefined;
    }
    this.#written++;
    budget.written++;
    budget.unaudited = 0;
    return unaudited;
  }

  #begin(second: number): void {
    this.#second = second;
    this.#written = 0;
    for (const [tenant, budget] of this.#tenants) {
      if (budget.unaudited === 0) this.#tenants.delete(tenant);
      budget.written = 0;
    }
  }

  #budgetOf(tenant: string): Budget {
    const budget = this.#tenants.get(tenant) ?? { written: 0, unaudited: 0 };
    this.#tenants.delete(tenant);
    this.#tenants.set(tenant, budget);
    if (this.#tenants.size > MOST_TENANTS) this.#tenants.delete(this.#tenants.keys().next().value!);
    return budget;
  }
}

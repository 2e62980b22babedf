import type { Clock } from "../domain/clock.ts";
import { type Access, actorOf } from "../management/access.ts";
import type { AuditLog } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";

/** Audit rows for refused callers of one tenant a second; the rest is only counted. */
const MOST_OF_TENANT = 10;
/** The same for all tenants together. Past half of it only those have a row that have none in this second. */
const MOST_OF_ALL = 50;
/** Tenants whose rows are counted; of more, the least recent is forgotten. */
const MOST_TENANTS = 1_000;

interface Budget {
  /** Rows in this second. */
  written: number;
  /** Refusals without a row, since the last row. */
  unaudited: number;
}

/**
 * Calls of authenticated callers that were refused, as audit rows of their own: never more than the log can bear, and
 * whoever is refused without end leaves room for the rows of other tenants.
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
  /** How many of the tenant had no row since its last; undefined where this one has none either. */
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

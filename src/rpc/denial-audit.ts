import type { Clock } from "../domain/clock.ts";
import { type Access, actorOf } from "../management/access.ts";
import type { AuditLog } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";

/** Audit rows for refused callers a second; the rest is only counted. */
const MOST_PER_SECOND = 10;

/** Calls of authenticated callers that were refused, as audit rows of their own: never more than the log can bear. */
export class DenialAudit {
  readonly #deps: { readonly audit: AuditLog; readonly clock: Clock; readonly events: Events };
  #second = 0;
  #written = 0;

  constructor(deps: { audit: AuditLog; clock: Clock; events: Events }) {
    this.#deps = deps;
  }

  record(access: Access | undefined, method: string, reason: string): void {
    if (access === undefined) return;
    const second = Math.floor(this.#deps.clock.mono() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#written = 0;
    }
    this.#deps.events.audited("caller.denied");
    if (this.#written++ >= MOST_PER_SECOND) return;
    const act = {
      tenant: access.caller.tenant || "default",
      action: "caller.denied",
      target: `rpc:${method}`,
      owner: access.caller.principal,
      outcome: "DENIED" as const,
      metadata: { reason },
    };
    this.#deps.audit.append(actorOf(access), act).catch((error) => {
      this.#deps.events.trouble("denial_audit_failed", error);
    });
  }
}

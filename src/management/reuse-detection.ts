import type { Timers } from "../domain/clock.ts";
import type { Profile } from "../domain/profile.ts";
import type { Authority } from "../revocation/effect.ts";
import type { Events } from "../telemetry/events.ts";
import type { AuditLog, TokenStore } from "./ports.ts";

const WINDOW_MS = 60_000;
const MOST_TOKENS = 10_000;

export interface ReuseDeps {
  readonly store: TokenStore;
  readonly audit: AuditLog;
  readonly authority: Authority;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly timers: Timers;
  readonly events: Events;
}

/**
 * A string that is used after its rotation ended it was probably stolen, or not replaced everywhere. The first use is
 * audited at once, and further uses of a minute share one row. If the profile says so, the whole family is revoked.
 */
export class ReuseDetection {
  readonly #deps: ReuseDeps;
  /** The uses in the window after the first, and the end of the window. */
  readonly #windows = new Map<string, { further: number; readonly cancel: () => void }>();
  readonly #telling = new Set<Promise<void>>();

  constructor(deps: ReuseDeps) {
    this.#deps = deps;
  }

  seen(tokenId: string): void {
    const window = this.#windows.get(tokenId);
    if (window !== undefined) {
      window.further++;
      return;
    }
    if (this.#windows.size >= MOST_TOKENS) return;
    const cancel = this.#deps.timers.after(WINDOW_MS, () => this.#close(tokenId));
    this.#windows.set(tokenId, { further: 0, cancel });
    this.#signal(tokenId, 1);
  }

  /** Closes all windows: their counts are audited before it resolves. Never rejects. */
  async stop(): Promise<void> {
    for (const tokenId of [...this.#windows.keys()]) this.#close(tokenId);
    await Promise.all(this.#telling);
  }

  #close(tokenId: string): void {
    const window = this.#windows.get(tokenId);
    if (window === undefined) return;
    window.cancel();
    this.#windows.delete(tokenId);
    if (window.further > 0) this.#signal(tokenId, window.further);
  }

  #signal(tokenId: string, uses: number): void {
    const report = this.#tell(tokenId, uses)
      .catch((error) => this.#deps.events.trouble("reuse_audit_failed", error))
      .finally(() => this.#telling.delete(report));
    this.#telling.add(report);
  }

  async #tell(tokenId: string, uses: number): Promise<void> {
    const { store, audit, authority, profiles, events } = this.#deps;
    const token = await store.get(tokenId);
    if (token === undefined) return;
    const actor = { actor: "sallyport", address: "", requestId: "" };
    await audit.append(actor, {
      tenant: token.tenant,
      action: "token.reuse",
      target: `token:${tokenId}`,
      owner: token.principal,
      outcome: "DENIED",
      metadata: { uses: String(uses), rotated_to: token.rotatedTo },
    });
    events.audited("token.reuse");
    if (profiles.get(token.profile)?.onReuse !== "revoke-family") return;
    await authority.change((changes) => changes.revokeToken(tokenId, true, "reuse of a rotated token", actor), {
      noWait: true,
    });
  }
}

import type { Profile } from "../domain/profile.ts";
import type { AuditLog, Events, Timers, TokenStore } from "../ports.ts";
import type { Authority } from "./authority.ts";

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
 * audited at once, further ones of a minute in one row; where the profile says so, the whole family is revoked.
 */
export class ReuseSignals {
  readonly #deps: ReuseDeps;
  readonly #counts = new Map<string, number>();

  constructor(deps: ReuseDeps) {
    this.#deps = deps;
  }

  seen(tokenId: string): void {
    const count = this.#counts.get(tokenId);
    if (count !== undefined) {
      this.#counts.set(tokenId, count + 1);
      return;
    }
    if (this.#counts.size >= MOST_TOKENS) return;
    this.#counts.set(tokenId, 0);
    this.#deps.timers.after(WINDOW_MS, () => {
      const further = this.#counts.get(tokenId) ?? 0;
      this.#counts.delete(tokenId);
      if (further > 0) this.#signal(tokenId, further);
    });
    this.#signal(tokenId, 1);
  }

  #signal(tokenId: string, uses: number): void {
    this.#tell(tokenId, uses).catch((error) => {
      this.#deps.events.trouble("the reuse of a rotated token could not be audited", error);
    });
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

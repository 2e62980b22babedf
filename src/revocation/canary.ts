import type { Clock, Timers } from "../domain/clock.ts";
import type { Verdict } from "../domain/decide.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Secret } from "../domain/secret.ts";
import { NOTHING_GIVEN } from "../domain/token.ts";
import { mintTokenString, newTokenId } from "../domain/token-string.ts";
import type { Events } from "../telemetry/events.ts";
import type { AuthorityStore } from "./authority-store.ts";
import type { Authority } from "./effect.ts";

export interface CanaryDeps {
  readonly authority: Authority;
  readonly issuer: Pick<AuthorityStore, "createToken">;
  readonly keyring: Keyring;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly events: Events;
  /**
   * Every instance that must refuse: this one and those in the configuration. `ask` rejects if the instance is
   * unreachable.
   */
  readonly askers: readonly { readonly name: string; ask(tokenString: Secret): Promise<Verdict> }[];
}

const PRINCIPAL = "user:sallyport-canary";
const PREFIX = "sp_canary";
const TTL_MS = 600_000;
const ACTOR = { actor: "sallyport", address: "", requestId: "canary" };

/**
 * The synthetic probe of the promise in production. It issues a token without rights, checks that every instance
 * accepts it, revokes it, and checks that every instance refuses it. An instance that still accepts it raises an alarm.
 * An instance that cannot be asked is reported and proves nothing.
 */
export class Canary {
  readonly #deps: CanaryDeps;
  readonly #everyMs: number;
  #cancel: (() => void) | undefined;

  constructor(deps: CanaryDeps, everyMs: number) {
    this.#deps = deps;
    this.#everyMs = everyMs;
  }

  start(): void {
    this.#cancel = this.#deps.timers.after(this.#everyMs, () => {
      void this.round()
        .catch((error) => this.#deps.events.trouble("canary_failed", error))
        .then(() => {
          if (this.#cancel !== undefined) this.start();
        });
    });
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  /**
   * Runs one probe. Resolves with the names of the instances that accepted a revoked token. The promise holds if there
   * is none.
   */
  async round(): Promise<readonly string[]> {
    const { authority, events, clock } = this.#deps;
    const { tokenString, id } = await this.#issue();
    const before = await this.#askAll(tokenString);
    await authority.change((store) => store.revokeToken(id, false, "canary", ACTOR), { noWait: false });
    const revoked = clock.mono();
    const after = await this.#askAll(tokenString);
    const named = (verdict: Verdict) => [...after].filter(([, answer]) => answer === verdict).map(([name]) => name);
    const broken = named("ALLOW");
    for (const name of broken) {
      events.alarm("revoked_token_accepted", { instance: name, token: id, ms: clock.mono() - revoked });
    }
    // An instance that did not accept the token before proves nothing by refusing it now.
    const proven = named("INVALID_TOKEN").filter((name) => before.get(name) === "ALLOW");
    events.canary({
      refused: proven.length,
      accepted: broken.length,
      notReached: after.size - proven.length - broken.length,
    });
    return broken;
  }

  async #issue(): Promise<{ tokenString: Secret; id: string }> {
    const { issuer, keyring } = this.#deps;
    const { tokenString, digest, hint } = mintTokenString(PREFIX, keyring.current);
    const id = newTokenId();
    const token = {
      id,
      digest,
      hint,
      kid: keyring.current.kid,
      tenant: "default",
      profile: "pat",
      principal: PRINCIPAL,
      ...NOTHING_GIVEN,
      displayName: "canary",
      createdBy: "canary",
    };
    await issuer.createToken(
      token,
      { ttl: TTL_MS, maxTtl: TTL_MS },
      { callerScopes: [], child: false, mustExist: false },
      { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 },
      ACTOR,
    );
    return { tokenString, id };
  }

  async #askAll(tokenString: Secret): Promise<ReadonlyMap<string, Verdict>> {
    const answers = await Promise.all(
      this.#deps.askers.map(
        async ({ name, ask }) => [name, await ask(tokenString).catch(() => "UNDETERMINED" as const)] as const,
      ),
    );
    return new Map(answers);
  }
}

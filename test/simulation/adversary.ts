import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import type { TokenCache } from "../../src/validation/ports.ts";
import type { Machine, World } from "./world.ts";

/**
 * An L2 cache that may do anything but forge. It forgets, answers late, fills late, and returns any entry of a token that
 * was ever sealed, of any position and epoch.
 */
export class Adversary {
  /** True if it does its worst; otherwise it keeps the latest entry, like a good cache. */
  hostile = true;
  readonly #world: World;
  readonly #written = new Map<string, TokenSnapshot[]>();

  constructor(world: World) {
    this.#world = world;
  }

  /** The number of entries that were ever written. */
  filled = 0;

  empty(): void {
    this.#written.clear();
  }

  fill(snapshot: TokenSnapshot): void {
    this.filled++;
    const entries = this.#written.get(snapshot.digest) ?? [];
    if (entries.length < 64) entries.push(snapshot);
    this.#written.set(snapshot.digest, entries);
  }

  at(machine: Machine): TokenCache {
    const { random } = this.#world;
    return {
      ready: true,
      get: (digest, epoch) =>
        new Promise((resolve) => {
          this.#world.after(
            random.between(0.2, this.hostile ? 45 : 2),
            () => resolve(this.#entry(digest, epoch)),
            machine,
          );
        }),
      fill: (snapshot) => {
        this.#world.after(this.hostile && random.chance(0.3) ? random.between(0, 3000) : 1, () => this.fill(snapshot));
      },
    };
  }

  #entry(digest: string, epoch: string): TokenSnapshot | undefined {
    const { random } = this.#world;
    const entries = this.#written.get(digest) ?? [];
    if (this.hostile) return random.chance(0.2) ? undefined : random.pick(entries);
    return entries
      .filter((entry) => entry.version.epoch === epoch)
      .sort((a, b) => b.version.position - a.version.position)[0];
  }
}

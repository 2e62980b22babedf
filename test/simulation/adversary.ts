import type { Material } from "../../src/domain/material.ts";
import type { TokenCache } from "../../src/ports.ts";
import type { Machine, World } from "./world.ts";

/**
 * A cache outside that may do anything but forge: it forgets, answers late, fills late, and brings back any entry of a
 * token that was ever sealed, of any position and epoch.
 */
export class Adversary {
  /** Whether it does its worst; else it keeps the latest entry, as a good cache would. */
  hostile = true;
  readonly #world: World;
  readonly #written = new Map<string, Material[]>();

  constructor(world: World) {
    this.#world = world;
  }

  /** How many entries were ever written. */
  filled = 0;

  empty(): void {
    this.#written.clear();
  }

  fill(material: Material): void {
    this.filled++;
    const entries = this.#written.get(material.digest) ?? [];
    if (entries.length < 64) entries.push(material);
    this.#written.set(material.digest, entries);
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
      fill: (material) => {
        this.#world.after(this.hostile && random.chance(0.3) ? random.between(0, 3000) : 1, () => this.fill(material));
      },
    };
  }

  #entry(digest: string, epoch: string): Material | undefined {
    const { random } = this.#world;
    const entries = this.#written.get(digest) ?? [];
    if (this.hostile) return random.chance(0.2) ? undefined : random.pick(entries);
    return entries.filter((entry) => entry.label.epoch === epoch).sort((a, b) => b.label.n - a.label.n)[0];
  }
}

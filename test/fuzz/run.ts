import { seeded } from "../http2/fixture.ts";
import type { Target } from "./targets.ts";

/** A case that broke a promise: its seed alone makes it again. */
export class Found extends Error {
  override readonly name = "Found";

  constructor(name: string, seed: number, cause: unknown) {
    super(`${name} failed: node scripts/fuzz.ts --target ${name} --seed ${seed} --cases 1\n${String(cause)}`, {
      cause,
    });
  }
}

/** Runs cases of seeds from `seed` on until `over`; gives how many. Throws Found for the first that fails. */
export function fuzz(name: string, target: Target, seed: number, over: (cases: number) => boolean): number {
  let cases = 0;
  for (; !over(cases); cases++) {
    try {
      target(seeded(seed + cases));
    } catch (error) {
      throw new Found(name, seed + cases, error);
    }
  }
  return cases;
}

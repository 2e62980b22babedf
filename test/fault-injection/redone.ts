import { setTimeout as delay } from "node:timers/promises";
import type { Cell } from "./cells.ts";
import type { World } from "./world.ts";

const BACK_MS = 15_000;

/** True if the program has redone the revocation of each of the cell's tokens, which the database had lost. */
export async function wasRedone(world: World, { subjects }: Cell): Promise<boolean> {
  const targets = subjects.map(({ id }) => `token:${id}`);
  for (const until = performance.now() + BACK_MS; performance.now() < until; await delay(50)) {
    const rows = await world
      .rows<{ target: string }>("select target from sallyport.audit where metadata ? 'replayed' and target = any($1)", [
        targets,
      ])
      .catch(() => []);
    if (new Set(rows.map(({ target }) => target)).size === targets.length) return true;
  }
  return false;
}

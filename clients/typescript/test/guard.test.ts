import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { FeedCache } from "../src/cache.ts";
import { StreamGuard } from "../src/guard.ts";
import { cases, type GuardCode, runGuardCase } from "./guard-vectors.ts";

describe("the guard's vectors", () => {
  test.each(cases)("$name", (of) => runGuardCase(of, { StreamGuard, FeedCache }));
});

/** Broken guards. Each is a patch of the source, and must fail a vector. */
const WATCH = "this.#unwatch = options.checker.cache?.watch(() => this.#look());";
const AT_MESSAGE = 'if (this.#state === "open" && this.#entry !== undefined && !this.#good()) this.#suspend();';
const IN_STEP = "for (const watcher of this.#watchers) watcher();\n  }\n\n  /** Ends the lease";
const MUTANTS: Record<string, { readonly file: string; readonly patches: readonly (readonly [string, string])[] }> = {
  "M48 guard by timer only": {
    file: "guard.ts",
    patches: [
      [WATCH, ""],
      [AT_MESSAGE, ""],
    ],
  },
  "M49 acknowledged before the streams are suspended": {
    file: "cache.ts",
    patches: [[IN_STEP, IN_STEP.replace("watcher();", "queueMicrotask(watcher);")]],
  },
  "M50 silent stream forgotten": { file: "guard.ts", patches: [[WATCH, ""]] },
};

describe("broken guards are caught", () => {
  const SRC = join(import.meta.dirname, "../src");
  const PLACE = join(import.meta.dirname, `../../../.cache/client-mutants-${process.pid}`);
  afterAll(() => rm(PLACE, { recursive: true, force: true }));

  test.each(Object.entries(MUTANTS))("%s", async (name, { file, patches }) => {
    const place = join(PLACE, name.slice(0, 3));
    await mkdir(place, { recursive: true });
    await cp(SRC, place, { recursive: true });
    let text = await readFile(join(place, file), "utf8");
    for (const [from, to] of patches) {
      expect(text.split(from), "the patched text is there once").toHaveLength(2);
      text = text.replace(from, () => to);
    }
    await writeFile(join(place, file), text);
    const [guard, cache] = await Promise.all([import(join(place, "guard.ts")), import(join(place, "cache.ts"))]);
    const code: GuardCode = { StreamGuard: guard.StreamGuard, FeedCache: cache.FeedCache };
    const results = await Promise.allSettled(cases.map((of) => runGuardCase(of, code)));
    expect(results.filter(({ status }) => status === "rejected").length).toBeGreaterThan(0);
  });
});

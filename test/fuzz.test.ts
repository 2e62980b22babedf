import { expect, test } from "vitest";
import { Found, fuzz } from "./fuzz/run.ts";
import { targets } from "./fuzz/targets.ts";

/** For so long, but for so many cases at least: a busy machine makes few in the time. */
const TIME_MS = 2_000;
const FEWEST = 200;

test.each(Object.entries(targets))("%s keeps its promise for thousands of damaged inputs", (name, target) => {
  const end = performance.now() + TIME_MS;
  const cases = fuzz(name, target, 1, (done) => done >= 5_000 || (done > FEWEST && performance.now() > end));
  expect(cases).toBeGreaterThan(FEWEST);
});

test("a broken promise is found, with the seed that breaks it again", () => {
  const broken = (pick: (below: number) => number) => {
    if (pick(100) === 7) throw new Error("seven");
  };
  const found = (() => {
    try {
      return fuzz("broken", broken, 1, (done) => done > 10_000);
    } catch (error) {
      return error as Found;
    }
  })();
  expect(found).toBeInstanceOf(Found);
  const seed = Number(/--seed (\d+)/.exec((found as Found).message)?.[1]);
  expect(() => fuzz("broken", broken, seed, (done) => done >= 1)).toThrow("seven");
});

import { expect, test } from "vitest";
import type { Access, Reach } from "../../src/management/access.ts";
import { Repeats } from "../../src/management/repeats.ts";

const access = (principal: string, reach: Reach = "own"): Access =>
  ({ caller: { tenant: "default", principal }, reach, requestId: "" }) as unknown as Access;

test("changes that change nothing are limited to one a second for each principal, after the first ten", () => {
  let now = 0;
  const repeats = new Repeats({ mono: () => now });
  const count = (who: Access, tries: number): number => {
    let admitted = 0;
    for (let i = 0; i < tries; i++) {
      try {
        repeats.admit(who);
        admitted++;
      } catch (error) {
        expect(error).toMatchObject({ reason: "LIMIT_EXCEEDED", retryAfterMs: 1_000 });
      }
    }
    return admitted;
  };
  expect(count(access("user:a"), 100)).toBe(10);
  expect(count(access("user:b"), 100)).toBe(10);
  now += 1_000;
  expect(count(access("user:a"), 100)).toBe(1);
  now += 60_000;
  expect(count(access("user:a"), 100)).toBe(10);
});

test("who may revoke the tokens of others is not limited", () => {
  const repeats = new Repeats({ mono: () => 0 });
  for (let i = 0; i < 100; i++) repeats.admit(access("user:a", "tenant"));
});

import { describe, expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { earlier, expiry, isLater, type LifetimeRule } from "../../src/domain/lifetime.ts";

const NOW = 1_000_000;
const HOUR = 3_600_000;

const refusal = (rule: LifetimeRule, ...bounds: (number | undefined)[]) => {
  try {
    return expiry(rule, NOW, ...bounds);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return error.violations.map(({ field, description }) => `${field}: ${description}`).join("; ");
  }
};

describe("the expiry of a new token", () => {
  test.each<[string, LifetimeRule, (number | undefined)[], number | undefined]>([
    ["is the ttl from now", { ttl: HOUR, maxTtl: 2 * HOUR }, [], NOW + HOUR],
    ["is the asked time", { expireTime: NOW + 5, maxTtl: HOUR }, [], NOW + 5],
    ["is the asked time up to the profile's longest", { expireTime: NOW + HOUR, maxTtl: HOUR }, [], NOW + HOUR],
    ["prefers the asked time over the ttl", { expireTime: NOW + 5, ttl: HOUR, maxTtl: HOUR }, [], NOW + 5],
    ["is absent where nothing gives one", { never: true, maxTtl: HOUR }, [undefined], undefined],
    ["is at most the ceiling from now", { ttl: HOUR, maxTtl: HOUR, ceiling: 7 }, [], NOW + 7],
    ["is the ceiling where none is asked", { never: true, maxTtl: HOUR, ceiling: 7 }, [], NOW + 7],
    ["is the least of all bounds", { ttl: HOUR, maxTtl: HOUR }, [NOW + 9, undefined, NOW + 8], NOW + 8],
    ["is the bound where none is asked", { never: true, maxTtl: HOUR }, [NOW + 9], NOW + 9],
    ["stays where the bound is later", { ttl: 5, maxTtl: HOUR }, [NOW + 9], NOW + 5],
    ["may come right after not_before_time", { ttl: 5, maxTtl: HOUR, notBeforeTime: NOW + 4 }, [], NOW + 5],
    ["may be absent beside not_before_time", { never: true, maxTtl: HOUR, notBeforeTime: NOW + 4 }, [], undefined],
  ])("%s", (_, rule, bounds, expected) => {
    expect(expiry(rule, NOW, ...bounds)).toBe(expected);
  });

  test.each<[string, LifetimeRule, (number | undefined)[], RegExp]>([
    ["that is now", { expireTime: NOW, maxTtl: HOUR }, [], /^expire_time: .*after the present/],
    ["in the past", { expireTime: NOW - 1, maxTtl: HOUR }, [], /^expire_time: .*after the present/],
    ["past the profile's longest", { expireTime: NOW + HOUR + 1, maxTtl: HOUR }, [], /^expire_time: .*at most 3600s/],
    ["at not_before_time", { ttl: 5, maxTtl: HOUR, notBeforeTime: NOW + 5 }, [], /^not_before_time: /],
    [
      "that a bound brings before not_before_time",
      { ttl: 9, maxTtl: HOUR, notBeforeTime: NOW + 5 },
      [NOW + 5],
      /^not_b/,
    ],
  ])("is refused %s", (_, rule, bounds, expected) => {
    expect(refusal(rule, ...bounds)).toMatch(expected);
  });
});

test("an absent end is later than any other", () => {
  expect([earlier(undefined, undefined), earlier(1, undefined), earlier(undefined, 1), earlier(2, 1)]).toEqual([
    undefined,
    1,
    1,
    1,
  ]);
  expect([
    isLater(undefined, 1),
    isLater(2, 1),
    isLater(1, 1),
    isLater(1, undefined),
    isLater(undefined, undefined),
  ]).toEqual([true, true, false, false, false]);
});

import { expect, test } from "vitest";
import { Breaker } from "../../src/redis/breaker.ts";

function breaker() {
  const clock = { now: 0, mono: () => clock.now };
  return { clock, breaker: new Breaker(clock, 1000) };
}

test("all attempts pass while nothing fails", () => {
  const { breaker: it } = breaker();
  for (let i = 0; i < 3; i++) expect(it.admit()).toBe(true);
  it.succeeded();
  expect(it.closed).toBe(true);
});

test("after a failure none passes during the rest, then one, and no other while that one runs", () => {
  const { clock, breaker: it } = breaker();
  it.admit();
  it.failed();
  expect(it.closed).toBe(false);
  clock.now = 999;
  expect(it.admit()).toBe(false);
  clock.now = 1000;
  expect(it.closed).toBe(true);
  expect(it.admit()).toBe(true);
  expect(it.admit()).toBe(false);
  it.failed();
  clock.now = 1999;
  expect(it.admit()).toBe(false);
  clock.now = 2000;
  expect(it.admit()).toBe(true);
  it.succeeded();
  for (let i = 0; i < 3; i++) expect(it.admit()).toBe(true);
});

test("an attempt that never ends does not block all others forever", () => {
  const { clock, breaker: it } = breaker();
  it.failed();
  clock.now = 1000;
  expect(it.admit()).toBe(true);
  clock.now = 2000;
  expect(it.admit()).toBe(true);
});

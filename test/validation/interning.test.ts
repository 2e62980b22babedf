import { expect, it } from "vitest";
import { Interning } from "../../src/validation/interning.ts";
import { snapshot } from "../support/token-snapshot.ts";

it("shared values › are equal to the given ones, and equal lists are kept once", () => {
  const values = new Interning(1 << 20);
  const attachments = [{ tenant: "blue", tenantState: "ACTIVE", cut: true }] as const;
  const [one, two] = [1, 2].map((n) => snapshot(n, { scopes: ["a", "b"], annotations: { k: "v" }, attachments }));
  const first = values.share(one!);
  const second = values.share(two!);
  expect(first).toEqual(one);
  expect(second).toEqual(two);
  expect(second.scopes).toBe(first.scopes);
});

it("shared values › keep lists apart that are equal only when joined", () => {
  const values = new Interning(1 << 20);
  expect(values.share(snapshot(1, { scopes: ["a", "b"] })).scopes).toEqual(["a", "b"]);
  expect(values.share(snapshot(1, { scopes: ['a","b'] })).scopes).toEqual(['a","b']);
  expect(values.share(snapshot(1, { audiences: ["a", "b"] })).audiences).toEqual(["a", "b"]);
});

it("shared values › have a limit in bytes", () => {
  const values = new Interning(1 << 20);
  let most = 0;
  for (let n = 0; n < 1_000; n++) {
    const scopes = Array.from({ length: 100 }, (_, i) => `${n}.${i}.${"s".repeat(120)}`);
    const row = snapshot(n, { scopes, principal: `user:${n}` });
    expect(values.share(row)).toEqual(row);
    most = Math.max(most, values.bytes);
  }
  expect(most).toBeGreaterThan(1 << 19);
  expect(most).toBeLessThanOrEqual(1 << 20);
});

it("shared values › do not keep a list that alone exceeds the limit", () => {
  const values = new Interning(4_096);
  const scopes = ["s".repeat(4_096)];
  expect(values.share(snapshot(1, { scopes })).scopes).toBe(scopes);
  const other = [...scopes];
  expect(values.share(snapshot(2, { scopes: other })).scopes).toBe(other);
});

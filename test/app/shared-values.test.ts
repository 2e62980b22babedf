import { expect, it } from "vitest";
import { SharedValues } from "../../src/app/shared-values.ts";
import { material } from "../support/material.ts";

it("shared values › says the same, and keeps equal lists once", () => {
  const values = new SharedValues();
  const [one, two] = [1, 2].map((n) => material(n, { scopes: ["a", "b"], annotations: { k: "v" } }));
  const first = values.share(one!);
  const second = values.share(two!);
  expect(first).toEqual(one);
  expect(second).toEqual(two);
  expect(second.scopes).toBe(first.scopes);
});

it("shared values › keeps apart lists that only look alike when joined", () => {
  const values = new SharedValues();
  expect(values.share(material(1, { scopes: ["a", "b"] })).scopes).toEqual(["a", "b"]);
  expect(values.share(material(1, { scopes: ['a","b'] })).scopes).toEqual(['a","b']);
  expect(values.share(material(1, { audiences: ["a", "b"] })).audiences).toEqual(["a", "b"]);
});

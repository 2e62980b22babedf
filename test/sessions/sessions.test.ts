import { expect, test } from "vitest";
import { documentFetcher } from "../../src/sessions/fetch-document.ts";
import { Sessions } from "../../src/sessions/sessions.ts";
import { CASES, type Product, runCase } from "./cases.ts";

const PRODUCT = { Sessions, documentFetcher } as Product;

test.each(CASES.map((one) => [one.title, one] as const))("%s", async (_, one) => {
  await runCase(PRODUCT, one);
});

test("titles are unique, so that a red case names one rule", () => {
  expect(new Set(CASES.map(({ title }) => title)).size).toBe(CASES.length);
});

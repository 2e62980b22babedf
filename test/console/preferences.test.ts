import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHROMIUM, Console, settled } from "./browser.ts";

describe.skipIf(CHROMIUM === undefined)("how the page looks", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
    await console.sallyport.createToken();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());
  const ground = "getComputedStyle(document.body).backgroundColor";
  const [light, dark] = ["rgb(245, 246, 248)", "rgb(14, 19, 24)"];

  test("follows the system, until somebody chooses; the browser keeps the choice and nothing else", async () => {
    const { page, context, faults } = await console.signedIn();
    expect(await page.evaluate(ground)).toBe(light);
    await page.emulateMedia({ colorScheme: "dark" });
    await page.locator("html[data-theme=dark]").waitFor();
    expect(await page.evaluate(ground)).toBe(dark);
    expect(await page.evaluate("Object.keys(localStorage)")).toEqual([]);
    await page.getByText("Times in UTC+1.").waitFor();
    await page.locator("label.chip", { hasText: "Theme" }).locator("select").selectOption("light");
    await page.locator("label.chip", { hasText: "Times" }).locator("select").selectOption("UTC");
    await page.getByText("Times in UTC.").waitFor();
    expect(await page.evaluate(ground)).toBe(light);
    await page.reload();
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
    expect(await page.evaluate(ground)).toBe(light);
    expect(await page.evaluate("({ ...localStorage })")).toEqual({
      "sallyport.preferences": '{"theme":"light","utc":true}',
    });
    expect(faults).toEqual([]);
    await context.close();
  });

  test("is the usual one if the browser keeps something else under that name", async () => {
    const { page, context, faults } = await console.open();
    for (const kept of ["{", "null", '{"theme":"pink","utc":1}']) {
      await page.evaluate(`localStorage.setItem("sallyport.preferences", ${JSON.stringify(kept)})`);
      await page.reload();
      await page.getByRole("heading", { name: "Sign in" }).waitFor();
      expect(await page.evaluate(ground)).toBe(light);
    }
    await console.signIn(page);
    await settled(page);
    await page.getByText("Times in UTC+1.").waitFor();
    expect(faults).toEqual([]);
    await context.close();
  });
});

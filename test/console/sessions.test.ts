import type { Page, Route } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { signingSettings } from "../support/signing.ts";
import { CHROMIUM, Console, settled } from "./browser.ts";

describe.skipIf(CHROMIUM === undefined)("the session of a page", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  const tokenString = (page: Page) => page.getByRole("status", { name: "Token" });
  const fill = async (page: Page, principal: string) => {
    await page.getByRole("button", { name: "New token" }).click();
    await page.getByRole("combobox", { name: "Person" }).fill(principal);
    await page.getByLabel(/^Name/).last().fill("made in a browser");
    await page.getByRole("button", { name: "Create token" }).click();
  };
  const finish = async (page: Page) => {
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
  };

  test("goes on with the successor of its own token, and shows the string until it is stored", async () => {
    // Its profile lets it rotate itself.
    const principal = await console.sallyport.registered("service:self");
    const own = await console.sallyport.createToken({ profile: "svc", principal });
    const { page, context } = await console.signedIn({ at: `#/tokens/${own.id}` }, own.tokenString);
    await page.getByRole("button", { name: "Rotate…" }).click();
    await page.getByText("None", { exact: true }).click();
    await page.getByRole("button", { name: "Rotate", exact: true }).click();
    await tokenString(page).waitFor();
    await settled(page);
    const text = (await tokenString(page).textContent())!;
    expect(await console.sallyport.verdict(own.tokenString)).not.toBe("ALLOW");
    expect(await console.sallyport.verdict(text)).toBe("ALLOW");
    await finish(page);
    await page.getByText(text.slice(0, -49)).first().waitFor();
    await page.getByRole("link", { name: "My tokens" }).first().click();
    await page.getByRole("heading", { name: "My tokens" }).waitFor();
    await settled(page);
    expect(await page.getByRole("button", { name: "Sign out" }).isVisible()).toBe(true);
    await context.close();
  });

  test("two creates at once: each string is shown, one after the other, and both work", async () => {
    const { page, context } = await console.signedIn();
    // Both wait until both were sent.
    const held: Route[] = [];
    await page.route("**/sallyport.v1.TokenAdmin/CreateToken", (route) => void held.push(route));
    await fill(page, "user:first");
    await expect.poll(() => held.length).toBe(1);
    await page.evaluate("location.hash = '#/mine'");
    await page.getByRole("heading", { name: "My tokens" }).waitFor();
    await page.evaluate("location.hash = '#/tokens'");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    await fill(page, "user:second");
    await expect.poll(() => held.length).toBe(2);
    const [first, second] = held as [Route, Route];
    await first.continue();
    await tokenString(page).waitFor();
    const answered = page.waitForResponse("**/*TokenAdmin/CreateToken");
    await second.continue();
    await answered;
    await page.getByText("1 more to store after it.").waitFor();
    const strings: string[] = [];
    for (const principal of ["user:first", "user:second"]) {
      await page.getByRole("dialog").getByText(principal).waitFor();
      strings.push((await tokenString(page).textContent())!);
      await finish(page);
    }
    await page.getByRole("dialog").waitFor({ state: "detached" });
    expect(new Set(strings).size).toBe(2);
    for (const text of strings) expect(await console.sallyport.verdict(text)).toBe("ALLOW");
    await context.close();
  });

  test("ends only after a string that is shown was stored", async () => {
    const own = await console.sallyport.callerWith(["sallyport.admin"]);
    const { page, context } = await console.signedIn({}, own.tokenString);
    await fill(page, "user:late");
    await tokenString(page).waitFor();
    await console.sallyport.admin.tokens.revokeToken({ target: { case: "id", value: own.id } });
    const refused = page.waitForResponse((response) => response.status() === 401);
    await page.evaluate("location.hash = '#/audit'");
    await refused;
    await settled(page);
    expect(await console.sallyport.verdict((await tokenString(page).textContent())!)).toBe("ALLOW");
    await finish(page);
    await page.getByText("Your token no longer works.").waitFor();
    await context.close();
  });

  test("takes nothing into the next one: an answer that comes late is dropped, and the token is named", async () => {
    const next = await console.sallyport.callerWith(["sallyport.admin"]);
    const { page, context } = await console.signedIn();
    const held = Promise.withResolvers<Route>();
    await page.route("**/*TokenAdmin/CreateToken", (route) => held.resolve(route));
    await fill(page, "user:slow");
    const route = await held.promise;
    await page.evaluate("location.hash = '#/audit'");
    await page.getByRole("heading", { name: "Audit" }).waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("A token may exist that nobody has seen.").waitFor();
    await console.signIn(page, next.tokenString);
    const response = await route.fetch();
    await route.fulfill({ response }).catch(() => undefined);
    await settled(page);
    expect(await page.getByRole("dialog").count()).toBe(0);
    expect(await page.content()).not.toContain(((await response.json()) as { tokenString: string }).tokenString);
    await context.close();
  });

  test("repeats no call of somebody who has left", async () => {
    const next = await console.sallyport.callerWith(["sallyport.admin"]);
    const { page, context } = await console.signedIn();
    const asked = Promise.withResolvers<void>();
    await page.route("**/*TokenAdmin/CreateToken", async (route) => {
      await route.abort("connectionreset");
      asked.resolve();
    });
    await fill(page, "user:lost");
    await asked.promise;
    await page.evaluate("location.hash = '#/audit'");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("A token may exist that nobody has seen.").waitFor();
    await console.signIn(page, next.tokenString);
    // The pauses before a repeat are 0.5, 1 and 2 s.
    const again = await page.waitForRequest("**/*TokenAdmin/CreateToken", { timeout: 3_000 }).catch(() => undefined);
    expect(again).toBeUndefined();
    await context.close();
  });
});

describe.skipIf(CHROMIUM === undefined)("a string in JWT form", () => {
  test("is shown whole, without its hint, which is no part of it", async () => {
    await using console = await Console.start({
      signing: signingSettings(),
      profiles: { svc: { format: "jwt" } },
    });
    const principal = await console.sallyport.registered("service:jwt");
    const own = await console.sallyport.createToken({ profile: "svc", principal });
    const { page, context } = await console.signedIn({ at: `#/tokens/${own.id}` }, own.tokenString);
    await page.getByRole("button", { name: "Rotate…" }).click();
    await page.getByText("None", { exact: true }).click();
    await page.getByRole("button", { name: "Rotate", exact: true }).click();
    const shown = page.getByRole("status", { name: "Token" });
    await shown.waitFor();
    const text = (await shown.textContent())!;
    expect(await console.sallyport.verdict(text)).toBe("ALLOW");
    expect(await shown.locator("b").textContent()).toBe("");
    await context.close();
  });
});

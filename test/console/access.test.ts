import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { axe } from "./axe.ts";
import { CHROMIUM, Console, populate, view } from "./browser.ts";

const views = (made: Awaited<ReturnType<typeof populate>>) => ({
  tokens: "#/tokens",
  mine: "#/mine",
  token: `#/tokens/${made.rotated.id}`,
  revoked: `#/tokens/${made.gone.id}`,
  "no match": "#/tokens?name=zzz",
  "not found": "#/tokens/tok_0000000000000000000000",
  principals: "#/principals",
  principal: "#/principals/bot%3Aci-runner",
  roles: "#/roles",
  "holder of a role": `#/tokens/${made.holder.id}`,
  tenants: "#/tenants",
  audit: "#/audit",
  status: "#/status",
});

describe.skipIf(CHROMIUM === undefined)("access", () => {
  let console: Console;
  let made: Awaited<ReturnType<typeof populate>>;
  beforeAll(async () => {
    console = await Console.start();
    made = await populate(console);
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  test.each(["light", "dark", "forced"] as const)("axe finds nothing in any view: %s", async (scheme) => {
    const { page, context, faults } = await console.open({ dark: scheme === "dark", forced: scheme === "forced" });
    const seen: Record<string, string[]> = { "sign-in": await axe(page) };
    await console.signIn(page);
    const all = { ...views(made) };
    for (const [name, hash] of Object.entries(all)) {
      await view(page, hash);
      seen[name] = await axe(page);
    }
    await view(page, "#/tokens");
    await page.getByRole("button", { name: "New token" }).click();
    seen["create"] = await axe(page);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Revoke many…" }).click();
    seen["many"] = await axe(page);
    await page.getByRole("button", { name: "Cancel" }).click();
    await view(page, `#/tokens/${made.rotated.id}`);
    await page.getByRole("button", { name: "Rotate…" }).click();
    seen["rotate"] = await axe(page);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Revoke…" }).click();
    seen["revoke"] = await axe(page);
    await page.getByRole("button", { name: "Cancel" }).click();
    await view(page, "#/roles");
    await page.getByRole("button", { name: "New role" }).click();
    seen["new role"] = await axe(page);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Delete deployer" }).click();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByText("Live tokens hold it.").waitFor();
    seen["delete role"] = await axe(page);
    expect(Object.entries(seen).filter(([, found]) => found.length > 0)).toEqual([]);
    expect(Object.keys(seen)).toHaveLength(20);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("no view scrolls sideways at 320 pixels", async () => {
    const { page, context } = await console.signedIn({ width: 320 });
    const wide: string[] = [];
    for (const [name, hash] of Object.entries(views(made))) {
      await view(page, hash);
      const width = (await page.evaluate("document.documentElement.scrollWidth")) as number;
      if (width > 320) wide.push(`${name}: ${width}`);
    }
    await view(page, "#/tokens");
    await page.getByRole("button", { name: "New token" }).click();
    const inside = (await page.evaluate(
      "(() => { const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth; })()",
    )) as number;
    if (inside > 0) wide.push(`create: ${inside}`);
    await page.getByRole("button", { name: "Cancel" }).click();
    await view(page, "#/roles");
    await page.getByRole("button", { name: "Edit deployer" }).click();
    const form = (await page.evaluate(
      "(() => { const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth; })()",
    )) as number;
    if (form > 0) wide.push(`role: ${form}`);
    expect(wide).toEqual([]);
    await context.close();
  });

  test("the keyboard alone signs in, creates, reveals and revokes", async () => {
    const { page, context, faults } = await console.open();
    const press = async (...keys: string[]) => {
      for (const key of keys) await page.keyboard.press(key);
    };
    const tabTo = async (name: string) => {
      for (let i = 0; i < 60; i++) {
        await press("Tab");
        const here = (await page.evaluate(
          "((e) => e.getAttribute('aria-label') ?? (e.labels?.[0] ?? e).textContent ?? '')(document.activeElement)",
        )) as string;
        if (here.trim() === name) return;
      }
      throw new Error(`${name} is not reached by Tab`);
    };
    await page.getByLabel("Token").focus();
    await page.keyboard.insertText(console.sallyport.adminToken);
    await press("Enter");
    await page.getByRole("heading", { name: "All tokens" }).waitFor();
    await tabTo("New token");
    await press("Enter");
    await page.getByRole("dialog").waitFor();
    await expect.poll(() => page.evaluate("document.activeElement.tagName")).toBe("INPUT");
    await page.keyboard.insertText("user:keys");
    await press("Tab");
    await page.keyboard.insertText("by keyboard");
    await press("Enter");
    await page.getByRole("heading", { name: "Copy the token now" }).waitFor();
    await tabTo("I have stored it");
    await press("Space");
    await tabTo("Done");
    await press("Enter");
    await page.getByRole("heading", { name: "by keyboard" }).waitFor();
    await tabTo("Revoke…");
    await press("Enter");
    await page.getByRole("dialog").waitFor();
    const focused = () => page.evaluate("document.activeElement.textContent");
    await expect.poll(focused).toBe("Cancel");
    await press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    await expect.poll(focused).toBe("Revoke…");
    await press("Enter");
    await page.getByRole("dialog").waitFor();
    await expect.poll(focused).toBe("Cancel");
    await tabTo("Revoke");
    await press("Enter");
    await page.getByText("Revoked. In force everywhere").waitFor();
    await press("Control+k");
    await expect.poll(() => page.evaluate("document.activeElement.type")).toBe("search");
    expect(faults).toEqual([]);
    await context.close();
  });

  test("the keyboard alone creates and deletes a role", async () => {
    const { page, context, faults } = await console.signedIn();
    await view(page, "#/roles");
    const focused = () => page.evaluate("document.activeElement.textContent.trim()");
    await page.getByRole("button", { name: "New role" }).focus();
    await page.keyboard.press("Enter");
    await expect.poll(() => page.evaluate("document.activeElement.labels?.[0]?.textContent")).toBe("Name");
    for (const text of ["by-keyboard", "typed", "repo:read"]) {
      await page.keyboard.insertText(text);
      await page.keyboard.press("Tab");
    }
    await page.keyboard.press("Enter");
    await page.getByText("Created by-keyboard.").waitFor();
    await expect.poll(focused).toBe("New role");
    await page.getByRole("button", { name: "Delete by-keyboard" }).focus();
    await page.keyboard.press("Enter");
    await expect.poll(focused).toBe("Cancel");
    await page.keyboard.press("Escape");
    await expect.poll(() => page.evaluate("document.activeElement.ariaLabel")).toBe("Delete by-keyboard");
    await page.keyboard.press("Enter");
    await expect.poll(focused).toBe("Cancel");
    await page.keyboard.press("Tab");
    await expect.poll(focused).toBe("Delete");
    await page.keyboard.press("Enter");
    await page.getByText("Deleted by-keyboard. In force everywhere").waitFor();
    expect(faults).toEqual([]);
    await context.close();
  });

  test("hostile names are text, and what is invisible is written out", async () => {
    const name = `<img src=x onerror=alert(1)>\u{200b}x`;
    await console.sallyport.createToken({ displayName: name, principal: "user:evil" });
    await console.sallyport.admin.principals.createPrincipal({
      principal: { name: "bot:evil", displayName: "<script>alert(1)</script>" },
    });
    await console.sallyport.admin.roles.createRole({
      role: { name: "evil", description: "<img src=y onerror=alert(2)>\u{200b}x", scopes: ["repo:read"] },
    });
    const { page, context, faults } = await console.signedIn();
    const link = page.getByRole("link", { name: "<img src=x" });
    await link.waitFor();
    expect(await link.textContent()).toBe("<img src=x onerror=alert(1)>\\u{200b}x");
    expect(await page.locator("main img, main script").count()).toBe(0);
    await view(page, "#/principals");
    await page.getByText("<script>alert(1)</script>").waitFor();
    await view(page, "#/roles");
    await page.getByText("<img src=y onerror=alert(2)>\\u{200b}x").waitFor();
    expect(await page.locator("main img").count()).toBe(0);
    await view(page, "#/%3Cimg%20src=x%3E");
    await page.getByRole("heading", { name: "There is no such page" }).waitFor();
    expect(faults).toEqual([]);
    await context.close();
  });
});

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { SignInServers } from "../sessions/sign-in.ts";
import { ROOT } from "../support/program.ts";
import { axe } from "./axe.ts";
import { CHROMIUM, Console, settled } from "./browser.ts";

/** Not committed: for people who look. */
const FOLDER = join(ROOT, ".cache/console-pictures");
/** The beginning of every JWT. */
const JWT = /eyJ[\w-]{10}/;

describe.skipIf(CHROMIUM === undefined)("single sign-on", () => {
  let issuers: SignInServers;
  let console: Console;
  beforeAll(async () => {
    mkdirSync(FOLDER, { recursive: true });
    issuers = await SignInServers.open();
    console = await Console.start(issuers.config);
    await console.sallyport.admin.tenants.createTenant({ tenant: { id: "blue" } });
  });
  afterAll(async () => {
    await console?.[Symbol.asyncDispose]();
    await issuers?.close();
  });
  beforeEach(() => {
    issuers.corp.user = "ann";
    issuers.corp.groups.set("ann", ["staff"]);
  });

  const withCorp = (page: Page) => page.getByRole("link", { name: "Sign in with Corp" });
  const signOut = (page: Page) => page.getByRole("button", { name: "Sign out" });
  const signedIn = async () => {
    const view = await console.open();
    await withCorp(view.page).click();
    await signOut(view.page).waitFor();
    return view;
  };
  const create = async (page: Page, name: string) => {
    await page.getByRole("button", { name: "New token" }).click();
    await page.getByLabel(/^Name/).last().fill(name);
  };
  const endSessions = () => console.sallyport.sql("delete from sallyport.console_sessions");

  /** All that the page keeps and sends. */
  async function kept(page: Page, context: BrowserContext): Promise<string> {
    const state = await context.storageState();
    const own = await page.evaluate(
      "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state, location.href, document.cookie])",
    );
    return JSON.stringify([state, own, await page.content()]);
  }

  test("makes a token of one's own; no token of the issuer is in storage, address or request", async () => {
    const { page, context, faults } = await console.open();
    const seen: string[] = [];
    page.on("request", (request) => seen.push(`${request.url()} ${request.postData() ?? ""}`));
    page.on("response", async (response) => {
      seen.push(JSON.stringify(await response.allHeaders().catch(() => ({}))), await response.text().catch(() => ""));
    });
    await withCorp(page).click();
    await signOut(page).waitFor();
    await page.getByText("user:ann").first().waitFor();
    await page.getByRole("heading", { name: "My tokens" }).waitFor();
    await create(page, "from my session");
    await page.getByRole("button", { name: "Create token" }).click();
    const shown = page.getByRole("status", { name: "Token" });
    await shown.waitFor();
    expect(await console.sallyport.verdict((await shown.textContent())!)).toBe("ALLOW");
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
    await page.evaluate("location.hash = '#/mine'");
    await page.getByText("from my session").first().waitFor();
    await settled(page);
    expect(seen.join("\n")).toContain("GetServerInfo");
    expect(seen.join("\n")).not.toMatch(JWT);
    expect(await kept(page, context)).not.toMatch(JWT);
    expect(console.sallyport.program.out).not.toMatch(JWT);
    const cookies = (await context.cookies(console.url)).filter(({ name }) => name.startsWith("__Host-sallyport"));
    expect(cookies).toMatchObject([{ httpOnly: true, secure: true, sameSite: "Strict", path: "/" }]);
    expect(faults).toEqual([]);
    // A reload goes on; a sign-out ends it for good.
    await page.reload();
    await signOut(page).click();
    await page.getByText("You are signed out.").waitFor();
    await page.reload();
    await withCorp(page).waitFor();
    expect(await signOut(page).count()).toBe(0);
    await context.close();
  });

  test("goes by the keyboard alone", async () => {
    const { page, context } = await console.open();
    await page.keyboard.press("Tab");
    for (let i = 0; i < 5 && !(await withCorp(page).evaluate((link) => link.matches(":focus"))); i++)
      await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await signOut(page).waitFor();
    await signOut(page).focus();
    await page.keyboard.press("Enter");
    await page.getByText("You are signed out.").waitFor();
    await context.close();
  });

  test("is refused to who has lost the group at the issuer, and says so", async () => {
    const first = await signedIn();
    await first.context.close();
    issuers.corp.groups.set("ann", []);
    const { page, context } = await console.open();
    await withCorp(page).click();
    await page.getByText("your groups give you no rights here").waitFor();
    expect(await signOut(page).count()).toBe(0);
    expect(new URL(page.url()).hash).toBe("#/");
    await context.close();
  });

  test("lets one choose among several tenants, and change", async () => {
    issuers.corp.groups.set("ann", ["staff", "blue"]);
    const { page, context } = await console.open();
    await withCorp(page).click();
    await page.getByRole("heading", { name: "Choose a tenant" }).waitFor();
    expect(await axe(page)).toEqual([]);
    await page.getByRole("button", { name: "blue" }).click();
    await signOut(page).waitFor();
    await create(page, "in blue");
    await page.getByRole("button", { name: "Create token" }).click();
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
    await page.getByRole("combobox", { name: "Tenant" }).selectOption("default");
    await page.evaluate("location.hash = '#/mine'");
    await page.getByRole("heading", { name: "My tokens" }).waitFor();
    await settled(page);
    expect(await page.getByText("in blue").count()).toBe(0);
    await page.getByRole("combobox", { name: "Tenant" }).selectOption("blue");
    await page.getByText("in blue").first().waitFor();
    await context.close();
  });

  test("keeps an open form when the session ends, for the person who returns", async () => {
    const { page, context } = await signedIn();
    await create(page, "typed before");
    await endSessions();
    await page.getByRole("button", { name: "Create token" }).click();
    const dialog = page.getByRole("dialog", { name: "Sign in again" });
    await dialog.waitFor();
    expect(await axe(page)).toEqual([]);
    await page.screenshot({ path: join(FOLDER, "sign-in-again-light-1280.png"), animations: "disabled" });
    await dialog.getByRole("link", { name: "Sign in with Corp" }).click();
    await dialog.waitFor({ state: "detached" });
    expect(await page.getByLabel(/^Name/).last().inputValue()).toBe("typed before");
    await page.getByRole("button", { name: "Create token" }).click();
    await page.getByRole("status", { name: "Token" }).waitFor();
    await context.close();
  });

  test("drops the form when somebody else returns", async () => {
    issuers.corp.groups.set("ben", ["staff"]);
    const { page, context } = await signedIn();
    await create(page, "of ann");
    await endSessions();
    await page.getByRole("button", { name: "Create token" }).click();
    const dialog = page.getByRole("dialog", { name: "Sign in again" });
    await dialog.waitFor();
    // The issuer has forgotten ann.
    await context.clearCookies();
    issuers.corp.user = "ben";
    await dialog.getByRole("link", { name: "Sign in with Corp" }).click();
    await page.getByText("user:ben").first().waitFor();
    expect(await page.getByRole("dialog").count()).toBe(0);
    expect(await page.content()).not.toContain("of ann");
    await context.close();
  });

  test.each([
    ["light", 1280],
    ["dark", 1280],
    ["light", 320],
    ["dark", 320],
  ] as const)("axe finds nothing where it begins: %s, %i px", async (scheme, width) => {
    const { page, context, faults } = await console.open({ dark: scheme === "dark", width });
    expect(await axe(page)).toEqual([]);
    expect(await page.evaluate("document.documentElement.scrollWidth <= innerWidth")).toBe(true);
    await page.screenshot({ path: join(FOLDER, `sign-in-oidc-${scheme}-${width}.png`), animations: "disabled" });
    expect(faults).toEqual([]);
    await context.close();
  });
});

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ROOT } from "../support/program.ts";
import { CHROMIUM, Console, populate, settled, view } from "./browser.ts";

/** Not committed: for people who look. */
const FOLDER = join(ROOT, ".cache/console-pictures");

describe.skipIf(CHROMIUM === undefined)("pictures", () => {
  let console: Console;
  let made: Awaited<ReturnType<typeof populate>>;
  beforeAll(async () => {
    mkdirSync(FOLDER, { recursive: true });
    console = await Console.start();
    made = await populate(console);
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  test.each([
    ["light", 1280],
    ["dark", 1280],
    ["light", 320],
    ["dark", 320],
  ] as const)("of every view: %s, %i px", async (scheme, width) => {
    const { page, context, faults } = await console.open({ dark: scheme === "dark", width });
    const picture = (name: string) =>
      page.screenshot({ path: join(FOLDER, `${name}-${scheme}-${width}.png`), animations: "disabled" });
    await picture("signin");
    await console.signIn(page);
    const views = {
      tokens: "#/tokens",
      mine: "#/mine",
      token: `#/tokens/${made.rotated.id}`,
      revoked: `#/tokens/${made.gone.id}`,
      nothing: "#/tokens?name=zzz",
      principals: "#/principals",
      principal: "#/principals/bot%3Aci-runner",
      roles: "#/roles",
      "holder-of-a-role": `#/tokens/${made.holder.id}`,
      tenants: "#/tenants",
      audit: "#/audit",
      status: "#/status",
    };
    for (const [name, hash] of Object.entries(views)) {
      await view(page, hash);
      await picture(name);
    }
    await view(page, "#/roles");
    await page.getByRole("button", { name: "Edit deployer" }).click();
    await picture("role");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Delete deployer" }).click();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByText("Live tokens hold it.").waitFor();
    await picture("role-in-use");
    await page.getByRole("button", { name: "Cancel" }).click();
    await view(page, "#/tokens");
    await page.getByRole("button", { name: "New token" }).click();
    await picture("create");
    await page.getByLabel("A bot").check({ force: true });
    await page.getByLabel("Bot", { exact: true }).fill("bot:ci-runner");
    await page.getByRole("button", { name: "Create token" }).click();
    await page.getByRole("heading", { name: "Copy the token now" }).waitFor();
    await picture("reveal");
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
    await page.getByRole("button", { name: "Rotate…" }).click();
    await picture("rotate");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Revoke…" }).click();
    await settled(page);
    await picture("revoke");
    await page.getByRole("button", { name: "Revoke", exact: true }).click();
    await page.getByText("Revoked. In force everywhere").waitFor();
    await settled(page);
    await picture("effect");
    expect(faults).toEqual([]);
    await context.close();
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHROMIUM, Console, view } from "./browser.ts";

describe.skipIf(CHROMIUM === undefined)("the page of the roles", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  const role = async (name: string) => (await console.sallyport.admin.roles.getRole({ name })).role!;
  const scopesOf = async (id: string) =>
    [...(await console.sallyport.admin.tokens.getToken({ id })).token!.effectiveScopes].sort();

  test("creates a role, shows a problem at its field, and changes it for the tokens that hold it", async () => {
    const { page, context, faults } = await console.signedIn({ at: "#/roles" });
    await page.getByRole("heading", { name: "No roles yet" }).waitFor();
    await page.getByRole("button", { name: "New role" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name", { exact: true }).fill("Deployer");
    await dialog.getByLabel("Description (optional)").fill("for deploys");
    await dialog.getByLabel("Scopes", { exact: true }).fill("repo:read, deploy:*");
    await dialog.getByRole("button", { name: "Create" }).click();
    await dialog.locator("[aria-invalid=true]").waitFor();
    expect(await dialog.locator("[aria-invalid=true]").inputValue()).toBe("Deployer");
    await dialog.getByLabel("Name", { exact: true }).fill("deployer");
    await dialog.getByRole("button", { name: "Create" }).click();
    await page.getByText("Created deployer.").waitFor();
    expect(await role("deployer")).toMatchObject({
      description: "for deploys",
      scopes: expect.arrayContaining(["repo:read", "deploy:*"]),
      administrative: false,
    });

    const holder = await console.sallyport.createToken({ principal: "user:holder", roles: ["deployer"], scopes: [] });
    await page.getByRole("button", { name: "Edit deployer" }).click();
    expect(await dialog.getByLabel("Name", { exact: true }).count()).toBe(0);
    await dialog.getByLabel("Scopes", { exact: true }).fill("repo:read image:push");
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.getByRole("status").filter({ hasText: "Changed deployer. In force everywhere after" }).waitFor();
    expect(await scopesOf(holder.id)).toEqual(["image:push", "repo:read"]);

    await page.getByRole("link", { name: "Show the tokens that hold deployer" }).click();
    await page.locator("tbody a").waitFor();
    await page.locator("tbody a").click();
    const facts = page.getByRole("region", { name: "Facts" });
    await facts.getByRole("link", { name: "deployer" }).waitFor();
    const value = (name: string) => facts.locator("div", { has: page.getByText(name, { exact: true }) }).locator("dd");
    expect(await value("Scopes").textContent()).toBe("none");
    expect((await value("In effect").textContent())!.trim().split(/\s+/).sort()).toEqual(["image:push", "repo:read"]);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("creates an administrative role, and a form that holds a token string sends nothing", async () => {
    const { page, context, faults } = await console.signedIn({ at: "#/roles" });
    const asked: string[] = [];
    page.on("request", (request) => asked.push(request.url()));
    await page.getByRole("button", { name: "New role" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name", { exact: true }).fill("reader");
    await dialog.getByLabel("Scopes", { exact: true }).fill("sallyport.tokens.read");
    await dialog.getByRole("checkbox", { name: /^Administrative/ }).check();
    await dialog.getByLabel("Description (optional)").fill(console.sallyport.adminToken);
    await dialog.getByText("This looks like a token").waitFor();
    await dialog.getByRole("button", { name: "Create" }).click({ force: true });
    await dialog.getByLabel("Description (optional)").fill("");
    expect(asked.filter((url) => url.includes("CreateRole"))).toEqual([]);
    await dialog.getByRole("button", { name: "Create" }).click();
    await page.getByText("Created reader.").waitFor();
    await page
      .getByRole("row", { name: /reader/ })
      .getByText("Administrative")
      .waitFor();
    expect((await role("reader")).administrative).toBe(true);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("a change by somebody else meanwhile: both versions are shown, and mine can still be kept", async () => {
    const { roles } = console.sallyport.admin;
    await roles.createRole({ role: { name: "shared", description: "first", scopes: ["a:read"] } });
    const { page, context } = await console.signedIn({ at: "#/roles" });
    await page.getByRole("button", { name: "Edit shared" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Description (optional)").fill("mine");
    await roles.updateRole({
      role: { name: "shared", description: "theirs", scopes: ["b:read"] },
      updateMask: { paths: ["description", "scopes"] },
    });
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("theirs “theirs”, yours “mine”").waitFor();
    await dialog.getByText("theirs “b:read”, yours “a:read”").waitFor();
    await dialog.getByRole("button", { name: "Save" }).click({ force: true });
    expect((await role("shared")).description).toBe("theirs");
    await dialog.getByRole("button", { name: "Take theirs" }).click();
    expect(await dialog.getByLabel("Scopes", { exact: true }).inputValue()).toBe("b:read");
    await dialog.getByLabel("Description (optional)").fill("mine");
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.getByText("Changed shared. In force everywhere").waitFor();
    expect(await role("shared")).toMatchObject({ description: "mine", scopes: ["b:read"] });
    await context.close();
  });

  test("a role that live tokens hold is deleted only after a tick, and they lose its scopes", async () => {
    const { roles } = console.sallyport.admin;
    await roles.createRole({ role: { name: "held", scopes: ["held:read"] } });
    const holder = await console.sallyport.createToken({ principal: "user:held", roles: ["held"], scopes: ["a:read"] });
    const { page, context } = await console.signedIn({ at: "#/roles" });
    const sent: unknown[] = [];
    page.on("request", (request) => {
      if (request.url().endsWith("/DeleteRole")) sent.push((request.postDataJSON() as { force?: boolean }).force);
    });
    await page.getByRole("button", { name: "Delete held" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Delete", exact: true }).click();
    await dialog.getByText("Live tokens hold it.").waitFor();
    await dialog.getByRole("button", { name: "Delete", exact: true }).click({ force: true });
    expect(await scopesOf(holder.id)).toEqual(["a:read", "held:read"]);
    await dialog.getByRole("checkbox", { name: /^Take it from them/ }).check();
    await dialog.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("status").filter({ hasText: "Deleted held. In force everywhere after" }).waitFor();
    expect(sent).toEqual([undefined, true]);
    expect(await scopesOf(holder.id)).toEqual(["a:read"]);
    await page.getByRole("button", { name: "Delete held" }).waitFor({ state: "detached" });
    await context.close();
  });

  test("who may only read sees the roles, and the permission that a change needs", async () => {
    await console.sallyport.admin.roles.createRole({ role: { name: "seen", scopes: ["a:read"] } });
    const reader = await console.sallyport.callerWith(["sallyport.tokens.read"]);
    const { page, context } = await console.signedIn({}, reader.tokenString);
    await page.getByRole("link", { name: "Roles" }).click();
    await page.getByText("sallyport.roles.write").waitFor();
    const button = page.getByRole("button", { name: "Delete seen" });
    expect(await button.getAttribute("title")).toBe("Needs sallyport.roles.write");
    await button.click({ force: true });
    await page.getByRole("button", { name: "New role" }).click({ force: true });
    expect(await page.getByRole("dialog").count()).toBe(0);
    await context.close();

    const plain = await console.sallyport.createToken({ principal: "user:plain" });
    const other = await console.signedIn({}, plain.tokenString);
    await view(other.page, "#/roles");
    await other.page.getByText("sallyport.tokens.read").waitFor();
    expect(await other.page.getByRole("link", { name: "Roles" }).count()).toBe(0);
    await other.context.close();
  });
});

import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHROMIUM, Console, populate, type View } from "./browser.ts";

describe.skipIf(CHROMIUM === undefined)("the console in a browser", () => {
  let console: Console;
  let made: Awaited<ReturnType<typeof populate>>;
  beforeAll(async () => {
    console = await Console.start();
    made = await populate(console);
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  async function closed({ context, faults }: View): Promise<void> {
    expect(faults).toEqual([]);
    await context.close();
  }
  const create = async ({ page }: View, principal: string, type = "A person") => {
    await page.getByRole("button", { name: "New token" }).click();
    await page.getByText(type, { exact: true }).click();
    await page.getByRole("combobox", { name: type.replace(/^A (.)/, (_, c) => c.toUpperCase()) }).fill(principal);
    await page.getByLabel(/^Name/).last().fill("made in a browser");
    await page.getByRole("button", { name: "Create token" }).click();
  };

  test("signs in with a token, refuses a bad one, and signs out", async () => {
    const view = await console.open();
    const { page } = view;
    await page.getByLabel("Token").fill("sp_pat_1nothing");
    await page.getByRole("button", { name: "Sign in with a token" }).click();
    await page.getByText("This token does not work here.").waitFor();
    expect(await page.getByLabel("Token").inputValue()).toBe("");
    await console.signIn(page);
    await page.getByRole("heading", { name: "All tokens" }).waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
    expect(await page.context().cookies()).toEqual([]);
    await closed(view);
  });

  test("forgets its token on reload", async () => {
    const view = await console.signedIn();
    await view.page.reload();
    await view.page.getByRole("heading", { name: "Sign in" }).waitFor();
    await closed(view);
  });

  test("creates a token that works, shows its string once, and revokes it with a sentence that stays", async () => {
    const view = await console.signedIn();
    const { page } = view;
    await create(view, "user:carol");
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("heading", { name: "Copy the token now" }).waitFor();
    await dialog.getByRole("button", { name: "Copy", exact: true }).click();
    await dialog.getByText("Copied").waitFor();
    const tokenString = (await page.evaluate("navigator.clipboard.readText()")) as string;
    expect(await console.sallyport.verdict(tokenString)).toBe("ALLOW");
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      dialog.getByRole("button", { name: "Save as file" }).click(),
    ]);
    expect(readFileSync((await download.path())!, "utf8")).toBe(`${tokenString}\n`);
    for (let i = 0; i < 4; i++) await page.keyboard.press("Escape");
    // Playwright would wait for a button that says it is disabled.
    await dialog.getByRole("button", { name: "Done" }).click({ force: true });
    expect(await dialog.getByRole("heading", { name: "Copy the token now" }).isVisible()).toBe(true);
    await dialog.getByLabel("I have stored it").check();
    await dialog.getByRole("button", { name: "Done" }).click();
    await page.getByRole("heading", { name: "made in a browser" }).waitFor();
    await page.getByRole("button", { name: "Revoke…" }).click();
    await dialog.getByLabel("Reason (optional)").fill("a test");
    await dialog.getByRole("button", { name: "Revoke", exact: true }).click();
    const note = page.getByRole("status").filter({ hasText: "Revoked. In force everywhere after" });
    await note.waitFor();
    expect(await note.textContent()).toMatch(/Acknowledged by 1 of 1 instance|can no longer use/);
    expect(await console.sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    await closed(view);
  });

  test("shows each problem of a form at its field, and puts the focus on the first", async () => {
    const view = await console.signedIn();
    const { page } = view;
    await create(view, "bot:nobody", "A bot");
    await page.getByRole("alert").getByText("PRINCIPAL_NOT_FOUND").waitFor();
    await page.getByRole("combobox", { name: "Bot" }).fill("user:x");
    await page.getByRole("button", { name: "Create token" }).click();
    await page.locator("[aria-invalid=true]:focus").waitFor();
    await closed(view);
  });

  test("finds the field of a problem in a list, and tells a name from a display name", async () => {
    const { id } = await console.sallyport.createToken({ principal: "user:listed", displayName: "listed" });
    const view = await console.signedIn({ at: `#/tokens/${id}` });
    const { page } = view;
    const dialog = page.getByRole("dialog");
    const long = `a:${"x".repeat(200)}`;
    const values = async () =>
      Promise.all((await dialog.locator("[aria-invalid=true]").all()).map((field) => field.inputValue()));
    await page.getByRole("button", { name: "Edit", exact: true }).click();
    await dialog.getByLabel("Scopes", { exact: true }).fill(`a:read ${long}`);
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.getByRole("alert").getByText("INVALID_FIELD").waitFor();
    expect(await values()).toEqual([`a:read ${long}`]);
    await dialog.getByRole("button", { name: "Cancel" }).click();

    await page.evaluate("location.hash = '#/principals'");
    await page.getByRole("button", { name: "New principal" }).click();
    await dialog.getByLabel("Principal", { exact: true }).fill("bot:listed");
    await dialog.getByLabel("Name (optional)").fill(long);
    await dialog.getByRole("button", { name: "Create" }).click();
    await page.getByRole("alert").getByText("INVALID_FIELD").waitFor();
    expect(await values()).toEqual([long]);
    await closed(view);
  });

  test("repeats a lost answer with the same request id, and makes one token", async () => {
    const view = await console.signedIn();
    const { page } = view;
    const sent: string[] = [];
    await page.route("**/sallyport.v1.TokenAdmin/CreateToken", async (route) => {
      sent.push((route.request().postDataJSON() as { requestId: string }).requestId);
      if (sent.length > 2) return route.continue();
      await route.fetch(); // the server does it, and the answer is lost
      await route.abort("connectionreset");
    });
    await create(view, "user:dora");
    await page.getByRole("heading", { name: "Copy the token now" }).waitFor();
    expect(sent).toHaveLength(3);
    expect(new Set(sent).size).toBe(1);
    expect((await console.sallyport.admin.tokens.listTokens({ principal: "user:dora" })).tokens).toHaveLength(1);
    await view.context.close();
  });

  test("rotates: the old token works on, and can be ended at once", async () => {
    const view = await console.signedIn({ at: `#/tokens/${made.soon.id}` });
    const { page } = view;
    await page.getByRole("button", { name: "Rotate…" }).click();
    await page.getByText("1 hour").click();
    await page.getByRole("button", { name: "Rotate", exact: true }).click();
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
    await page.getByText("Its predecessor still works.").waitFor();
    expect(await console.sallyport.verdict(made.soon.tokenString)).toBe("ALLOW");
    await page.getByRole("button", { name: "End it now…" }).click();
    await page.getByRole("button", { name: "Revoke", exact: true }).click();
    await page.getByText("Revoked. In force everywhere after").waitFor();
    expect(await console.sallyport.verdict(made.soon.tokenString)).toBe("INVALID_TOKEN");
    await closed(view);
  });

  test("revokes many after a preview and a typed count", async () => {
    for (let i = 0; i < 3; i++) await console.sallyport.createToken({ principal: "user:many" });
    const view = await console.signedIn();
    const { page } = view;
    await page.getByRole("button", { name: "Revoke many…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Principal").fill("user:many");
    await dialog.getByRole("button", { name: "Preview" }).click();
    await dialog.getByText("3 tokens would be revoked.").waitFor();
    await dialog.getByRole("button", { name: "Revoke 3" }).click({ force: true });
    expect(await dialog.isVisible()).toBe(true);
    await dialog.getByLabel("Type 3 to confirm").fill("3");
    await dialog.getByRole("button", { name: "Revoke 3" }).click();
    await page.getByText("Revoked 3 tokens. In force everywhere").waitFor();
    const { tokens } = await console.sallyport.admin.tokens.listTokens({ principal: "user:many", states: [1] });
    expect(tokens).toEqual([]);
    await closed(view);
  });

  test("revokes what is selected, in its own tenant, and counts what had ended", async () => {
    const { admin } = console.sallyport;
    await admin.tenants.createTenant({ tenant: { id: "other", displayName: "" } });
    const own = await console.sallyport.callerWith(["sallyport.admin", "sallyport.operator"]);
    const [first, second, ended] = await Promise.all(
      ["first", "second", "third"].map((displayName) =>
        console.sallyport.createToken({ principal: "user:caller", displayName }),
      ),
    );
    await console.sallyport.createToken({ principal: "user:caller", displayName: "elsewhere", tenant: "other" });
    const view = await console.signedIn({ at: "#/tokens?principal=user:caller" }, own.tokenString);
    const { page } = view;
    await page.locator("label.tenant select").selectOption("-");
    await page.getByRole("link", { name: "elsewhere" }).waitFor();
    expect(await page.getByRole("checkbox").count()).toBe(0);
    await page.getByText("Choose one tenant to select several.").waitFor();
    await page.locator("label.tenant select").selectOption("other");
    await page.getByRole("link", { name: "first" }).waitFor({ state: "detached" });
    await page.getByRole("link", { name: "My tokens" }).click();
    for (const name of ["first", "second", "third"]) await page.getByLabel(`Select ${name}`).check();
    await admin.tokens.revokeToken({ target: { case: "id", value: ended!.id } });
    await page.getByRole("button", { name: "Revoke them…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("In default.").waitFor();
    await dialog.getByRole("button", { name: "Preview" }).click();
    await dialog.getByText("2 tokens would be revoked. Of the 3 selected, 1 ended before.").waitFor();
    await dialog.getByRole("heading", { name: "Revoke 2 selected tokens" }).waitFor();
    await dialog.getByLabel("Type 2 to confirm").fill("2");
    await dialog.getByRole("button", { name: "Revoke 2" }).click();
    await page.getByText("Revoked 2 tokens. In force everywhere").waitFor();
    for (const { tokenString } of [first!, second!])
      expect(await console.sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    await closed(view);
  });

  test("filters, names what does not match, and clears", async () => {
    const view = await console.signedIn();
    const { page } = view;
    await page.getByRole("link", { name: "No expiry" }).click();
    await page.getByRole("link", { name: "grafana reader" }).waitFor();
    expect(await page.getByRole("link", { name: "billing export" }).count()).toBe(0);
    await page.getByLabel("Principal", { exact: true }).fill("user:nobody");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "No token matches" }).waitFor();
    expect(page.url()).toContain("principal=user%3Anobody");
    await page.getByRole("link", { name: "Clear filters" }).click();
    await page.getByRole("link", { name: "billing export" }).waitFor();
    await closed(view);
  });

  test("a token without permissions sees its own tokens, and a page that it may not see names the permission", async () => {
    const plain = await console.sallyport.createToken({ principal: "user:plain", displayName: "plain" });
    const view = await console.signedIn({}, plain.tokenString);
    const { page } = view;
    await page.getByRole("heading", { name: "My tokens" }).waitFor();
    expect(await page.getByRole("link", { name: "Audit" }).count()).toBe(0);
    await page.evaluate("location.hash = '#/audit'");
    await page.getByText("sallyport.audit.read").waitFor();
    await closed(view);
  });

  test("a failure is shown with its reason, keeps the old rows, and can be tried again", async () => {
    const view = await console.signedIn();
    const { page } = view;
    await page.getByRole("link", { name: "billing export" }).waitFor();
    let broken = "503";
    await page.route("**/*TokenAdmin/ListTokens", (route) =>
      broken === "json" ? route.fulfill({ status: 200, contentType: "application/json", body: "{" }) : route.abort(),
    );
    await page.getByRole("link", { name: "Unused for 90 days" }).click();
    await page.getByRole("alert").waitFor();
    broken = "json";
    const answered = page.waitForResponse("**/*TokenAdmin/ListTokens");
    await page.getByRole("button", { name: "Try again" }).click();
    await answered;
    await page.getByRole("alert").waitFor();
    await page.unroute("**/*TokenAdmin/ListTokens");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByRole("alert").waitFor({ state: "detached" });
    await view.context.close();
  });

  test("names what stands in the way: 403, 429, 503, no network", async () => {
    const view = await console.signedIn();
    const { page } = view;
    await page.getByRole("link", { name: "billing export" }).waitFor();
    let status = 403;
    await page.route("**/*TokenAdmin/ListTokens", (route) =>
      route.fulfill({ status, contentType: "text/html", body: "<h1>a proxy</h1>" }),
    );
    await page.getByRole("link", { name: "Unused for 90 days" }).click();
    const alert = page.getByRole("alert");
    const again = page.getByRole("button", { name: "Try again" });
    await alert.getByText("Something between this page and Sallyport refused the request.").waitFor();
    status = 429;
    await again.click();
    await alert.getByText("Too much at once.").waitFor();
    status = 503;
    await again.click();
    await alert.getByText("It starts, stops or is overloaded.").waitFor();
    await page.unroute("**/*TokenAdmin/ListTokens");
    await view.context.setOffline(true);
    await again.click();
    await alert.getByText("You are offline.").waitFor();
    await view.context.setOffline(false);
    await again.click();
    await alert.waitFor({ state: "detached" });
    await view.context.close();
  });

  test("signs out when the token no longer works", async () => {
    const caller = await console.sallyport.callerWith(["sallyport.admin"]);
    const view = await console.signedIn({}, caller.tokenString);
    await console.sallyport.admin.tokens.revokeToken({ target: { case: "id", value: caller.id } });
    // A call of the first page may have been refused already, and the link be gone.
    const click = view.page.getByRole("link", { name: "Audit" }).click();
    await Promise.all([click.catch(() => {}), view.page.getByText("Your token no longer works.").waitFor()]);
    await view.context.close();
  });
});

import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { builtConsole } from "../../scripts/console-build.ts";
import { CHROMIUM, Console } from "./browser.ts";

/** The strings of a heap snapshot that hold a text. */
async function stringsWith(page: Page, text: string): Promise<number> {
  const session = await page.context().newCDPSession(page);
  let snapshot = "";
  session.on("HeapProfiler.addHeapSnapshotChunk", ({ chunk }) => {
    snapshot += chunk;
  });
  await session.send("HeapProfiler.collectGarbage");
  await session.send("HeapProfiler.takeHeapSnapshot", { reportProgress: false });
  await session.detach();
  const { strings } = JSON.parse(snapshot) as { strings: string[] };
  return strings.filter((one) => one.includes(text)).length;
}

describe.skipIf(CHROMIUM === undefined)("a new token string", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  /** Creates a token in the page, reads its string, closes the dialog. Returns the secret part. */
  async function created(page: Page): Promise<string> {
    await page.getByRole("button", { name: "New token" }).click();
    await page.getByRole("combobox", { name: "Person" }).fill("user:ann");
    await page.getByLabel(/^Name/).last().fill("secret");
    await page.getByRole("button", { name: "Create token" }).click();
    await page.getByRole("heading", { name: "Copy the token now" }).waitFor();
    const text = (await page.getByRole("status", { name: "Token" }).textContent())!;
    expect(text).toMatch(/^sp_pat_[0-9A-Za-z]{58}$/);
    await page.getByLabel("I have stored it").check();
    await page.getByRole("button", { name: "Done" }).click();
    await page.getByRole("heading", { name: "secret" }).waitFor();
    return text.slice(-49);
  }

  test("is in no node, storage, history, request, log or string of the heap after its dialog was closed", async () => {
    const { page, context, faults } = await console.open();
    const said: string[] = [];
    page.on("console", (message) => said.push(message.text()));
    const asked: string[] = [];
    page.on("request", (request) => asked.push(`${request.url()} ${request.postData() ?? ""}`));
    await console.signIn(page);
    const secret = await created(page);
    expect(await page.content()).not.toContain(secret);
    expect(
      await page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state, location.href])"),
    ).not.toContain(secret);
    expect(asked.join("\n")).not.toContain(secret);
    expect(said.join("\n")).not.toContain(secret);
    expect(console.sallyport.program.out).not.toContain(secret);
    expect(await stringsWith(page, secret)).toBe(0);
    await page.goBack();
    expect(await page.content()).not.toContain(secret);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("mutant: a page that keeps the string is found out", async () => {
    const { page, context } = await console.open();
    const keep = (source: string) =>
      source.replace(
        "secrets.set(one, response.tokenString);",
        "secrets.set(one, response.tokenString); (globalThis as any).kept = [response.tokenString];",
      );
    const mutant = Buffer.from((await builtConsole({ "reveal.tsx": keep })).get("app.js")!);
    await page.route("**/console/app.js", (route) => route.fulfill({ contentType: "text/javascript", body: mutant }));
    await page.reload();
    await console.signIn(page);
    const secret = await created(page);
    expect(await stringsWith(page, secret)).toBeGreaterThan(0);
    await context.close();
  });

  test("that somebody pastes into the search is never sent: it is judged here, and its hint found", async () => {
    const found = await console.sallyport.createToken({ displayName: "lost" });
    const view = await console.signedIn();
    const { page } = view;
    const asked: string[] = [];
    page.on("request", (request) => asked.push(`${request.url()} ${request.postData() ?? ""}`));
    const search = page.getByRole("searchbox");
    await search.fill(`Authorization: Bearer ${found.tokenString}`);
    expect(await search.inputValue()).toBe("");
    await page.getByText("Known here.").waitFor();
    await page.getByRole("search").getByRole("link", { name: "Revoke…" }).waitFor();
    const damaged = `${found.tokenString.slice(0, -1)}${found.tokenString.endsWith("0") ? "1" : "0"}`;
    await search.fill(damaged);
    await page.getByText("Wrong checksum").waitFor();
    await search.fill(`ghp_${"a".repeat(44)}`);
    await page.getByText("Not a Sallyport token.").waitFor();
    const secret = found.tokenString.slice(-49, -6);
    expect(asked.join("\n")).not.toContain(secret);
    expect(asked.join("\n")).toContain(found.token.hint);
    expect(page.url()).not.toContain(secret);
    await view.context.close();
  });

  test("only what was sent is said to be sent, and no other secret goes into an address or a request", async () => {
    const found = await console.sallyport.createToken({ displayName: "typed" });
    const view = await console.signedIn();
    const { page } = view;
    const asked: string[] = [];
    page.on("request", (request) => asked.push(`${request.url()} ${request.postData() ?? ""}`));
    const search = page.getByRole("searchbox");
    const said = page.getByRole("search").getByRole("status");
    await search.fill(found.token.hint);
    await search.press("Enter");
    await said.getByText("Known here.").waitFor();
    expect(await said.textContent()).not.toContain("not sent");
    await search.fill(found.tokenString);
    await said.getByText("Only its hint was sent; the text is gone from the field.").waitFor();
    const secrets = [
      found.tokenString.slice(0, 20),
      `ghp_${"aB3dE5".repeat(6)}`,
      "uq7Zr1_Xk9-mD4vPw2sLt8Yc", // as of a break-glass secret
      "9f86d081884c7d659a2feaa0c55ad015",
      "dGhpcyBpcyBub3QgYSBzZWNyZXQ=",
    ];
    for (const secret of secrets) {
      await search.fill(secret);
      await search.press("Enter");
      await said.getByText("The text was not sent").waitFor();
      expect(await search.inputValue()).toBe("");
      await page.getByRole("button", { name: "Dismiss" }).click();
      const filter = page.getByLabel("Name begins with");
      await filter.fill(secret);
      expect(await filter.inputValue()).toBe("");
    }
    for (const secret of secrets) expect(`${page.url()}\n${asked.join("\n")}`).not.toContain(secret);
    for (const name of ["production-billing-service-export-2026-11-30", "user:550e8400-e29b-41d4-a716-446655440000"]) {
      await search.fill(name);
      await search.press("Enter");
      await page.waitForURL((url) => decodeURIComponent(url.hash).includes(name));
    }
    await view.context.close();
  });

  test("the late answer about one text does not take the place of the words about the next", async () => {
    const found = await console.sallyport.createToken();
    const view = await console.signedIn();
    const { page } = view;
    const search = page.getByRole("searchbox");
    const said = page.getByRole("search").getByRole("status");
    const late = Promise.withResolvers<void>();
    await page.route("**/sallyport.v1.TokenAdmin/ListTokens", async (route) => {
      await late.promise;
      await route.continue();
    });
    await search.fill(found.tokenString);
    await said.getByText("Looking…").waitFor();
    await search.fill(`ghp_${"aB3dE5".repeat(6)}`);
    await said.getByText("The text was not sent").waitFor();
    const answered = page.waitForResponse(/ListTokens/);
    late.resolve();
    await (await answered).finished();
    await page.evaluate(() => new Promise((done) => setTimeout(done, 50)));
    expect(await said.textContent()).toContain("The text was not sent");
    await view.context.close();
  });

  test("in a reason is not sent", async () => {
    const found = await console.sallyport.createToken();
    const view = await console.signedIn({ at: `#/tokens/${found.id}` });
    const { page } = view;
    const asked: string[] = [];
    page.on("request", (request) => asked.push(request.postData() ?? ""));
    await page.getByRole("button", { name: "Revoke…" }).click();
    await page.getByLabel("Reason (optional)").fill(found.tokenString);
    await page.getByText("This looks like a token").waitFor();
    await page.getByRole("button", { name: "Revoke", exact: true }).click({ force: true });
    expect(await page.getByRole("dialog").isVisible()).toBe(true);
    expect(asked.join("\n")).not.toContain(found.tokenString.slice(-49));
    expect(await console.sallyport.verdict(found.tokenString)).toBe("ALLOW");
    await view.context.close();
  });
});

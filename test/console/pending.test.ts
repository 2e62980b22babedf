import { create, toBinary } from "@bufbuild/protobuf";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../console/gen/google/rpc/error_details_pb.ts";
import { CHROMIUM, Console, view } from "./browser.ts";

const BY = "2031-02-03T04:05:06.789Z";

describe.skipIf(CHROMIUM === undefined)("a change that is durable, and whose proof did not come in time", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  /** The server makes each change, and the page hears EFFECT_PENDING. Returns the calls that the page sent. */
  async function late(page: Page): Promise<string[]> {
    const sent: string[] = [];
    const info = create(ErrorInfoSchema, { reason: "EFFECT_PENDING", metadata: { effective_by: BY } });
    const value = Buffer.from(toBinary(ErrorInfoSchema, info)).toString("base64");
    const answer = {
      code: "deadline_exceeded",
      message: "the change is durable, and in force everywhere within 900 ms",
      details: [{ type: "google.rpc.ErrorInfo", value }],
    };
    await page.route(/\/sallyport\.v1\.\w+\/(Update|Delete|Revoke)\w+$/, async (route) => {
      if ((route.request().postDataJSON() as { dryRun?: boolean }).dryRun === true) return route.continue();
      sent.push(new URL(route.request().url()).pathname.split("/").at(-1)!);
      expect((await route.fetch()).status()).toBe(200);
      await route.fulfill({ status: 504, json: answer });
    });
    return sent;
  }
  const saved = async (page: Page, what: string) => {
    await page
      .getByRole("status")
      .filter({ hasText: `${what}. Durable; in force by ${BY}.` })
      .waitFor();
    expect(await page.getByRole("dialog").count()).toBe(0);
    expect(await page.getByRole("alert").count()).toBe(0);
  };

  test("an edited token: the dialog closes with a note, and the next edit has no conflict with it", async () => {
    const { id } = await console.sallyport.createToken({ principal: "user:edited", displayName: "first" });
    const { page, context, faults } = await console.signedIn({ at: `#/tokens/${id}` });
    const sent = await late(page);
    const edit = async (from: string, to: string) => {
      await page.getByRole("heading", { name: from }).waitFor();
      await page.getByRole("button", { name: "Edit", exact: true }).click();
      await page.getByRole("dialog").getByLabel("Name", { exact: true }).fill(to);
      await page.getByRole("button", { name: "Save" }).click();
    };
    await edit("first", "second");
    await saved(page, "Changed");
    await edit("second", "third");
    await page.getByRole("heading", { name: "third" }).waitFor();
    await saved(page, "Changed");
    expect((await console.sallyport.admin.tokens.getToken({ id })).token!.displayName).toBe("third");
    expect(sent).toEqual(["UpdateToken", "UpdateToken"]);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("a revoked token, and many that are revoked", async () => {
    const { id } = await console.sallyport.createToken({ principal: "user:ended", displayName: "ended" });
    for (let i = 0; i < 2; i++) await console.sallyport.createToken({ principal: "user:many" });
    const { page, context } = await console.signedIn({ at: `#/tokens/${id}` });
    const sent = await late(page);
    await page.getByRole("button", { name: "Revoke…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Revoke", exact: true }).click();
    await saved(page, "Revoked");

    await view(page, "#/tokens");
    await page.getByRole("button", { name: "Revoke many…" }).click();
    await dialog.getByLabel("Principal").fill("user:many");
    await dialog.getByRole("button", { name: "Preview" }).click();
    await dialog.getByLabel("Type 2 to confirm").fill("2");
    await dialog.getByRole("button", { name: "Revoke 2" }).click();
    await saved(page, "Revoked the tokens");
    const { tokens } = await console.sallyport.admin.tokens.listTokens({ principal: "user:many", states: [1] });
    expect(tokens).toEqual([]);
    expect(sent).toEqual(["RevokeToken", "RevokeTokens"]);
    await context.close();
  });

  test("a role that is changed, then deleted", async () => {
    await console.sallyport.admin.roles.createRole({ role: { name: "late", scopes: ["a:read"] } });
    const { page, context } = await console.signedIn({ at: "#/roles" });
    const sent = await late(page);
    await page.getByRole("button", { name: "Edit late" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Scopes", { exact: true }).fill("b:read");
    await dialog.getByRole("button", { name: "Save" }).click();
    await saved(page, "Changed late");
    await page.getByText("b:read").waitFor();
    await page.getByRole("button", { name: "Delete late" }).click();
    await dialog.getByRole("button", { name: "Delete", exact: true }).click();
    await saved(page, "Deleted late");
    await page.getByRole("button", { name: "Delete late" }).waitFor({ state: "detached" });
    expect(sent).toEqual(["UpdateRole", "DeleteRole"]);
    await context.close();
  });

  test("a principal that is disabled, enabled and deleted, and a tenant that is suspended", async () => {
    await console.sallyport.registered("bot:late");
    await console.sallyport.admin.tenants.createTenant({ tenant: { id: "late", displayName: "" } });
    const { page, context } = await console.signedIn({ at: "#/principals/bot%3Alate" });
    const sent = await late(page);
    const dialog = page.getByRole("dialog");
    for (const [opener, verb, done] of [
      ["Disable…", "Disable", "Disabled"],
      ["Enable", "Enable", "Enabled"],
      ["Delete…", "Delete", "Deleted"],
    ] as const) {
      await page.getByRole("button", { name: opener, exact: true }).click();
      await dialog.getByRole("button", { name: verb, exact: true }).click();
      await saved(page, done);
    }
    await view(page, "#/tenants");
    await page.getByRole("button", { name: "Suspend late" }).click();
    await dialog.getByRole("button", { name: "Suspend", exact: true }).click();
    await saved(page, "Suspended late");
    await page.getByRole("button", { name: "Resume late" }).waitFor();
    expect(sent).toEqual(["UpdatePrincipal", "UpdatePrincipal", "DeletePrincipal", "UpdateTenant"]);
    await context.close();
  });
});

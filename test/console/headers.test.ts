import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHROMIUM, Console } from "./browser.ts";

describe.skipIf(CHROMIUM === undefined)("the policy of the page, in a browser", () => {
  let console: Console;
  beforeAll(async () => {
    console = await Console.start();
  });
  afterAll(() => console?.[Symbol.asyncDispose]());

  /** What an attacker would try who can put markup into the page. */
  const attempts = () => `(async () => {
    const done = [];
    const script = document.createElement("script");
    try { script.textContent = "window.ran = true"; document.body.append(script); } catch { done.push("script refused"); }
    if (window.ran) done.push("script ran");
    try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran=1'>"); done.push("markup"); }
    catch { done.push("markup refused"); }
    try { await fetch("${console.sallyport.listeners.ops}/healthz", { mode: "no-cors" }); done.push("fetched"); } catch { done.push("fetch refused"); }
    const frame = document.createElement("iframe"); frame.src = "/console/";
    document.body.append(frame);
    await new Promise((resolve) => { frame.onload = resolve; setTimeout(resolve, 2000); });
    try { done.push(frame.contentDocument?.getElementById("app") ? "framed" : "not framed"); } catch { done.push("not framed"); }
    return done;
  })()`;
  const SAFE = ["script refused", "markup refused", "fetch refused", "not framed"];

  test("lets nothing run, load or frame it that is not its own", async () => {
    const { page, context } = await console.open();
    expect(await page.evaluate(attempts())).toEqual(SAFE);
    await context.close();
  });

  test("mutant: with unsafe-inline and without trusted types the same attempts are seen to work", async () => {
    const { page, context } = await console.open();
    await page.route("**/console/", async (route) => {
      const response = await route.fetch();
      const headers = { ...response.headers(), "content-security-policy": "script-src 'self' 'unsafe-inline'" };
      await route.fulfill({ response, headers });
    });
    await page.reload();
    const seen = (await page.evaluate(attempts())) as string[];
    expect(seen).toEqual(expect.arrayContaining(["script ran", "markup", "fetched"]));
    await context.close();
  });

  test("a form of another page cannot revoke, not even with a token that the page knows", async () => {
    const { listeners, adminToken } = console.sallyport;
    const victim = await console.sallyport.createToken();
    const { page, context } = await console.open();
    // Another port is another origin. From another site, the browser itself would keep the page away from this machine.
    await page.goto(`${listeners.ops}/healthz`);
    const type = await page.evaluate(
      async ([url, client_secret, token]) => {
        // Such a request needs no preflight.
        const body = new URLSearchParams({ client_id: "x", client_secret, token });
        return (await fetch(`${url}/v1/revoke`, { method: "POST", mode: "no-cors", body })).type;
      },
      [listeners.admin, adminToken, victim.tokenString] as const,
    );
    expect(type).toBe("opaque");
    expect(await console.sallyport.verdict(victim.tokenString)).toBe("ALLOW");
    // The same request from elsewhere than a browser does revoke.
    const body = new URLSearchParams({ client_id: "x", client_secret: adminToken, token: victim.tokenString });
    expect((await fetch(`${listeners.admin}/v1/revoke`, { method: "POST", body })).status).toBe(200);
    expect(await console.sallyport.verdict(victim.tokenString)).toBe("INVALID_TOKEN");
    await context.close();
  });
});

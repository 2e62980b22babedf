import { request } from "node:http";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { SignInServers } from "../sessions/sign-in.ts";
import { TestSallyport } from "../support/sallyport.ts";

/*
 * The single sign-on of the console without a browser: everything that a browser, or somebody in its place, can send.
 */
let issuers: SignInServers;
let sallyport: TestSallyport;
beforeAll(async () => {
  issuers = await SignInServers.open();
  sallyport = await TestSallyport.start({ config: issuers.config });
});
afterAll(async () => {
  await sallyport?.stop();
  await issuers?.close();
});
beforeEach(() => {
  issuers.corp.user = "ann";
  issuers.corp.groups.set("ann", ["staff"]);
  issuers.corp.accessTokenLasts = 300;
});

interface Answer {
  readonly status: number;
  readonly location: string;
  /** By name; a value that was deleted is "". */
  readonly cookies: ReadonlyMap<string, string>;
  readonly set: readonly string[];
  readonly body: string;
}

function ask(path: string, headers: Record<string, string> = {}, method = "GET", body = ""): Promise<Answer> {
  return new Promise((done, reject) => {
    const sent = request(new URL(path, sallyport.listeners.admin), { method, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => (text += chunk));
      response.on("end", () => {
        const set = response.headers["set-cookie"] ?? [];
        const cookies = new Map(
          set.map((one) => one.split(";", 1)[0]!.split(/=(.*)/s).slice(0, 2) as [string, string]),
        );
        done({ status: response.statusCode!, location: response.headers.location ?? "", cookies, set, body: text });
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

const ATTEMPT = "__Host-sallyport_login";
const SESSION = "__Host-sallyport_session";
const login = (issuer = "corp") => ask(`/console/auth/login?issuer=${issuer}`);
const attemptOf = (answer: Answer) => `${ATTEMPT}=${answer.cookies.get(ATTEMPT)}`;
const back = (url: URL, cookie: string) => ask(`${url.pathname}${url.search}`, { cookie });
const refusedAs = (problem: string) => `/console/#/sign-in?problem=${problem}`;

/** The cookie of a new session. */
async function signedIn(): Promise<string> {
  const begun = await login();
  const done = await back(await issuers.corp.follow(begun.location), attemptOf(begun));
  expect(done.location).toBe("/console/");
  return `${SESSION}=${done.cookies.get(SESSION)}`;
}

const OF_CONSOLE = { "x-sallyport-console": "1", "sec-fetch-site": "same-origin" };
const call = (headers: Record<string, string>, method = "POST") =>
  ask("/sallyport.v1.ServerInfo/GetServerInfo", { "content-type": "application/json", ...headers }, method, "{}");

test("the flow: PKCE, state and nonce to the issuer; a session for the browser, which learns no token", async () => {
  const begun = await login();
  const sent = new URL(begun.location).searchParams;
  expect(sent.get("response_type")).toBe("code");
  expect(sent.get("code_challenge_method")).toBe("S256");
  for (const name of ["state", "nonce", "code_challenge"]) expect(sent.get(name)!.length).toBeGreaterThan(40);
  expect(begun.set[0]).toMatch(/; Path=\/; Max-Age=600; HttpOnly; Secure; SameSite=Lax$/);
  const done = await back(await issuers.corp.follow(begun.location), attemptOf(begun));
  expect(done.status).toBe(303);
  expect(done.location).toBe("/console/");
  expect(done.cookies.get(ATTEMPT)).toBe("");
  const set = done.set.find((one) => one.startsWith(SESSION))!;
  expect(set).toMatch(/; Path=\/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict$/);
  expect(JSON.stringify(done.set)).not.toMatch(/eyJ/);
  const answer = await call({ ...OF_CONSOLE, cookie: set.split(";")[0]! });
  expect(JSON.parse(answer.body).caller).toMatchObject({ principal: "user:ann", provenance: "session:ann" });
  const rows = await sallyport.sql<{ row: string }>(
    "select encode(sealed, 'escape') as row from sallyport.console_sessions",
  );
  expect(JSON.stringify(rows)).not.toMatch(/eyJ/);
});

test("what comes back must belong to what was sent", async () => {
  const [mine, another] = [await login(), await login()];
  const url = await issuers.corp.follow(mine.location);
  const wrong = new URL(url);
  wrong.searchParams.set("state", "A".repeat(43));
  expect((await back(wrong, attemptOf(mine))).location).toBe(refusedAs("refused"));
  // Somebody else's attempt, or none: a link cannot sign a browser in.
  expect((await back(url, attemptOf(another))).location).toBe(refusedAs("refused"));
  expect((await back(url, "")).location).toBe(refusedAs("expired"));
  expect((await back(url, `${attemptOf(mine)}; ${attemptOf(mine)}`)).location).toBe(refusedAs("expired"));
  expect((await back(url, attemptOf(mine).replace(/.{4}$/, "AAAA"))).location).toBe(refusedAs("expired"));
  const iss = new URL(url);
  iss.searchParams.set("iss", issuers.other.url);
  expect((await back(iss, attemptOf(mine))).location).toBe(refusedAs("refused"));
  // The true answer still counts, so nothing above failed for another reason.
  expect((await back(url, attemptOf(mine))).location).toBe("/console/");
});

test("an ID token of another nonce is refused, and so is a code that comes twice", async () => {
  const begun = await login();
  const changed = new URL(begun.location);
  changed.searchParams.set("nonce", "B".repeat(43));
  const refused = await back(await issuers.corp.follow(changed.href), attemptOf(begun));
  expect(refused.location).toBe(refusedAs("refused"));
  expect(refused.cookies.has(SESSION)).toBe(false);

  const again = await login();
  const url = await issuers.corp.follow(again.location);
  expect((await back(url, attemptOf(again))).location).toBe("/console/");
  const twice = await back(url, attemptOf(again));
  expect(twice.location).toBe(refusedAs("refused"));
  expect(twice.cookies.has(SESSION)).toBe(false);
});

test("who lost the groups at the issuer does not get in; neither does an unknown issuer's name", async () => {
  issuers.corp.groups.set("ann", []);
  const begun = await login();
  const done = await back(await issuers.corp.follow(begun.location), attemptOf(begun));
  expect(done.location).toBe(refusedAs("forbidden"));
  expect(done.cookies.has(SESSION)).toBe(false);
  expect((await login("nobody")).location).toBe(refusedAs("refused"));
});

test("the cookie counts only in a call of our own page, and never beside another credential", async () => {
  const cookie = await signedIn();
  const status = async (headers: Record<string, string>) => (await call(headers)).status;
  expect(await status({ ...OF_CONSOLE, cookie })).toBe(200);
  expect(await status({ "sec-fetch-site": "same-origin", cookie })).toBe(401);
  expect(await status({ "x-sallyport-console": "1", cookie })).toBe(401);
  expect(await status({ ...OF_CONSOLE, "sec-fetch-site": "none", cookie })).toBe(401);
  expect(await status({ ...OF_CONSOLE, "sec-fetch-site": "same-site", cookie })).toBe(403);
  expect(await status({ ...OF_CONSOLE, authorization: "Bearer wrong", cookie })).toBe(401);
  const token = await call({ ...OF_CONSOLE, authorization: `Bearer ${sallyport.adminToken}`, cookie });
  expect(JSON.parse(token.body).caller.provenance).toMatch(/^token:/);
  expect(await status({ ...OF_CONSOLE, cookie: `${cookie}; ${cookie}` })).toBe(401);
  expect(await status({ ...OF_CONSOLE, cookie: cookie.replace(/.$/, (last) => (last === "A" ? "B" : "A")) })).toBe(401);
  expect(await status({ ...OF_CONSOLE, cookie: `${SESSION}=1${"A".repeat(65)}` })).toBe(401);
  expect((await ask("/v1/revoke", { ...OF_CONSOLE, cookie }, "POST", "token=x")).status).toBe(401);
});

test("a sign-out ends the session for everybody who kept the cookie", async () => {
  const cookie = await signedIn();
  expect((await ask("/console/auth/logout", { cookie }, "POST")).status).toBe(403);
  expect((await ask("/console/auth/logout", { ...OF_CONSOLE, cookie })).status).toBe(405);
  expect((await call({ ...OF_CONSOLE, cookie })).status).toBe(200);
  const out = await ask("/console/auth/logout", { ...OF_CONSOLE, cookie }, "POST");
  expect(out.status).toBe(204);
  expect(out.cookies.get(SESSION)).toBe("");
  expect((await call({ ...OF_CONSOLE, cookie })).status).toBe(401);
});

test("a session ends by its age and without a use", async () => {
  const cookie = await signedIn();
  const newest = "(select id from sallyport.console_sessions order by create_time desc limit 1)";
  await sallyport.sql(
    `update sallyport.console_sessions set use_time = now() - interval '59 min' where id = ${newest}`,
  );
  expect((await call({ ...OF_CONSOLE, cookie })).status).toBe(200);
  const [row] = await sallyport.sql<{ fresh: boolean }>(
    `select use_time > now() - interval '1 min' as fresh from sallyport.console_sessions where id = ${newest}`,
  );
  expect(row!.fresh).toBe(true);
  await sallyport.sql(
    `update sallyport.console_sessions set use_time = now() - interval '61 min' where id = ${newest}`,
  );
  expect((await call({ ...OF_CONSOLE, cookie })).status).toBe(401);
  const other = await signedIn();
  await sallyport.sql(`update sallyport.console_sessions set expire_time = now() where id = ${newest}`);
  expect((await call({ ...OF_CONSOLE, cookie: other })).status).toBe(401);
  await signedIn();
  // The new one took the ended ones with it.
  expect(
    await sallyport.sql(
      "select from sallyport.console_sessions where expire_time < now() or use_time < now() - interval '1 h'",
    ),
  ).toEqual([]);
});

test("tokens are renewed before they end, once for calls at the same time, and with the groups of that moment", async () => {
  issuers.corp.accessTokenLasts = 30; // less than what must be left
  const cookie = await signedIn();
  const before = issuers.corp.exchanges;
  const all = await Promise.all(Array.from({ length: 8 }, () => call({ ...OF_CONSOLE, cookie })));
  expect(all.map(({ status }) => status)).toEqual(Array(8).fill(200));
  expect(issuers.corp.exchanges - before).toBeLessThan(4);
  expect(issuers.corp.exchanges).toBeGreaterThan(before);
  issuers.corp.groups.set("ann", []);
  expect((await call({ ...OF_CONSOLE, cookie })).status).toBe(403);
});

test("several tenants: the error names them, and the header chooses", async () => {
  issuers.corp.groups.set("ann", ["staff", "blue"]);
  const cookie = await signedIn();
  const open = await call({ ...OF_CONSOLE, cookie });
  expect(open.status).toBe(400);
  expect(open.body).toContain('"tenants":"blue default"');
  const blue = await call({ ...OF_CONSOLE, cookie, "x-sallyport-tenant": "blue" });
  expect(JSON.parse(blue.body).caller).toMatchObject({
    tenant: "blue",
    tenants: expect.arrayContaining(["blue", "default"]),
  });
});

test("the page learns the issuers by name, and nothing else of them", async () => {
  const { body } = await ask("/console/config.json");
  expect(JSON.parse(body).issuers).toEqual([
    { name: "corp", label: "Corp" },
    { name: "other", label: "Other Ltd" },
  ]);
});

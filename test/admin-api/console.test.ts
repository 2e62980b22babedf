import { readFileSync } from "node:fs";
import { request } from "node:http";
import { connect, type IncomingHttpHeaders } from "node:http2";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { builtConsole, DIST } from "../../scripts/console-build.ts";
import { run } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
const PUBLIC = "https://Sallyport.example.com:443";
beforeAll(async () => {
  const console = { public_url: PUBLIC, idle_timeout: "5m" };
  sallyport = await TestSallyport.start({ config: { console } });
});
afterAll(() => sallyport?.stop());

const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

interface Answer {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: Buffer;
}

/** One request as it stands, which `fetch` would add to. */
function ask(
  path: string,
  headers: Record<string, string> = {},
  method = "GET",
  body = "",
  at = sallyport,
): Promise<Answer> {
  const { hostname, port } = new URL(at.listeners.admin);
  return new Promise((resolve, reject) => {
    const req = request({ hostname, port, path, method, headers }, (res) => {
      const chunks: Buffer[] = [];
      res.on("data", (chunk: Buffer) => chunks.push(chunk));
      res.on("end", () => resolve({ status: res.statusCode!, headers: res.headers, body: Buffer.concat(chunks) }));
    });
    req.on("error", reject);
    req.end(body);
  });
}

const FILES = { "": "text/html; charset=utf-8", "app.js": "text/javascript; charset=utf-8" };

describe("the console", () => {
  test("is committed as `npm run console` builds it, byte for byte", async () => {
    for (const [name, bytes] of await builtConsole()) {
      expect(Buffer.compare(readFileSync(new URL(name, DIST)), bytes), name).toBe(0);
    }
  });

  test("is at most 90 KB, packed", () => {
    const sizes = ["index.html", "app.js", "app.css", "icon.svg"].map(
      (name) => gzipSync(readFileSync(new URL(name, DIST))).length,
    );
    expect(sizes.reduce((sum, size) => sum + size)).toBeLessThanOrEqual(90 * 1024);
  });

  test.each(Object.entries(FILES))("answers /console/%s with exactly the protecting headers", async (name, type) => {
    const { status, headers, body } = await ask(`/console/${name}`);
    expect(status).toBe(200);
    expect(headers).toMatchObject({ ...HEADERS, "content-type": type });
    expect(headers["cache-control"]).toBe(name === "" ? "no-store" : "no-cache");
    expect(body.equals(readFileSync(new URL(name || "index.html", DIST)))).toBe(true);
    expect(Object.keys(headers)).not.toContain("set-cookie");
  });

  test("answers packed where the browser takes it, and 304 to an etag that it knows", async () => {
    const plain = await ask("/console/app.js");
    const packed = await ask("/console/app.js", { "accept-encoding": "br, gzip" });
    expect(packed.headers).toMatchObject({ "content-encoding": "gzip", vary: "accept-encoding" });
    expect(gunzipSync(packed.body).equals(plain.body)).toBe(true);
    const again = await ask("/console/app.js", { "if-none-match": String(plain.headers.etag) });
    expect([again.status, again.body.length]).toEqual([304, 0]);
    expect(again.headers).toMatchObject(HEADERS);
    const other = await ask("/console/app.js", { "if-none-match": '"x"' });
    expect(other.status).toBe(200);
  });

  test("leads to itself from / for a browser and from /console, and knows no other path or method", async () => {
    const moved = async (path: string, accept: string) => {
      const { status, headers } = await ask(path, { accept });
      return [status, headers.location];
    };
    expect(await moved("/console", "*/*")).toEqual([308, "/console/"]);
    expect(await moved("/", "text/html,*/*")).toEqual([303, "/console/"]);
    expect((await moved("/", "*/*"))[0]).toBe(404);
    expect((await ask("/console/other.js")).status).toBe(404);
    expect((await ask("/console/../admin-token")).status).toBe(404);
    expect((await ask("/console/", {}, "POST")).status).toBe(405);
    const head = await ask("/console/", {}, "HEAD");
    expect([head.status, head.body.length]).toEqual([200, 0]);
  });

  test("tells its page the settings, and no credential", async () => {
    const { headers, body } = await ask("/console/config.json");
    expect(headers).toMatchObject({ "cache-control": "no-store", "content-type": "application/json" });
    expect(JSON.parse(body.toString())).toEqual({
      version: expect.stringMatching(/^\d/),
      tokenSignIn: true,
      idleTimeout: 300,
      issuers: [],
    });
  });

  test("answers over HTTP/2 too", async () => {
    const session = connect(sallyport.listeners.admin);
    const stream = session.request({ ":path": "/console/" });
    const [headers] = await new Promise<[IncomingHttpHeaders]>((resolve) =>
      stream.once("response", (...args) => resolve(args as unknown as [IncomingHttpHeaders])),
    );
    session.destroy();
    expect(headers).toMatchObject({ ":status": 200, ...HEADERS });
  });

  test("can be left out; calls from other sites are refused still", async () => {
    await using without = await TestSallyport.start({ config: { console: { enabled: false } } });
    for (const path of ["/console/", "/console", "/console/config.json"]) {
      expect((await ask(path, {}, "GET", "", without)).status).toBe(404);
    }
    const { status } = await ask(WHO, { origin: "https://evil.example", ...JSON_TYPE }, "POST", "{}", without);
    expect(status).toBe(403);
  });
});

const WHO = "/sallyport.v1.ServerInfo/GetServerInfo";
const JSON_TYPE = { "content-type": "application/json" };

describe("a call that a page of another site makes a browser send", () => {
  const bearer = () => ({ authorization: `Bearer ${sallyport.adminToken}` });
  const host = () => new URL(sallyport.listeners.admin).host;

  test.each([
    ["another origin", { origin: "https://evil.example" }],
    ["no origin that it tells", { origin: "null" }],
    ["its own host, as a part of another", { origin: "https://127.0.0.1.evil.example" }],
    ["another port", { origin: "http://127.0.0.1:1" }],
    ["another site", { "sec-fetch-site": "cross-site" }],
    ["another host of the site", { "sec-fetch-site": "same-site" }],
    ["another port of the public name", { origin: "https://sallyport.example.com:8443" }],
  ])("is refused before its credential is read: %s", async (_, headers) => {
    for (const [path, method, body] of [
      [WHO, "POST", "{}"],
      [`${WHO}?encoding=json&message=%7B%7D`, "GET", ""],
      ["/v1/revoke", "POST", "token=x"],
      ["/elsewhere", "POST", "{}"],
    ] as const) {
      const { status, body: answer } = await ask(path, { ...JSON_TYPE, ...bearer(), ...headers }, method, body);
      expect([path, method, status]).toEqual([path, method, 403]);
      expect(answer.toString()).toContain("permission_denied");
      expect(answer.toString()).not.toContain("evil");
    }
    const bad = await ask(WHO, { ...JSON_TYPE, authorization: "Bearer nothing", ...headers }, "POST", "{}");
    expect(bad.status).toBe(403); // a bad credential is not told apart
  });

  test("is answered where the browser says that the page is our own, and without a browser", async () => {
    const seen: Record<string, string>[] = [
      {},
      { origin: `http://${host()}` },
      { origin: `http://${host()}`, "sec-fetch-site": "same-origin" },
      { origin: "https://sallyport.example.com", "sec-fetch-site": "same-origin" },
      { "sec-fetch-site": "none" },
    ];
    for (const headers of seen) {
      const { status } = await ask(WHO, { ...JSON_TYPE, ...bearer(), ...headers }, "POST", "{}");
      expect([headers, status]).toEqual([headers, 200]);
    }
  });

  test("may follow a link to the console", async () => {
    const { status } = await ask("/console/", { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" });
    expect(status).toBe(200);
  });

  test("is refused over gRPC-Web with a status that its client reads", async () => {
    const headers = { "content-type": "application/grpc-web+proto", origin: "https://evil.example" };
    const { headers: answered } = await ask(WHO, headers, "POST", "");
    expect(answered["grpc-status"]).toBe("7");
  });
});

test("check-config refuses settings of the console that cannot work, each by its key", async () => {
  const check = (env: Record<string, string>) => run(["check-config"], env);
  const bad = await check({
    SALLYPORT_CONSOLE__PUBLIC_URL: "http://sallyport.example.com",
    SALLYPORT_CONSOLE__IDLE_TIMEOUT: "10s",
  });
  expect(bad.code).toBe(78);
  expect(bad.err).toContain("console.public_url: must begin with https://");
  expect(bad.err).toContain("console.idle_timeout: must be 1m to 24h");
  const path = await check({ SALLYPORT_CONSOLE__PUBLIC_URL: "https://a.example/path" });
  expect(path.err).toContain("console.public_url: must be https://host or https://host:port, without a path");
  const good = await check({ SALLYPORT_CONSOLE__PUBLIC_URL: "http://127.0.0.1:7401" });
  expect(JSON.parse(good.out).console).toEqual({
    enabled: true,
    public_url: "http://127.0.0.1:7401",
    idle_timeout: "15m",
    token_sign_in: true,
    oidc: [],
    session: { max_age: "12h", idle: "1h" },
  });
});

import { execFile } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { describe, expect, test } from "vitest";
import { arrived, ask, bearer, type Header, UPSTREAM } from "./ask.ts";
import { expectDenied, expectOurs, forged, IDENTITY, REFUSED, type Stage } from "./cases.ts";
import { type Change, type Edge, freePort } from "./edge.ts";
import { REALM, SCOPE } from "./scene.ts";
import type { Suite } from "./suites.ts";

const run = promisify(execFile);

const WITHOUT_STRIP: Change = [/ {10}early_header_mutation_extensions[\s\S]*?(?= {10}normalize_path)/g, ""];
const FAIL_OPEN: Change = [
  "failure_mode_allow: false",
  "failure_mode_allow: true\n              failure_mode_allow_header_add: true",
];
const JOINED_HEADERS: Change = ["encode_raw_headers: true", "encode_raw_headers: false"];

/** What is Envoy's alone, of both ways to ask. */
export function envoyCases(its: Suite, stage: () => Stage): void {
  headers(its, stage);
  failing(its, stage);
  protocols(its, stage);
  telling(stage);
  restarts(stage);
}

/** A counter of the filter. */
export async function counter(edge: Edge, name: string): Promise<number> {
  const text = await stats(edge, "ext_authz");
  return Number(new RegExp(`^http\\.edge\\.ext_authz\\.tokens\\.${name}: (\\d+)$`, "m").exec(text)?.[1] ?? 0);
}

async function stats(edge: Edge, filter: string): Promise<string> {
  return (await fetch(`http://127.0.0.1:${edge.adminPort}/stats?filter=${filter}`)).text();
}

function headers(its: Suite, stage: () => Stage): void {
  test("our reply alone overwrites", async () => {
    const { changed, scene } = stage();
    await changed({ changes: [WITHOUT_STRIP] }, async ({ port }) => {
      const reply = await ask(port, { headers: [...forged, bearer(scene.tokens.good)] });
      // Beside the five nothing is promised without the strip.
      expectOurs(reply, ["x-auth-status", "x-auth-other", "x-envoy-auth-failure-mode-allowed"]);
    });
    await changed({ changes: [WITHOUT_STRIP, its.policy("lean")] }, async ({ port }) => {
      const reply = await ask(port, { headers: [...forged, bearer(scene.tokens.good)] });
      expect([reply.status, arrived(reply, "x-auth-profile")]).toEqual([200, its.http ? ["-"] : []]);
    });
  });

  test("a forged identity never arrives on a route that is not asked", async () => {
    const { edge } = stage();
    const reply = await ask(edge.port, { path: "/public", headers: forged });
    expect(reply.status).toBe(200);
    for (const [name] of forged) expect(arrived(reply, name), name).toEqual([]);
  });

  test("public is not asked", async () => {
    const { edge } = stage();
    const asked = async () => [await counter(edge, "ok"), await counter(edge, "denied"), await counter(edge, "error")];
    const before = await asked();
    expect((await ask(edge.port, { path: "/public" })).status).toBe(200);
    expect(await asked()).toEqual(before);
  });

  test.each([
    ["as they came", []],
    ["joined by Envoy", [JOINED_HEADERS]],
  ] as [string, Change[]][])("two credentials are refused over HTTP/2 too, headers %s", async (_, changes) => {
    const { changed, scene } = stage();
    const { good, admin } = scene.tokens;
    await changed({ changes }, async ({ port }) => {
      for (const two of [
        [`authorization: Bearer ${good}`, `authorization: Bearer ${admin}`],
        [`authorization: Bearer ${good}`, `authorization: Bearer ${good}`],
        [`authorization: Bearer ${good}, Bearer ${admin}`],
        [`authorization: Bearer ${good}`, `x-api-key: ${good}`],
      ]) {
        for (const version of ["--http1.1", "--http2-prior-knowledge"]) {
          expect([version, two.length, await curl(port, [version], two)]).toEqual([version, two.length, 400]);
        }
      }
      expect(await curl(port, ["--http2-prior-knowledge"], [`authorization: Bearer ${good}`])).toBe(200);
    });
  });

  test("a path that hides another is refused by Envoy, and one that can be read is asked about as it is routed", async () => {
    const { edge, scene } = stage();
    const as = async (path: string, token: string) => (await ask(edge.port, { path, headers: [bearer(token)] })).status;
    const { good, admin } = scene.tokens;
    expect([await as("/a%2f..%2fadmin", good), await as("/a%5c..%5cadmin", good)]).toEqual([400, 400]);
    // All of them are /admin.
    for (const path of ["/a/../admin//x%2dy;p=1?q=2", "/a/%2e%2e/admin", "//admin/x", "/admin?x"])
      expect([path, await as(path, good), await as(path, admin)]).toEqual([path, 403, 200]);
  });

  test("mutations are valid", async () => {
    const { edge, scene } = stage();
    const long = await scene.admin.tokens.createToken({
      profile: "pat",
      principal: `user:${"a@+/-".padEnd(128, "x")}`,
      displayName: "long",
      scopes: [SCOPE, ...Array.from({ length: 99 }, (_, i) => `scope.${i}.${"y".repeat(110)}`)],
    });
    const asked = [bearer(long.tokenString)];
    const reply = await ask(edge.port, { headers: asked });
    expect(reply.status).toBe(200);
    const [scopes] = arrived(reply, "x-auth-scopes");
    // Rights only shrink: whole scopes, as many as fit.
    expect(scopes!.split(" ").every((scope) => scope === SCOPE || /^scope\.\d+\.y{110}$/.test(scope))).toBe(true);
    expect(IDENTITY.map((name) => arrived(reply, name)[0]!.length).reduce((a, b) => a + b)).toBeLessThanOrEqual(4096);
    expect(await counter(edge, "invalid")).toBe(0);
    const many = (n: number): Header[] => [...asked, ...Array.from({ length: n }, (_, i): Header => [`x-n-${i}`, "1"])];
    expect((await ask(edge.port, { headers: many(80) })).status).toBe(200);
    // More than Envoy takes: not ours to answer, and not let through.
    const tooMany = await ask(edge.port, { headers: many(120) });
    expect([tooMany.status >= 400, tooMany.seen]).toEqual([true, undefined]);
  });
}

async function curl(port: number, flags: string[], lines: string[]): Promise<number> {
  const given = lines.flatMap((line) => ["-H", line]);
  const { stdout } = await run("curl", [
    "-s",
    "-o",
    "/dev/null",
    "-w",
    "%{http_code}",
    ...flags,
    ...given,
    `http://127.0.0.1:${port}/`,
  ]);
  return Number(stdout);
}

function failing(its: Suite, stage: () => Stage): void {
  test("fail-open opens only for the dead", async () => {
    const { changed, scene } = stage();
    const { good } = scene.tokens;
    await changed({ changes: [FAIL_OPEN] }, async (edge) => {
      const fresh = await scene.mint();
      const as = (token: string) => ask(edge.port, { headers: [...forged, bearer(token)] });
      await scene.weather.set({ kind: "refuse" });
      try {
        // Past the lease nothing is cached either.
        for (const end = performance.now() + 2_500; performance.now() < end; await delay(50))
          expectDenied(await as(fresh.tokenString), 503);
        expectDenied(await as(good), 503);
        expectDenied(await ask(edge.port, { headers: [["authorization", "Bearer a b"]] }), 400, REFUSED.malformed);
      } finally {
        await scene.weather.set({ kind: "pass" });
      }
      await scene.healed();
      expect([await counter(edge, "error"), await counter(edge, "failure_mode_allowed")]).toEqual([0, 0]);

      const opened = async () => {
        const reply = await as(scene.tokens.bad);
        expect([reply.status, arrived(reply, "x-envoy-auth-failure-mode-allowed")]).toEqual([200, ["true"]]);
        for (const name of [...IDENTITY, "x-auth-status", "x-auth-other"])
          expect(arrived(reply, name), name).toEqual([]);
      };
      await scene.frozen(opened);
      await scene.healed();
      await scene.kill();
      await opened();
      await scene.restart();
      expectDenied(await as(scene.tokens.bad), 401, REFUSED.invalid);
    });
  });

  test("gRPC clients get a status", async () => {
    const { edge, scene } = stage();
    const { good, bad, poor } = scene.tokens;
    const as = (...values: string[]) => grpcStatus(edge.port, values);
    expect(await as(`Bearer ${good}`)).toEqual([0, ""]);
    for (const [status, ...values] of [
      [16, `Bearer ${bad}`],
      [16],
      [7, `Bearer ${poor}`],
      [its.http ? 13 : 16, "Bearer a b"],
    ] as [number, ...string[]][]) {
      const [code, text] = await as(...values);
      expect([values, code]).toEqual([values, status]);
      expect(text).not.toMatch(/%0A|\n/);
      expect(text.length).toBeLessThanOrEqual(200);
    }
    const fresh = await scene.mint();
    await scene.weather.set({ kind: "refuse" });
    try {
      expect((await as(`Bearer ${fresh.tokenString}`))[0]).toBe(14);
    } finally {
      await scene.weather.set({ kind: "pass" });
    }
    await scene.healed();
  });
}

/** The code and text that a gRPC client gets behind this edge. */
async function grpcStatus(port: number, authorization: string[]): Promise<[number, string]> {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const metadata = new Metadata();
  for (const value of authorization) metadata.add("authorization", value);
  const same = (bytes: Buffer) => bytes;
  try {
    const error = await new Promise<ServiceError | null>((resolve) =>
      client.makeUnaryRequest("/pkg.Service/Method", same, same, Buffer.from("x"), metadata, resolve),
    );
    return [error?.code ?? 0, error?.details ?? ""];
  } finally {
    client.close();
  }
}

function protocols(its: Suite, stage: () => Stage): void {
  describe("upgrades", () => {
    test("a websocket is asked about once, at its start", async () => {
      const { edge, scene } = stage();
      const first = (token: string) => firstLine(edge.port, "GET / HTTP/1.1", websocket(bearer(token)), "hello");
      expect(await first(scene.tokens.good)).toEqual(["HTTP/1.1 101 Switching Protocols", "hello"]);
      expect((await first(scene.tokens.bad))[0]).toBe("HTTP/1.1 401 Unauthorized");
    });

    test("CONNECT has no route, and is not asked", async () => {
      const { edge } = stage();
      const before = await counter(edge, "denied");
      expect((await firstLine(edge.port, "CONNECT upstream.example:443 HTTP/1.1", []))[0]).toMatch(/^HTTP\/1.1 404/);
      expect(await counter(edge, "denied")).toBe(before);
    });

    test("a preflight has no token: 401, or through where the policy lets it, with nobody's identity", async () => {
      const { changed, edge, scene } = stage();
      const preflight: Header[] = [
        ["Origin", "https://app.example"],
        ["Access-Control-Request-Method", "GET"],
      ];
      const asked = { method: "OPTIONS", headers: [...forged, ...preflight] };
      expectDenied(await ask(edge.port, asked), 401, REFUSED.none);
      await changed({ changes: [its.policy("cors")] }, async ({ port }) => {
        const reply = await ask(port, asked);
        expect(reply.status).toBe(200);
        for (const name of IDENTITY) expect(arrived(reply, name), name).toEqual(["-"]);
        expectDenied(await ask(port, { ...asked, method: "GET" }), 401, REFUSED.none);
        expectDenied(await ask(port, { method: "OPTIONS", headers: [preflight[0]!] }), 401, REFUSED.none);
        // A token that is sent is not looked at: nobody may rely on it.
        const withBad = await ask(port, { ...asked, headers: [...asked.headers, bearer(scene.tokens.bad)] });
        expect([withBad.status, arrived(withBad, "authorization")]).toEqual([200, []]);
      });
    });
  });
}

const websocket = (more: Header): Header[] => [
  ["Connection", "Upgrade"],
  ["Upgrade", "websocket"],
  ["Sec-WebSocket-Version", "13"],
  ["Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="],
  more,
];

/** The status line, and what comes back of `then` where the protocol was switched. */
async function firstLine(port: number, request: string, lines: readonly Header[], then?: string): Promise<string[]> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  const head = [["Host", "edge.example"], ...lines].map(([name, value]) => `${name}: ${value}\r\n`).join("");
  socket.write(`${request}\r\n${head}\r\n`);
  let text = "";
  socket.setEncoding("latin1").on("data", (chunk: string) => {
    text += chunk;
  });
  const until = async (enough: () => boolean) => {
    while (!enough()) await once(socket, "data");
  };
  await until(() => text.includes("\r\n\r\n"));
  const [line = ""] = text.split("\r\n", 1);
  if (!line.includes(" 101 ") || then === undefined) return [line, socket.destroy() && ""];
  socket.write(then);
  await until(() => text.endsWith(then));
  socket.destroy();
  return [line, text.slice(text.indexOf("\r\n\r\n") + 4)];
}

function telling(stage: () => Stage): void {
  test("metadata has no secret", async () => {
    const { edge, scene } = stage();
    await ask(edge.port, { headers: [bearer(scene.tokens.good)] });
    await ask(edge.port, { headers: [bearer(scene.tokens.bad)] });
    await ask(edge.port, { headers: [["x-api-key", scene.tokens.good]] });
    for (const end = performance.now() + 5_000; !edge.log().includes("principal=user:ann"); await delay(20))
      if (performance.now() > end) throw new Error(`no such line:\n${edge.log().slice(-2000)}`);
    const all = [edge.log(), await stats(edge, ""), await stats(edge, "ext_authz")].join("\n");
    for (const [name, token] of Object.entries(scene.tokens)) {
      // Neither the string nor its secret part.
      expect(all.includes(token), name).toBe(false);
      expect(all.includes(token.slice(-40)), name).toBe(false);
    }
    expect(all).not.toContain("authorization");
  });
}

function restarts(stage: () => Stage): void {
  test("restarts are invisible", async () => {
    const { changed, scene } = stage();
    const dataPort = await freePort();
    const other = await scene.another(dataPort);
    const endpoint = "- { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 7400 } } } }";
    const second = endpoint.replace("7400", String(dataPort));
    await changed({ changes: [[endpoint, `${endpoint}\n        ${second}`]] }, async ({ port }) => {
      let running = true;
      const failed: unknown[] = [];
      let done = 0;
      const lane = async () => {
        while (running) {
          const reply = await ask(port, { headers: [bearer(scene.tokens.good)] });
          done++;
          if (reply.status !== 200) failed.push([reply.status, reply.text.slice(0, 200)]);
        }
      };
      const lanes = Array.from({ length: 4 }, lane);
      await delay(500);
      const exit = await other.halt();
      await delay(500);
      running = false;
      await Promise.all(lanes);
      await other.dispose();
      expect([exit, failed]).toEqual([0, []]);
      expect(done).toBeGreaterThan(100);
    });
  });
}

/** What only the gRPC form can: requirements by route. */
export function merging(stage: () => Stage): void {
  test("requirement merges", async () => {
    const { changed, scene } = stage();
    const { good, admin, poor } = scene.tokens;
    const direct = `              - name: direct
                match: { prefix: /direct }
                direct_response: { status: 200, body: { inline_string: "direct" } }
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings:
                      context_extensions: { required_scopes: "items.read", audience: "https://other.example", realm: "direct" }
`;
    const anchor = "              - name: admin #";
    await changed({ changes: [[anchor, direct + anchor]] }, async ({ port }) => {
      const as = (path: string, token: string) => ask(port, { path, headers: [bearer(token)] });
      expect((await as("/admin", admin)).seen?.url).toBe("/admin");
      const asked = `Bearer realm="${REALM}", error="insufficient_scope", scope="${SCOPE} items.write admin"`;
      expectDenied(await as("/admin", good), 403, asked);
      expectDenied(await as("/admin", poor), 403, asked);
      // The route's audience replaces the policy's, and so does its realm.
      const answered = await as("/direct", scene.tokens.elsewhere);
      expect([answered.status, answered.text, answered.headers.has(UPSTREAM)]).toEqual([200, "direct", false]);
      expect((await as("/direct", good)).status).toBe(200); // names no audience: good everywhere
      expectDenied(await as("/direct", "nonsense"), 401, `Bearer realm="direct", error="invalid_token"`);
    });
  });
}

const OVER_HTTP1: Change[] = [
  [/ {4}typed_extension_protocol_options: # over HTTP\/2[\s\S]*?(?= {4}circuit_breakers)/g, ""],
  [/ {4}health_checks:[\s\S]*?(?= {4}load_assignment)/g, ""],
];

/** What only the HTTP form can: policies by URL. */
export function byUrl(stage: () => Stage): void {
  test("a policy per route by its URL, and whatever follows it asks for no other", async () => {
    const { edge, scene } = stage();
    const as = (path: string, token: string) => ask(edge.port, { path, headers: [bearer(token)] });
    expect((await as("/admin/admin/x", scene.tokens.admin)).status).toBe(200);
    const asked = `Bearer realm="${REALM}", error="insufficient_scope", scope="${SCOPE} items.write admin"`;
    expectDenied(await as("/admin/x", scene.tokens.good), 403, asked);
    const direct = (path: string) =>
      ask(scene.dataPort, { path: `/v1/check/envoy/admin${path}`, headers: [bearer(scene.tokens.good)] });
    for (const path of [
      "",
      "/",
      "/../default",
      "/../default/x",
      "/..%2fdefault",
      "?/../default",
      "//default",
      "/%2e%2e/default",
    ])
      expect([path, (await direct(path)).status]).toEqual([path, 403]);
  });

  test("answers the same to an Envoy that asks over HTTP/1.1", async () => {
    const { changed, scene } = stage();
    await changed({ changes: OVER_HTTP1 }, async ({ port }) => {
      const as = (token: string) => ask(port, { headers: [...forged, bearer(token)] });
      for (let i = 0; i < 20; i++) expectOurs(await as(scene.tokens.good), []);
      expectDenied(await as(scene.tokens.bad), 401, REFUSED.invalid);
      expectDenied(await as(scene.tokens.poor), 403, REFUSED.scope);
      const posted = await ask(port, {
        method: "POST",
        headers: [bearer(scene.tokens.good)],
        body: Buffer.alloc(100_000),
      });
      expect([posted.status, posted.seen?.bytes]).toEqual([200, 100_000]);
    });
  });
}

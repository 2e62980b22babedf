import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { arrived, ask, bearer, type Header } from "./ask.ts";
import type { Change } from "./edge.ts";
import { counter } from "./envoy-stats.ts";
import { SCOPE } from "./scene.ts";
import { expectOurs, forged, IDENTITY, type Stage } from "./stage.ts";
import type { Suite } from "./suites.ts";

const run = promisify(execFile);

const WITHOUT_STRIP: Change = [/ {10}early_header_mutation_extensions[\s\S]*?(?= {10}normalize_path)/g, ""];
const JOINED_HEADERS: Change = ["encode_raw_headers: true", "encode_raw_headers: false"];

/** What arrives and what is asked, in Envoy's own ways. */
export function headers(its: Suite, stage: () => Stage): void {
  test("only our answer sets the identity headers", async () => {
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

  test("a forged identity never arrives, even on a route without a check", async () => {
    const { edge } = stage();
    const reply = await ask(edge.port, { path: "/public", headers: forged });
    expect(reply.status).toBe(200);
    for (const [name] of forged) expect(arrived(reply, name), name).toEqual([]);
  });

  test("a public route is not checked", async () => {
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

  test("Envoy refuses an ambiguous path, and checks other paths as it routes them", async () => {
    const { edge, scene } = stage();
    const as = async (path: string, token: string) => (await ask(edge.port, { path, headers: [bearer(token)] })).status;
    const { good, admin } = scene.tokens;
    expect([await as("/a%2f..%2fadmin", good), await as("/a%5c..%5cadmin", good)]).toEqual([400, 400]);
    // All of them are /admin.
    for (const path of ["/a/../admin//x%2dy;p=1?q=2", "/a/%2e%2e/admin", "//admin/x", "/admin?x"])
      expect([path, await as(path, good), await as(path, admin)]).toEqual([path, 403, 200]);
  });

  test("Envoy accepts every header change of ours", async () => {
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

import { setTimeout as delay } from "node:timers/promises";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { arrived, ask, bearer } from "./ask.ts";
import { type Change, freePort } from "./edge.ts";
import { counter, stats } from "./envoy-stats.ts";
import { expectDenied, forged, IDENTITY, REFUSED, type Stage } from "./stage.ts";
import type { Suite } from "./suites.ts";

const FAIL_OPEN: Change = [
  "failure_mode_allow: false",
  "failure_mode_allow: true\n              failure_mode_allow_header_add: true",
];
/** What Envoy does while Sallyport, or what it needs, is away. */
export function failing(its: Suite, stage: () => Stage): void {
  test("failure_mode_allow opens only if Sallyport is dead", async () => {
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

  test("gRPC clients get a gRPC status", async () => {
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

/** What Envoy tells others. */
export function telling(stage: () => Stage): void {
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

export function restarts(stage: () => Stage): void {
  test("clients do not notice a restart", async () => {
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

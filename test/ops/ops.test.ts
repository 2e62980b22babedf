import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  Health as HealthDesc,
  HealthCheckResponse_ServingStatus as Status,
} from "../../src/gen/grpc/health/v1/health_pb.ts";
import { listenerLimits } from "../../src/listen/limits.ts";
import { type Listener, openListener } from "../../src/listen/listener.ts";
import { opsHandler } from "../../src/ops/ops.ts";
import { Health } from "../../src/rpc/health.ts";

const limits = listenerLimits("ops");
const health = new Health(["sallyport.v1.TokenValidator"]);
let reasons: string[] = [];
let listener: Listener;
let url: string;
beforeAll(async () => {
  const handler = opsHandler({
    limits,
    health,
    metrics: () => Promise.resolve({ type: "text/plain; version=0.0.4", body: "up 1\n" }),
    reasons: () => reasons,
  });
  listener = await openListener({ name: "ops", bind: "127.0.0.1:0", limits, handler, onTrouble: () => {} });
  url = `http://127.0.0.1:${listener.port}`;
});
afterAll(() => listener.close());

const get = async (path: string, method = "GET") => {
  const res = await fetch(url + path, { method });
  return { status: res.status, type: res.headers.get("content-type"), body: await res.text() };
};

describe("the ops listener", () => {
  test("shows the metrics in their text form", async () => {
    expect(await get("/metrics?x")).toEqual({ status: 200, type: "text/plain; version=0.0.4", body: "up 1\n" });
    expect(await get("/metrics", "HEAD")).toMatchObject({ status: 200, body: "" });
    const { status, body } = await get("/metrics", "POST");
    expect(status).toBe(405);
    expect(JSON.parse(body)).toMatchObject({ details: [{ debug: { reason: "UNIMPLEMENTED" } }] });
  });

  test("is alive, ready or not", async () => {
    health.set(false);
    expect(await get("/healthz")).toMatchObject({ status: 200, body: '{"status":"alive"}' });
  });

  test("is ready when it serves and has no reason against it, and names the reasons", async () => {
    health.set(true);
    expect(await get("/readyz")).toMatchObject({ status: 200, body: '{"status":"ready","reasons":[]}' });
    reasons = ["database"];
    expect(await get("/readyz")).toMatchObject({ status: 503, body: '{"status":"not ready","reasons":["database"]}' });
    reasons = [];
    health.set(false);
    expect((await get("/readyz")).status).toBe(503);
  });

  test("answers gRPC health to a probe without credentials", async () => {
    const client = createClient(HealthDesc, createGrpcTransport({ baseUrl: url }));
    health.set(true);
    expect((await client.check({})).status).toBe(Status.SERVING);
  });

  test("serves nothing else", async () => {
    for (const path of ["/", "/metrics/", "/healthz/x", "/__proto__", "/constructor"])
      expect((await get(path)).status).toBe(404);
  });
});

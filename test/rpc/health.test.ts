import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  Health as HealthDesc,
  HealthCheckResponse_ServingStatus as Status,
} from "../../src/gen/grpc/health/v1/health_pb.ts";
import { addHealth, Health } from "../../src/rpc/health.ts";
import { type EchoListener, openEchoListener } from "../listen/echo-listener.ts";

const health = new Health(["a.B", "c.D"]);
let all: EchoListener;
let checkOnly: EchoListener;
beforeAll(async () => {
  all = await openEchoListener({ rpc: { routes: (router) => addHealth(router, health, "all") } });
  checkOnly = await openEchoListener({ rpc: { routes: (router) => addHealth(router, health, "check") } });
});
afterAll(() => Promise.all([all.close(), checkOnly.close()]));
beforeEach(() => health.set(true));

const at = (listener: EchoListener) => createClient(HealthDesc, createGrpcTransport({ baseUrl: listener.url }));
const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => undefined,
    (error) => ConnectError.from(error).code,
  );

describe("health", () => {
  test("starts as not serving", () => {
    expect(new Health([]).statusOf("")).toBe(Status.NOT_SERVING);
  });

  test("Check knows the empty name and each service, and no other", async () => {
    for (const service of ["", "a.B", "c.D"]) expect((await at(all).check({ service })).status).toBe(Status.SERVING);
    expect(await codeOf(at(all).check({ service: "a" }))).toBe(Code.NotFound);
    health.set(false);
    expect((await at(all).check({ service: "a.B" })).status).toBe(Status.NOT_SERVING);
  });

  test("List shows every name", async () => {
    const { statuses } = await at(all).list({});
    expect(Object.fromEntries(Object.entries(statuses).map(([name, { status }]) => [name, status]))).toEqual({
      "": Status.SERVING,
      "a.B": Status.SERVING,
      "c.D": Status.SERVING,
    });
  });

  for (const [name, client] of [
    ["gRPC", () => at(all)],
    [
      "Connect over HTTP/1.1",
      () => createClient(HealthDesc, createConnectTransport({ baseUrl: all.url, httpVersion: "1.1" })),
    ],
  ] as const)
    test(`Watch by ${name} tells at once and at each change`, async () => {
      const seen: Status[] = [];
      const leave = new AbortController();
      await expect(
        (async () => {
          for await (const { status } of client().watch({ service: "a.B" }, { signal: leave.signal })) {
            seen.push(status);
            if (seen.length === 1) health.set(false);
            if (seen.length === 2) health.set(true);
            if (seen.length === 3) leave.abort();
          }
        })(),
      ).rejects.toThrow();
      expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING, Status.SERVING]);
    });

  test("Watch of an unknown name sends SERVICE_UNKNOWN and stays open", async () => {
    const leave = new AbortController();
    const seen: Status[] = [];
    await expect(
      (async () => {
        for await (const { status } of at(all).watch({ service: "nobody" }, { signal: leave.signal })) {
          seen.push(status);
          leave.abort();
        }
      })(),
    ).rejects.toThrow();
    expect(seen).toEqual([Status.SERVICE_UNKNOWN]);
  });

  test("a ninth stream on one connection is refused", async () => {
    const leave = new AbortController();
    const client = at(all);
    const streams = Array.from({ length: 8 }, () => client.watch({}, { signal: leave.signal })[Symbol.asyncIterator]());
    for (const one of streams) await one.next();
    expect(await codeOf(client.watch({})[Symbol.asyncIterator]().next())).toBe(Code.ResourceExhausted);
    expect((await client.check({})).status).toBe(Status.SERVING);
    leave.abort();
    await Promise.allSettled(streams.map((one) => one.next()));
  });

  test("a listener without streams has Check alone", async () => {
    expect((await at(checkOnly).check({})).status).toBe(Status.SERVING);
    expect(await codeOf(at(checkOnly).watch({})[Symbol.asyncIterator]().next())).toBe(Code.Unimplemented);
    expect(await codeOf(at(checkOnly).list({}))).toBe(Code.Unimplemented);
  });
});

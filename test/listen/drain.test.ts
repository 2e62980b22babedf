import { Agent, request as httpRequest } from "node:http";
import { connect as h2connect } from "node:http2";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { describe, expect, test } from "vitest";
import {
  Health as HealthDesc,
  HealthCheckResponse_ServingStatus as Status,
} from "../../src/gen/grpc/health/v1/health_pb.ts";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { addHealth, Health } from "../../src/rpc/health.ts";
import { openEchoListener, VALIDATE } from "./echo-listener.ts";
import {
  ACK,
  END_HEADERS,
  END_STREAM,
  Frame,
  frame,
  framesIn,
  headerBlock,
  PREFACE,
  rawConnect,
  settings,
} from "./wire.ts";

describe("drain", () => {
  test("under load loses no request over HTTP/1.1 or HTTP/2, and refuses new connections", async () => {
    const listener = await openEchoListener();
    const callers = [
      createClient(TokenValidator, createGrpcTransport({ baseUrl: listener.url })),
      createClient(TokenValidator, createConnectTransport({ baseUrl: listener.url, httpVersion: "2" })),
      createClient(TokenValidator, createConnectTransport({ baseUrl: listener.url, httpVersion: "1.1" })),
    ];
    let draining = false;
    let answered = 0;
    const lost: unknown[] = [];
    const loops = callers.flatMap((client) =>
      Array.from({ length: 4 }, async (_, n) => {
        for (;;) {
          try {
            const { reason } = await client.validateToken({ tokenString: `${n}` });
            expect(reason).toBe(`${n}`);
            answered++;
          } catch (error) {
            // A connection that is not made any more carries no request; anything else was one.
            if (!draining || !String(error).includes("ECONNREFUSED")) lost.push(error);
            return;
          }
        }
      }),
    );
    while (answered < 300) await new Promise(setImmediate);
    draining = true;
    await Promise.all([...loops, listener.drain(5_000)]);
    expect(lost).toEqual([]);
    expect(listener.stats()).toMatchObject({ sockets: 0, sessions: 0 });
    await expect(rawConnect(listener)).rejects.toThrow("ECONNREFUSED");
  });

  test("waits for open requests and not for idle clients", async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const listener = await openEchoListener({
      handler: async (_req, res) => {
        await held;
        res.end("late");
      },
    });
    const agent = new Agent({ keepAlive: true });
    const h1 = new Promise<{ text: string; connection: string | undefined }>((resolve, reject) => {
      const req = httpRequest({ port: listener.port, host: "127.0.0.1", agent }, (res) => {
        let text = "";
        res
          .on("data", (chunk) => (text += chunk))
          .on("end", () => resolve({ text, connection: res.headers.connection }));
      });
      req.on("error", reject).end();
    });
    const busy = h2connect(listener.url);
    const h2 = new Promise<string>((resolve, reject) => {
      const req = busy.request({ ":path": "/" });
      let text = "";
      req
        .on("data", (chunk) => (text += chunk))
        .on("end", () => resolve(text))
        .on("error", reject);
    });
    const idle = h2connect(listener.url);
    const idleClosed = new Promise((resolve) => idle.once("close", resolve));
    const silent = await rawConnect(listener);
    while (listener.stats().openResponses < 2 || listener.stats().sessions < 2) await new Promise(setImmediate);

    const drained = listener.drain(10_000);
    await Promise.all([idleClosed, silent.closed]);
    expect(listener.stats().openResponses).toBe(2);
    release();
    expect(await h1).toEqual({ text: "late", connection: "close" });
    expect(await h2).toBe("late");
    await drained;
    agent.destroy();
  });

  test("serves requests that cross the GOAWAY: the first GOAWAY names no last stream", async () => {
    const listener = await openEchoListener();
    const raw = await rawConnect(listener);
    raw.socket.write(Buffer.concat([PREFACE, settings(), frame(Frame.SETTINGS, ACK, 0)]));
    await raw.until((text) => text.length >= 9);
    const goaways = () =>
      framesIn(raw.bytes())
        .filter((one) => one.type === Frame.GOAWAY)
        .map((one) => one.payload.readUInt32BE(0));
    const drained = listener.drain(5_000);
    await raw.until(() => goaways().length > 0);
    const headers = headerBlock([
      [":method", "POST"],
      [":scheme", "http"],
      [":path", VALIDATE],
      [":authority", "a"],
      ["content-type", "application/json"],
    ]);
    const body = frame(Frame.DATA, END_STREAM, 1, Buffer.from('{"tokenString":"crossed"}'));
    raw.socket.write(Buffer.concat([frame(Frame.HEADERS, END_HEADERS, 1, headers), body]));
    await Promise.all([raw.closed, drained]);
    expect(raw.text()).toContain('"reason":"crossed"');
    expect(goaways().slice(0, 2)).toEqual([2 ** 31 - 1, 1]);
  });

  test("ends requests that are still open after the grace time", async () => {
    const listener = await openEchoListener({ handler: () => {} });
    const raw = await rawConnect(listener);
    raw.socket.write(`GET ${VALIDATE} HTTP/1.1\r\nHost: a\r\n\r\n`);
    while (listener.stats().openResponses < 1) await new Promise(setImmediate);
    await listener.drain(100);
    await raw.closed;
    expect(listener.stats()).toMatchObject({ sockets: 0, openResponses: 0 });
  });

  test("ends Watch streams after they have received NOT_SERVING", async () => {
    const health = new Health(["a.B"]);
    health.set(true);
    const drain = new AbortController();
    const listener = await openEchoListener({
      rpc: { routes: (router) => addHealth(router, health, "all"), drain: drain.signal },
    });
    const client = createClient(HealthDesc, createGrpcTransport({ baseUrl: listener.url }));
    const seen: Status[] = [];
    const watching = (async () => {
      for await (const { status } of client.watch({ service: "a.B" })) {
        seen.push(status);
        if (seen.length > 1) continue;
        health.set(false);
        drain.abort();
        void listener.drain(5_000);
      }
    })();
    await watching;
    expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING]);
    await listener.close();
  });
});

import { mkdtempSync, rmSync } from "node:fs";
import { connect as h2connect } from "node:http2";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { type ListenerLimits, listenerLimits } from "../../src/listen/limits.ts";
import { clients, type EchoListener, h1Request, openEchoListener, VALIDATE } from "./echo-listener.ts";
import { exchange, Frame, frame, framesIn, PREFACE, rawConnect, settings } from "./wire.ts";

const admin = listenerLimits("admin");
const within = (
  change: Partial<Omit<ListenerLimits, "h1" | "h2">> & {
    h1?: Partial<ListenerLimits["h1"]>;
    h2?: Partial<ListenerLimits["h2"]>;
  },
): ListenerLimits => ({
  ...admin,
  ...change,
  h1: { ...admin.h1, ...change.h1 },
  h2: { ...admin.h2, ...change.h2 },
});

async function withListener(
  options: Parameters<typeof openEchoListener>[0],
  use: (listener: EchoListener) => Promise<void>,
): Promise<void> {
  const listener = await openEchoListener(options);
  try {
    await use(listener);
    expect(listener.troubles).toEqual([]);
  } finally {
    await listener.close();
  }
  expect(listener.stats()).toMatchObject({ sockets: 0, sessions: 0, openResponses: 0 });
}

describe("the limits of each listener", () => {
  test("are those in the table", () => {
    const short = (name: Parameters<typeof listenerLimits>[0]) => {
      const { h1, h2, ...listener } = listenerLimits(name);
      return { listener, h1, h2 };
    };
    expect(short("data")).toMatchObject({
      listener: {
        maxSockets: 1024,
        maxSocketsPerAddress: 128,
        firstRequestMs: 5000,
        stalledMs: 10000,
        bufferedBytes: 32 << 20,
      },
      h1: { maxHeaderBytes: 65536, maxHeaders: 256, headersMs: 5000, requestMs: 10000, keepAliveMs: 75000 },
      h2: {
        maxConcurrentStreams: 256,
        maxHeaderBytes: 16384,
        maxHeaders: 128,
        resetBurst: 10000,
        resetsPerSecond: 2000,
        idleMs: 60000,
        ageMs: 300000,
      },
    });
    expect(short("data-trusted").h2).toMatchObject({ idleMs: 0, ageMs: 0, pingMs: 30000, pingTimeoutMs: 10000 });
    expect(short("admin")).toMatchObject({
      listener: { maxSockets: 256, maxSocketsPerAddress: 32, bufferedBytes: 16 << 20, streamsPerConnection: 8 },
      h1: { maxHeaderBytes: 16384, maxHeaders: 128, keepAliveMs: 75000 },
      h2: {
        maxConcurrentStreams: 64,
        resetBurst: 200,
        resetsPerSecond: 50,
        maxRejectedStreams: 20,
        maxControlFrames: 1000,
      },
    });
    expect(short("ops")).toMatchObject({
      listener: { maxSockets: 64, maxSocketsPerAddress: 16, bufferedBytes: 4 << 20 },
      h1: { keepAliveMs: 15000 },
    });
  });
});

describe("one port", () => {
  test("detects HTTP/1.1 and HTTP/2 by the first bytes, even if they come one at a time", () =>
    withListener({}, async (listener) => {
      const h1 = await rawConnect(listener);
      for (const byte of Buffer.from(h1Request(VALIDATE, '{"tokenString":"slow"}'))) {
        h1.socket.write(Buffer.from([byte]));
        if (byte === 0x50) await delay(1); // after each "P"
      }
      await h1.closed;
      expect(h1.text()).toMatch(/^HTTP\/1\.1 200 .*"reason":"slow"/s);
      const h2 = await rawConnect(listener);
      for (const byte of Buffer.concat([PREFACE, settings()])) h2.socket.write(Buffer.from([byte]));
      await h2.until((text) => text.length >= 9);
      expect(framesIn(h2.bytes())[0]).toMatchObject({ type: Frame.SETTINGS });
      h2.socket.destroy();
    }));

  test("serves a unix socket, and removes its file at the end", async () => {
    const folder = mkdtempSync(join(tmpdir(), "sallyport-listener-"));
    try {
      await withListener({ bind: `unix:${folder}/listener.sock` }, async (listener) => {
        expect([listener.address, listener.port]).toEqual([`${folder}/listener.sock`, 0]);
        expect(await exchange({ path: listener.address }, h1Request(VALIDATE))).toMatch(/^HTTP\/1\.1 200/);
      });
      await expect(rawConnect({ path: `${folder}/listener.sock` })).rejects.toThrow("ENOENT");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("keeps no socket of a client that has left", () =>
    withListener({}, async (listener) => {
      for (const client of Object.values(clients(listener.url))) await client.validateToken({});
      const session = h2connect(listener.url);
      await new Promise((resolve) => session.once("remoteSettings", resolve));
      session.close();
      const half = await rawConnect(listener);
      half.socket.write(h1Request(VALIDATE).slice(0, 40));
      half.socket.end();
      await half.closed;
      const quiet = await rawConnect(listener);
      quiet.socket.end();
      await quiet.closed;
    }));
});

describe("a connection", () => {
  test("beyond the listener's limit is closed at once", () =>
    withListener({ limits: within({ maxSockets: 2 }) }, async (listener) => {
      const two = [await rawConnect(listener), await rawConnect(listener)];
      await vi.waitFor(() => expect(listener.stats().sockets).toBe(2));
      const third = await rawConnect(listener);
      await third.closed;
      expect(listener.stats()).toMatchObject({ sockets: 2, refusedSockets: 1 });
      for (const one of two) one.socket.destroy();
      await vi.waitFor(() => expect(listener.stats().sockets).toBe(0));
      expect(await exchange(listener, h1Request(VALIDATE))).toMatch(/^HTTP\/1\.1 200/);
    }));

  const outside = Object.values(networkInterfaces())
    .flat()
    .find((one) => one?.family === "IPv4" && !one.internal)?.address;
  test.skipIf(outside === undefined)(
    `beyond the number of its address is closed at once; loopback has no such number${outside === undefined ? " (no other address)" : ""}`,
    async () => {
      await withListener({ bind: "0.0.0.0:0", limits: within({ maxSocketsPerAddress: 1 }) }, async (listener) => {
        const remote = { address: outside!, port: listener.port };
        const first = await rawConnect(remote);
        await vi.waitFor(() => expect(listener.stats().sockets).toBe(1));
        await (await rawConnect(remote)).closed;
        first.socket.destroy();
        const local = [await rawConnect({ port: listener.port }), await rawConnect({ port: listener.port })];
        await vi.waitFor(() => expect(listener.stats().sockets).toBe(2));
        for (const one of local) one.socket.destroy();
      });
    },
  );

  test("that sends nothing, or half of a preface, is closed after the time for a first request", () =>
    withListener({ limits: within({ firstRequestMs: 150 }) }, async (listener) => {
      for (const bytes of ["", "P", "PR", "PRI", PREFACE.subarray(0, 23)])
        expect(await exchange(listener, bytes as string)).not.toMatch(/HTTP/);
    }));

  test("that half-sends a request is answered 408", () =>
    withListener({ limits: within({ h1: { headersMs: 100, requestMs: 100 } }) }, async (listener) => {
      expect(await exchange(listener, "POST / HTTP/1.1\r\nHost: a\r\nX-Slow: ")).toMatch(/^HTTP\/1\.1 408 /);
      expect(
        await exchange(
          listener,
          `POST ${VALIDATE} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{`,
        ),
      ).toMatch(/^HTTP\/1\.1 408 /);
    }));

  test("with too many or too large headers is answered 431", () =>
    withListener({ limits: within({ h1: { maxHeaders: 20, maxHeaderBytes: 2_000 } }) }, async (listener) => {
      const many = Array.from({ length: 30 }, (_, i) => `x-${i}: 1`);
      expect(await exchange(listener, h1Request(VALIDATE, "{}", many))).toMatch(/^HTTP\/1\.1 431 /);
      expect(await exchange(listener, h1Request(VALIDATE, "{}", [`x: ${"y".repeat(3_000)}`]))).toMatch(
        /^HTTP\/1\.1 431 /,
      );
    }));
});

describe("an HTTP/2 session", () => {
  const goaway = async (listener: EchoListener, after: Buffer): Promise<number[]> => {
    const raw = await rawConnect(listener);
    raw.socket.write(Buffer.concat([PREFACE, settings(), after]));
    await raw.closed;
    return framesIn(raw.bytes())
      .filter((one) => one.type === Frame.GOAWAY)
      .map((one) => one.payload.readUInt32BE(4));
  };

  test("without a first request ends gracefully in time", () =>
    withListener({ limits: within({ firstRequestMs: 100 }) }, async (listener) => {
      const codes = await goaway(listener, Buffer.alloc(0));
      expect(codes.length).toBeGreaterThan(1); // announced, then final
      expect(new Set(codes)).toEqual(new Set([0]));
    }));

  test("ends when it is idle or old, and loses no request", () =>
    withListener({ limits: within({ h2: { idleMs: 100, ageMs: 0 } }) }, async (listener) => {
      const session = h2connect(listener.url);
      const body = await ask(session, "idle");
      expect(body).toContain("idle");
      await new Promise((resolve) => session.once("close", resolve));
      expect(listener.stats().sessions).toBe(0);
    }));

  test("that is old ends after its open calls", async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    await withListener(
      {
        limits: within({ h2: { ageMs: 100 } }),
        handler: async (_req, res) => {
          await held;
          res.end("late");
        },
      },
      async (listener) => {
        const session = h2connect(listener.url);
        const answer = ask(session, "x");
        await new Promise((resolve) => session.once("goaway", resolve));
        release();
        expect(await answer).toBe("late");
        await new Promise((resolve) => session.once("close", resolve));
      },
    );
  });

  test("that sends too many PING and SETTINGS frames is closed", () =>
    withListener({ limits: within({ h2: { maxControlFrames: 50 } }) }, async (listener) => {
      await goaway(listener, Buffer.concat(Array.from({ length: 60 }, () => frame(Frame.PING, 0, 0, Buffer.alloc(8)))));
      await goaway(listener, Buffer.concat(Array.from({ length: 60 }, () => settings({ 3: 100 }))));
      expect(await exchange(listener, h1Request(VALIDATE))).toMatch(/^HTTP\/1\.1 200/);
    }));

  test("whose window exceeds 2^31-1 ends, and its memory is freed", () =>
    withListener({}, async (listener) => {
      const raw = await rawConnect({ port: listener.port });
      raw.socket.write(
        Buffer.concat([PREFACE, settings(), frame(Frame.WINDOW, 0, 0, Buffer.from([0x7f, 255, 255, 255]))]),
      );
      await raw.until(() => framesIn(raw.bytes()).some(({ type }) => type === Frame.GOAWAY));
      await expect.poll(() => listener.stats(), { timeout: 10_000 }).toMatchObject({ sessions: 0, sockets: 0 });
    }));

  test("of a trusted peer that no longer answers PING is closed", () =>
    withListener(
      { limits: within({ h2: { ageMs: 0, idleMs: 0, pingMs: 50, pingTimeoutMs: 100 } }) },
      async (listener) => {
        const raw = await rawConnect(listener);
        raw.socket.write(Buffer.concat([PREFACE, settings()])); // a hand that never acknowledges
        await raw.closed;
        expect(framesIn(raw.bytes()).some((one) => one.type === Frame.PING)).toBe(true);
      },
    ));
});

describe("a client that does not read", () => {
  const big = Buffer.alloc(8 * 1024 * 1024, "x");
  const listener: Parameters<typeof openEchoListener>[0] = {
    limits: within({ stalledMs: 2_000 }),
    handler: (_req, res) => void (res as unknown as { end(b: Buffer): void }).end(big),
  };

  test("loses its HTTP/1.1 connection", () =>
    withListener(listener, async (listener) => {
      const raw = await rawConnect(listener);
      raw.socket.pause();
      raw.socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
      await vi.waitFor(() => expect(listener.stats().openResponses).toBe(1));
      await vi.waitFor(() => expect(listener.stats()).toMatchObject({ openResponses: 0, sockets: 0 }), 8_000);
      raw.socket.destroy();
    }));

  test("loses its HTTP/2 stream, and only that", () =>
    withListener(listener, async (listener) => {
      const session = h2connect(listener.url, { settings: { initialWindowSize: 0 } });
      const req = session.request({ ":path": "/" });
      req.on("error", () => {});
      const closed = new Promise((resolve) => req.once("close", resolve));
      await closed;
      expect(listener.stats()).toMatchObject({ openResponses: 0, sessions: 1 });
      session.destroy();
    }));
});

async function ask(session: ReturnType<typeof h2connect>, tokenString: string): Promise<string> {
  const req = session.request({ ":method": "POST", ":path": VALIDATE, "content-type": "application/json" });
  req.end(JSON.stringify({ tokenString }));
  req.setEncoding("utf8");
  let text = "";
  for await (const chunk of req) text += chunk;
  return text;
}

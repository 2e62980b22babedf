import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { ByteBudget } from "../../src/http2/server/limits.ts";
import { grpcMessage } from "../../src/http2/unary/reply.ts";
import {
  CONTINUATION,
  END_HEADERS,
  END_STREAM,
  ENHANCE_YOUR_CALM,
  FLOW_CONTROL_ERROR,
  frameOf,
  PING,
  PREFACE,
  PRIORITY,
  SETTINGS,
  WINDOW_UPDATE,
} from "../../src/http2/wire/frame.ts";
import { type Fixture, type FixtureOptions, route, start } from "./fixture.ts";
import {
  data,
  grpcCall,
  grpcHead,
  headers,
  indexed,
  literal,
  message,
  RawClient,
  settings,
  windowUpdate,
} from "./raw-client.ts";

let fixture: Fixture;
const clients: RawClient[] = [];
const boot = async (options?: FixtureOptions): Promise<void> => {
  fixture = await start(options);
};
const open = async (...pairs: (readonly [number, number])[]): Promise<RawClient> => {
  const client = await RawClient.connect(fixture.port, ...pairs);
  clients.push(client);
  return client;
};
afterEach(async () => {
  // Whatever was thrown at it, the server answers the next connection.
  const next = await open();
  expect((await next.call(1, "/t/Echo", "fine")).body.toString("latin1", 5)).toBe("fine");
  for (const client of clients.splice(0)) client.destroy();
  await fixture.stop();
});

/** Sends until the connection ends or the frames do, never more than the socket takes. */
async function flood(client: RawClient, count: number, frame: (n: number) => Buffer): Promise<number> {
  let sent = 0;
  while (sent < count && client.socket.writable) {
    const batch: Buffer[] = [];
    for (let octets = 0; octets < 65_536 && sent < count; sent++) {
      batch.push(frame(sent));
      octets += batch.at(-1)!.length;
    }
    const flushed = new Promise<void>((resolve) => client.socket.write(Buffer.concat(batch), () => resolve()));
    await Promise.race([flushed, client.end()]);
  }
  return sent;
}

const bomb = Buffer.concat([grpcHead("/t/Echo"), Buffer.alloc(8_000, indexed(62))]);
const filler = headers(
  1,
  grpcHead("/t/Echo", literal("x", "y".repeat(3_900), "incremental")),
  END_HEADERS | END_STREAM,
);

describe.each(["trusted", "untrusted"] as const)("from a %s peer", (trust) => {
  test.each<[string, (n: number) => Buffer]>([
    ["SETTINGS", () => settings([4, 65_535])],
    ["PING", () => frameOf(PING, 0, 0, Buffer.alloc(8))],
    ["PING answers to nothing", () => frameOf(PING, 1, 0, Buffer.alloc(8))],
    ["PRIORITY", (n) => frameOf(PRIORITY, 0, 2 * n + 1, Buffer.from([0, 0, 0, 0, 1]))],
    ["WINDOW_UPDATE", () => windowUpdate(0, 1)],
    ["large WINDOW_UPDATE", () => windowUpdate(0, 2_000)],
    ["unknown frames", () => frameOf(0x77, 0, 0, Buffer.alloc(3))],
    [
      "DATA of padding alone",
      (n) => (n === 0 ? headers(1, grpcHead("/t/Echo")) : frameOf(0, 8, 1, Buffer.of(3, 0, 0, 0))),
    ],
    ["GOAWAY", () => frameOf(7, 0, 0, Buffer.alloc(8))],
    ["empty DATA", (n) => (n === 0 ? headers(1, grpcHead("/t/Echo")) : data(1, Buffer.alloc(0), 0))],
    [
      "CONTINUATION",
      (n) => (n === 0 ? headers(1, grpcHead("/t/Echo"), 0) : frameOf(CONTINUATION, 0, 1, Buffer.alloc(0))),
    ],
    [
      "large CONTINUATION",
      (n) => (n === 0 ? headers(1, grpcHead("/t/Echo"), 0) : frameOf(CONTINUATION, 0, 1, Buffer.alloc(8_000, 0x83))),
    ],
    ["one large field by reference", (n) => (n === 0 ? filler : headers(2 * n + 1, bomb, END_HEADERS | END_STREAM))],
    [
      "WINDOW_UPDATE of 0 on streams",
      (n) => Buffer.concat([headers(2 * n + 1, grpcHead("/t/Echo")), windowUpdate(2 * n + 1, 0)]),
    ],
  ])("a flood of %s ends in GOAWAY, soon", async (_name, frame) => {
    await boot({ trust });
    const client = await open();
    const before = process.cpuUsage();
    await flood(client, 200_000, frame);
    expect([ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR]).toContain((await client.goaway()).code);
    const { user, system } = process.cpuUsage(before);
    expect(user + system).toBeLessThan(2_000_000);
  });

  test("the usual frames between requests never use up the budget", async () => {
    await boot({ trust });
    const client = await open();
    for (let round = 0; round < 60; round++) {
      const ids = Array.from({ length: 100 }, (_, n) => 2 * (100 * round + n) + 1);
      client.send(
        ...ids.flatMap((id) => [
          grpcCall(id, "/t/Echo"),
          frameOf(PING, 0, 0, Buffer.alloc(8)),
          windowUpdate(0, 100),
          windowUpdate(id, 100),
        ]),
      );
      await client.response(ids.at(-1)!);
    }
    expect(fixture.errors).toEqual([]);
  });
});

test("a SETTINGS frame of 2,400 entries ends in ENHANCE_YOUR_CALM", async () => {
  await boot();
  const client = await open();
  client.send(settings(...Array.from({ length: 2_400 }, () => [4, 65_535] as const)));
  expect((await client.goaway()).code).toBe(ENHANCE_YOUR_CALM);
});

test("a connection that is cut in the middle of a header block leaves nothing behind", async () => {
  await boot();
  for (let n = 0; n < 20; n++) {
    const client = await open();
    client.send(headers(1, grpcHead("/t/Echo"), 0), frameOf(CONTINUATION, 0, 1, Buffer.of(0x83)));
    await new Promise<void>((resolve) => client.socket.write(Buffer.alloc(0), () => resolve()));
    client.socket.resetAndDestroy();
  }
  await expect.poll(() => fixture.server.stats(), { timeout: 10_000 }).toMatchObject({ connections: 0, buffered: 0 });
});

test("a window beyond 2^31-1 ends the connection, and nothing of it is kept", async () => {
  await boot({ limits: { lingerMs: 50 } });
  const client = await open();
  client.send(windowUpdate(0, 0x7fffffff));
  expect((await client.goaway()).code).toBe(FLOW_CONTROL_ERROR);
  await expect.poll(() => fixture.server.stats().connections, { timeout: 10_000 }).toBe(0);
});

test("malformed requests from an untrusted peer end in GOAWAY", async () => {
  await boot({ trust: "untrusted" });
  const client = await open();
  await flood(client, 100_000, (n) => headers(2 * n + 1, Buffer.of(0x83, 0x86), END_HEADERS | END_STREAM));
  expect((await client.goaway()).code).toBe(ENHANCE_YOUR_CALM);
});

test("50,000 requests that never end hold no more than the stream limit and their deadline allow", async () => {
  await boot({ trust: "trusted", limits: { maxConcurrentStreams: 64 } });
  const client = await open();
  await flood(client, 50_000, (n) => headers(2 * n + 1, grpcHead("/t/Echo")));
  await client.resetOf(99_999);
  expect(fixture.server.stats().refused).toBe(50_000 - 64);
});

test("unfinished bodies are limited over all connections; a further one is answered instead of kept", async () => {
  await boot({ limits: { maxBuffered: 100_000 } });
  const [a, b] = [await open(), await open()];
  const half = message("x".repeat(60_000)).subarray(0, 16_384);
  for (const client of [a, b]) {
    for (let id = 1; id < 41; id += 2) client.send(headers(id, grpcHead("/t/Echo")), data(id, half, 0));
  }
  const shed = await b.response(39);
  expect(shed.fields["grpc-status"]).toBe("8");
  expect(fixture.server.stats().buffered).toBeLessThanOrEqual(100_000);
  a.destroy();
  b.destroy();
  const next = await open();
  next.send(headers(1, grpcHead("/t/Echo")), data(1, half, 0));
  await next.call(3, "/t/Echo");
  expect(fixture.server.stats().buffered).toBeLessThanOrEqual(32_768);
});

test("headers of open streams are limited over all connections; a complete request on another connection is still answered", async () => {
  const budget = new ByteBudget(1 << 20);
  await boot({ budget });
  const large = literal("x-large", "x".repeat(15_000));
  const attackers = [await open(), await open()];
  for (const client of attackers) {
    for (let id = 1; id < 101; id += 2) client.send(headers(id, grpcHead("/t/Echo", large)));
  }
  for (const client of attackers) expect((await client.response(99)).fields["grpc-status"]).toBe("8");
  expect(budget.held).toBeGreaterThan(1 << 19);
  expect(budget.held).toBeLessThanOrEqual(3 << 18);
  const other = await open();
  await other.call(1, "/t/Echo");
  for (const client of attackers) client.destroy();
  other.destroy();
  await expect.poll(() => budget.held).toBe(0);
});

test("answers that nobody reads are limited over all connections", async () => {
  const budget = new ByteBudget(1 << 20);
  const large = route(() => grpcMessage(Buffer.alloc(100_000)));
  await boot({ budget, routes: { "/t/Large": large, "/t/Echo": route((content) => grpcMessage(content)) } });
  const client = await open([4, 0]); // no window on any stream
  for (let id = 1; id < 41; id += 2) client.send(grpcCall(id, "/t/Large"));
  expect(await client.resetOf(39)).toBe(ENHANCE_YOUR_CALM);
  expect(budget.held).toBeGreaterThan(1 << 19);
  const other = await open();
  await other.call(1, "/t/Echo");
  client.destroy();
  other.destroy();
  await expect.poll(() => budget.held).toBe(0);
});

test("any number of calls that are answered with overload leave a trusted connection open", async () => {
  const never = route(() => new Promise<never>(() => {}));
  await boot({ limits: { maxRunning: 1 }, routes: { "/t/Never": never } });
  const client = await open();
  client.send(grpcCall(1, "/t/Never"));
  // Each with the frames that clients send around a call: together more than the budget for frames without one.
  for (let id = 3; id < 6_003; id += 2) client.send(grpcCall(id, "/t/Never"), windowUpdate(0, 100));
  expect((await client.response(6_001)).fields["grpc-status"]).toBe("8");
  expect(fixture.errors).toEqual([]);
});

test("a length prefix over the limit is refused before anything is allocated for it", async () => {
  await boot();
  const client = await open();
  client.send(headers(1, grpcHead("/t/Echo")), data(1, Buffer.from([0, 0x7f, 0xff, 0xff, 0xff, 1]), 0));
  expect((await client.response(1)).fields["grpc-status"]).toBe("8");
  expect(fixture.server.stats().buffered).toBe(0);
});

test("more bytes than the stream's window are a flow-control error of that stream", async () => {
  const refusing = route(() => grpcMessage(Buffer.alloc(0)), { failed: () => grpcMessage(Buffer.from("no")) });
  await boot({ routes: { "/t/Refusing": refusing } });
  const client = await open([4, 0]);
  // The refusal waits for window, so the stream stays open while its body keeps coming.
  client.send(headers(1, grpcHead("/t/Refusing")), data(1, Buffer.of(2, 0, 0, 0, 0), 0));
  for (let n = 0; n < 5; n++) client.send(data(1, Buffer.alloc(16_000), 0));
  expect(await client.resetOf(1)).toBe(FLOW_CONTROL_ERROR);
  expect((await client.call(3, "/t/None")).status).toBe("200");
});

describe("a client that does not read", () => {
  const large = grpcMessage(Buffer.alloc(64_000));

  test("is paused at the limit of the queue, and closed if it does not read again", async () => {
    const limits = { undrainedMs: 200, sweepMs: 20, maxConcurrentStreams: 5_000 };
    await boot({ limits, routes: { "/t/Large": route(() => large) } });
    const client = await open([4, 0x7fffffff]);
    client.send(windowUpdate(0, 0x7fffffff - 65_535));
    client.socket.pause();
    for (let id = 1; id < 20_001; id += 2) client.send(grpcCall(id, "/t/Large"));
    expect(await fixture.error).toMatchObject({ reason: "answers not read" });
    expect(fixture.server.stats().requests).toBeLessThan(1_500);
  });

  test("gets all its answers if it reads again", async () => {
    await boot({ routes: { "/t/Large": route(() => large) } });
    const client = await open([4, 0x7fffffff]);
    client.send(windowUpdate(0, 0x7fffffff - 65_535));
    client.socket.pause();
    for (let id = 1; id < 401; id += 2) client.send(grpcCall(id, "/t/Large"));
    while (fixture.server.stats().requests === 0) await new Promise((resolve) => setImmediate(resolve));
    client.socket.resume();
    expect((await client.response(399)).body).toHaveLength(64_005);
    expect(client.frames.filter(({ type, flags }) => type === 1 && (flags & END_STREAM) !== 0)).toHaveLength(200);
  });
});

test("answers that wait for a window of 0 end after a time, and count as open streams until then", async () => {
  await boot({ trust: "trusted", limits: { undrainedMs: 100, maxConcurrentStreams: 10 } });
  const client = await open([4, 0]);
  for (let id = 1; id < 31; id += 2) client.send(grpcCall(id, "/t/Echo", "x"));
  expect(await client.resetOf(29)).toBe(7);
  expect(await client.resetOf(19)).toBe(8);
  client.send(settings([4, 1_000]));
  expect((await client.call(31, "/t/Echo", "again")).body.toString("latin1", 5)).toBe("again");
});

test("a larger initial window releases waiting answers", async () => {
  await boot();
  const client = await open([4, 3]);
  client.send(grpcCall(1, "/t/Echo", "waiting"), grpcCall(3, "/t/Echo", "too"));
  await client.frame(({ type, id }) => type === 0 && id === 3);
  client.send(settings([4, 1_000]));
  expect((await client.response(1)).body.toString("latin1", 5)).toBe("waiting");
  expect((await client.response(3)).body.toString("latin1", 5)).toBe("too");
});

test("all answers together stay within the connection's window", async () => {
  await boot();
  const client = await open();
  const body = "x".repeat(5_000);
  const ids = Array.from({ length: 20 }, (_, n) => 2 * n + 1);
  client.send(...ids.map((id) => grpcCall(id, "/t/Echo", body)), frameOf(PING, 0, 0, Buffer.alloc(8)));
  await client.frame(({ type, flags }) => type === PING && flags === 1);
  const octets = () => client.frames.reduce((sum, { type, payload }) => sum + (type === 0 ? payload.length : 0), 0);
  expect(octets()).toBe(65_535);
  client.send(windowUpdate(0, 100_000));
  await client.response(39);
  expect(octets()).toBe(20 * 5_005);
});

test.each([1, 7])("a window of %i octets at a time gets a whole answer", async (size) => {
  await boot();
  const client = await open([4, size]);
  client.send(grpcCall(1, "/t/Echo", "a longer answer than that"));
  for (let at = size; at < 30; at += size) {
    await client.until(() => client.frames.filter(({ type }) => type === 0).length * size >= at);
    client.send(windowUpdate(1, size));
  }
  expect((await client.response(1)).body.toString("latin1", 5)).toBe("a longer answer than that");
});

test("900 calls at once on one connection are all answered", async () => {
  await boot({
    limits: { maxConcurrentStreams: 1_000 },
    routes: { "/t/Slow": route(async (bytes, call) => grpcMessage(await Promise.resolve(call.copy(bytes)))) },
  });
  const client = await open();
  const ids = Array.from({ length: 900 }, (_, n) => 2 * n + 1);
  client.send(...ids.map((id) => grpcCall(id, "/t/Slow", String(id))));
  const answers = await Promise.all(ids.map((id) => client.response(id)));
  expect(answers.map(({ body }) => body.toString("latin1", 5))).toEqual(ids.map(String));
});

test("DATA one octet at a time, padded, is one message, and its padding is credited", async () => {
  await boot();
  const client = await open();
  const body = message("y".repeat(400));
  client.send(headers(1, grpcHead("/t/Echo")));
  for (let at = 0; at < body.length; at++) {
    const padded = Buffer.concat([Buffer.of(255), body.subarray(at, at + 1), Buffer.alloc(255)]);
    client.send(frameOf(0, at + 1 === body.length ? 9 : 8, 1, padded));
  }
  expect((await client.response(1)).body).toEqual(body);
  const credits = client.frames.filter(({ type, id }) => type === WINDOW_UPDATE && id === 1);
  const credited = credits.reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0);
  expect(credited).toBeGreaterThan(90_000);
  expect(credited).toBeLessThanOrEqual(body.length * 256);
});

describe("without HTTP/2", () => {
  test.each<[string, Buffer]>([
    ["a silent socket", Buffer.alloc(0)],
    ["half a preface", PREFACE.subarray(0, 10)],
    ["a preface and no SETTINGS", PREFACE],
  ])("%s is closed after the preface time", async (_name, bytes) => {
    await boot({ limits: { prefaceMs: 50, sweepMs: 10 } });
    const socket = connect(fixture.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(bytes);
    socket.resume();
    await new Promise((resolve) => socket.once("close", resolve));
  });

  test("a preface octet by octet is one", async () => {
    await boot();
    const client = new RawClient(connect(fixture.port, "127.0.0.1"));
    clients.push(client);
    for (const octet of Buffer.concat([PREFACE, settings()])) {
      client.send(Buffer.of(octet));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await client.frame(({ type, flags }) => type === SETTINGS && flags === 1);
    expect((await client.call(1, "/t/Echo")).status).toBe("200");
  });
});

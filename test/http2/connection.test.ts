import { afterEach, describe, expect, test } from "vitest";
import type { Stream } from "../../src/http2/server/stream.ts";
import { grpcMessage, type Reply } from "../../src/http2/unary/reply.ts";
import type { UnaryRoute } from "../../src/http2/unary/routes.ts";
import {
  CONTINUATION,
  END_HEADERS,
  END_STREAM,
  ENHANCE_YOUR_CALM,
  frameOf,
  GOAWAY,
  HEADERS,
  NO_ERROR,
  PING,
  PREFACE,
  PROTOCOL_ERROR,
  RST_STREAM,
  SETTINGS,
  STREAM_CLOSED,
} from "../../src/http2/wire/frame.ts";
import { echo, type Fixture, type FixtureOptions, route, seeded, start } from "./fixture.ts";
import { type Harness, harness, harnessContext } from "./harness.ts";
import {
  data,
  grpcCall,
  grpcHead,
  headers,
  literal,
  message,
  RawClient,
  reset,
  settings,
  windowUpdate,
} from "./raw-client.ts";

let fixture: Fixture;
const clients: RawClient[] = [];
const open = async (...pairs: (readonly [number, number])[]): Promise<RawClient> => {
  const client = await RawClient.connect(fixture.port, ...pairs);
  clients.push(client);
  return client;
};
const boot = async (options?: FixtureOptions): Promise<void> => {
  fixture = await start(options);
};
afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await fixture.stop();
});

/** A route that parks its calls until somebody answers them. */
const parking = () => {
  const parked: { text: string; answer: (reply: Reply) => void; signal: AbortSignal }[] = [];
  const park = route(
    (bytes, call) =>
      new Promise<Reply>((answer) => {
        parked.push({ text: Buffer.from(bytes).toString(), answer, signal: call.signal });
      }),
  );
  return { parked, park };
};

describe.each(["shared", "own"] as const)("replies that are made later, %s reads", (reads) => {
  test("each reply goes to the connection and stream of its request", async () => {
    // Thenables resolve the moment they are told to: an answer can come from inside another call's handler.
    const pick = seeded(7);
    const parked: { text: string; answer: (reply: Reply) => void }[] = [];
    const release = (most: number): void => {
      for (let n = pick(most + 1); n > 0 && parked.length > 0; n--) {
        const [one] = parked.splice(pick(parked.length), 1);
        one!.answer(grpcMessage(Buffer.from(one!.text)));
      }
    };
    const ask = route((bytes) => {
      const text = Buffer.from(bytes).toString();
      release(3);
      if (pick(4) === 0) return grpcMessage(Buffer.from(text));
      const answer = new Promise<Reply>((resolve) => parked.push({ text, answer: resolve }));
      if (pick(3) === 0) setTimeout(() => release(6), pick(3));
      return answer;
    });
    await boot({ reads, routes: { "/t/Ask": ask } });
    const connections = await Promise.all(Array.from({ length: 64 }, () => open()));
    const expected: { client: RawClient; id: number; text: string }[] = [];
    for (let round = 0; round < 50; round++) {
      for (const [at, client] of connections.entries()) {
        const id = 2 * round + 1;
        const text = `${at}/${id}`;
        expected.push({ client, id, text });
        client.send(grpcCall(id, "/t/Ask", text));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    const last = setInterval(() => release(400), 1);
    const answers = await Promise.all(expected.map(({ client, id }) => client.response(id)));
    clearInterval(last);
    expect(answers.map(({ body }) => body.toString("latin1", 5))).toEqual(expected.map(({ text }) => text));
    for (const client of connections) {
      const ids = client.frames
        .filter(({ type, flags }) => type === HEADERS && (flags & END_STREAM) !== 0)
        .map(({ id }) => id);
      expect(new Set(ids).size).toBe(50);
      expect(ids).toHaveLength(50);
    }
    expect(fixture.errors).toEqual([]);
  });

  test("an async handler gets a copy of the message", async () => {
    const gates: (() => void)[] = [];
    const slow = route(async (bytes) => {
      await new Promise<void>((resolve) => gates.push(resolve));
      return grpcMessage(bytes);
    });
    await boot({ reads, routes: { "/t/Slow": slow } });
    const [a, b] = [await open(), await open()];
    a.send(grpcCall(1, "/t/Slow", "the first"));
    await b.call(1, "/t/Echo", "x".repeat(60));
    await a.call(3, "/t/Echo", "y".repeat(60));
    for (const gate of gates) gate();
    expect((await a.response(1)).body.toString("latin1", 5)).toBe("the first");
  });

  test("a synchronous handler that wants to keep a message copies it", async () => {
    const gates: (() => void)[] = [];
    const slow = route((bytes, call) => {
      const kept = call.copy(bytes);
      return new Promise((resolve) => gates.push(() => resolve(grpcMessage(kept))));
    });
    await boot({ reads, routes: { "/t/Slow": slow } });
    const [a, b] = [await open(), await open()];
    a.send(grpcCall(1, "/t/Slow", "the first"));
    await b.call(1, "/t/Echo", "x".repeat(60));
    await a.call(3, "/t/Echo", "y".repeat(60));
    for (const gate of gates) gate();
    expect((await a.response(1)).body.toString("latin1", 5)).toBe("the first");
  });
});

test("a reply that is made during another connection's read is sent later, on its own connection", async () => {
  // Promises settle after the read; this reaches below them for what single flight must never be able to do.
  let parked: Stream | undefined;
  let a: Harness | undefined;
  const { context, wakeAll } = harnessContext({
    "/t/Park": route((_bytes, call) => {
      parked = call as Stream;
      return new Promise(() => {});
    }),
    "/t/Release": route(() => {
      a!.connection.answer(parked!, grpcMessage(Buffer.from("parked")));
      return grpcMessage(Buffer.from("release"));
    }),
  });
  a = harness(context);
  const b = harness(context);
  a.feed(PREFACE, settings(), grpcCall(1, "/t/Park"));
  const before = a.output().length;
  b.feed(PREFACE, settings(), grpcCall(1, "/t/Release"));
  expect(a.output()).toHaveLength(before);
  expect(b.output().toString("latin1")).toContain("release");
  expect(b.output().toString("latin1")).not.toContain("parked");
  wakeAll();
  expect(a.output().toString("latin1")).toContain("parked");
});

describe("drain", () => {
  test("sends a GOAWAY, waits one round trip, names the last stream, and serves requests that crossed the first GOAWAY", async () => {
    const { parked, park } = parking();
    await boot({ routes: { "/t/Park": park } });
    const client = await open();
    client.send(grpcCall(1, "/t/Park", "one"));
    await client.call(3, "/t/Echo");
    const drained = fixture.server.drain(5_000);
    expect(await client.goaway()).toMatchObject({ last: 0x7fffffff, code: NO_ERROR });
    const ping = await client.frame(({ type, flags }) => type === PING && flags === 0);
    expect(client.frames.filter(({ type }) => type === GOAWAY)).toHaveLength(1);

    client.send(frameOf(PING, 1, 0, ping.payload), grpcCall(5, "/t/Echo", "crossed"));
    expect((await client.response(5)).body.toString("latin1", 5)).toBe("crossed");
    await client.until(() => client.frames.filter(({ type }) => type === GOAWAY).length === 2);
    expect(client.frames.filter(({ type }) => type === GOAWAY)[1]!.payload.readUInt32BE(0)).toBe(5);
    client.send(grpcCall(7, "/t/Echo", "too late"), frameOf(PING, 0, 0, Buffer.alloc(8, 7)));
    await client.frame(({ type, flags, payload }) => type === PING && flags === 1 && payload[0] === 7);
    expect(client.closed).toBe(false);

    for (const one of parked) one.answer(grpcMessage(Buffer.from(one.text)));
    expect((await client.response(1)).body.toString("latin1", 5)).toBe("one");
    await client.end();
    await drained;
    expect(client.frames.some(({ id }) => id === 7)).toBe(false);
    expect(fixture.errors).toEqual([]);
  });

  test("continues when the peer never answers the PING", async () => {
    await boot({ limits: { roundTripMs: 20, sweepMs: 10 } });
    const client = await open();
    await fixture.server.drain(5_000);
    await client.end();
    expect(client.frames.filter(({ type }) => type === GOAWAY).map(({ payload }) => payload.readUInt32BE(0))).toEqual([
      0x7fffffff, 0,
    ]);
  });

  test("destroys the connection when its time is over", async () => {
    const { park } = parking();
    await boot({ routes: { "/t/Park": park } });
    const client = await open();
    client.send(grpcCall(1, "/t/Park"));
    await fixture.server.drain(50);
    await client.end();
  });
});

describe("resets", () => {
  test("any number of resets by a trusted peer aborts those calls and harms no other", async () => {
    const { parked, park } = parking();
    // As real handlers do, it stops when nobody waits any more.
    const stopping = route(async (bytes, call) => {
      const gone = new Promise<Reply>((_, reject) =>
        call.signal.addEventListener("abort", () => reject(call.signal.reason)),
      );
      return Promise.race([park.handler(bytes, call), gone]);
    });
    await boot({ trust: "trusted", routes: { "/t/Park": stopping } });
    const client = await open();
    client.send(grpcCall(1, "/t/Park", "innocent"));
    for (let id = 3; id < 20_003; id += 2) client.send(grpcCall(id, "/t/Park"), reset(id));
    expect((await client.call(20_003, "/t/Echo", "still here")).body.toString("latin1", 5)).toBe("still here");
    const innocent = parked.find(({ text }) => text === "innocent")!;
    expect(parked.filter(({ signal }) => !signal.aborted)).toEqual([innocent]);
    innocent.answer(grpcMessage(Buffer.from("answered")));
    expect((await client.response(1)).body.toString("latin1", 5)).toBe("answered");
    expect(fixture.errors).toEqual([]);
  });

  test("handlers that ignore their cancellation are limited in number: further calls get an answer", async () => {
    const { parked, park } = parking();
    await boot({ trust: "trusted", limits: { maxRunning: 100 }, routes: { "/t/Park": park } });
    const client = await open();
    for (let id = 1; id < 1_001; id += 2) client.send(grpcCall(id, "/t/Park"), reset(id));
    const answer = await client.call(1_001, "/t/Park");
    expect(answer.fields["grpc-status"]).toBe("8");
    expect(parked).toHaveLength(100);
  });

  test("a flood of resets by an untrusted peer ends in ENHANCE_YOUR_CALM", async () => {
    const { park } = parking();
    await boot({ trust: "untrusted", routes: { "/t/Park": park } });
    const client = await open();
    for (let id = 1; id < 10_001; id += 2) client.send(grpcCall(id, "/t/Park"), reset(id));
    expect((await client.goaway()).code).toBe(ENHANCE_YOUR_CALM);
  });

  test("streams beyond the limit are refused, and a trusted peer keeps its connection", async () => {
    const { park } = parking();
    await boot({ trust: "trusted", limits: { maxConcurrentStreams: 4 }, routes: { "/t/Park": park } });
    const client = await open();
    for (let id = 1; id < 6_001; id += 2) client.send(grpcCall(id, "/t/Park"));
    expect(await client.resetOf(5_999)).toBe(7);
    client.send(reset(1));
    expect((await client.call(6_001, "/t/Echo")).status).toBe("200");
  });
});

describe("a header block over its limit", () => {
  const big = (id: number): Buffer => {
    const block = Buffer.concat([
      grpcHead("/t/Echo", literal("x-kept", "in the table", "incremental")),
      literal("x-big", "v".repeat(18_000)),
    ]);
    const rest = block.subarray(16_384);
    return Buffer.concat([
      headers(id, block.subarray(0, 16_384), 0),
      frameOf(CONTINUATION, END_HEADERS, id, rest),
      data(id, message()),
    ]);
  };

  test("fails its stream with a gRPC status, and the HPACK table stays correct for the next streams", async () => {
    const { parked, park } = parking();
    const seen: string[] = [];
    const kept = route((_bytes, call) => {
      seen.push(call.metadata("x-kept") ?? "");
      return grpcMessage(Buffer.alloc(0));
    });
    await boot({ routes: { "/t/Park": park, "/t/Kept": kept } });
    const client = await open();
    client.send(grpcCall(1, "/t/Park"), big(3));
    expect(await client.response(3)).toMatchObject({ status: "200", fields: { "grpc-status": "8" } });
    client.send(headers(5, grpcHead("/t/Kept", Buffer.of(0xbe))), data(5, message()));
    expect((await client.response(5)).trailers["grpc-status"]).toBe("0");
    expect(seen).toEqual(["in the table"]);
    parked[0]!.answer(grpcMessage(Buffer.from("one")));
    expect((await client.response(1)).trailers["grpc-status"]).toBe("0");
  });

  test("gets the route's own answer if the route has answers to failures", async () => {
    const refuse = route(echo, { failed: (_call, kind) => grpcMessage(Buffer.from(kind)) });
    await boot({ routes: { "/t/Check": refuse } });
    const client = await open();
    client.send(
      headers(
        1,
        Buffer.concat([grpcHead("/t/Check"), ...Array.from({ length: 125 }, (_, n) => literal(`x-${n}`, "1"))]),
      ),
      data(1, message()),
    );
    const answer = await client.response(1);
    expect(answer.body.toString("latin1", 5)).toBe("oversized");
    expect(answer.trailers["grpc-status"]).toBe("0");
  });

  test("is 431 for plain HTTP", async () => {
    await boot();
    const client = await open();
    const block = Buffer.concat([
      Buffer.of(0x82, 0x86, 0x84),
      literal(":authority", "a"),
      literal("x-big", "v".repeat(16_300)),
    ]);
    client.send(headers(1, block, END_HEADERS | END_STREAM));
    expect((await client.response(1)).status).toBe("431");
    expect((await client.call(3, "/t/Echo")).status).toBe("200");
  });
});

describe("a lowered HEADER_TABLE_SIZE", () => {
  test("puts a size update at the start of the next block, even if that block is the trailers of a waiting answer", async () => {
    await boot();
    const client = await open([4, 100]);
    client.send(grpcCall(1, "/t/Echo", "x".repeat(300)));
    await client.frame(({ type, id, payload }) => type === 0 && id === 1 && payload.length === 100);
    client.send(settings([1, 0]), windowUpdate(1, 1_000));
    await client.response(1);
    const [head, trailers] = client.frames.filter(({ type, id }) => type === HEADERS && id === 1);
    expect(head!.payload[0]).not.toBe(0x20);
    expect(trailers!.payload[0]).toBe(0x20);
    await client.call(3, "/t/Echo");
    expect(client.frames.find(({ type, id }) => type === HEADERS && id === 3)!.payload[0]).not.toBe(0x20);
  });

  test("puts one size update at the start of the next answer", async () => {
    await boot();
    const client = await open([1, 100]);
    await client.call(1, "/t/Echo");
    const blocks = client.frames.filter(({ type }) => type === HEADERS).map(({ payload }) => payload[0]);
    expect(blocks[0]).toBe(0x20);
    expect(blocks[1]).not.toBe(0x20);
  });
});

describe("closed streams", () => {
  test("600 answers before the bodies of their requests keep the connection open", async () => {
    await boot({ trust: "untrusted" });
    const client = await open();
    const ids = Array.from({ length: 600 }, (_, n) => 2 * n + 1);
    client.send(...ids.map((id) => headers(id, grpcHead("/t/None"))));
    client.send(...ids.map((id) => data(id, message("late"))));
    expect((await client.call(1_201, "/t/Echo", "here")).body.toString("latin1", 5)).toBe("here");
    expect((await client.response(599)).fields["grpc-status"]).toBe("12");
    expect(fixture.errors).toEqual([]);
  });

  test("a frame on a stream that both sides have ended is a stream error, and a flood of them ends the connection", async () => {
    await boot();
    const client = await open();
    await client.call(1, "/t/Echo");
    client.send(data(1, message()));
    expect(await client.resetOf(1)).toBe(STREAM_CLOSED);
    await client.call(3, "/t/Echo");
    for (let n = 0; n < 3_000; n++) client.send(data(1, message()));
    expect((await client.goaway()).code).toBe(ENHANCE_YOUR_CALM);
  });

  test("opening a stream with an id below one that was used is a connection error", async () => {
    await boot();
    const client = await open();
    await client.call(5, "/t/Echo");
    client.send(grpcCall(3, "/t/Echo"));
    expect((await client.goaway()).code).toBe(PROTOCOL_ERROR);
  });
});

describe("deadlines", () => {
  const never = (failed?: boolean) => {
    const aborted: string[] = [];
    const hang = route(
      (_bytes, call) => {
        const text = call.path;
        call.signal.addEventListener("abort", () => aborted.push(text));
        return new Promise<Reply>(() => {});
      },
      { deadlineMs: 60, ...(failed && { failed: (_call, kind) => grpcMessage(Buffer.from(kind)) }) },
    );
    return { aborted, hang };
  };

  test("the client's grpc-timeout ends the call with DEADLINE_EXCEEDED and aborts its handler", async () => {
    const { hang, aborted } = never();
    await boot({ routes: { "/t/Hang": { ...hang, deadlineMs: 60_000 } } });
    const client = await open();
    client.send(headers(1, grpcHead("/t/Hang", literal("grpc-timeout", "30m"))), data(1, message()));
    expect((await client.response(1)).fields["grpc-status"]).toBe("4");
    expect(aborted).toEqual(["/t/Hang"]);
  });

  test("a longer grpc-timeout is cut to the deadline of the route", async () => {
    const { hang } = never();
    await boot({ routes: { "/t/Hang": hang } });
    const client = await open();
    const began = performance.now();
    client.send(headers(1, grpcHead("/t/Hang", literal("grpc-timeout", "99999999H"))), data(1, message()));
    expect((await client.response(1)).fields["grpc-status"]).toBe("4");
    expect(performance.now() - began).toBeLessThan(3_000);
  });

  test("a route with its own answers to failures answers before the client's deadline", async () => {
    const { hang } = never(true);
    await boot({ routes: { "/t/Hang": { ...hang, deadlineMs: 60_000 } } });
    const client = await open();
    const began = performance.now();
    client.send(headers(1, grpcHead("/t/Hang", literal("grpc-timeout", "100m"))), data(1, message()));
    const answer = await client.response(1);
    expect(answer.body.toString("latin1", 5)).toBe("deadline");
    expect(performance.now() - began).toBeGreaterThan(80);
  });

  test.each<[string, Partial<UnaryRoute>, string, number]>([
    ["the client's", {}, "2S", 2_000],
    ["the route's when the client asks for more", {}, "9S", 3_000],
    [
      "just before the client's when the route answers it itself",
      { failed: () => grpcMessage(Buffer.of()) },
      "2S",
      1_990,
    ],
    ["before a short one's too", { failed: () => grpcMessage(Buffer.of()) }, "50m", 45],
  ])("a call's deadline is %s", async (_name, more, timeout, expected) => {
    let left = 0;
    const ask = route(
      (bytes, call) => {
        left = call.deadline - performance.now();
        return grpcMessage(bytes);
      },
      { deadlineMs: 3_000, ...more },
    );
    await boot({ routes: { "/t/Ask": ask } });
    const client = await open();
    client.send(headers(1, grpcHead("/t/Ask", literal("grpc-timeout", timeout))), data(1, message()));
    await client.response(1);
    expect(left).toBeLessThanOrEqual(expected);
    expect(left).toBeGreaterThan(expected - 40);
  });

  test("a request whose body never comes is answered at the deadline, too", async () => {
    const { hang } = never();
    await boot({ routes: { "/t/Hang": hang } });
    const client = await open();
    client.send(headers(1, grpcHead("/t/Hang")));
    expect((await client.response(1)).fields["grpc-status"]).toBe("4");
    expect(await client.resetOf(1)).toBe(NO_ERROR);
  });

  test.each(["0m", "0n"])("grpc-timeout %s is over before it begins", async (timeout) => {
    await boot();
    const client = await open();
    client.send(headers(1, grpcHead("/t/Echo", literal("grpc-timeout", timeout))), data(1, message()));
    expect((await client.response(1)).fields["grpc-status"]).toBe("4");
  });
});

test("a handler's exception is its own call's INTERNAL and is reported", async () => {
  const boom = route(() => {
    throw new Error("boom");
  });
  const late = route(() => Promise.reject(new Error("later")));
  await boot({ routes: { "/t/Boom": boom, "/t/Late": late } });
  const client = await open();
  client.send(grpcCall(1, "/t/Boom"), grpcCall(3, "/t/Late"), grpcCall(5, "/t/Echo"));
  expect((await client.response(1)).fields["grpc-status"]).toBe("13");
  expect((await client.response(3)).fields["grpc-status"]).toBe("13");
  expect((await client.response(5)).trailers["grpc-status"]).toBe("0");
  expect(fixture.handlerErrors).toEqual([new Error("boom"), new Error("later")]);
});

test("the client acknowledges our SETTINGS, and we ignore unknown frames and settings", async () => {
  await boot();
  const client = await open([0x42, 7]);
  client.send(frameOf(0x2a, 0xff, 0, Buffer.from("whatever")));
  expect((await client.call(1, "/t/Echo")).status).toBe("200");
  expect(client.frames.filter(({ type }) => type === SETTINGS)).toHaveLength(2);
  expect(client.frames.some(({ type }) => type === RST_STREAM)).toBe(false);
});

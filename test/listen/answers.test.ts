import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type ClientHttp2Session, connect } from "node:http2";
import { connect as dial } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator, Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { http } from "../../src/http2/unary/reply.ts";
import type { RefusedCall } from "../../src/listen/connect-adapter.ts";
import type { HttpHandler } from "../../src/listen/peers.ts";
import { whyUnknown } from "../../src/listen/wrong-listener.ts";
import { type EchoListener, openEchoListener, VALIDATE } from "./echo-listener.ts";
import {
  ACK,
  END_HEADERS,
  END_STREAM,
  exchange,
  Frame,
  frame,
  framesIn,
  headerBlock,
  PREFACE,
  rawConnect,
  settings,
} from "./wire.ts";

const folder = mkdtempSync(join(tmpdir(), "sallyport-answers-"));
const refused: RefusedCall[] = [];
const listeners: EchoListener[] = [];
let listener: EchoListener;
beforeAll(async () => {
  listener = await openEchoListener({ rpc: { refused: (call) => refused.push(call) } });
  listeners.push(listener);
});
afterAll(async () => {
  await Promise.all(listeners.map((one) => one.close()));
  rmSync(folder, { recursive: true, force: true });
});

const post = async (path: string, body: string, headers: Record<string, string> = {}) => {
  const response = await fetch(listener.url + path, {
    method: "POST",
    body: Buffer.from(body),
    headers: { "content-type": "application/json", ...headers },
  });
  return { status: response.status, headers: response.headers, body: JSON.parse(await response.text()) };
};

/** The frames of the answer to one gRPC request, by hand. */
async function answerTo(path: string, authority = "a") {
  const raw = await rawConnect({ port: listener.port });
  const head: [string, string][] = [
    [":method", "POST"],
    [":scheme", "http"],
    [":path", path],
    [":authority", authority],
    ["content-type", "application/grpc"],
    ["te", "trailers"],
  ];
  const request = [
    PREFACE,
    settings(),
    frame(Frame.SETTINGS, ACK, 0),
    frame(Frame.HEADERS, END_HEADERS, 1, headerBlock(head)),
    frame(Frame.DATA, END_STREAM, 1, Buffer.alloc(5)),
  ];
  raw.socket.write(Buffer.concat(request));
  const ofStream = () => framesIn(raw.bytes()).filter(({ stream }) => stream === 1);
  await raw.until(() => ofStream().some(({ flags, type }) => type === Frame.RST || (flags & END_STREAM) !== 0));
  raw.socket.destroy();
  return ofStream();
}

describe("answers before any handler", () => {
  test.each([
    ["an unknown service", "/no.Such/Method", "a"],
    ["an unknown method", "/sallyport.v1.TokenAdmin/NoSuch", "a"],
    ["a malformed authority", VALIDATE, "1.2.3"],
  ])("%s ends a gRPC stream with its status in HEADERS, never after DATA", async (_, path, authority) => {
    const frames = await answerTo(path, authority);
    expect(frames.map(({ type, flags }) => [type, flags & END_STREAM])).toEqual([[Frame.HEADERS, END_STREAM]]);
  });

  test("the answer about a service of another listener names that listener", async () => {
    const { status, body } = await post("/envoy.service.auth.v3.Authorization/Check", "{}");
    expect([status, body]).toMatchObject([
      404,
      {
        code: "unimplemented",
        details: [{ debug: { reason: "UNIMPLEMENTED", domain: "sallyport" } }],
        message: "this is the admin listener; envoy.service.auth.v3.Authorization is on the data listener",
      },
    ]);
    expect(whyUnknown("/console/app.js", "data")).toBe("this is the data listener; console is on the admin listener");
    expect((await post("/nowhere", "{}")).body.message).toBe("the admin listener has no such method");
  });

  test("a missing content type gets a list of the accepted types", async () => {
    const { status, body } = await post(VALIDATE, "{}", { "content-type": "" });
    expect([status, body.code]).toEqual([415, "unimplemented"]);
    expect(body.details).toMatchObject([{ debug: { reason: "UNIMPLEMENTED", domain: "sallyport" } }]);
    expect(body.message).toMatch(/^content-type must be application\/json/);
  });

  test.each([
    ['{"displayname":1}', 'the method has no field "displayname"', "displayname"],
    ['{"audience":7}', 'the value of "audience" is none of its type', "audience"],
    ['{"context":{"nope":1}}', 'the method has no field "nope"', "nope"],
  ])("%s gets the name of the wrong field", async (json, description, field) => {
    const { status, body } = await post(VALIDATE, json);
    expect([status, body.message]).toEqual([400, `the request cannot be decoded: ${description}`]);
    expect(body.details[1].debug).toEqual({ fieldViolations: [{ field, description }] });
  });

  test("the answer has the request's id, and the call is counted with its reason", async () => {
    refused.length = 0;
    const { headers, body } = await post(VALIDATE, "{", { "x-request-id": "mine-1" });
    expect(headers.get("x-request-id")).toBe("mine-1");
    expect(body.details[0].debug).toEqual({
      reason: "UNDECODABLE",
      domain: "sallyport",
      metadata: { request_id: "mine-1" },
    });
    expect(refused).toMatchObject([{ method: VALIDATE.slice(1), requestId: "mine-1", fault: "undecodable" }]);
  });
});

describe("an authority", () => {
  test("may be the path of the unix socket, as gRPC clients send it", async () => {
    const path = join(folder, "a.sock");
    const unix = await openEchoListener({ bind: `unix:${path}` });
    listeners.push(unix);
    const named = `POST ${VALIDATE} HTTP/1.1\r\nHost: ${encodeURIComponent(path)}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}`;
    expect(await exchange({ path }, named)).toMatch(/^HTTP\/1\.1 200 /);
    expect(await exchange({ port: listener.port }, named)).toMatch(/^HTTP\/1\.1 400 /);
    const session: ClientHttp2Session = connect("http://unused", { createConnection: () => dial(path) });
    const stream = session.request({
      ":method": "POST",
      ":path": VALIDATE,
      ":authority": encodeURIComponent(path),
      "content-type": "application/json",
    });
    stream.end("{}");
    const [head] = await once(stream, "response");
    expect(head[":status"]).toBe(200);
    session.destroy();
  });

  test("may be missing only in an HTTP/1.0 probe of the ops listener", async () => {
    const ops = await openEchoListener({ name: "ops" });
    listeners.push(ops);
    const probe = (version: string) => `GET /nowhere HTTP/${version}\r\nConnection: close\r\n\r\n`;
    expect(await exchange({ port: ops.port }, probe("1.0"))).toMatch(/^HTTP\/1\.1 404 /);
    expect(await exchange({ port: ops.port }, probe("1.1"))).toMatch(/^HTTP\/1\.1 400 /);
    expect(await exchange({ port: listener.port }, probe("1.0"))).toMatch(/^HTTP\/1\.1 400 /);
  });
});

describe("a refusal while the body is still unread", () => {
  const route = { maxMessage: 1_000, deadlineMs: 2_000, handler: () => http(200, []) };
  const mounted = mountHttp1({ routes: { exact: new Map([[VALIDATE, route]]), prefix: [] } });

  test.each([
    ["the admin listener", {}],
    ["the data listener", { name: "data", listener: mounted as HttpHandler }],
  ] as const)("reaches a client of %s that sends all of it first, and keeps its connection", async (_, options) => {
    const own = await openEchoListener({ ...options });
    listeners.push(own);
    const socket = dial(own.port, "127.0.0.1").pause();
    await once(socket, "connect");
    const piece = Buffer.alloc(128 * 1024, "x");
    const pieces = 15;
    const head = `POST ${VALIDATE} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n`;
    socket.write(`${head}Content-Length: ${pieces * piece.length}\r\n\r\n`);
    for (let i = 0; i < pieces; i++) {
      await new Promise((resolve) => socket.write(piece, resolve));
      await delay(100); // a slow sender, that is the case
    }
    const raw = await rawConnect(socket);
    socket.resume();
    await raw.until((text) => text.includes("\r\n\r\n"));
    expect(raw.text()).toMatch(/^HTTP\/1\.1 (413|429) /);
    socket.write(`${head}Connection: close\r\nContent-Length: 2\r\n\r\n{}`);
    await raw.closed;
    expect(raw.text().match(/HTTP\/1\.1 \d+/g)?.[1]).toBe("HTTP/1.1 200");
  });
});

describe("300 calls cancelled on a connection", () => {
  test.each([
    ["at once", 300],
    ["in six waves", 50],
  ])("%s leave the call beside them alone: it is answered", async (_, wave) => {
    const answered = Promise.withResolvers<void>();
    const slow = await openEchoListener({
      rpc: {
        routes: (router) =>
          router.service(TokenValidator, {
            async validateToken() {
              await answered.promise;
              return { verdict: Verdict.ALLOW };
            },
          }),
      },
    });
    listeners.push(slow);
    const raw = await rawConnect({ port: slow.port });
    const seen = (wanted: number) => framesIn(raw.bytes()).filter(({ type }) => type === wanted);
    const block = headerBlock([
      [":method", "POST"],
      [":scheme", "http"],
      [":path", VALIDATE],
      [":authority", "a"],
      ["content-type", "application/grpc"],
    ]);
    const open = (id: number) => frame(Frame.HEADERS, END_HEADERS, id, block);
    const call = [open(1), frame(Frame.DATA, END_STREAM, 1, Buffer.alloc(5))];
    raw.socket.write(Buffer.concat([PREFACE, settings(), frame(Frame.SETTINGS, ACK, 0), ...call]));
    let id = 1;
    for (let waves = 1; id < 600; waves++) {
      const frames: Buffer[] = [];
      for (let i = 0; i < wave; i++) frames.push(open((id += 2)), frame(Frame.RST, 0, id, Buffer.from([0, 0, 0, 8])));
      raw.socket.write(Buffer.concat([...frames, frame(Frame.PING, 0, 0, Buffer.alloc(8))]));
      await raw.until(() => seen(Frame.PING).filter(({ flags }) => flags === ACK).length === waves);
    }
    answered.resolve();
    const own = () => framesIn(raw.bytes()).filter(({ stream }) => stream === 1);
    await raw.until(() => own().some(({ flags }) => (flags & END_STREAM) !== 0));
    raw.socket.destroy();
    expect(own().map(({ type }) => type)).toEqual([Frame.HEADERS, Frame.DATA, Frame.HEADERS]);
    // At most the client is asked to go elsewhere: NO_ERROR.
    for (const { payload } of seen(Frame.GOAWAY)) expect(payload.readUInt32BE(4)).toBe(0);
    if (wave === 50) expect(seen(Frame.GOAWAY).length).toBeGreaterThan(0);
  });
});

describe("a request whose answer depends on its head alone", () => {
  const judged = { maxMessage: 1_000, deadlineMs: 10_000, byHead: true, handler: () => http(200, []) };
  const mounted = mountHttp1({ routes: { exact: new Map(), prefix: [["/v1/check/", judged]] } });
  const head = "POST /v1/check/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";

  test("is answered although the body that it announces never comes, and its connection ends", async () => {
    const own = await openEchoListener({ name: "data", handler: mounted as HttpHandler });
    listeners.push(own);
    const raw = await rawConnect({ port: own.port });
    raw.socket.write(head);
    await raw.closed;
    expect(raw.text()).toMatch(/^HTTP\/1\.1 200 .*\r\nconnection: close\r\n/is);
  });

  test("keeps its connection if the body comes", async () => {
    const own = await openEchoListener({ name: "data", handler: mounted as HttpHandler });
    listeners.push(own);
    const raw = await rawConnect({ port: own.port });
    for (let i = 1; i <= 2; i++) {
      raw.socket.write(`${head}12345`);
      await raw.until((text) => text.split("HTTP/1.1 200").length - 1 === i);
    }
    raw.socket.destroy();
  });
});

describe("a time in JSON", () => {
  const at = async (body: object) => {
    const own = await openEchoListener({
      rpc: { routes: (router) => router.service(TokenAdmin, { createToken: () => ({}), listTokens: () => ({}) }) },
    });
    listeners.push(own);
    const response = await fetch(`${own.url}/sallyport.v1.TokenAdmin/CreateToken`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    return [response.status, ((await response.json()) as { message?: string }).message];
  };

  test.each(["2027-02-30T00:00:00Z", "2027-04-31T00:00:00Z", "2027-02-29T12:00:00+01:00", "2027-01-01T24:00:00Z"])(
    "%s is none",
    async (expireTime) => {
      const said = 'the request cannot be decoded: the value of "expire_time" is none of its type';
      expect(await at({ expireTime })).toEqual([400, said]);
    },
  );

  test("of an existing day is accepted, and so is a text that only looks like a time", async () => {
    expect((await at({ expireTime: "2028-02-29T23:59:59Z" }))[0]).toBe(200);
    expect((await at({ displayName: "2027-02-30T00:00:00Z" }))[0]).toBe(200);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectError, grpcMessage, grpcStatus, http } from "../../src/http2/unary/reply.ts";
import type { Routes, UnaryCall } from "../../src/http2/unary/routes.ts";
import { answerIn, echo, route, seeded } from "./fixture.ts";
import { type Answer, type Ask, type Mount, mounts } from "./mounts.ts";
import { message } from "./raw-client.ts";

const asJson = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
const facts = (call: UnaryCall): unknown => ({
  path: call.path,
  protocol: call.protocol,
  method: call.method,
  authority: call.authority,
  twice: call.metadata("x-twice"),
  cookie: call.metadata("cookie"),
  none: call.metadata("x-none") ?? null,
  raw: call.rawHeaders().filter(([name]) => name.startsWith("x-")),
  left: Math.ceil((call.deadline - performance.now()) / 10_000),
  peer: [call.peer.address, call.peer.unix, call.peer.certificateSans()],
});
const hang = () => new Promise<never>(() => {});
const refusing = { failed: (call: UnaryCall, kind: string) => answerIn(call, Buffer.from(kind)) };

const routes: Routes = {
  exact: new Map([
    ["/t/Echo", route(echo, { maxMessage: 1_000 })],
    ["/t/Facts", route((_bytes, call) => answerIn(call, asJson(facts(call))))],
    ["/t/Later", route(async (bytes, call) => answerIn(call, await Promise.resolve(call.copy(bytes))))],
    ["/t/Trailers", route((bytes) => grpcMessage(bytes, [["x-trail", "yes"]]))],
    ["/t/Status", route(() => grpcStatus(5, "café 100%", Buffer.from([8, 5])))],
    ["/t/Error", route(() => connectError(8, "slow down", [{ type: "google.rpc.RetryInfo", value: Buffer.of(1) }]))],
    [
      "/t/Throws",
      route(() => {
        throw new Error("secret");
      }),
    ],
    ["/t/Rejects", route(() => Promise.reject(new Error("secret")))],
    ["/t/Hangs", route(hang, { deadlineMs: 40 })],
    ["/t/Refusing", route(echo, { ...refusing, maxMessage: 10 })],
    [
      "/t/RefusingThrows",
      route(() => {
        throw new Error("secret");
      }, refusing),
    ],
    ["/t/RefusingHangs", route(hang, { ...refusing, deadlineMs: 40 })],
    ["/introspect", route(echo, { kind: "http" })],
  ]),
  prefix: [
    [
      "/v1/check/",
      route((_bytes, call) =>
        http(
          call.method === "DELETE" ? 204 : 200,
          [
            ["x-path", call.path],
            ["x-two", "1"],
            ["x-two", "2"],
          ],
          Buffer.from("checked"),
        ),
      ),
    ],
  ],
};

const grpc = (path: string, body: Uint8Array, headers: Ask["headers"] = {}): Ask => ({
  method: "POST",
  path,
  headers: { "content-type": "application/grpc+proto", te: "trailers", ...headers },
  body,
});
const connect = (path: string, body: Uint8Array | string, headers: Ask["headers"] = {}): Ask => ({
  method: "POST",
  path,
  headers: { "content-type": "application/json", "connect-protocol-version": "1", ...headers },
  body: Buffer.from(body as Uint8Array),
});
const plainAsk = (method: string, path: string, body = "", headers: Ask["headers"] = {}): Ask => ({
  method,
  path,
  headers,
  body: Buffer.from(body),
});

describe.each(Object.entries(mounts))("%s", (name, boot) => {
  let mount: Mount;
  const ask = (one: Ask): Promise<Answer> => mount.ask(one);
  beforeAll(async () => {
    mount = await boot(routes);
  });
  afterAll(() => mount.stop());

  // gRPC needs HTTP/2: on node:http there is nothing to hold it to.
  const overHttp2 = name === "node:http" ? () => {} : describe;
  overHttp2("gRPC", () => {
    test.each(["/t/Echo", "/t/Later"])("%s answers one message and grpc-status 0 in the trailers", async (path) => {
      expect(await ask(grpc(path, message("hello")))).toEqual({
        status: 200,
        headers: { "content-type": "application/grpc" },
        trailers: { "grpc-status": "0" },
        body: message("hello"),
      });
    });

    test("an empty message is a message", async () => {
      expect(await ask(grpc("/t/Echo", message()))).toMatchObject({
        trailers: { "grpc-status": "0" },
        body: message(),
      });
    });

    test("trailers of the answer come with the status", async () => {
      expect((await ask(grpc("/t/Trailers", message()))).trailers).toEqual({ "grpc-status": "0", "x-trail": "yes" });
    });

    test("a status is Trailers-Only, its message percent-encoded, its details in -bin", async () => {
      expect(await ask(grpc("/t/Status", message()))).toEqual({
        status: 200,
        headers: {
          "content-type": "application/grpc",
          "grpc-status": "5",
          "grpc-message": "caf%C3%A9 100%25",
          "grpc-status-details-bin": "CAU",
        },
        trailers: {},
        body: Buffer.alloc(0),
      });
    });

    const bad = (prefix: number[], rest = ""): Buffer => Buffer.concat([Buffer.from(prefix), Buffer.from(rest)]);
    test.each<[string, Ask, string]>([
      ["an unknown method", grpc("/t/None", message()), "12"],
      ["a handler that throws", grpc("/t/Throws", message()), "13"],
      ["a handler that rejects", grpc("/t/Rejects", message()), "13"],
      ["a deadline of the route", grpc("/t/Hangs", message()), "4"],
      ["a message over the limit", grpc("/t/Echo", message("x".repeat(1_001))), "8"],
      ["a length prefix over the limit and no message", grpc("/t/Echo", bad([0, 255, 255, 255, 255])), "8"],
      ["the compressed flag", grpc("/t/Echo", bad([1, 0, 0, 0, 1], "x")), "12"],
      ["a grpc-encoding", grpc("/t/Echo", message(), { "grpc-encoding": "gzip" }), "12"],
      ["an unknown flag", grpc("/t/Echo", bad([2, 0, 0, 0, 0])), "3"],
      ["a message shorter than its prefix says", grpc("/t/Echo", bad([0, 0, 0, 0, 9], "short")), "3"],
      ["octets after the message", grpc("/t/Echo", bad([0, 0, 0, 0, 1], "xy")), "3"],
      ["half a prefix", grpc("/t/Echo", bad([0, 0])), "3"],
      ["no message", grpc("/t/Echo", Buffer.alloc(0)), "12"],
      ["two messages", grpc("/t/Echo", Buffer.concat([message("a"), message("b")])), "12"],
      ["a timeout that is none", grpc("/t/Echo", message(), { "grpc-timeout": "soon" }), "3"],
      ["a timeout of too many digits", grpc("/t/Echo", message(), { "grpc-timeout": "123456789S" }), "3"],
    ])("%s is its status", async (_name, one, status) => {
      const { headers, status: httpStatus, body } = await ask(one);
      expect([httpStatus, headers["grpc-status"], body.length]).toEqual([200, status, 0]);
      expect(JSON.stringify(headers)).not.toContain("secret");
    });

    test.each<[string, Ask, string]>([
      ["oversized", grpc("/t/Refusing", message("x".repeat(11))), "oversized"],
      ["compressed", grpc("/t/Refusing", bad([1, 0, 0, 0, 0])), "compressed"],
      ["an encoding", grpc("/t/Refusing", message(), { "grpc-encoding": "br" }), "compressed"],
      ["undecodable", grpc("/t/Refusing", bad([0, 0])), "undecodable"],
      ["no message", grpc("/t/Refusing", Buffer.alloc(0)), "undecodable"],
      ["a bad timeout", grpc("/t/Refusing", message(), { "grpc-timeout": "x" }), "undecodable"],
      ["an exception", grpc("/t/RefusingThrows", message()), "internal"],
      ["the deadline", grpc("/t/RefusingHangs", message()), "deadline"],
    ])("a route that answers its failures itself is an OK call for %s", async (_name, one, kind) => {
      expect(await ask(one)).toMatchObject({ status: 200, trailers: { "grpc-status": "0" }, body: message(kind) });
    });
  });

  describe("Connect", () => {
    test.each(["application/json", "application/proto"])("%s answers in kind", async (type) => {
      expect(await ask(connect("/t/Later", "{}", { "content-type": type }))).toEqual({
        status: 200,
        headers: { "content-type": type, "content-length": "2" },
        trailers: {},
        body: Buffer.from("{}"),
      });
    });

    test("an error is the protocol's JSON with its status", async () => {
      const { status, headers, body } = await ask(connect("/t/Error", "{}"));
      expect([status, headers["content-type"]]).toEqual([429, "application/json"]);
      expect(JSON.parse(body.toString())).toEqual({
        code: "resource_exhausted",
        message: "slow down",
        details: [{ type: "google.rpc.RetryInfo", value: "AQ" }],
      });
    });

    test.each<[string, Ask, number, string]>([
      ["a body over the limit", connect("/t/Echo", "x".repeat(1_001)), 429, "resource_exhausted"],
      ["a content-encoding", connect("/t/Echo", "{}", { "content-encoding": "gzip" }), 501, "unimplemented"],
      [
        "another protocol version",
        connect("/t/Echo", "{}", { "connect-protocol-version": "2" }),
        400,
        "invalid_argument",
      ],
      ["a timeout that is none", connect("/t/Echo", "{}", { "connect-timeout-ms": "1s" }), 400, "invalid_argument"],
      ["its timeout", connect("/t/Hangs", "{}", { "connect-timeout-ms": "5" }), 504, "deadline_exceeded"],
      ["a handler that throws", connect("/t/Throws", "{}"), 500, "internal"],
    ])("%s is its error", async (_name, one, status, code) => {
      const answer = await ask(one);
      expect([answer.status, JSON.parse(answer.body.toString()).code]).toEqual([status, code]);
      expect(answer.body.toString()).not.toContain("secret");
    });
  });

  describe("plain HTTP", () => {
    test.each<[string, Ask, number]>([
      ["an unknown path", plainAsk("GET", "/nowhere"), 404],
      ["an RPC path by GET", plainAsk("GET", "/t/Echo"), 405],
      [
        "an RPC path with another content type",
        plainAsk("POST", "/t/Echo", "x", { "content-type": "text/plain" }),
        415,
      ],
      ["a prefix route", plainAsk("GET", "/v1/check/envoy/default?a=b"), 200],
      ["a plain route with a query", plainAsk("POST", "/introspect?x", "token=1"), 200],
      ["a body over a plain route's limit", plainAsk("POST", "/introspect", "x".repeat(70_000)), 413],
      ["a status without a body", plainAsk("DELETE", "/v1/check/envoy/default"), 204],
    ])("%s", async (_name, one, status) => {
      expect((await ask(one)).status).toBe(status);
    });

    test("an answer keeps its repeated fields, and HEAD all but the body", async () => {
      const { status, headers, body } = await ask(plainAsk("HEAD", "/v1/check/x"));
      expect([status, headers, body.length]).toEqual([
        200,
        { "x-path": "/v1/check/x", "x-two": "1, 2", "content-length": "7" },
        0,
      ]);
    });

    test.each(["[::1", "a b", "a:99999", "a%zz", "256.256.256.256", "user@host", "a/b", "a".repeat(256)])(
      "authority %j is 400 and harms nobody",
      async (authority) => {
        const answer = await ask({ ...plainAsk("GET", "/v1/check/x"), authority }).catch(() => undefined);
        expect(answer === undefined || answer.status === 400).toBe(true);
        expect((await ask(plainAsk("GET", "/v1/check/x"))).status).toBe(200);
      },
    );
  });

  test("a handler sees the request as it was sent", async () => {
    const { body } = await ask(
      connect("/t/Facts", "{}", {
        "x-twice": ["1", "2"],
        cookie: "a=1; b=2",
        "connect-timeout-ms": "99999999",
        "x-one": "é",
      }),
    );
    expect(JSON.parse(body.toString())).toEqual({
      path: "/t/Facts",
      protocol: "connect-json",
      method: "POST",
      authority: `127.0.0.1:${mount.port}`,
      twice: "1, 2",
      cookie: "a=1; b=2",
      none: null,
      raw: [
        ["x-twice", "1"],
        ["x-twice", "2"],
        ["x-one", "é"],
      ],
      left: 1,
      peer: ["127.0.0.1", false, []],
    });
  });
});

describe("differential", () => {
  const started: Mount[] = [];
  beforeAll(async () => {
    for (const boot of Object.values(mounts)) started.push(await boot(routes));
  });
  afterAll(async () => {
    await Promise.all(started.map((mount) => mount.stop()));
  });

  test("300 random requests are answered alike by every mount that speaks them", async () => {
    const pick = seeded(2_024);
    const one = <T>(of: readonly T[]): T => of[pick(of.length)]!;
    for (let n = 0; n < 300; n++) {
      const paths = [...routes.exact.keys(), "/none", "/v1/check/a?b", "/introspect?q"].filter(
        (path) => !/Facts|Trailers|Status/.test(path),
      );
      const grpcType = pick(2) === 0;
      const types = grpcType
        ? ["application/grpc", "application/grpc+proto", "application/grpc;x=y"]
        : ["application/json", "application/proto", "text/plain", "Application/JSON; charset=utf-8"];
      const bodies = [
        message("m".repeat(pick(1_200))),
        Buffer.alloc(0),
        Buffer.from("{}"),
        Buffer.alloc(pick(9), pick(3)),
        message("12345678901"),
      ];
      const headers: Record<string, string> = { "content-type": one(types) };
      if (pick(5) === 0) headers[one(["grpc-timeout", "connect-timeout-ms"])] = one(["1000", "9S", "x", "99999999H"]);
      if (pick(8) === 0) headers[one(["grpc-encoding", "content-encoding"])] = one(["gzip", "identity"]);
      const asked: Ask = {
        method: one(["POST", "POST", "POST", "POST", "PUT", "DELETE"]),
        path: one(paths),
        headers,
        body: one(bodies),
      };
      const answers = await Promise.all((grpcType ? started.slice(0, 2) : started).map((mount) => mount.ask(asked)));
      for (const answer of answers.slice(1))
        expect(answer, JSON.stringify({ ...asked, body: asked.body.length })).toEqual(answers[0]);
    }
  });
});

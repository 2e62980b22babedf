import { request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect as h2connect } from "node:http2";
import { gzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createContextKey } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { credentials, makeClientConstructor, status } from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import {
  TokenValidator,
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ByteBudget } from "../../src/http2/server/limits.ts";
import { peerKey } from "../../src/rpc/peer.ts";
import { clients, type EchoListener, openEchoListener, VALIDATE } from "./echo-listener.ts";

let listener: EchoListener;
beforeAll(async () => {
  listener = await openEchoListener();
});
afterAll(() => listener.close());

const SECRET = "sp_pat_canary0123456789";

async function post(url: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) {
  const res = await fetch(url, { method: "POST", body, headers: { "content-type": "application/json", ...headers } });
  return { status: res.status, text: await res.text(), headers: res.headers };
}

/** One gRPC call by hand: status, message and details as they stand on the wire. */
async function grpcCall(url: string, path: string, body: Buffer, headers: Record<string, string> = {}) {
  const session: ClientHttp2Session = h2connect(url);
  session.on("error", () => {});
  try {
    return await new Promise<{ status: string; all: string; http: string; ms: number }>((resolve, reject) => {
      const from = performance.now();
      const req = session.request({
        ":method": "POST",
        ":path": path,
        "content-type": "application/grpc",
        te: "trailers",
        ...headers,
      });
      const seen: Record<string, unknown>[] = [];
      req.on("response", (one) => seen.push(one));
      req.on("trailers", (one) => seen.push(one));
      req.on("error", reject);
      req.on("close", () => {
        const all = Object.assign({}, ...seen) as Record<string, string>;
        resolve({
          status: all["grpc-status"]!,
          http: String(all[":status"]),
          all: JSON.stringify(seen),
          ms: performance.now() - from,
        });
      });
      req.resume();
      req.end(body);
    });
  } finally {
    session.destroy();
  }
}

const envelope = (message: Uint8Array, flags = 0) => {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};
const asked = (tokenString: string) =>
  toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString }));

describe("one port", () => {
  for (const name of ["gRPC", "Connect over HTTP/1.1", "Connect over HTTP/2", "gRPC-Web"])
    test(`answers ${name}`, async () => {
      const answer = await clients(listener.url)[name]!.validateToken({ tokenString: name });
      expect(answer).toMatchObject({ verdict: Verdict.ALLOW, reason: name });
    });

  test("answers grpc-js", async () => {
    const method = {
      path: VALIDATE,
      requestStream: false,
      responseStream: false,
      requestSerialize: (m: Uint8Array) => Buffer.from(m),
      requestDeserialize: (b: Buffer) => b,
      responseSerialize: (b: Buffer) => b,
      responseDeserialize: (b: Buffer) => fromBinary(ValidateTokenResponseSchema, b),
    } as const;
    const Client = makeClientConstructor({ validate: method }, "x");
    const client = new Client(`127.0.0.1:${listener.port}`, credentials.createInsecure());
    try {
      const call = client["validate"] as unknown as (m: Uint8Array, cb: (e: Error | null, r: unknown) => void) => void;
      const answer = await new Promise((resolve, reject) =>
        call.call(client, asked("js"), (error, value) => (error ? reject(error) : resolve(value))),
      );
      expect(answer).toMatchObject({ verdict: Verdict.ALLOW, reason: "js" });
      const refused = await new Promise<{ code: number }>((resolve) =>
        call.call(client, asked("x".repeat(70_000)), (error) => resolve(error as unknown as { code: number })),
      );
      expect(refused.code).toBe(status.RESOURCE_EXHAUSTED);
    } finally {
      client.close();
    }
  });

  test("GET serves methods without side effects, and no others", async () => {
    const query = `?connect=v1&encoding=json&message=${encodeURIComponent('{"id":"tok_1"}')}`;
    const read = await fetch(`${listener.url}/sallyport.v1.TokenAdmin/GetToken${query}`);
    expect(await read.json()).toEqual({ token: { id: "tok_1" } });
    const write = await fetch(`${listener.url}/sallyport.v1.TokenAdmin/RevokeToken${query}`);
    expect(write.status).toBe(405);
    expect((await fetch(`${listener.url}${VALIDATE}?encoding=json&message=%7B%7D`)).status).toBe(405);
  });

  test("no answer may be stored by caches", async () => {
    expect((await post(listener.url + VALIDATE, "{}")).headers.get("cache-control")).toBe("no-store");
  });

  test("an unknown path is 404 in JSON, and UNIMPLEMENTED to gRPC", async () => {
    const plain = await post(`${listener.url}/nowhere`, "{}");
    expect([plain.status, JSON.parse(plain.text)]).toMatchObject([
      404,
      {
        code: "unimplemented",
        message: "the admin listener has no such method",
        details: [{ debug: { reason: "UNIMPLEMENTED", domain: "sallyport" } }],
      },
    ]);
    expect(await grpcCall(listener.url, "/no.Such/Method", envelope(Buffer.alloc(0)))).toMatchObject({
      status: "12",
      http: "200",
    });
  });

  test("a method without an implementation is UNIMPLEMENTED", async () => {
    expect((await post(`${listener.url}/sallyport.v1.TokenAdmin/RevokeToken`, '{"id":"x"}')).status).toBe(501);
  });
});

describe("a request that cannot be decoded", () => {
  const cases: Record<string, { body: string | Uint8Array<ArrayBuffer>; headers?: Record<string, string> }> = {
    "an unknown JSON field": { body: `{"${SECRET}":1}` },
    "a value of the wrong type": { body: `{"tokenString":{"${SECRET}":1}}` },
    "an enum value that is none": { body: `{"context":{"method":["${SECRET}"]}}` },
    "broken JSON": { body: `{"tokenString":"${SECRET}` },
    "JSON that is not UTF-8": {
      body: Buffer.concat([Buffer.from(`{"tokenString":"${SECRET}`), Buffer.from([0xff]), Buffer.from('"}')]),
    },
    "JSON nested 30,000 deep": { body: `{"context":${"[".repeat(30_000)}` },
    "protobuf that is cut": { body: Buffer.from([0x0a, 0x7f, 0x41]), headers: { "content-type": "application/proto" } },
    "protobuf with invalid UTF-8": {
      body: Buffer.from([0x0a, 0x02, 0xff, 0xfe]),
      headers: { "content-type": "application/proto" },
    },
    "protobuf nested 20,000 deep": { body: nested(20_000), headers: { "content-type": "application/proto" } },
  };
  for (const [name, { body, headers }] of Object.entries(cases))
    test(`${name} is INVALID_ARGUMENT with a fixed text`, async () => {
      const answer = await post(listener.url + VALIDATE, body, headers);
      expect([answer.status, JSON.parse(answer.text).code]).toEqual([400, "invalid_argument"]);
      expect(JSON.parse(answer.text).details[0].debug).toMatchObject({ reason: "UNDECODABLE", domain: "sallyport" });
      expect(answer.text).not.toContain("canary");
    });

  test("a gRPC client gets the same reason, without any byte of the request", async () => {
    const answer = await grpcCall(
      listener.url,
      VALIDATE,
      envelope(Buffer.concat([Buffer.from([0x0a, 0x7f]), Buffer.from(SECRET)])),
    );
    expect(answer).toMatchObject({ status: "3", http: "200" });
    expect(decodeURIComponent(answer.all)).not.toContain("canary");
  });

  test("a gRPC-Web client gets the same reason", async () => {
    const body = envelope(Buffer.from([0x0a, 0x7f]));
    const answer = await post(listener.url + VALIDATE, body, { "content-type": "application/grpc-web+proto" });
    expect(answer.text).toContain("grpc-status: 3");
  });

  test("bad gzip is INVALID_ARGUMENT", async () => {
    const answer = await post(`${listener.url}/sallyport.v1.TokenAdmin/GetToken`, SECRET, {
      "content-encoding": "gzip",
    });
    expect([answer.status, answer.text.includes("canary")]).toEqual([400, false]);
  });

  test("two messages in a unary call, or none, are UNIMPLEMENTED", async () => {
    expect(
      (await grpcCall(listener.url, VALIDATE, Buffer.concat([envelope(asked("a")), envelope(asked("b"))]))).status,
    ).toBe("12");
    expect((await grpcCall(listener.url, VALIDATE, Buffer.alloc(0))).status).toBe("12");
  });

  test("an unknown content type is 415", async () => {
    for (const type of ["text/plain", "application/xml", "application/grpc+thrift", "multipart/form-data; boundary=x"])
      expect((await post(listener.url + VALIDATE, "{}", { "content-type": type })).status).toBe(415);
  });
});

describe("limits of a call", () => {
  test("a body over the method's limit is RESOURCE_EXHAUSTED, announced or not", async () => {
    const big = JSON.stringify({ tokenString: "x".repeat(70_000) });
    expect((await post(listener.url + VALIDATE, big)).status).toBe(429);
    const unannounced = await new Promise<number>((resolve, reject) => {
      const req = httpRequest(
        listener.url + VALIDATE,
        { method: "POST", headers: { "content-type": "application/json" } },
        (res) => {
          res.resume();
          resolve(res.statusCode!);
        },
      );
      req.on("error", reject);
      for (let i = 0; i < 4; i++) req.write("x".repeat(40_000));
    });
    expect(unannounced).toBe(429);
    expect(await grpcCall(listener.url, VALIDATE, envelope(Buffer.alloc(70_000)))).toMatchObject({ status: "8" });
  });

  test("a length prefix of 4 GiB is refused without waiting for the bytes", async () => {
    const lie = Buffer.from([0, 0xff, 0xff, 0xff, 0xff]);
    const answer = await grpcCall(listener.url, VALIDATE, lie);
    expect(answer.status).toBe("8");
    expect(answer.ms).toBeLessThan(1_000);
  });

  test("a gzip bomb is RESOURCE_EXHAUSTED, and takes no more memory than the limit", async () => {
    const bomb = gzipSync(Buffer.alloc(50 * 1024 * 1024));
    const before = process.memoryUsage().rss;
    const answer = await post(`${listener.url}/sallyport.v1.TokenAdmin/GetToken`, bomb, { "content-encoding": "gzip" });
    expect(answer.status).toBe(429);
    expect(process.memoryUsage().rss - before).toBeLessThan(40 * 1024 * 1024);
  });

  test("hot methods take identity only: a compressed request is UNIMPLEMENTED in every form", async () => {
    const body = gzipSync(asked("a"));
    expect((await post(listener.url + VALIDATE, gzipSync("{}"), { "content-encoding": "gzip" })).status).toBe(501);
    expect((await grpcCall(listener.url, VALIDATE, envelope(body, 1), { "grpc-encoding": "gzip" })).status).toBe("12");
    expect((await grpcCall(listener.url, VALIDATE, envelope(body, 1))).status).toBe("12");
    expect((await grpcCall(listener.url, VALIDATE, envelope(asked("a")), { "grpc-encoding": "identity" })).status).toBe(
      "0",
    );
  });

  test("other methods accept gzip", async () => {
    const answer = await post(`${listener.url}/sallyport.v1.TokenAdmin/GetToken`, gzipSync('{"id":"z"}'), {
      "content-encoding": "gzip",
    });
    expect(JSON.parse(answer.text)).toEqual({ token: { id: "z" } });
  });

  test.each(["", "1", "S", "-1S", "1x", "123456789S", "1 S", "NaN"])(
    "grpc-timeout %j is INVALID_ARGUMENT",
    async (value) => {
      expect((await grpcCall(listener.url, VALIDATE, envelope(asked("a")), { "grpc-timeout": value })).status).toBe(
        "3",
      );
    },
  );

  test.each(["0n", "0H"])("grpc-timeout %s has passed already", async (value) => {
    expect((await grpcCall(listener.url, VALIDATE, envelope(asked("a")), { "grpc-timeout": value })).status).toBe("4");
  });

  test("a timeout of 99999999 hours is cut to the method's deadline", async () => {
    expect((await grpcCall(listener.url, VALIDATE, envelope(asked("a")), { "grpc-timeout": "99999999H" })).status).toBe(
      "0",
    );
    expect((await post(listener.url + VALIDATE, "{}", { "connect-timeout-ms": "9999999999" })).status).toBe(200);
  });

  test("a body that never ends is answered at the deadline of the method", async () => {
    const slow = await openEchoListener({
      rpc: { limits: () => ({ readMaxBytes: 1_000, deadlineMs: 200, gzip: false }) },
    });
    const session = h2connect(slow.url);
    try {
      const from = performance.now();
      const req = session.request({
        ":method": "POST",
        ":path": VALIDATE,
        "content-type": "application/grpc",
        te: "trailers",
      });
      req.on("error", () => {});
      req.write(Buffer.from([0]));
      const answer = await new Promise<Record<string, unknown>>((resolve) => {
        req.on("response", resolve);
        req.on("trailers", resolve);
        req.resume();
      });
      await new Promise((resolve) => req.once("close", resolve));
      expect(performance.now() - from).toBeLessThan(1_000);
      expect(answer).toBeDefined();
      expect(slow.budget.held).toBe(0);
    } finally {
      session.destroy();
      await slow.close();
    }
  });
});

describe("requests of one listener together", () => {
  test("a request beyond the byte budget is shed with RetryInfo, and its bytes return to the budget", async () => {
    const small = await openEchoListener({ rpc: { budget: new ByteBudget(1_000) } });
    try {
      const body = JSON.stringify({ tokenString: "x".repeat(2_000) });
      const answer = await post(small.url + VALIDATE, body);
      expect(answer.status).toBe(429);
      expect(JSON.parse(answer.text).details.map((one: { type: string }) => one.type)).toContain(
        "google.rpc.RetryInfo",
      );
      expect((await post(small.url + VALIDATE, "{}")).status).toBe(200);
      await vi.waitFor(() => expect(small.budget.held).toBe(0));
    } finally {
      await small.close();
    }
  });
});

describe("the gate", () => {
  const nameKey = createContextKey("nobody");
  let gated: EchoListener;
  let bodies = 0;
  beforeAll(async () => {
    gated = await openEchoListener({
      rpc: {
        gate: ({ requestHeader, values }) => {
          const authorization = requestHeader.get("authorization");
          if (authorization === null) throw new AppError("CALLER_UNAUTHENTICATED", "who are you");
          if (authorization === "boom") throw new Error(SECRET);
          values.set(nameKey, authorization);
        },
        routes: (router) =>
          router.service(TokenValidator, {
            validateToken: (_, { values }) => {
              bodies++;
              const peer = values.get(peerKey);
              return { reason: `${values.get(nameKey)} ${peer.listener} ${peer.address} ${peer.from}` };
            },
          }),
      },
    });
  });
  afterAll(() => gated.close());
  afterEach(() => {
    bodies = 0;
  });

  test("refuses a caller before the body is read, even if the body is malformed", async () => {
    expect((await post(gated.url + VALIDATE, "{broken")).status).toBe(401);
    expect(await grpcCall(gated.url, VALIDATE, Buffer.from([0, 0xff, 0xff, 0xff, 0xff]))).toMatchObject({
      status: "16",
    });
    expect(bodies).toBe(0);
  });

  test("passes the caller and its address to the handler", async () => {
    const answer = await post(gated.url + VALIDATE, "{}", { authorization: "ann" });
    expect(JSON.parse(answer.text).reason).toBe("ann admin 127.0.0.1 loopback");
    const viaGrpc = createClient(TokenValidator, createGrpcTransport({ baseUrl: gated.url }));
    expect((await viaGrpc.validateToken({}, { headers: { authorization: "bob" } })).reason).toBe(
      "bob admin 127.0.0.1 loopback",
    );
  });

  test("joins repeated headers with a comma, and never takes only the first", async () => {
    const seen = await new Promise<string>((resolve, reject) => {
      const req = httpRequest(
        gated.url + VALIDATE,
        {
          method: "POST",
          headers: [
            ["Host", "localhost"],
            ["Content-Type", "application/json"],
            ["Authorization", "ann"],
            ["Authorization", "bob"],
          ].flat(),
        },
        (res) => {
          res.setEncoding("utf8");
          let text = "";
          res.on("data", (chunk) => (text += chunk)).on("end", () => resolve(text));
        },
      );
      req.on("error", reject);
      req.end("{}");
    });
    expect(JSON.parse(seen).reason).toMatch(/^ann, bob /);
  });

  test("an exception in the gate is INTERNAL, without its text", async () => {
    const answer = await post(gated.url + VALIDATE, "{}", { authorization: "boom" });
    expect([answer.status, answer.text.includes("canary")]).toEqual([500, false]);
  });
});

describe("a handler", () => {
  const handlers = { hang: () => new Promise<never>(() => {}), fail: () => Promise.reject(new Error(SECRET)) };

  test("that exceeds its deadline is answered by the transport", async () => {
    const slow = await openEchoListener({
      rpc: {
        routes: (router) => router.service(TokenValidator, { validateToken: handlers.hang }),
        limits: () => ({ readMaxBytes: 1_000, deadlineMs: 100, gzip: false }),
      },
    });
    try {
      for (const client of Object.values(clients(slow.url))) {
        const error = await client.validateToken({}).then(() => undefined, ConnectError.from);
        expect(error!.code).toBe(Code.DeadlineExceeded);
        expect(error!.findDetails(ErrorInfoSchema)[0]).toMatchObject({ reason: "DEADLINE" });
      }
    } finally {
      await slow.close();
    }
  });

  test("that throws is INTERNAL without its text, and nothing is printed", async () => {
    const printed = vi.spyOn(console, "error");
    const broken = await openEchoListener({
      rpc: { routes: (router) => router.service(TokenValidator, { validateToken: handlers.fail }) },
    });
    try {
      for (const client of Object.values(clients(broken.url))) {
        const error = await client.validateToken({}).then(() => undefined, ConnectError.from);
        expect([error!.code, error!.rawMessage]).toEqual([Code.Internal, "internal error"]);
      }
      expect(printed).not.toHaveBeenCalled();
    } finally {
      printed.mockRestore();
      await broken.close();
    }
  });
});

/** An unknown field (number 15) that is a group in a group, `depth` times (wire type 3). */
function nested(depth: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(depth).fill((15 << 3) | 3);
}

describe("a list of too many entries is refused before the request is decoded, with its field and bound:", () => {
  const REVOKE = "/sallyport.v1.TokenAdmin/RevokeTokens";
  // What follows the entries is malformed: whoever decoded it would say so.
  const binary = Buffer.concat([
    ...Array.from({ length: 1_001 }, () => Buffer.from([0x42, 0x00])),
    Buffer.from([0x0f]),
  ]);
  const json = Buffer.from(`{"ids":[${Array.from({ length: 1_001 }, () => '""').join()}`);
  const said = "ids: must contain no more than 1000 item(s)";
  const refusals: string[] = [];
  let own: EchoListener;
  beforeAll(async () => {
    own = await openEchoListener({ rpc: { refused: ({ fault, method }) => void refusals.push(`${method} ${fault}`) } });
  });
  afterAll(() => own?.close());

  test.each([
    ["JSON", json, { "content-type": "application/json" }],
    ["proto", binary, { "content-type": "application/proto" }],
    ["JSON in gzip", gzipSync(json), { "content-type": "application/json", "content-encoding": "gzip" }],
    ["proto in gzip", gzipSync(binary), { "content-type": "application/proto", "content-encoding": "gzip" }],
  ] as const)("Connect, %s", async (_, body, headers) => {
    refusals.length = 0;
    const { status: code, text } = await post(own.url + REVOKE, new Uint8Array(body), { ...headers });
    expect([code, JSON.parse(text)]).toMatchObject([400, { code: "invalid_argument", message: said }]);
    expect(text).toContain("INVALID_FIELD");
    expect(refusals).toEqual(["sallyport.v1.TokenAdmin/RevokeTokens overfull"]);
  });

  test.each([
    ["gRPC", envelope(binary), {}],
    ["gRPC in gzip", envelope(gzipSync(binary), 1), { "grpc-encoding": "gzip" }],
  ] as const)("%s", async (_, body, headers) => {
    const { status: code, all } = await grpcCall(own.url, REVOKE, body, { ...headers });
    expect(code).toBe("3");
    expect(decodeURIComponent(all)).toContain(said);
  });

  test("and what is within the bounds reaches its handler", async () => {
    const few = Buffer.concat(Array.from({ length: 1_000 }, () => Buffer.from([0x42, 0x00])));
    const { status: code } = await grpcCall(own.url, REVOKE, envelope(few));
    expect(code).toBe("12"); // there is none here
  });
});

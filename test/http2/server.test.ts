import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as createHttpServer, get } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer, type TLSSocket } from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import { parseSans } from "../../src/http2/server/peer.ts";
import { createUnaryServer } from "../../src/http2/server/server.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { grpcMessage } from "../../src/http2/unary/reply.ts";
import type { ConnectionPeer, Routes } from "../../src/http2/unary/routes.ts";
import {
  END_HEADERS,
  END_STREAM,
  frameOf,
  GOAWAY,
  NO_ERROR,
  PING,
  PREFACE,
  REFUSED_STREAM,
} from "../../src/http2/wire/frame.ts";
import { echo, type Fixture, route, start } from "./fixture.ts";
import { grpcCall, grpcHead, headers, httpHead, literal, RawClient, reset, settings } from "./raw-client.ts";
import { createUnaryListener } from "./unary-listener.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
const boot = async (options: Parameters<typeof start>[0]): Promise<Fixture> => {
  const fixture = await start(options);
  cleanups.push(() => fixture.stop());
  return fixture;
};
const open = async (port: number): Promise<RawClient> => {
  const client = await RawClient.connect(port);
  cleanups.push(() => client.destroy());
  return client;
};
const listening = (server: {
  listen: (...args: [number, string, () => void]) => unknown;
  address(): unknown;
}): Promise<number> =>
  new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)));

describe("the life of a connection", () => {
  const fast = { idleMs: 60, ageMs: 100_000, keepaliveMs: 100_000, roundTripMs: 20, sweepMs: 10 };

  test("an untrusted peer that is idle is drained", async () => {
    const { port } = await boot({ trust: "untrusted", limits: fast });
    const client = await open(port);
    await client.call(1, "/t/Echo");
    await client.end();
    const said = client.frames
      .filter(({ type }) => type === GOAWAY)
      .map(({ payload }) => [payload.readUInt32BE(0), payload.readUInt32BE(4)]);
    expect(said).toEqual([
      [0x7fffffff, NO_ERROR],
      [1, NO_ERROR],
    ]);
  });

  test("an untrusted peer's connection that is old is drained while it is in use, and its calls are answered", async () => {
    const { port } = await boot({ trust: "untrusted", limits: { ...fast, idleMs: 100_000, ageMs: 50 } });
    const client = await open(port);
    let id = -1;
    while (!client.frames.some(({ type }) => type === GOAWAY)) await client.call((id += 2), "/t/Echo");
    await client.end();
    expect(
      client.frames
        .filter(({ type }) => type === GOAWAY)
        .at(-1)!
        .payload.readUInt32BE(0),
    ).toBe(id);
  });

  test("a trusted peer is never drained for being idle or old; a PING checks that it still answers", async () => {
    const { port, errors } = await boot({
      trust: "trusted",
      limits: { ...fast, idleMs: 20, ageMs: 20, keepaliveMs: 60 },
    });
    const client = await open(port);
    for (let pings = 1; pings <= 3; pings++) {
      await client.until(
        () => client.frames.filter(({ type, flags }) => type === PING && flags === 0).length === pings,
      );
      client.send(frameOf(PING, 1, 0, client.frames.findLast(({ type }) => type === PING)!.payload));
    }
    expect(client.frames.some(({ type }) => type === GOAWAY)).toBe(false);
    expect((await client.call(1, "/t/Echo")).status).toBe("200");
    expect(errors).toEqual([]);
  });

  test("a peer that does not answer a PING is disconnected", async () => {
    const { port, error } = await boot({ limits: { ...fast, keepaliveMs: 30, keepaliveTimeoutMs: 30 } });
    const client = await open(port);
    await client.end();
    expect(await error).toMatchObject({ code: undefined, reason: "PING not answered" });
  });

  test("a client's GOAWAY lets its open calls finish, then the connection ends", async () => {
    let answer: () => void = () => {};
    const slow = route(
      () =>
        new Promise((resolve) => {
          answer = () => resolve(grpcMessage(Buffer.from("late")));
        }),
    );
    const { port } = await boot({ routes: { "/t/Slow": slow }, limits: fast });
    const client = await open(port);
    client.send(grpcCall(1, "/t/Slow"), frameOf(GOAWAY, 0, 0, Buffer.alloc(8)));
    await client.call(3, "/t/Echo");
    answer();
    expect((await client.response(1)).body.toString("latin1", 5)).toBe("late");
    await client.end();
  });

  test("a broken connection aborts its calls", async () => {
    const aborted = Promise.withResolvers<void>();
    const hang = route((_bytes, call) => {
      call.signal.addEventListener("abort", () => aborted.resolve());
      return new Promise<never>(() => {});
    });
    const { port } = await boot({ routes: { "/t/Hang": hang } });
    const client = await open(port);
    client.send(grpcCall(1, "/t/Hang"));
    await client.call(3, "/t/Echo");
    client.destroy();
    await aborted.promise;
  });

  test("close destroys every connection", async () => {
    const { port, server } = await boot({});
    const client = await open(port);
    server.close();
    await client.end();
  });
});

describe("draining under load", () => {
  test("answers every request that Node's client has sent; the client may repeat those that it has not", async () => {
    const outcomes = { ok: 0, keptBack: 0, lost: 0 };
    let served = 0;
    for (let round = 0; round < 5; round++) {
      const fixture = await boot({});
      const session = connectHttp2(`http://127.0.0.1:${fixture.port}`);
      session.on("error", () => {});
      const ask = (): Promise<void> =>
        new Promise((resolve) => {
          const head = { ":method": "POST", ":path": "/t/Echo", "content-type": "application/grpc", te: "trailers" };
          const stream = session.request(head);
          let status: unknown;
          stream.on("trailers", (trailers) => {
            status = trailers["grpc-status"];
          });
          stream.on("error", () => {});
          stream.on("close", () => {
            outcomes[status === "0" ? "ok" : stream.rstCode === REFUSED_STREAM ? "keptBack" : "lost"]++;
            resolve();
          });
          stream.resume();
          stream.end(Buffer.from([0, 0, 0, 0, 0]));
        });
      await ask();
      const finished: Promise<void>[] = [];
      let drained: Promise<void> | undefined;
      for (let n = 0; n < 400 && !session.destroyed && !session.closed; n++) {
        finished.push(ask());
        if (n === 200) drained = fixture.server.drain(5_000);
        if (n % 4 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      await Promise.all(finished);
      await drained;
      served += fixture.server.stats().requests;
    }
    expect(outcomes).toMatchObject({ lost: 0, ok: served });
    expect(outcomes.ok).toBeGreaterThan(900);
    expect(outcomes.keptBack).toBeLessThan(50);
  });
});

describe("accept", () => {
  const seen: ConnectionPeer[] = [];
  const routes: Routes = {
    exact: new Map([
      [
        "/t/Echo",
        route((bytes, call) => {
          seen.push(call.peer);
          return echo(bytes, call);
        }),
      ],
    ]),
    prefix: [],
  };

  test.each(["shared", "own"] as const)(
    "serves a socket whose first octets somebody else has read, %s reads",
    async (reads) => {
      const server = createUnaryServer({ routes, reads });
      const closed = Promise.withResolvers<void>();
      const listener = createServer((socket) => {
        socket.once("close", () => closed.resolve());
        socket.once("data", (head) => server.accept(socket, head, "trusted"));
      });
      const client = await open(await listening(listener));
      expect((await client.call(1, "/t/Echo", "through the listener")).body.toString("latin1", 5)).toBe(
        "through the listener",
      );
      expect(server.stats()).toMatchObject({ connections: 1, requests: 1 });
      client.destroy();
      await closed.promise; // the listener's own listener hears the end
      await new Promise((resolve) => listener.close(resolve)); // and the listener can close: nothing of it stays open
    },
  );

  test.each(["shared", "own"] as const)(
    "ends when the listener destroys the socket it gave away, %s reads",
    async (reads) => {
      const server = createUnaryServer({ routes, reads });
      let given: Socket | undefined;
      const listener = createServer((socket) => {
        given = socket;
        socket.once("data", (head) => server.accept(socket, head, "trusted"));
      });
      const client = await open(await listening(listener));
      given!.destroy();
      await client.end();
      await new Promise((resolve) => listener.close(resolve));
      expect(server.stats().connections).toBe(0);
    },
  );

  test("a unix socket's peer has no address", async () => {
    const directory = mkdtempSync(join(tmpdir(), "http2-"));
    cleanups.push(() => rmSync(directory, { recursive: true }));
    const { listener, server } = createUnaryListener({
      routes,
      unix: true,
      trust: "trusted",
      onHttp1: (socket) => socket.destroy(),
    });
    const path = join(directory, "s");
    await new Promise<void>((resolve) => listener.listen(path, resolve));
    const client = new RawClient(connect(path));
    client.send(PREFACE, settings());
    expect((await client.call(1, "/t/Echo")).status).toBe("200");
    expect(seen.at(-1)).toMatchObject({ address: "", unix: true });
    server.close();
    listener.close();
  });

  test("over TLS the client's names are known, and large answers arrive whole", async () => {
    const directory = mkdtempSync(join(tmpdir(), "http2-"));
    cleanups.push(() => rmSync(directory, { recursive: true }));
    const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
    const names = "subjectAltName=URI:spiffe://a.test/envoy,DNS:envoy.a.test";
    const subject = ["-subj", "/CN=a.test", "-addext", names, "-days", "2", "-keyout", key, "-out", cert];
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", ...subject],
      { stdio: "ignore" },
    );
    const identity = { key: readFileSync(key), cert: readFileSync(cert), ca: readFileSync(cert) };
    const server = createUnaryServer({ routes });
    const listener = createTlsServer({ ...identity, requestCert: true, ALPNProtocols: ["h2"] }, (socket: TLSSocket) =>
      server.accept(socket, undefined, "trusted"),
    );
    const port = await listening(listener);
    const session = connectHttp2(`https://127.0.0.1:${port}`, { ...identity, checkServerIdentity: () => undefined });
    const bytes = Buffer.alloc(60_000, "tls ");
    const answers = await Promise.all(
      Array.from({ length: 30 }, async () => {
        const stream = session.request({ ":method": "POST", ":path": "/t/Echo", "content-type": "application/proto" });
        stream.end(bytes);
        return Buffer.concat(await stream.toArray());
      }),
    );
    expect(answers.every((answer) => answer.equals(bytes))).toBe(true);
    expect(seen.at(-1)!.certificateSans()).toEqual(["spiffe://a.test/envoy", "envoy.a.test"]);
    session.destroy();
    server.close();
    await new Promise((resolve) => listener.close(resolve));
  });
});

describe("parseSans", () => {
  test("DNS and URI names are read; IP and mail addresses are left out", () => {
    expect(parseSans("DNS:a.example, URI:spiffe://td/ns/x, IP Address:10.0.0.1, email:x@example")).toEqual([
      "a.example",
      "spiffe://td/ns/x",
    ]);
  });

  test("a name that hides another behind a comma names nobody", () => {
    expect(parseSans('DNS:"x, DNS:evil.example", DNS:good.example')).toEqual(["good.example"]);
  });

  test("a list that cannot be read whole names nobody", () => {
    expect(parseSans('DNS:good.example, DNS:"broken')).toEqual([]);
    expect(parseSans("")).toEqual([]);
  });

  test("a DNS name that looks like a URI names nobody", () => {
    expect(parseSans("DNS:spiffe://td/ns/x")).toEqual([]);
  });
});

describe("a port that speaks both", () => {
  test("hands over a connection that is not HTTP/2 with all bytes read so far, and serves the others", async () => {
    const routes: Routes = { exact: new Map([["/t/Echo", route(echo)]]), prefix: [["/v1/", route(echo)]] };
    const http1 = createHttpServer(mountHttp1({ routes }));
    const { listener, server } = createUnaryListener({
      routes,
      trust: "untrusted",
      onHttp1: (socket, head) => {
        socket.unshift(head);
        http1.emit("connection", socket);
        socket.resume();
      },
    });
    const port = await listening(listener);
    const status = await new Promise((resolve) =>
      get({ port, path: "/v1/x", agent: false }, (response) => resolve(response.resume().statusCode)),
    );
    expect(status).toBe(200);
    const client = await open(port);
    expect((await client.call(1, "/t/Echo")).status).toBe("200");
    client.destroy();
    server.close();
    await new Promise((resolve) => listener.close(resolve));
  });
});

describe("requests that HTTP/2 forbids are a stream's error, and the next stream is served", () => {
  const complete = [
    literal(":method", "POST"),
    literal(":scheme", "http"),
    literal(":path", "/t/Echo"),
    literal(":authority", "a"),
  ];
  test.each<[string, Buffer[]]>([
    ["no :path", complete.filter((_, at) => at !== 2)],
    ["no :scheme", complete.filter((_, at) => at !== 1)],
    ["no :method", complete.slice(1)],
    ["an empty :path", [complete[0]!, complete[1]!, literal(":path", ""), complete[3]!]],
    ["two :path", [...complete, literal(":path", "/")]],
    ["a pseudo-header after a field", [...complete.slice(0, 3), literal("a", "b"), complete[3]!]],
    [":status", [...complete, literal(":status", "200")]],
    ["an unknown pseudo-header", [...complete, literal(":protocol", "x")]],
    ["connection", [...complete, literal("connection", "close")]],
    ["transfer-encoding", [...complete, literal("transfer-encoding", "chunked")]],
    ["te: gzip", [...complete, literal("te", "gzip")]],
    ["an upper-case name", [...complete, literal("Accept", "x")]],
    ["a blank in a name", [...complete, literal("a b", "x")]],
    ["an empty name", [...complete, literal("", "x")]],
    ["a line break in a value", [...complete, literal("a", "b\r\nc: d")]],
    ["a value that starts with a blank", [...complete, literal("a", " b")]],
    ["two content-lengths that differ", [...complete, literal("content-length", "0"), literal("content-length", "1")]],
    ["a content-length that is none", [...complete, literal("content-length", "1x")]],
    ["a content-length without a body", [...complete, literal("content-length", "1")]],
  ])("%s", async (_name, fields) => {
    const { port, errors } = await boot({ trust: "untrusted" });
    const client = await open(port);
    client.send(headers(1, Buffer.concat(fields), END_HEADERS | END_STREAM));
    expect(await client.resetOf(1)).toBe(1);
    expect((await client.call(3, "/t/Echo")).status).toBe("200");
    expect(errors).toEqual([]);
  });

  test("a bad field name is refused again when a later request refers to it by its index", async () => {
    const { port } = await boot({});
    const client = await open(port);
    client.send(headers(1, Buffer.concat([...complete, literal("Bad", "x", "incremental")]), END_HEADERS | END_STREAM));
    client.send(
      headers(3, Buffer.concat([...complete, Buffer.of(0x0f, 62 - 15, 1), Buffer.from("y")]), END_HEADERS | END_STREAM),
    );
    expect([await client.resetOf(1), await client.resetOf(3)]).toEqual([1, 1]);
  });
});

describe("the authority of a request", () => {
  const head = (...more: Buffer[]): Buffer =>
    Buffer.concat([Buffer.of(0x83, 0x86), literal(":path", "/t/Echo"), ...more]);
  const grpc = literal("content-type", "application/grpc");

  test.each<[string, Buffer[]]>([
    ["none", []],
    ["an empty one", [literal(":authority", "")]],
    ["a bad one", [literal(":authority", "[::1")]],
    ["two hosts", [literal("host", "a"), literal("host", "a")]],
    [":authority and another host", [literal(":authority", "a"), literal("host", "b")]],
  ])("%s is 400, and a gRPC status for gRPC", async (_name, fields) => {
    const { port } = await boot({});
    const client = await open(port);
    client.send(
      headers(1, head(...fields), END_HEADERS | END_STREAM),
      headers(3, head(...fields, grpc), END_HEADERS | END_STREAM),
    );
    expect((await client.response(1)).status).toBe("400");
    expect((await client.response(3)).fields["grpc-status"]).toBe("3");
  });

  test.each<[string, Buffer[]]>([
    ["host alone", [literal("host", "a.test")]],
    ["both alike", [literal(":authority", "a.test"), literal("host", "a.test")]],
  ])("%s is one", async (_name, fields) => {
    const { port } = await boot({
      routes: { "/t/Echo": route((_bytes, call) => grpcMessage(Buffer.from(call.authority))) },
    });
    const client = await open(port);
    client.send(headers(1, head(...fields, grpc)), frameOf(0, 1, 1, Buffer.alloc(5)));
    expect((await client.response(1)).body.toString("latin1", 5)).toBe("a.test");
  });

  test("CONNECT is not allowed here, with or without a path", async () => {
    const { port } = await boot({});
    const client = await open(port);
    client.send(
      headers(
        1,
        Buffer.concat([literal(":method", "CONNECT"), literal(":authority", "a:1")]),
        END_HEADERS | END_STREAM,
      ),
    );
    client.send(headers(3, httpHead("CONNECT", "/t/Echo"), END_HEADERS | END_STREAM));
    expect([(await client.response(1)).status, (await client.response(3)).status]).toEqual(["405", "405"]);
  });
});

test("the statistics count connections, calls and resets", async () => {
  const { port, server } = await boot({ limits: { maxConcurrentStreams: 1 } });
  const client = await open(port);
  await client.call(1, "/t/Echo");
  client.send(headers(3, grpcHead("/t/Echo")), headers(5, grpcHead("/t/Echo")), reset(3));
  await client.resetOf(5);
  await client.call(7, "/t/Echo");
  expect(server.stats()).toEqual({
    connections: 1,
    requests: 2,
    refused: 1,
    cancelled: 1,
    connectionErrors: 0,
    buffered: 0,
  });
});

import { mkdtempSync, rmSync } from "node:fs";
import { type ClientHttp2Session, connect } from "node:http2";
import { connect as dial } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createUnaryServer } from "../../src/http2/server/server.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { mountNode } from "../../src/http2/unary/mount-node.ts";
import { connectMessage, grpcMessage } from "../../src/http2/unary/reply.ts";
import type { Routes, UnaryCall } from "../../src/http2/unary/routes.ts";
import { builtinLimits, h1HeadLimits, h2HeadLimits, listenerLimits } from "../../src/listen/limits.ts";
import { type Listener, openListener } from "../../src/listen/listener.ts";
import { type HttpHandler, peersByCall } from "../../src/listen/peers.ts";
import { type Peer, peerKey } from "../../src/rpc/peer.ts";
import { openEchoListener, VALIDATE } from "./echo-listener.ts";
import { rawConnect } from "./wire.ts";

/** Every way by which a request comes into the program. Each must judge the same request alike. */
interface Entry {
  readonly name: string;
  readonly version: "1.1" | "2";
  open(bind: string, seen: (peer: Peer) => void): Promise<Listener>;
}

const described = peersByCall([]);
const routesFor = (seen: (peer: Peer) => void): Routes => {
  const handler = (message: Uint8Array, call: UnaryCall) => {
    seen(described(call));
    return call.protocol === "grpc" ? grpcMessage(message) : connectMessage(message, "application/json");
  };
  return { exact: new Map([[VALIDATE, { handler, maxMessage: 65_536, deadlineMs: 2_000 }]]), prefix: [] };
};
const limits = listenerLimits("data-trusted");
const data = (bind: string, seen: (peer: Peer) => void, http2: "builtin" | "node") => {
  const routes = routesFor(seen);
  const unix = bind.startsWith("unix:");
  const builtin = createUnaryServer({ routes, limits: builtinLimits(limits), unix });
  return openListener({
    name: "data",
    bind,
    limits,
    handler: mountHttp1({ routes, limits: h1HeadLimits(limits), unix }) as HttpHandler,
    ...(http2 === "builtin"
      ? { http2: (socket, head) => builtin.accept(socket, head, "trusted") }
      : { onStream: mountNode({ routes, limits: h2HeadLimits(limits), unix }) }),
    onTrouble: (what, error) => {
      throw new Error(what, { cause: error });
    },
  });
};
const admin = (bind: string, seen: (peer: Peer) => void) =>
  openEchoListener({ bind, rpc: { gate: ({ values }) => void seen(values.get(peerKey)) } });

const ENTRIES: readonly Entry[] = [
  { name: "HTTP/1.1 on the data listener", version: "1.1", open: (bind, seen) => data(bind, seen, "builtin") },
  { name: "built-in HTTP/2", version: "2", open: (bind, seen) => data(bind, seen, "builtin") },
  { name: "Node's HTTP/2 on the data listener", version: "2", open: (bind, seen) => data(bind, seen, "node") },
  { name: "HTTP/1.1 on the admin listener", version: "1.1", open: admin },
  { name: "Node's HTTP/2 on the admin listener", version: "2", open: admin },
];

const folder = mkdtempSync(join(tmpdir(), "entries-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Answer {
  /** 0 where the request was refused without an answer. */
  readonly status: number;
  readonly grpcStatus?: string;
}
type Ask = (headers: Readonly<Record<string, string>>, body?: Buffer) => Promise<Answer>;

const JSON_TYPE = { "content-type": "application/json" };
const GRPC_TYPE = { "content-type": "application/grpc", te: "trailers" };
const EMPTY_MESSAGE = Buffer.alloc(5);

describe.each(ENTRIES)("$name", ({ name, version, open }) => {
  const opened: { listener: Listener; session?: ClientHttp2Session }[] = [];
  let seen: Peer | undefined;
  let ask: { tcp: Ask; unix: Ask };

  const asker = async (bind: string): Promise<Ask> => {
    const listener = await open(bind, (peer) => (seen = peer));
    const target: { path: string } | { port: number } = bind.startsWith("unix:")
      ? { path: listener.address }
      : { port: listener.port };
    if (version === "1.1") {
      opened.push({ listener });
      return async ({ ":authority": host = "localhost", ...headers }, body = Buffer.from("{}")) => {
        const raw = await rawConnect(target);
        const fields = Object.entries({ host, ...headers, "content-length": String(body.length), connection: "close" });
        const head = [`POST ${VALIDATE} HTTP/1.1`, ...fields.map(([name, value]) => `${name}: ${value}`)];
        raw.socket.write(Buffer.from(`${head.join("\r\n")}\r\n\r\n${body.toString("latin1")}`, "latin1"));
        await raw.closed;
        return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(raw.text())?.[1] ?? 0) };
      };
    }
    const session = connect("http://localhost", {
      createConnection: () => ("port" in target ? dial(target.port, "127.0.0.1") : dial(target.path)),
    });
    session.on("error", () => {});
    opened.push({ listener, session });
    return (headers, body = Buffer.from("{}")) =>
      new Promise((resolve) => {
        const stream = session.request({ ":method": "POST", ":path": VALIDATE, ":authority": "localhost", ...headers });
        let fields: Record<string, unknown> = {};
        stream.on("response", (head) => (fields = { ...fields, ...head }));
        stream.on("trailers", (tail) => (fields = { ...fields, ...tail }));
        stream.on("error", () => {}); // 'close' follows
        stream.on("close", () =>
          resolve({ status: Number(fields[":status"] ?? 0), grpcStatus: fields["grpc-status"] as string }),
        );
        stream.resume();
        stream.end(body);
      });
  };

  beforeAll(async () => {
    const path = join(folder, `${ENTRIES.findIndex((one) => one.open === open)}-${version}.sock`);
    ask = { tcp: await asker("127.0.0.1:0"), unix: await asker(`unix:${path}`) };
  });
  afterAll(async () => {
    for (const { session, listener } of opened) {
      session?.destroy();
      await listener.close();
    }
  });

  test.each([
    ["localhost", true, true],
    ["ext_authz:9000", true, true],
    ["[::1]:80", true, true],
    ["%2Ftmp%2Fx.sock", false, true],
    ["a%20b", false, true],
    ["0x7f000001", false, true],
    ["1.2.3", false, true],
    ["a b", false, false],
    ["[::1", false, false],
    ["a:65536", false, false],
    ["user@host", false, false],
    ["/tmp/x.sock", false, false],
    ["a".repeat(256), false, false],
  ])("the authority %s is served on TCP: %s, on a unix socket: %s", async (authority, onTcp, onUnix) => {
    const served = async (one: Ask) => (await one({ ":authority": authority, ...JSON_TYPE })).status === 200;
    expect([await served(ask.tcp), await served(ask.unix)]).toEqual([onTcp, onUnix]);
  });

  // Node's own HTTP/2 library resets a stream with `|` before we see it (RFC 3986 has no such character).
  const pipes = name.startsWith("Node") ? [] : ["outbound|9000||authz.ns.svc", "outbound|9000||authz.ns.svc:80"];
  test.each(pipes)("the name of an Istio cluster is an authority: %s", async (authority) => {
    for (const one of [ask.tcp, ask.unix])
      expect(await one({ ":authority": authority, ...JSON_TYPE })).toMatchObject({ status: 200 });
  });

  test.each([
    ["1000", 200],
    ["9999999999", 200],
    ["0", 504],
    ["", 400],
    ["12345678901", 400],
    ["1.0", 400],
    ["1s", 400],
    ["-1", 400],
  ])("connect-timeout-ms %j is answered %i", async (timeout, status) => {
    expect((await ask.tcp({ "connect-timeout-ms": timeout, ...JSON_TYPE })).status).toBe(status);
  });

  const timeouts: [string, string][] = [
    ["1S", "0"],
    ["99999999H", "0"],
    ["0m", "4"],
    ["", "3"],
    ["1", "3"],
    ["1.5S", "3"],
    ["123456789m", "3"],
    ["1x", "3"],
  ];
  // gRPC needs HTTP/2.
  test.each(version === "2" ? timeouts : [])("grpc-timeout %j is answered with status %s", async (timeout, status) => {
    expect((await ask.tcp({ "grpc-timeout": timeout, ...GRPC_TYPE }, EMPTY_MESSAGE)).grpcStatus).toBe(status);
  });

  // Over HTTP/2 32 bytes are counted for each field (RFC 9113 §6.5.2); HTTP/1.1 has more room, for a proxy's clients.
  test.each([
    [14 * 1024, 20, "served", "served"],
    [18 * 1024, 20, name.endsWith("data listener") ? "served" : "refused", "refused"],
    [70 * 1024, 20, "refused", "refused"],
    [4 * 1024, 126, name.endsWith("data listener") ? "served" : "refused", "refused"],
    [4 * 1024, 260, "refused", "refused"],
  ] as const)("%i bytes in %i headers are %s over HTTP/1.1, and %s over HTTP/2", async (bytes, count, over1, over2) => {
    const value = "a".repeat(Math.floor(bytes / count));
    const many = Object.fromEntries(Array.from({ length: count }, (_, n) => [`x-${n}`, value]));
    const { status } = await ask.tcp({ ...many, ...JSON_TYPE });
    expect(status === 200 ? "served" : "refused").toBe(version === "1.1" ? over1 : over2);
  });

  test("the peer is described by its address, and on a unix socket without one", async () => {
    const nobody = { sans: [], sanAllowed: false };
    await ask.tcp(JSON_TYPE);
    expect(seen).toMatchObject({ address: "127.0.0.1", from: "loopback", ...nobody });
    await ask.unix(JSON_TYPE);
    expect(seen).toMatchObject({ address: "", from: "unix", ...nobody });
  });
});

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { startTcpProxy, type TcpProxy } from "./tcp-proxy.ts";

let echo: Server;
let proxy: TcpProxy;
const clients: Socket[] = [];

beforeEach(async () => {
  echo = createServer((socket) => socket.on("error", () => {}).pipe(socket)).listen(0, "127.0.0.1");
  await once(echo, "listening");
  proxy = await startTcpProxy({ port: (echo.address() as { port: number }).port });
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await proxy.stop();
  echo.close();
});

async function client(): Promise<Socket> {
  const socket = connect(proxy.port, "127.0.0.1");
  clients.push(socket);
  await once(socket, "connect");
  return socket;
}

async function echoed(socket: Socket, text: string): Promise<string> {
  socket.write(text);
  let got = "";
  while (got.length < text.length) got += (await once(socket, "data"))[0];
  return got;
}

const failure = (socket: Socket) => once(socket, "error").then(([error]) => error.code);

test("pass forwards bytes both ways, and the end of one side as an end", async () => {
  const socket = await client();
  expect(await echoed(socket, "x".repeat(300_000))).toHaveLength(300_000);
  expect(proxy.connections()).toHaveLength(1);
  socket.end();
  await once(socket, "close");
  await expect.poll(() => proxy.connections()).toEqual([]);
});

test("latency delays each way and keeps the order when it ends", async () => {
  const socket = await client();
  await echoed(socket, "warm");
  await proxy.set({ kind: "latency", ms: 60 });
  const before = performance.now();
  expect(await echoed(socket, "slow")).toBe("slow");
  expect(performance.now() - before).toBeGreaterThan(110);
  const late = echoed(socket, "1234");
  socket.write("");
  await once(proxy.connections()[0]!, "data");
  await proxy.set({ kind: "pass" });
  socket.write("5678");
  expect(await late).toMatch(/^1234/);
});

test("a blackhole keeps old and new connections open and forwards nothing", async () => {
  const old = await client();
  await echoed(old, "before");
  await proxy.set({ kind: "blackhole" });
  const fresh = await client();
  const seen: unknown[] = [];
  for (const socket of [old, fresh]) socket.on("data", (data) => seen.push(String(data))).write("lost");
  await expect.poll(() => proxy.connections().map((one) => one.bytesRead)).toEqual([10, 4]);
  await proxy.set({ kind: "pass" });
  fresh.write("kept");
  await expect.poll(() => seen).toEqual(["kept"]);
  expect(old.destroyed).toBe(false);
});

test("reset ends old and new connections with RST", async () => {
  const old = await client();
  const broken = failure(old);
  await proxy.set({ kind: "reset" });
  expect(await broken).toBe("ECONNRESET");
  const fresh = connect(proxy.port, "127.0.0.1");
  expect(await failure(fresh)).toBe("ECONNRESET");
});

test("refuse closes the port, and afterwards the same port serves again", async () => {
  await proxy.set({ kind: "refuse" });
  expect(await failure(connect(proxy.port, "127.0.0.1"))).toBe("ECONNREFUSED");
  await proxy.set({ kind: "pass" });
  expect(await echoed(await client(), "again")).toBe("again");
});

test("cut up lets exactly the first bytes reach the server, then resets", async () => {
  const received = new Promise<string>((resolve) =>
    echo.once("connection", (socket: Socket) => {
      let text = "";
      socket.on("data", (data) => (text += data)).on("close", () => resolve(text));
    }),
  );
  await proxy.set({ kind: "cut", up: 3 });
  const socket = await client();
  const broken = failure(socket);
  socket.write("abcdef");
  expect(await broken).toBe("ECONNRESET");
  expect(await received).toBe("abc");
});

test.each([3, 6])("cut down after %i of 6 bytes lets exactly those reach the client, then resets", async (down) => {
  await proxy.set({ kind: "cut", down });
  const socket = await client();
  let got = "";
  socket.on("data", (data) => (got += data));
  const broken = failure(socket);
  socket.write("abcdef");
  expect(await broken).toBe("ECONNRESET");
  expect(got).toBe("abcdef".slice(0, down));
});

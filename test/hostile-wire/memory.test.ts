// Each structure that peers can make grow is filled from outside: the program stays small, and others are answered.
import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { END_HEADERS, frameOf, PING } from "../../src/http2/wire/frame.ts";
import { grpcHead, headers, literal, RawClient } from "../http2/raw-client.ts";
import { TestSallyport } from "../support/sallyport.ts";

const MiB = 1024 * 1024;
/** What an attack may add to the memory of a program at rest: twice the listener's 32 MiB, and what V8 lets lie. */
const MOST_MORE = 160 * MiB;

let sallyport: TestSallyport;
let sockets: Socket[] = [];
const fresh: string[] = [];
const agent = new Agent({ keepAlive: true });
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  for (let i = 0; i < 40; i++) fresh.push((await sallyport.createToken({ displayName: `t${i}` })).tokenString);
  expect(await validate(fresh.pop()!)).toBe("VERDICT_ALLOW");
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  agent.destroy();
  await sallyport?.stop();
});

function rss(): number {
  const status = readFileSync(`/proc/${sallyport.program.pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)![1]) * 1024;
}

/** Connect's JSON over HTTP/1.1; the verdict, or the status where there is none. */
function validate(tokenString: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const path = "/sallyport.v1.TokenValidator/ValidateToken";
  const asked = request(sallyport.listeners.data + path, {
    method: "POST",
    agent,
    headers: { "content-type": "application/json" },
  });
  asked.on("error", reject).on("response", (response) => {
    let text = "";
    response.setEncoding("utf8").on("data", (piece: string) => (text += piece));
    response.on("end", () =>
      resolve((JSON.parse(text) as { verdict?: string }).verdict ?? String(response.statusCode)),
    );
  });
  asked.end(JSON.stringify({ tokenString }));
  return promise;
}

/** A connection whose answers are read and dropped; what it sends is sent at the peer's pace. */
async function open(): Promise<(bytes: Uint8Array) => Promise<void>> {
  const socket = connect(Number(new URL(sallyport.listeners.data).port), "127.0.0.1");
  sockets.push(socket);
  socket.on("error", () => {}).resume();
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  return (bytes) =>
    new Promise((resolve) => {
      if (socket.destroyed) return resolve();
      socket.once("close", () => resolve());
      socket.write(bytes, () => resolve());
    });
}

/** Fills, watches the memory meanwhile, and has tokens judged that no cache knows yet. */
async function attack(fill: () => Promise<unknown>): Promise<{ more: number; verdicts: Set<string> }> {
  const before = rss();
  let most = before;
  const watch = setInterval(() => (most = Math.max(most, rss())), 20);
  onTestFinished(() => clearInterval(watch));
  const verdicts = new Set<string>();
  let over = false;
  const filled = fill().finally(() => (over = true));
  while ((!over || !verdicts.has("VERDICT_ALLOW")) && fresh.length > 0) {
    verdicts.add(await validate(fresh.pop()!));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await filled;
  for (const socket of sockets) socket.destroy();
  sockets = [];
  return { more: most - before, verdicts };
}

/** 429 where the machine is busy with other things: no answer at all, or a refusal, would be a caller lost. */
function expectAnswered(verdicts: ReadonlySet<string>): void {
  expect(verdicts).toContain("VERDICT_ALLOW");
  expect([...verdicts].filter((verdict) => verdict !== "VERDICT_ALLOW" && verdict !== "429")).toEqual([]);
}

test("open HTTP/2 streams with large headers", async () => {
  const block = grpcHead("/sallyport.v1.TokenValidator/ValidateToken", literal("x-large", "x".repeat(15_000)));
  const opened = Array.from({ length: 256 }, (_, i) => headers(2 * i + 1, block, END_HEADERS));
  const ping = frameOf(PING, 0, 0, Buffer.alloc(8));
  const { more, verdicts } = await attack(async () => {
    const port = Number(new URL(sallyport.listeners.data).port);
    const clients = await Promise.all(Array.from({ length: 32 }, () => RawClient.connect(port)));
    sockets.push(...clients.map(({ socket }) => socket));
    for (const client of clients) client.send(...opened, ping);
    // When the PING is answered, all before it has been read.
    await Promise.all(clients.map((client) => client.frame(({ type, flags }) => type === PING && flags === 1)));
  });
  expectAnswered(verdicts);
  expect(more / MiB).toBeLessThan(MOST_MORE / MiB);
});

test("unfinished HTTP/1.1 bodies", async () => {
  const head = [
    "POST /sallyport.v1.TokenValidator/BatchValidateTokens HTTP/1.1",
    "host: x",
    "content-type: application/json",
    "content-length: 1000000",
  ];
  const begun = Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), Buffer.alloc(999_000, "[")]);
  const { more, verdicts } = await attack(async () => {
    const sends = await Promise.all(Array.from({ length: 256 }, open));
    await Promise.all(sends.map((send) => send(begun)));
  });
  expectAnswered(verdicts);
  expect(more / MiB).toBeLessThan(MOST_MORE / MiB);
});

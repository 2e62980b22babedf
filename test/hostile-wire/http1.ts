import { expect } from "vitest";
import { type Case, dial, h1Status, pour, type Target } from "./hostile-wire.ts";

const CRLF = "\r\n";
const lines = (...all: string[]): string => [...all, "", ""].join(CRLF);

/** Must be refused: 4xx, or an end without an answer. */
const refused = (title: string, bytes: (target: Target) => string | Buffer): Case => ({
  title,
  async run(target) {
    const status = await h1Status(target, bytes(target));
    expect(status === 0 || (status >= 400 && status < 500), `answered ${status}`).toBe(true);
  },
});

/** Must be answered, one way or the other, or the connection ended. */
const survived = (title: string, bytes: (target: Target) => string | Buffer): Case => ({
  title,
  async run(target) {
    expect(await h1Status(target, bytes(target))).toBeLessThan(500);
  },
});

const post = (target: Target, ...headers: string[]): string =>
  `${["POST", target.rpc.path, "HTTP/1.1"].join(" ")}${CRLF}${["Host: a", "Content-Type: application/json", ...headers].join(CRLF)}${CRLF}${CRLF}`;

export const http1: readonly Case[] = [
  survived("HTTP/1.0 with a Host", (t) => lines(`GET ${t.rpc.path} HTTP/1.0`, "Host: a")),
  refused("an absolute-form target", (t) => lines(`GET http://a${t.rpc.path} HTTP/1.1`, "Host: a")),
  refused("the target *", () => lines("OPTIONS * HTTP/1.1", "Host: a")),
  refused("a target that is no path", () => lines("GET [::1 HTTP/1.1", "Host: a")),
  refused("a target that begins with two slashes", () => lines("GET //[::1 HTTP/1.1", "Host: a")),
  refused("CONNECT", () => lines("CONNECT a:1 HTTP/1.1", "Host: a")),
  survived(
    "Upgrade to h2c",
    (t) =>
      post(t, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Content-Length: 2") +
      "{}",
  ),
  survived("Upgrade to a WebSocket", (t) =>
    lines(`GET ${t.rpc.path} HTTP/1.1`, "Host: a", "Connection: Upgrade", "Upgrade: websocket"),
  ),
  refused("an expectation that nobody meets", (t) => post(t, "Expect: the-unexpected", "Content-Length: 0")),
  refused(
    "Transfer-Encoding and Content-Length together",
    (t) => `${post(t, "Transfer-Encoding: chunked", "Content-Length: 5")}0${CRLF}${CRLF}`,
  ),
  refused("two lengths", (t) => `${post(t, "Content-Length: 2", "Content-Length: 3")}{}`),
  refused("a negative length", (t) => post(t, "Content-Length: -1")),
  refused("a length of 2^64", (t) => post(t, "Content-Length: 18446744073709551616")),
  refused("a transfer coding that is not chunked", (t) => post(t, "Transfer-Encoding: chunked, identity")),
  survived("a folded header", (t) => `${post(t, "X: a\r\n b", "Content-Length: 2")}{}`),
  refused("bare line feeds", (t) => `POST ${t.rpc.path} HTTP/1.1\nHost: a\nContent-Length: 0\n\n`),
  refused("a NUL in a header", (t) => post(t, "X: a\0b", "Content-Length: 0")),
  refused("a space before the colon", (t) => post(t, "X : a", "Content-Length: 0")),
  refused("a method that is none", () => lines("\u0001\u0002 / HTTP/1.1", "Host: a")),
  refused("a version that is none", () => lines("GET / HTTP/9.9", "Host: a")),
  refused("a chunk longer than any number", (t) => `${post(t, "Transfer-Encoding: chunked")}FFFFFFFFFFFFFFFFF${CRLF}`),
  {
    title: "a chunk extension of 1 MB",
    async run(target) {
      const raw = await dial(target, "h1");
      raw.socket.write(`${post(target, "Transfer-Encoding: chunked")}1;`);
      await pour(raw, Buffer.alloc(64 * 1024, "x"), 16);
      raw.socket.write(`${CRLF}{`);
      await raw.closed;
      expect(raw.text()).toMatch(/^(HTTP\/1\.1 4\d\d |$)/);
    },
  },
  refused("a URL of 100 KB", () => lines(`GET /${"x".repeat(100_000)} HTTP/1.1`, "Host: a")),
  refused("a header of 65 KiB", (t) => post(t, `X: ${"y".repeat(66_000)}`)),
  {
    title: "the 257th header is answered 431: none is silently dropped",
    async run(target) {
      const many = Array.from({ length: 260 }, (_, n) => `X-${n}: 1`);
      expect(await h1Status(target, post(target, ...many, "Content-Length: 0"))).toBe(431);
    },
  },
  {
    title: "1,000 requests in one write are each answered, or the connection ends",
    async run(target) {
      const raw = await dial(target, "h1");
      raw.socket.write(`${post(target, "Content-Length: 2")}{}`.repeat(1_000));
      await raw.until((text) => (text.match(/HTTP\/1\.1 \d{3}/g)?.length ?? 0) === 1_000).catch(() => {});
      raw.socket.destroy();
    },
  },
  {
    title: "random bytes",
    async run(target) {
      for (let seed = 1; seed <= 50; seed++) {
        const bytes = Buffer.alloc(512);
        for (let i = 0, x = seed; i < bytes.length; i++) bytes[i] = (x = (x * 48_271) % 2_147_483_647) & 255;
        const raw = await dial(target, "h1");
        raw.socket.end(bytes);
        await raw.closed;
      }
    },
  },
];

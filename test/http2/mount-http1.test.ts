import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { echo, route } from "./fixture.ts";

const server = createServer(
  { requireHostHeader: false },
  mountHttp1({ routes: { exact: new Map([["/t/Echo", route(echo)]]), prefix: [["/v1/", route(echo)]] } }),
);
let port = 0;
beforeEach(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  port = (server.address() as AddressInfo).port;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** Everything the server says to these octets until it closes. */
const exchange = (request: string): Promise<string> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.on("data", (bytes) => {
      text += bytes.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(text));
    socket.end(request, "latin1");
  });
const statusOf = async (request: string): Promise<string | undefined> => (await exchange(request)).split(" ")[1];

test.each([
  ["HTTP/1.0 without a host", "GET /v1/x HTTP/1.0\r\n\r\n"],
  ["HTTP/1.1 without a host", "GET /v1/x HTTP/1.1\r\nConnection: close\r\n\r\n"],
  ["an empty host", "GET /v1/x HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"],
  ["two hosts", "GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n"],
  ["a host in half brackets", "GET /v1/x HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n"],
  ["a host with a blank", "GET /v1/x HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n"],
])("%s is 400, and the next request is served", async (_name, request) => {
  expect(await statusOf(request)).toBe("400");
  expect(await statusOf("GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).toBe("200");
});

test.each([
  ["absolute-form", "GET http://a.test/v1/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", "404"],
  ["asterisk-form", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", "404"],
  [
    "gRPC",
    "POST /t/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "415",
  ],
])("%s is %s", async (_name, request, status) => {
  expect(await statusOf(request)).toBe(status);
});

test("an answer larger than Node's buffer ends the connection, because Node could misread the next request", async () => {
  const head = "POST /t/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
  const of = async (length: number) => {
    const text = await exchange(`${head}Content-Length: ${length}\r\n\r\n${"1".repeat(length)}`);
    return [text.split(" ")[1], text.slice(0, 400).toLowerCase().includes("connection: close")];
  };
  expect(await of(60_000)).toEqual(["200", false]);
  expect(await of(65_536)).toEqual(["200", true]);
});

test("the connection stays open after a body that was read, and after one that was refused unread", async () => {
  const head = "POST /t/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
  const refused = await exchange(
    `${head}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc${head}Connection: close\r\nContent-Length: 2\r\n\r\n{}`,
  );
  expect(refused.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 501", "HTTP/1.1 200"]);
  const kept = await exchange(
    `${head}Content-Length: 2\r\n\r\n{}${head}Connection: close\r\nContent-Length: 2\r\n\r\n[]`,
  );
  expect(kept).toMatch(/\r\n\r\n\{\}HTTP\/1\.1 200.*\r\n\r\n\[\]$/s);
});

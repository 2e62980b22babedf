import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { expect } from "vitest";
import { type Answer, type Case, envelope, grpc, h1Status, type Target } from "./hostile-wire.ts";

const [INVALID_ARGUMENT, DEADLINE, RESOURCE_EXHAUSTED, UNIMPLEMENTED] = [3, 4, 8, 12];

const said = (answer: Answer, ...codes: number[]): void => {
  expect(codes, `answered ${JSON.stringify(answer)}`).toContain(answer.grpc);
};

const json = (target: Target, body: string | Buffer, ...headers: string[]): Buffer =>
  Buffer.concat([
    Buffer.from(
      [
        `POST ${target.rpc.path} HTTP/1.1`,
        "Host: localhost",
        "Connection: close",
        `Content-Length: ${Buffer.byteLength(body)}`,
        ...headers,
        "",
        "",
      ].join("\r\n"),
      "latin1",
    ),
    Buffer.from(body),
  ]);
const JSON_TYPE = "Content-Type: application/json";

const refusedJson = (title: string, body: string | Buffer, ...headers: string[]): Case => ({
  title,
  async run(target) {
    const status = await h1Status(target, json(target, body, ...(headers.length > 0 ? headers : [JSON_TYPE])));
    expect([400, 404, 413, 415, 429, 501]).toContain(status);
  },
});

export const rpc: readonly Case[] = [
  {
    title: "a gzip bomb of 100 MB is refused in every form, within the memory and 2 s",
    async run(target) {
      const bomb = gzipSync(Buffer.alloc(100 * 1024 * 1024));
      const from = performance.now();
      said(
        await grpc(target, envelope(bomb, 1), { "grpc-encoding": "gzip" }),
        UNIMPLEMENTED,
        RESOURCE_EXHAUSTED,
        INVALID_ARGUMENT,
      );
      expect([400, 429, 501]).toContain(
        await h1Status(target, json(target, bomb, JSON_TYPE, "Content-Encoding: gzip")),
      );
      expect(performance.now() - from).toBeLessThan(2_000);
    },
  },
  {
    title: "a brotli bomb is UNIMPLEMENTED",
    async run(target) {
      const bomb = brotliCompressSync(Buffer.alloc(10 * 1024 * 1024), {
        params: { [constants.BROTLI_PARAM_QUALITY]: 1 },
      });
      said(await grpc(target, envelope(bomb, 1), { "grpc-encoding": "br" }), UNIMPLEMENTED);
      expect(await h1Status(target, json(target, bomb, JSON_TYPE, "Content-Encoding: br"))).toBe(501);
    },
  },
  {
    title: "a compressed flag without an encoding is refused",
    run: async (target) => said(await grpc(target, envelope(target.rpc.message, 1)), UNIMPLEMENTED, INVALID_ARGUMENT),
  },
  {
    title: "a length prefix of 4 GiB is RESOURCE_EXHAUSTED",
    run: async (target) => said(await grpc(target, envelope(target.rpc.message, 0, 0xffffffff)), RESOURCE_EXHAUSTED),
  },
  {
    title: "a length prefix that is too long, too short or cut is refused",
    async run(target) {
      said(await grpc(target, envelope(Buffer.from("abcd"), 0, 100)), INVALID_ARGUMENT, UNIMPLEMENTED);
      said(await grpc(target, envelope(Buffer.from("abcd"), 0, 1)), INVALID_ARGUMENT, UNIMPLEMENTED);
      for (const length of [1, 2, 4]) said(await grpc(target, Buffer.alloc(length)), INVALID_ARGUMENT, UNIMPLEMENTED);
    },
  },
  {
    title: "no message, and two, are UNIMPLEMENTED",
    async run(target) {
      said(await grpc(target, undefined), UNIMPLEMENTED, INVALID_ARGUMENT);
      const one = envelope(target.rpc.message);
      said(await grpc(target, Buffer.concat([one, one])), UNIMPLEMENTED, INVALID_ARGUMENT);
    },
  },
  {
    title: "a message of 3 MB is RESOURCE_EXHAUSTED",
    run: async (target) => said(await grpc(target, envelope(Buffer.alloc(3_000_000))), RESOURCE_EXHAUSTED),
  },
  {
    title: "groups nested as deep as a message allows",
    run: async (target) => said(await grpc(target, envelope(Buffer.alloc(4_000, (15 << 3) | 3))), INVALID_ARGUMENT),
  },
  {
    title: "a million repeated fields",
    run: async (target) =>
      said(await grpc(target, envelope(Buffer.alloc(2_000_000, Buffer.from([0x12, 0])))), RESOURCE_EXHAUSTED),
  },
  {
    title: "a string that is not UTF-8, and fields that are cut",
    async run(target) {
      said(await grpc(target, envelope(Buffer.from([0x0a, 2, 0xff, 0xfe]))), INVALID_ARGUMENT);
      said(await grpc(target, envelope(Buffer.from([0x0a, 0x7f]))), INVALID_ARGUMENT);
      said(await grpc(target, envelope(Buffer.alloc(11, 0xff))), INVALID_ARGUMENT);
    },
  },
  refusedJson("JSON nested 200,000 deep", `{"a":${"[".repeat(200_000)}`),
  refusedJson("JSON nested 1,000 deep, and closed", `{"a":${"[".repeat(1_000)}${"]".repeat(1_000)}}`),
  refusedJson("JSON with an own prototype", '{"__proto__":{"x":1},"constructor":{}}'),
  refusedJson("JSON that is not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])),
  refusedJson("JSON that is none", "\0\0\0"),
  refusedJson("no content type", "{}", "X: 1"),
  refusedJson("a content type of a form", "a=b", "Content-Type: application/x-www-form-urlencoded"),
  refusedJson("a content type of 10 KB", "{}", `Content-Type: application/${"j".repeat(10_000)}`),
  {
    title: "gRPC by HTTP/1.1 is answered",
    async run(target) {
      const status = await h1Status(
        target,
        json(target, envelope(target.rpc.message), "Content-Type: application/grpc"),
      );
      expect(status).toBeGreaterThanOrEqual(200);
    },
  },
  {
    title: "an unknown gRPC content type is refused",
    async run(target) {
      const answer = await grpc(target, envelope(target.rpc.message), { "content-type": "application/grpc+thrift" });
      expect(answer.grpc).not.toBe(0);
    },
  },
  {
    title: "a malformed timeout is INVALID_ARGUMENT, 0 is DEADLINE_EXCEEDED, and a huge one is cut",
    async run(target) {
      const call = (value: string) => grpc(target, envelope(target.rpc.message), { "grpc-timeout": value });
      for (const bad of ["1", "-1S", "1e9S", "999999999S", "soon"]) said(await call(bad), INVALID_ARGUMENT);
      said(await call("0n"), DEADLINE);
      said(await call("99999999H"), 0);
      expect(await h1Status(target, json(target, "{}", JSON_TYPE, "Connect-Timeout-Ms: x"))).toBe(400);
    },
  },
  {
    title: "repeated credentials are survived",
    async run(target) {
      const twice = ["Authorization: Bearer a", "Authorization: Bearer b"];
      expect(await h1Status(target, json(target, "{}", JSON_TYPE, ...twice))).toBeLessThan(500);
      await grpc(target, envelope(target.rpc.message), { "x-many": ["1", "2", "3"] });
    },
  },
  ...[17 * 1024, 60_000, 1_000_000].map((size) => ({
    title: `${size} bytes of binary metadata fail their stream or session`,
    async run(target: Target) {
      const headers = { "x-bin": "A".repeat(size) };
      const answer = await grpc(target, envelope(target.rpc.message), headers, { maxSendHeaderBlockLength: 2_000_000 });
      expect(answer.grpc).not.toBe(0);
    },
  })),
  {
    title: "metadata that is named as binary and is not",
    run: async (target) =>
      void (await grpc(target, envelope(target.rpc.message), { "grpc-trace-bin": "!!!not base64!!!" })),
  },
  {
    title: "paths that look like something else are 404",
    async run(target) {
      for (const path of [
        "/__proto__",
        "/constructor",
        "/..%2f..%2fetc/passwd",
        "/%00",
        `${target.rpc.path}/`,
        "//",
        "/?",
      ])
        expect(await h1Status(target, `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`), path).toBe(404);
    },
  },
];

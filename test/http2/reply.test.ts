import { describe, expect, test } from "vitest";
import { connectError, connectMessage, grpcMessage, grpcStatus, http, Reply } from "../../src/http2/unary/reply.ts";
import type { Field } from "../../src/http2/wire/field.ts";
import { HpackDecoder } from "../../src/http2/wire/hpack.ts";

/** The frames of a reply as [type, flags, id, payload or fields]. */
function framesOf(reply: Reply): unknown[] {
  const decoder = new HpackDecoder();
  const out: unknown[] = [];
  for (let at = 0; at < reply.frames.length; ) {
    const end = at + 9 + reply.frames.readUIntBE(at, 3);
    const [type, flags, id] = [reply.frames[at + 3], reply.frames[at + 4], reply.frames.readUInt32BE(at + 5)];
    const fields: string[] = [];
    if (type === 1)
      decoder.decode(reply.frames, at + 9, end, {
        field: (field: Field) => fields.push(`${field.name}: ${field.value}`),
      });
    out.push([
      type,
      flags,
      id,
      type === 1 ? fields : Buffer.from(reply.frames.subarray(at + 9, end)).toString("latin1"),
    ]);
    at = end;
  }
  return out;
}

test("a gRPC message is HEADERS, DATA and trailers, with the offsets of their ids", () => {
  const reply = grpcMessage(Buffer.from("hi"), [["x-t", "1"]]);
  expect(framesOf(reply)).toEqual([
    [1, 4, 0, [":status: 200", "content-type: application/grpc"]],
    [0, 0, 0, "\0\0\0\0\u0002hi"],
    [1, 5, 0, ["grpc-status: 0", "x-t: 1"]],
  ]);
  expect(reply.frames[reply.dataAt + 3]).toBe(0);
  expect(reply.frames[reply.trailersAt + 3]).toBe(1);
});

test("a gRPC status is one HEADERS frame that ends the stream", () => {
  expect(framesOf(grpcStatus(7, ""))).toEqual([
    [1, 5, 0, [":status: 200", "content-type: application/grpc", "grpc-status: 7"]],
  ]);
});

test("grpc-message travels as printable ASCII without spaces at its ends", () => {
  const [[, , , fields]] = framesOf(grpcStatus(2, " a\nb% ü ")) as [[number, number, number, string[]]];
  expect(fields.at(-1)).toBe("grpc-message: %20a%0Ab%25 %C3%BC%20");
});

test("Connect answers and errors are plain HTTP with their length", () => {
  expect(framesOf(connectMessage(Buffer.from("{}"), "application/json"))).toEqual([
    [1, 4, 0, [":status: 200", "content-type: application/json", "content-length: 2"]],
    [0, 1, 0, "{}"],
  ]);
  expect(connectError(16, "who?").status).toBe(401);
  expect(JSON.parse(Buffer.from(connectError(99, "").body).toString())).toEqual({ code: "unknown" });
});

test.each([204, 304])("%i has no body and no length", (status) => {
  expect(framesOf(http(status, [], Buffer.from("no")))).toEqual([[1, 5, 0, [`:status: ${status}`]]]);
});

test("the bytes given are copied, so a reply never changes", () => {
  const bytes = Buffer.from("abc");
  const reply = http(200, [], bytes);
  bytes.fill(0);
  expect(Buffer.from(reply.body).toString()).toBe("abc");
});

describe("a reply that HTTP/2 forbids is refused when it is prepared", () => {
  test.each([
    ["a line break in a value", "x-a", "1\r\nx-b: 2"],
    ["a NUL", "x-a", "\0"],
    ["a blank at an end", "x-a", " 1"],
    ["a character outside latin1", "x-a", "€"],
    ["an upper-case name", "X-A", "1"],
    ["a pseudo-header", ":path", "/"],
    ["an empty name", "", "1"],
  ])("%s", (_name, name, value) => {
    expect(() => http(200, [[name, value]])).toThrow(RangeError);
  });

  test("a header block over one frame, and a body over 2^24-1", () => {
    expect(() => http(200, [["x-a", "v".repeat(17_000)]])).toThrow(RangeError);
    expect(() => new Reply(200, [], Buffer.alloc(1 << 24))).toThrow(RangeError);
  });
});

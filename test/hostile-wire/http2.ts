import { constants } from "node:http2";
import { expect } from "vitest";
import { END_HEADERS, END_STREAM, Frame, frame, headerBlock, PREFACE, settings } from "../listen/wire.ts";
import { answerOf, type Case, dial, pour, type Target, withSession } from "./hostile-wire.ts";

type Field = readonly [string, string];

const request = (target: Target, ...more: Field[]): Field[] => [
  [":method", "POST"],
  [":scheme", target.ca === undefined ? "http" : "https"],
  [":path", target.rpc.path],
  [":authority", "localhost"],
  ["content-type", "application/grpc"],
  ...more,
];

/** Sends frames after the preface; the listener may answer, reset or hang up, but within two seconds something of it. */
const frames = (title: string, make: (target: Target) => Buffer): Case => ({
  title,
  async run(target) {
    const raw = await dial(target, "h2");
    raw.socket.write(
      Buffer.concat([PREFACE, settings(), make(target), frame(Frame.PING, 0, 0, Buffer.from("deadbeef"))]),
    );
    const pong = "\x00\x00\x08\x06\x01\x00\x00\x00\x00deadbeef";
    await Promise.race([raw.until((text) => text.includes(pong)).catch(() => {}), raw.closed]);
    raw.socket.destroy();
  },
});

const headers = (fields: readonly Field[], flags = END_HEADERS | END_STREAM, stream = 1): Buffer =>
  frame(Frame.HEADERS, flags, stream, headerBlock(fields));

/** A header block of any size, cut into CONTINUATION frames. */
function inPieces(block: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at < block.length; at += 16_000) {
    const last = at + 16_000 >= block.length ? END_HEADERS : 0;
    const payload = block.subarray(at, at + 16_000);
    pieces.push(frame(at === 0 ? Frame.HEADERS : Frame.CONTINUATION, last | (at === 0 ? END_STREAM : 0), 1, payload));
  }
  return Buffer.concat(pieces);
}

export const http2: readonly Case[] = [
  ...[129, 5_000].map((count) => ({
    title: `${count} headers fail their stream or session, and reach no handler`,
    run: (target: Target) =>
      withSession(
        target,
        async (session) => {
          const many = Object.fromEntries(Array.from({ length: count - 5 }, (_, n) => [`x-${n}`, "1"]));
          const stream = session.request({
            ":method": "POST",
            ":path": target.rpc.path,
            "content-type": "application/grpc",
            ...many,
          });
          stream.end(Buffer.from([0, 0, 0, 0, 0]));
          expect(await answerOf(stream)).not.toMatchObject({ grpc: 0 });
        },
        { maxSendHeaderBlockLength: 1_000_000 },
      ),
  })),
  frames("a header block of 17 KiB", (t) => inPieces(headerBlock(request(t, ["x", "y".repeat(17 * 1024)])))),
  frames("a header block of 200 KB", (t) => inPieces(headerBlock(request(t, ["x", "y".repeat(200_000)])))),
  {
    title: "20,000 CONTINUATION frames that never end",
    async run(target) {
      const raw = await dial(target, "h2");
      raw.socket.write(Buffer.concat([PREFACE, settings(), headers(request(target), END_STREAM)]));
      const piece = frame(Frame.CONTINUATION, 0, 1, headerBlock([["x", "y"]]));
      await pour(raw, Buffer.concat(Array.from({ length: 200 }, () => piece)), 100);
      await raw.closed;
    },
  },
  frames("CONTINUATION without HEADERS", () => frame(Frame.CONTINUATION, END_HEADERS, 1, headerBlock([["x", "y"]]))),
  frames("HEADERS cut off by another frame", (t) =>
    Buffer.concat([headers(request(t), 0), frame(Frame.PING, 0, 0, Buffer.alloc(8))]),
  ),
  frames("an upper-case header name", (t) => headers(request(t, ["X-Upper", "1"]))),
  frames("a connection header", (t) => headers(request(t, ["connection", "close"], ["transfer-encoding", "chunked"]))),
  frames("an empty header name", (t) => headers(request(t, ["", "1"]))),
  frames("control bytes in a value", (t) => headers(request(t, ["x", "a\r\nb\0"]))),
  frames("an unknown pseudo-header", (t) => headers([[":magic", "1"], ...request(t)])),
  frames("a pseudo-header after the others", (t) => headers([...request(t), [":path", "/x"]])),
  frames("no path", () =>
    headers([
      [":method", "GET"],
      [":scheme", "http"],
      [":authority", "a"],
    ]),
  ),
  frames("an empty path", () =>
    headers([
      [":method", "GET"],
      [":scheme", "http"],
      [":authority", "a"],
      [":path", ""],
    ]),
  ),
  frames("the path *", () =>
    headers([
      [":method", "OPTIONS"],
      [":scheme", "http"],
      [":authority", "a"],
      [":path", "*"],
    ]),
  ),
  frames("CONNECT without a path", () =>
    headers(
      [
        [":method", "CONNECT"],
        [":authority", "a:1"],
      ],
      END_HEADERS,
    ),
  ),
  frames("extended CONNECT", (t) => headers([[":protocol", "websocket"], ...request(t)])),
  frames("an indexed field that does not exist", () =>
    frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f])),
  ),
  frames("the indexed field 0", () => frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, Buffer.from([0x80]))),
  frames("an HPACK integer without an end", () =>
    frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, Buffer.alloc(100, 0xff)),
  ),
  frames("Huffman code that decodes to nothing", () =>
    frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, Buffer.from([0, 0x84, 0xff, 0xff, 0xff, 0xff, 0])),
  ),
  frames("a table size beyond what was offered", () =>
    frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, Buffer.from([0x3f, 0xff, 0xff, 0xff, 0x07])),
  ),
  {
    title: "one table entry of 4 KB that 100,000 fields refer to",
    async run(target) {
      const raw = await dial(target, "h2");
      const entry = Buffer.concat([Buffer.from([0x40, 1, 0x78, 0x7f, 0xa0, 0x1e]), Buffer.alloc(3_999, "y")]);
      const first = frame(
        Frame.HEADERS,
        END_HEADERS | END_STREAM,
        1,
        Buffer.concat([headerBlock(request(target)), entry]),
      );
      raw.socket.write(Buffer.concat([PREFACE, settings(), first]));
      for (let id = 3; id < 50 && raw.socket.writable; id += 2) {
        const block = Buffer.concat([headerBlock(request(target)), Buffer.alloc(4_000, 0xbe)]);
        raw.socket.write(frame(Frame.HEADERS, END_HEADERS | END_STREAM, id, block));
      }
      await Promise.race([raw.closed, raw.until((text) => text.length > 200).catch(() => {})]);
      raw.socket.destroy();
    },
  },
  frames("DATA on stream 0", () => frame(Frame.DATA, 0, 0, Buffer.alloc(10))),
  frames("DATA on a stream that never opened", () => frame(Frame.DATA, END_STREAM, 7, Buffer.alloc(10))),
  frames("DATA after the end of its stream", (t) =>
    Buffer.concat([headers(request(t)), frame(Frame.DATA, 0, 1, Buffer.alloc(10))]),
  ),
  frames("an even stream id", (t) => headers(request(t), END_HEADERS | END_STREAM, 2)),
  frames("a lower stream id after a higher", (t) =>
    Buffer.concat([headers(request(t), 5, 9), headers(request(t), 5, 3)]),
  ),
  frames("padding longer than its frame", (t) =>
    Buffer.concat([headers(request(t), END_HEADERS), frame(Frame.DATA, 8, 1, Buffer.from([200, 1, 2]))]),
  ),
  frames("SETTINGS of five bytes, and an ACK with a payload", () =>
    Buffer.concat([frame(Frame.SETTINGS, 0, 0, Buffer.alloc(5)), frame(Frame.SETTINGS, 1, 0, Buffer.alloc(6))]),
  ),
  frames("a window of more than 2^31-1", () =>
    Buffer.concat([frame(Frame.WINDOW, 0, 0, Buffer.from([0x7f, 255, 255, 255])), settings({ 4: 0xffffffff })]),
  ),
  frames("a window update of 0", (t) =>
    Buffer.concat([headers(request(t), END_HEADERS), frame(Frame.WINDOW, 0, 1, Buffer.alloc(4))]),
  ),
  frames("PUSH_PROMISE from a client", () => frame(5, END_HEADERS, 1, Buffer.from([0, 0, 0, 2]))),
  frames("GOAWAY from a client", () => frame(Frame.GOAWAY, 0, 0, Buffer.alloc(8))),
  frames("RST_STREAM of an idle stream", () => frame(Frame.RST, 0, 99, Buffer.alloc(4))),
  frames("a stream that depends on itself", () => frame(Frame.PRIORITY, 0, 5, Buffer.from([0, 0, 0, 5, 1]))),
  {
    title: "a frame that claims 16 MB",
    async run(target) {
      const raw = await dial(target, "h2");
      raw.socket.write(Buffer.concat([PREFACE, settings(), Buffer.from([255, 255, 255, 0, 0, 0, 0, 0, 1])]));
      await raw.closed;
    },
  },
  {
    title: "a stream that is answered and reset from both sides at once",
    run: (target) =>
      withSession(target, async (session) => {
        for (let i = 0; i < 50; i++) {
          const stream = session.request({
            ":method": "POST",
            ":path": target.rpc.path,
            "content-type": "application/grpc",
          });
          const over = answerOf(stream);
          stream.end(Buffer.from([0, 0, 0, 0, 0]));
          if (i % 2) setImmediate(() => stream.close(constants.NGHTTP2_CANCEL));
          await over;
        }
      }),
  },
];

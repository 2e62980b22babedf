import { END_HEADERS, END_STREAM, Frame, frame, headerBlock, PREFACE, settings } from "../listen/wire.ts";
import { type Case, dial, pour, type Target } from "./hostile-wire.ts";

const block = (target: Target): Buffer =>
  headerBlock([
    [":method", "POST"],
    [":scheme", "http"],
    [":path", target.rpc.path],
    [":authority", "localhost"],
    ["content-type", "application/grpc"],
  ]);

/** Pours pieces of frames until all are written or the listener hangs up; it must take them or hang up, in time. */
const flood = (
  title: string,
  times: number,
  piece: (target: Target) => Buffer,
  first?: (target: Target) => Buffer,
): Case => ({
  title,
  async run(target) {
    const raw = await dial(target, "h2");
    raw.socket.write(Buffer.concat([PREFACE, settings(), first?.(target) ?? Buffer.alloc(0)]));
    await pour(raw, piece(target), times);
    raw.socket.destroy();
    await raw.closed;
  },
});

const repeat = (count: number, one: Buffer): Buffer => Buffer.concat(Array.from({ length: count }, () => one));
const open = (target: Target): Buffer => frame(Frame.HEADERS, END_HEADERS, 1, block(target));

/** Frames for `count` new streams from `from` on. */
async function streams(target: Target, count: number, make: (id: number, block: Buffer) => Buffer): Promise<void> {
  const raw = await dial(target, "h2");
  raw.socket.write(Buffer.concat([PREFACE, settings()]));
  const headers = block(target);
  for (let id = 1; id < 2 * count && raw.socket.writable; id += 400) {
    const piece: Buffer[] = [];
    for (let n = id; n < id + 400; n += 2) piece.push(make(n, headers));
    await pour(raw, Buffer.concat(piece), 1);
  }
  raw.socket.destroy();
  await raw.closed;
}

export const floods: readonly Case[] = [
  {
    title: "rapid reset: 100,000 streams opened and cancelled (CVE-2023-44487)",
    run: (target) =>
      streams(target, 100_000, (id, headers) =>
        Buffer.concat([
          frame(Frame.HEADERS, END_HEADERS | END_STREAM, id, headers),
          frame(Frame.RST, 0, id, Buffer.from([0, 0, 0, 8])),
        ]),
      ),
  },
  {
    title: "made you reset: 20,000 streams that the listener must reset (CVE-2025-8671)",
    run: (target) =>
      streams(target, 20_000, (id, headers) =>
        Buffer.concat([frame(Frame.HEADERS, END_HEADERS, id, headers), frame(Frame.WINDOW, 0, id, Buffer.alloc(4))]),
      ),
  },
  {
    title: "50,000 streams that never end",
    run: (target) => streams(target, 50_000, (id, headers) => frame(Frame.HEADERS, END_HEADERS, id, headers)),
  },
  flood("100,000 PINGs", 100, () => repeat(1_000, frame(Frame.PING, 0, 0, Buffer.alloc(8)))),
  flood("100,000 SETTINGS", 100, () => repeat(1_000, settings({ 3: 100 }))),
  flood(
    "100,000 SETTINGS that change the window of open streams",
    100,
    () => repeat(500, Buffer.concat([settings({ 4: 1 }), settings({ 4: 65_535 })])),
    open,
  ),
  flood("100,000 PRIORITY frames", 100, () =>
    repeat(1_000, frame(Frame.PRIORITY, 0, 3, Buffer.from([0, 0, 0, 0, 16]))),
  ),
  flood("100,000 PRIORITY frames for as many streams", 1, () =>
    Buffer.concat(
      Array.from({ length: 100_000 }, (_, n) => frame(Frame.PRIORITY, 0, 2 * n + 1, Buffer.from([0, 0, 0, 0, 16]))),
    ),
  ),
  flood("100,000 empty DATA frames", 100, () => repeat(1_000, frame(Frame.DATA, 0, 1)), open),
  flood("100,000 DATA frames of one byte", 100, () => repeat(1_000, frame(Frame.DATA, 0, 1, Buffer.from([0]))), open),
  flood("100,000 WINDOW_UPDATEs", 100, () => repeat(1_000, frame(Frame.WINDOW, 0, 0, Buffer.from([0, 0, 0, 1])))),
  flood("100,000 frames of unknown type", 100, () => repeat(1_000, frame(0xfa, 0, 0, Buffer.alloc(4)))),
  {
    title: "1,000 calls whose answers wait for a window of 0",
    async run(target) {
      const raw = await dial(target, "h2");
      raw.socket.write(Buffer.concat([PREFACE, settings({ 4: 0 })]));
      const message = frame(
        Frame.DATA,
        END_STREAM,
        1,
        Buffer.concat([Buffer.from([0, 0, 0, 0, target.rpc.message.length]), target.rpc.message]),
      );
      for (let id = 1; id < 2_000 && raw.socket.writable; id += 2) {
        message.writeUInt32BE(id, 5);
        raw.socket.write(Buffer.concat([frame(Frame.HEADERS, END_HEADERS, id, block(target)), message]));
      }
      await raw.until((text) => text.length > 1_000).catch(() => {});
      raw.socket.destroy();
      await raw.closed;
    },
  },
  {
    title: "2,000 connections that come and go",
    async run(target) {
      const total = target.ca === undefined ? 2_000 : 100;
      for (let i = 0; i < total; i += 20) {
        const some = await Promise.all(Array.from({ length: 20 }, () => dial(target, "h1").catch(() => undefined)));
        for (const one of some)
          if (target.ca === undefined) one?.socket.resetAndDestroy();
          else one?.socket.destroy();
      }
    },
  },
];

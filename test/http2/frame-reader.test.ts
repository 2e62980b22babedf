import { expect, test } from "vitest";
import { frameOf } from "../../src/http2/wire/frame.ts";
import { FrameReader, type FrameSink } from "../../src/http2/wire/frame-reader.ts";
import { seeded } from "./fixture.ts";

const sample = [
  frameOf(4, 0, 0, Buffer.alloc(0)),
  frameOf(1, 4, 1, Buffer.from("head")),
  frameOf(0, 1, 1, Buffer.alloc(300, 7)),
  frameOf(6, 0, 0, Buffer.alloc(8, 1)),
];
const whole = Buffer.concat(sample);

const collector = (): { sink: FrameSink; frames: Buffer[]; tooLong: () => number } => {
  const frames: Buffer[] = [];
  let long = 0;
  return {
    frames,
    tooLong: () => long,
    sink: {
      frame(type, flags, id, bytes, start, end) {
        frames.push(frameOf(type, flags, id, bytes.subarray(start, end)));
        return true;
      },
      frameTooLong: () => {
        long++;
      },
    },
  };
};

/** Every piece arrives in the same buffer, overwritten before the next. */
const feed = (pieces: readonly Buffer[]): Buffer[] => {
  const { sink, frames } = collector();
  const reader = new FrameReader();
  const shared = Buffer.alloc(1_024);
  for (const piece of pieces) {
    shared.fill(0xdd);
    piece.copy(shared, 5);
    expect(reader.read(shared, 5, 5 + piece.length, sink)).toBe(true);
  }
  return frames;
};

test("the frames are the same at every cut in two, and octet by octet", () => {
  for (let cut = 0; cut <= whole.length; cut++)
    expect(feed([whole.subarray(0, cut), whole.subarray(cut)])).toEqual(sample);
  expect(feed(Array.from(whole, (octet) => Buffer.of(octet)))).toEqual(sample);
});

test("the frames are the same at random cuts", () => {
  const pick = seeded(11);
  for (let n = 0; n < 200; n++) {
    const pieces: Buffer[] = [];
    for (let at = 0; at < whole.length; ) {
      const size = 1 + pick(40);
      pieces.push(whole.subarray(at, at + size));
      at += size;
    }
    expect(feed(pieces)).toEqual(sample);
  }
});

test.each([1, 8, 9, 12])("a length above 16,384 is reported before any of it is kept, cut at %i", (cut) => {
  const { sink, frames, tooLong } = collector();
  const long = Buffer.from("004001000000000001", "hex");
  const bytes = Buffer.concat([long, Buffer.alloc(20)]);
  const reader = new FrameReader();
  const first = reader.read(bytes, 0, cut, sink);
  const second = first && reader.read(bytes, cut, bytes.length, sink);
  expect([second, tooLong(), frames]).toEqual([false, 1, []]);
});

test("nothing is read after the receiver of frames has stopped the reader", () => {
  let seen = 0;
  const stopping: FrameSink = {
    frame() {
      seen++;
      return false;
    },
    frameTooLong() {},
  };
  expect(new FrameReader().read(whole, 0, whole.length, stopping)).toBe(false);
  expect(seen).toBe(1);
});

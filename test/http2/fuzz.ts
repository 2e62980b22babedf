// Valid streams that were damaged and cut, and what must be true of the answer.

import type { ConnectionError } from "../../src/http2/server/context.ts";
import { grpcMessage } from "../../src/http2/unary/reply.ts";
import type { Field } from "../../src/http2/wire/field.ts";
import {
  CONTINUATION,
  END_HEADERS,
  END_STREAM,
  frameOf,
  HEADERS,
  PREFACE,
  SETTINGS,
} from "../../src/http2/wire/frame.ts";
import { FrameReader } from "../../src/http2/wire/frame-reader.ts";
import { HpackDecoder } from "../../src/http2/wire/hpack.ts";
import { echo, route } from "./fixture.ts";
import { harness, harnessContext } from "./harness.ts";
import {
  data,
  grpcHead,
  headers,
  httpHead,
  indexed,
  literal,
  message,
  reset,
  settings,
  u32,
  windowUpdate,
} from "./raw-client.ts";

export type Pick = (below: number) => number;

const routes = {
  "/a": route(echo, { maxMessage: 4_096 }),
  "/b": route((bytes) => grpcMessage(Buffer.alloc(bytes.length * 3)), {
    maxMessage: 300,
    failed: (_call, kind) => grpcMessage(Buffer.from(kind)),
  }),
  "/throws": route(() => {
    throw new Error("of the handler");
  }),
  "/h": route(echo, { kind: "http", maxMessage: 100 }),
};

/** What a peer might send: mostly sensible, and then up to four wounds. */
export function randomStream(pick: Pick): Buffer {
  const parts: Buffer[] = [settings([4, pick(2) === 0 ? 65_535 : pick(200)], [1, pick(3) * 2_048])];
  let id = 1;
  for (let n = 1 + pick(14); n > 0; n--) {
    const path = ["/a", "/b", "/throws", "/none", "/h"][pick(5)]!;
    const extra = literal(`x-${pick(5)}`, "v".repeat(pick(200)), pick(2) === 0 ? "incremental" : "none");
    const block =
      pick(5) === 0
        ? httpHead(["GET", "HEAD", "POST"][pick(3)]!, path, extra)
        : grpcHead(path, extra, ...(pick(6) === 0 ? [indexed(62)] : []));
    const body = message("m".repeat(pick(500)));
    switch (pick(9)) {
      case 0:
      case 1:
      case 2:
        parts.push(headers(id, block), data(id, body));
        break;
      case 3: {
        const cut = 1 + pick(block.length - 1);
        parts.push(
          headers(id, block.subarray(0, cut), pick(2)),
          frameOf(CONTINUATION, END_HEADERS, id, block.subarray(cut)),
        );
        for (let at = 0; at < body.length; at += 100)
          parts.push(data(id, body.subarray(at, at + 100), at + 100 >= body.length ? 1 : 0));
        break;
      }
      case 4:
        parts.push(
          headers(id, block),
          data(id, body, 0),
          headers(id, literal("x-trailer", "t"), END_HEADERS | END_STREAM),
        );
        break;
      case 5:
        parts.push(windowUpdate(pick(2) === 0 ? 0 : Math.max(1, id - 2), pick(70_000)));
        break;
      case 6:
        parts.push(headers(id, block), reset(id, pick(12)));
        break;
      case 7:
        parts.push(frameOf(6, pick(2), 0, Buffer.alloc(8, pick(256))), settings([4, pick(70_000)]));
        break;
      default:
        parts.push(
          frameOf(pick(12), pick(256), pick(id + 4), Buffer.from(Array.from({ length: pick(20) }, () => pick(256)))),
        );
    }
    id += 2;
  }
  let all = Buffer.concat(parts);
  for (let wounds = pick(5); wounds > 0; wounds--) {
    const at = pick(all.length);
    const kind = pick(3);
    const [before, after] = [
      all.subarray(0, at),
      all.subarray(kind === 1 ? at : Math.min(all.length, at + (kind === 0 ? 1 : pick(12)))),
    ];
    all = Buffer.concat([before, kind === 2 ? Buffer.alloc(0) : Buffer.of(pick(256)), after]);
  }
  return Buffer.concat([PREFACE, all]);
}

/** Cuts of a stream, at random. */
export function randomCuts(pick: Pick, length: number): number[] {
  const cuts: number[] = [];
  const most = [3, 40, 2_000][pick(3)]!;
  for (let at = 1 + pick(most); at < length; at += 1 + pick(most)) cuts.push(at);
  return cuts;
}

export interface Outcome {
  readonly output: Buffer;
  readonly errors: readonly ConnectionError[];
  /** Octets of bodies still held for the connection after it closed. */
  readonly leaked: number;
}

/** Feeds the stream in pieces through one buffer that is overwritten after every piece. */
export function deliver(stream: Buffer, cuts: readonly number[]): Outcome {
  const { context, errors } = harnessContext(routes);
  const { connection, output, feed } = harness(context, "untrusted");
  let at = 0;
  for (const cut of [...cuts, stream.length]) {
    feed(stream.subarray(at, cut));
    at = cut;
  }
  connection.closed();
  return { output: output(), errors, leaked: context.stats.buffered + context.budget.held };
}

/** Throws unless the output is whole frames that a client could follow. */
export function checkOutput(output: Buffer): number {
  const decoder = new HpackDecoder();
  let frames = 0;
  const ended = new Set<number>();
  const reader = new FrameReader();
  reader.read(output, 0, output.length, {
    frame(type, flags, id, bytes, start, end) {
      frames++;
      if (type > 9 || type === 2 || type === 5) throw new Error(`a server does not send frames of type ${type}`);
      if (type <= 1 && ended.has(id)) throw new Error(`frame on stream ${id} after its end`);
      if (type === HEADERS) decoder.decode(bytes, start, end, { field: (_field: Field) => {} });
      if (type <= 1 && (flags & END_STREAM) !== 0) ended.add(id);
      if (type === SETTINGS && id !== 0) throw new Error("SETTINGS on a stream");
      return true;
    },
    frameTooLong: () => {
      throw new Error("frame too long");
    },
  });
  const rest = frameOf(6, 0, 0, u32(0));
  let last = 0;
  reader.read(rest, 0, rest.length, {
    frame(type) {
      last = type;
      return true;
    },
    frameTooLong() {},
  });
  if (last !== 6) throw new Error("the output ends in the middle of a frame");
  return frames;
}

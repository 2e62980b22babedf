// A client that speaks HTTP/2 frame by frame, so that tests can say what no well-behaved client would.
import { connect, type Socket } from "node:net";
import type { Field } from "../../src/http2/wire/field.ts";
import {
  DATA,
  END_HEADERS,
  END_STREAM,
  frameOf,
  GOAWAY,
  HEADERS,
  PREFACE,
  RST_STREAM,
  SETTINGS,
  WINDOW_UPDATE,
} from "../../src/http2/wire/frame.ts";
import { FrameReader } from "../../src/http2/wire/frame-reader.ts";
import { HpackDecoder } from "../../src/http2/wire/hpack.ts";

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly id: number;
  readonly payload: Buffer;
  /** Of HEADERS. */
  readonly fields: readonly (readonly [string, string])[];
}

export interface Response {
  readonly status: string | undefined;
  readonly fields: Readonly<Record<string, string>>;
  readonly trailers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** The code of a RST_STREAM that came instead of a whole answer. */
  readonly reset: number | undefined;
}

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

/** An HPACK integer with its pattern. */
const integer = (value: number, bits: number, pattern: number): Buffer => {
  const most = (1 << bits) - 1;
  if (value < most) return Buffer.of(pattern | value);
  const octets = [pattern | most];
  let rest = value - most;
  for (; rest > 127; rest >>>= 7) octets.push((rest & 127) | 128);
  return Buffer.from([...octets, rest]);
};

/** A literal field: not indexed, or put into the table. */
export const literal = (name: string, value: string, indexing: "none" | "incremental" = "none"): Buffer =>
  Buffer.concat([
    Buffer.of(indexing === "none" ? 0 : 0x40),
    integer(name.length, 7, 0),
    Buffer.from(name, "latin1"),
    integer(value.length, 7, 0),
    Buffer.from(value, "latin1"),
  ]);

export const indexed = (index: number): Buffer => integer(index, 7, 0x80);

/** A POST of application/grpc with more fields after the usual ones. */
export const grpcHead = (path: string, ...more: Buffer[]): Buffer =>
  Buffer.concat([
    Buffer.of(0x83, 0x86),
    literal(":path", path),
    literal(":authority", "a.test"),
    literal("content-type", "application/grpc"),
    literal("te", "trailers"),
    ...more,
  ]);

export const httpHead = (method: string, path: string, ...more: Buffer[]): Buffer =>
  Buffer.concat([
    literal(":method", method),
    Buffer.of(0x86),
    literal(":path", path),
    literal(":authority", "a.test"),
    ...more,
  ]);

/** A gRPC message with its prefix. */
export const message = (bytes: Uint8Array | string = ""): Buffer => {
  const content = Buffer.from(bytes as Uint8Array);
  return Buffer.concat([Buffer.of(0), u32(content.length), content]);
};

export const headers = (id: number, block: Uint8Array, flags = END_HEADERS): Buffer =>
  frameOf(HEADERS, flags, id, block);
export const data = (id: number, bytes: Uint8Array, flags = END_STREAM): Buffer => frameOf(DATA, flags, id, bytes);
export const reset = (id: number, code = 8): Buffer => frameOf(RST_STREAM, 0, id, u32(code));
export const windowUpdate = (id: number, octets: number): Buffer => frameOf(WINDOW_UPDATE, 0, id, u32(octets));
export const settings = (...pairs: (readonly [key: number, value: number])[]): Buffer =>
  frameOf(SETTINGS, 0, 0, Buffer.concat(pairs.map(([key, value]) => Buffer.concat([Buffer.of(0, key), u32(value)]))));

/** A whole gRPC request. */
export const grpcCall = (id: number, path: string, content: Uint8Array | string = ""): Buffer =>
  Buffer.concat([headers(id, grpcHead(path)), data(id, message(content))]);

interface Waiter {
  readonly test: () => boolean;
  readonly done: () => void;
}

export class RawClient {
  readonly frames: Frame[] = [];
  readonly socket: Socket;
  closed = false;
  private readonly waiters = new Set<Waiter>();
  private readonly reader = new FrameReader();
  private readonly decoder = new HpackDecoder();

  constructor(socket: Socket) {
    this.socket = socket.setNoDelay(true);
    socket.on("data", (bytes) => {
      this.reader.read(bytes, 0, bytes.length, {
        frame: (type, flags, id, buffer, start, end) =>
          this.take(type, flags, id, Buffer.from(buffer.subarray(start, end))),
        frameTooLong: () => {
          throw new Error("the server sent a frame that is too long");
        },
      });
      this.wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
      this.wake();
    });
  }

  /** Connects and opens HTTP/2 with the given settings; resolves when both sides' SETTINGS are through. */
  static async connect(port: number, ...pairs: (readonly [number, number])[]): Promise<RawClient> {
    const client = new RawClient(connect(port, "127.0.0.1"));
    client.send(PREFACE, settings(...pairs));
    await client.frame((frame) => frame.type === SETTINGS && frame.flags === 1);
    client.send(frameOf(SETTINGS, 1, 0, Buffer.alloc(0)));
    return client;
  }

  send(...frames: Uint8Array[]): void {
    this.socket.write(Buffer.concat(frames));
  }

  /** The first frame that came or comes and fits. */
  async frame(fits: (frame: Frame) => boolean): Promise<Frame> {
    await this.until(() => this.closed || this.frames.some(fits));
    const found = this.frames.find(fits);
    if (found === undefined) throw new Error("the connection closed without the frame");
    return found;
  }

  async goaway(): Promise<{ last: number; code: number; reason: string }> {
    const { payload } = await this.frame((frame) => frame.type === GOAWAY);
    return { last: payload.readUInt32BE(0), code: payload.readUInt32BE(4), reason: payload.toString("latin1", 8) };
  }

  /** The code of the stream's RST_STREAM. */
  async resetOf(id: number): Promise<number> {
    return (await this.frame((frame) => frame.type === RST_STREAM && frame.id === id)).payload.readUInt32BE(0);
  }

  /** The whole answer of a stream, or what came of it before a reset. */
  async response(id: number): Promise<Response> {
    const own = (frame: Frame) =>
      frame.id === id && (frame.type === RST_STREAM || (frame.type <= HEADERS && (frame.flags & END_STREAM) !== 0));
    await this.frame(own);
    const mine = this.frames.filter((frame) => frame.id === id);
    const [head, tail] = mine.filter((frame) => frame.type === HEADERS);
    const whole = mine.some((frame) => frame.type <= HEADERS && (frame.flags & END_STREAM) !== 0);
    const fields = Object.fromEntries(head?.fields ?? []);
    return {
      status: fields[":status"],
      fields,
      trailers: Object.fromEntries(tail?.fields ?? []),
      body: Buffer.concat(mine.filter((frame) => frame.type === DATA).map((frame) => frame.payload)),
      reset: whole ? undefined : mine.find((frame) => frame.type === RST_STREAM)?.payload.readUInt32BE(0),
    };
  }

  /** The answer to one more whole gRPC request: shows that the connection still serves. */
  async call(id: number, path: string, content: Uint8Array | string = ""): Promise<Response> {
    this.send(grpcCall(id, path, content));
    return this.response(id);
  }

  async end(): Promise<void> {
    await this.until(() => this.closed);
  }

  until(test: () => boolean): Promise<void> {
    if (test()) return Promise.resolve();
    return new Promise((done) => this.waiters.add({ test, done }));
  }

  destroy(): void {
    this.socket.destroy();
  }

  private wake(): void {
    for (const waiter of this.waiters) {
      if (!waiter.test()) continue;
      this.waiters.delete(waiter);
      waiter.done();
    }
  }

  private take(type: number, flags: number, id: number, payload: Buffer): boolean {
    const fields: [string, string][] = [];
    const sink = { field: (field: Field) => void fields.push([field.name, field.value]) };
    if (type === HEADERS) this.decoder.decode(payload, 0, payload.length, sink);
    this.frames.push({ type, flags, id, payload, fields });
    return true;
  }
}

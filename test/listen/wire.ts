import { connect, type Socket } from "node:net";

/** A connection that writes bytes as they are. */
export interface RawConnection {
  readonly socket: Socket;
  /** Everything received so far, as latin1. */
  text(): string;
  bytes(): Buffer;
  /** Resolves when the other side has ended or cut the connection. */
  readonly closed: Promise<void>;
  /** Resolves when what came so far satisfies the test; rejects when the connection closes before. */
  until(satisfied: (text: string) => boolean): Promise<void>;
}

export async function rawConnect(
  target: { port: number; address?: string } | { path: string } | Socket,
): Promise<RawConnection> {
  const socket =
    "write" in target
      ? target
      : "path" in target
        ? connect(target.path)
        : connect(target.port, target.address ?? "127.0.0.1");
  const chunks: Buffer[] = [];
  const waiting = new Set<() => void>();
  let over = false;
  const wake = () => {
    for (const one of waiting) one();
  };
  socket.on("error", () => {});
  socket.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    wake();
  });
  const closed = new Promise<void>((resolve) => {
    socket.once("end", () => socket.end());
    socket.once("close", () => {
      over = true;
      wake();
      resolve();
    });
  });
  const text = () => Buffer.concat(chunks).toString("latin1");
  if (!("write" in target))
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  return {
    socket,
    text,
    bytes: () => Buffer.concat(chunks),
    closed,
    until: (satisfied) =>
      new Promise<void>((resolve, reject) => {
        const look = () => {
          if (satisfied(text())) resolve();
          else if (over) reject(new Error(`closed after ${JSON.stringify(text().slice(0, 300))}`));
          else return;
          waiting.delete(look);
        };
        waiting.add(look);
        look();
      }),
  };
}

/** Sends bytes on a fresh connection and gives back all that came until it was closed from the other side. */
export async function exchange(
  target: { port: number; address?: string } | { path: string },
  bytes: string | Buffer,
): Promise<string> {
  const raw = await rawConnect(target);
  raw.socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
  await raw.closed;
  return raw.text();
}

// ------------------------------------------------------------------------------------------ HTTP/2 by hand (RFC 9113)

export const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
export const Frame = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  WINDOW: 8,
  CONTINUATION: 9,
} as const;
export const END_STREAM = 1;
export const END_HEADERS = 4;
export const ACK = 1;

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

export function settings(values: Readonly<Record<number, number>> = {}): Buffer {
  const payload = Object.entries(values).map(([id, value]) => {
    const entry = Buffer.alloc(6);
    entry.writeUInt16BE(Number(id), 0);
    entry.writeUInt32BE(value, 2);
    return entry;
  });
  return frame(Frame.SETTINGS, 0, 0, Buffer.concat(payload));
}

function integer(value: number, prefixBits: number, first: number): Buffer {
  const max = 2 ** prefixBits - 1;
  if (value < max) return Buffer.from([first | value]);
  const bytes = [first | max];
  let rest = value - max;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** A header block of literals that enter no table (RFC 7541 §6.2.2). */
export function headerBlock(fields: readonly (readonly [string, string])[]): Buffer {
  return Buffer.concat(
    fields.flatMap(([name, value]) => {
      const [n, v] = [Buffer.from(name, "latin1"), Buffer.from(value, "latin1")];
      return [Buffer.from([0]), integer(n.length, 7, 0), n, integer(v.length, 7, 0), v];
    }),
  );
}

export interface FrameSeen {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

export function framesIn(bytes: Buffer): FrameSeen[] {
  const seen: FrameSeen[] = [];
  for (let at = 0; at + 9 <= bytes.length; ) {
    const length = bytes.readUIntBE(at, 3);
    if (at + 9 + length > bytes.length) break;
    const payload = bytes.subarray(at + 9, at + 9 + length);
    seen.push({
      type: bytes[at + 3]!,
      flags: bytes[at + 4]!,
      stream: bytes.readUInt32BE(at + 5) & 0x7fffffff,
      payload,
    });
    at += 9 + length;
  }
  return seen;
}

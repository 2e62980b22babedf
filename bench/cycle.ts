import { connect } from "node:net";
import { type LoadResult, percentiles, type Shape } from "./h2load.ts";
import type { Request } from "./request.ts";

/*
 * A load generator that sends a different body each time, which h2load cannot, and checks every answer. It speaks just
 * enough HTTP/2 (RFC 9113): one prepared header block and one DATA frame. It counts the frames that end a stream.
 */

const DATA = 0;
const HEADERS = 1;
const RST_STREAM = 3;
const SETTINGS = 4;
const PING = 6;
const GOAWAY = 7;
const END_STREAM = 1;
const END_HEADERS = 4;
const ACK = 1;

/**
 * Sends the requests in turn for some seconds, and at least until `least` are sent, over all connections. Rejects at
 * the first unexpected answer.
 */
export async function cycle(
  address: string,
  requests: readonly Request[],
  shape: Shape,
  seconds: number,
  least = 0,
): Promise<Required<Omit<LoadResult, "lost">>> {
  let next = 0;
  const source = () => requests[next++ % requests.length]!;
  const start = performance.now();
  const until = start + seconds * 1000;
  const over = (now: number) => now >= until && next >= least;
  const times = (
    await Promise.all(Array.from({ length: shape.connections }, () => converse(address, source, shape.streams, over)))
  ).flat();
  return { calls: times.length, seconds: (performance.now() - start) / 1000, ...percentiles(times) };
}

/** One connection. Keeps `streams` requests in progress until the end. Resolves with the milliseconds of each. */
function converse(
  address: string,
  source: () => Request,
  streams: number,
  over: (now: number) => boolean,
): Promise<number[]> {
  const socket = address.startsWith("unix:")
    ? connect(address.slice(5))
    : connect({ host: address.split(":")[0], port: Number(address.split(":")[1]), noDelay: true });
  return new Promise<number[]>((resolve, reject) => {
    const open = new Map<number, { sent: number; expect: Buffer; right: boolean }>();
    const times: number[] = [];
    let nextId = 1;
    let rest: Buffer = Buffer.alloc(0);
    let outgoing: Buffer[] = [];
    const fail = (why: string) => {
      socket.destroy();
      reject(new Error(why));
    };
    const ask = () => {
      const request = source();
      const head = frame(HEADERS, END_HEADERS, nextId, headerBlock(request, address));
      outgoing.push(head, frame(DATA, END_STREAM, nextId, request.body));
      open.set(nextId, { sent: performance.now(), expect: request.expect, right: false });
      nextId += 2;
    };
    const answered = (id: number) => {
      const call = open.get(id);
      if (call === undefined || !call.right) return fail("an answer is not the expected one");
      open.delete(id);
      const now = performance.now();
      times.push(now - call.sent);
      if (!over(now)) return ask();
      if (open.size > 0) return;
      socket.end();
      resolve(times);
    };
    const take = (type: number, flags: number, id: number, payload: Buffer) => {
      if (type === DATA) {
        const call = open.get(id);
        if (call !== undefined && payload.includes(call.expect)) call.right = true;
      } else if (type === SETTINGS && (flags & ACK) === 0) outgoing.push(frame(SETTINGS, ACK, 0));
      else if (type === PING && (flags & ACK) === 0) outgoing.push(frame(PING, ACK, 0, payload));
      else if (type === RST_STREAM || type === GOAWAY)
        return fail(`the server ended a ${type === GOAWAY ? "connection" : "stream"}`);
      if ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0) answered(id);
    };
    socket.on("error", reject);
    socket.on("close", () => fail("the connection closed"));
    socket.on("data", (read: Buffer) => {
      const bytes = rest.length === 0 ? read : Buffer.concat([rest, read]);
      let at = 0;
      while (bytes.length - at >= 9) {
        const end = at + 9 + bytes.readUIntBE(at, 3);
        if (end > bytes.length) break;
        take(bytes[at + 3]!, bytes[at + 4]!, bytes.readUInt32BE(at + 5), bytes.subarray(at + 9, end));
        at = end;
      }
      rest = bytes.subarray(at);
      flush();
    });
    const flush = () => {
      if (outgoing.length > 0 && !socket.destroyed && socket.writable) socket.write(Buffer.concat(outgoing));
      outgoing = [];
    };
    outgoing.push(OPENING);
    for (let i = 0; i < streams; i++) ask();
    flush();
  });
}

/** Preface, empty SETTINGS, and a connection window that no run exhausts. */
const OPENING = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  frame(SETTINGS, 0, 0),
  frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0, 0])),
]);

function frame(type: number, flags: number, id: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const out = Buffer.alloc(9 + payload.length);
  out.writeUIntBE(payload.length, 0, 3);
  out[3] = type;
  out[4] = flags;
  out.writeUInt32BE(id, 5);
  out.set(payload, 9);
  return out;
}

const blocks = new WeakMap<Request, Buffer>();

/** RFC 7541 §6: static indices for method and scheme, literals without indexing for the rest. */
function headerBlock(request: Request, address: string): Buffer {
  const known = blocks.get(request);
  if (known !== undefined) return known;
  const made = Buffer.concat([
    Buffer.from([request.method === "POST" ? 0x83 : 0x82, 0x86, 0x04]),
    literal(request.path),
    Buffer.from([0x01]),
    literal(address.startsWith("unix:") ? "localhost" : address),
    ...Object.entries(request.headers).flatMap(([name, value]) => [Buffer.from([0]), literal(name), literal(value)]),
  ]);
  blocks.set(request, made);
  return made;
}

/** A string of fewer than 127 bytes, without Huffman coding. */
function literal(text: string): Buffer {
  if (text.length > 126) throw new RangeError("too long for this client");
  return Buffer.concat([Buffer.from([text.length]), Buffer.from(text, "latin1")]);
}

// A client of a running program's data listener that sees every octet: it sends raw requests and returns status, fields
// and octets.
import { request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { connect as dial, type Socket } from "node:net";
import { fromBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema, anyUnpack } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";

import {
  ACK,
  END_HEADERS,
  END_STREAM,
  Frame,
  frame,
  framesIn,
  headerBlock,
  PREFACE,
  settings,
} from "../listen/wire.ts";

export type Form = "grpc" | "connect-proto" | "connect-json";
export const TYPES = {
  grpc: "application/grpc",
  "connect-proto": "application/proto",
  "connect-json": "application/json",
} as const satisfies Record<Form, string>;

export interface RawAnswer {
  readonly status: number;
  /** Fields and trailers, names in lower case. */
  readonly fields: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** One HTTP/2 connection, or a separate one for each HTTP/1.1 request. */
export interface Asker {
  ask(path: string, headers: Readonly<Record<string, string>>, body: Uint8Array): Promise<RawAnswer>;
  close(): void;
}

export function http2Asker(
  url: string,
  options: Parameters<typeof connect>[1] = {},
): Asker & { session: ClientHttp2Session } {
  const session = connect(url, options);
  session.on("error", () => {});
  return {
    session,
    ask: (path, headers, body) =>
      new Promise((resolve, reject) => {
        const stream = session.request({ ":method": "POST", ":path": path, ...headers });
        const fields: Record<string, string> = {};
        const chunks: Buffer[] = [];
        const take = (some: object): unknown => Object.assign(fields, some);
        stream.on("response", take).on("trailers", take).on("error", reject);
        stream.on("data", (bytes: Buffer) => chunks.push(bytes));
        stream.on("close", () => {
          if (fields[":status"] === undefined) reject(new Error("the stream ended without an answer"));
          else resolve({ status: Number(fields[":status"]), fields, body: Buffer.concat(chunks) });
        });
        stream.end(body);
      }),
    close: () => session.destroy(),
  };
}

export function http1Asker(url: string): Asker {
  return {
    ask: (path, headers, body) =>
      new Promise((resolve, reject) => {
        const all = { ...headers, "content-length": String(body.length) };
        const request = httpRequest(`${url}${path}`, { method: "POST", headers: all, agent: false }, (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (bytes: Buffer) => chunks.push(bytes));
          response.on("end", () =>
            resolve({
              status: response.statusCode!,
              fields: response.headers as Record<string, string>,
              body: Buffer.concat(chunks),
            }),
          );
        });
        request.on("error", reject);
        request.end(body);
      }),
    close: () => {},
  };
}

export function framed(message: Uint8Array, flags = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/**
 * `count` gRPC calls over one connection, `width` at a time, with hand-written frames that make many thousands cheap.
 * `take` gets the DATA of each answer; none if the call failed.
 */
export async function pipeline(
  port: number,
  path: string,
  width: number,
  count: number,
  question: (n: number) => Uint8Array,
  take: (n: number, answer: Buffer) => void,
): Promise<void> {
  const block = callBlock(path);
  const socket = dial(port, "127.0.0.1");
  const data = new Map<number, Buffer>();
  let sent = 0;
  let done = 0;
  let rest: Buffer = Buffer.alloc(0);
  const send = (): void => {
    const id = 2 * sent + 1;
    const headers = frame(Frame.HEADERS, END_HEADERS, id, block);
    socket.write(Buffer.concat([headers, frame(Frame.DATA, END_STREAM, id, question(sent++))]));
  };
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.once("close", () => reject(new Error(`the connection ended after ${done} of ${count} answers`)));
    socket.on("data", (bytes: Buffer) => {
      rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
      let used = 0;
      for (const { type, flags, stream, payload } of framesIn(rest)) {
        used += 9 + payload.length;
        if (type === Frame.SETTINGS && flags !== ACK) socket.write(frame(Frame.SETTINGS, ACK, 0));
        if (type === Frame.GOAWAY || type === Frame.RST) reject(new Error(`frame ${type} on ${stream}`));
        if (type === Frame.DATA) data.set(stream, Buffer.concat([data.get(stream) ?? Buffer.alloc(0), payload]));
        if ((type !== Frame.DATA && type !== Frame.HEADERS) || (flags & END_STREAM) === 0) continue;
        take((stream - 1) / 2, data.get(stream) ?? Buffer.alloc(0));
        data.delete(stream);
        if (++done === count) resolve();
        else if (sent < count) send();
      }
      rest = rest.subarray(used);
    });
    socket.write(Buffer.concat([PREFACE, settings(), frame(Frame.WINDOW, 0, 0, Buffer.from([0x3f, 0, 0, 0]))]));
    for (let n = 0; n < Math.min(width, count); n++) send();
  }).finally(() => socket.destroy());
}

export interface Poured {
  /** Calls that were answered with a message. */
  readonly answered: number;
  /** Calls up to the last one that the listener promised to serve, without a message. A drain must leave none. */
  readonly lost: number;
  /** Calls after that one: a client may send them elsewhere. */
  readonly beyond: number;
  /** The time of the first GOAWAY. */
  readonly goawayAt: number;
}

/**
 * gRPC calls over one connection, `width` at a time, until the listener has announced the last one. Returns their
 * outcomes.
 */
export async function pourUntilGoaway(
  socket: Socket,
  path: string,
  width: number,
  question: Uint8Array,
): Promise<Poured> {
  const block = callBlock(path);
  const open = new Set<number>();
  const messages = new Set<number>();
  let next = 1;
  let last = Number.POSITIVE_INFINITY;
  let goawayAt = 0;
  let rest: Buffer = Buffer.alloc(0);
  const send = (): void => {
    open.add(next);
    const headers = frame(Frame.HEADERS, END_HEADERS, next, block);
    socket.write(Buffer.concat([headers, frame(Frame.DATA, END_STREAM, next, question)]));
    next += 2;
  };
  let answered = 0;
  await new Promise<void>((resolve) => {
    socket.on("error", () => {});
    socket.once("close", resolve);
    socket.on("data", (bytes: Buffer) => {
      rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
      let used = 0;
      for (const { type, flags, stream, payload } of framesIn(rest)) {
        used += 9 + payload.length;
        if (type === Frame.SETTINGS && flags !== ACK) socket.write(frame(Frame.SETTINGS, ACK, 0));
        if (type === Frame.PING && flags !== ACK) socket.write(frame(Frame.PING, ACK, 0, payload));
        if (type === Frame.GOAWAY) {
          goawayAt ||= performance.now();
          const id = payload.readUInt32BE(0);
          if (id < 0x7fffffff) last = id;
        }
        if (type === Frame.DATA) messages.add(stream);
        if ((type !== Frame.DATA && type !== Frame.HEADERS) || (flags & END_STREAM) === 0) continue;
        if (!messages.delete(stream)) continue; // after an error the call stays open, and counts as lost
        open.delete(stream);
        answered++;
        if (last === Number.POSITIVE_INFINITY) send();
      }
      rest = rest.subarray(used);
    });
    socket.write(Buffer.concat([PREFACE, settings(), frame(Frame.WINDOW, 0, 0, Buffer.from([0x3f, 0, 0, 0]))]));
    for (let n = 0; n < width; n++) send();
  });
  const lost = [...open].filter((id) => id <= last).length;
  return { answered, lost, beyond: open.size - lost, goawayAt };
}

function callBlock(path: string): Buffer {
  return headerBlock([
    [":method", "POST"],
    [":scheme", "http"],
    [":path", path],
    [":authority", "localhost"],
    ["content-type", TYPES.grpc],
    ["te", "trailers"],
  ]);
}

/** An error as any client understands it, from the form in which it came. */
export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly reason: string | undefined;
  readonly domain: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fields: readonly string[];
  readonly retry: boolean;
}

const CODES: Readonly<Record<string, string>> = {
  "3": "invalid_argument",
  "4": "deadline_exceeded",
  "5": "not_found",
  "7": "permission_denied",
  "8": "resource_exhausted",
  "12": "unimplemented",
  "13": "internal",
  "14": "unavailable",
  "16": "unauthenticated",
};

/** Undefined if the call succeeded. */
export function errorOf(form: Form, { status, fields, body }: RawAnswer): WireError | undefined {
  if (form === "grpc") {
    const code = fields["grpc-status"];
    if (code === "0") return undefined;
    const details = fields["grpc-status-details-bin"];
    const read = details === undefined ? undefined : fromBinary(StatusSchema, Buffer.from(details, "base64"));
    const message = decodeURIComponent(fields["grpc-message"] ?? "");
    if (read !== undefined && (String(read.code) !== code || read.message !== message))
      throw new Error("the status in the details is another");
    return described(CODES[code ?? ""] ?? `status ${code}`, message, read?.details ?? []);
  }
  if (status === 200) return undefined;
  if (body.length === 0) return described(`HTTP ${status}`, "", []);
  const {
    code,
    message = "",
    details = [],
  } = JSON.parse(body.toString()) as {
    code: string;
    message?: string;
    details?: { type: string; value: string }[];
  };
  const any = details.map(({ type, value }) => {
    const typeUrl = `type.googleapis.com/${type}`;
    return { $typeName: AnySchema.typeName, typeUrl, value: new Uint8Array(Buffer.from(value, "base64")) } as Any;
  });
  return described(code, message, any);
}

function described(code: string, message: string, details: readonly Any[]): WireError {
  const find = <T>(unpack: (any: Any) => T | undefined): T | undefined => details.map(unpack).find(Boolean);
  const info = find((any) => anyUnpack(any, ErrorInfoSchema));
  const bad = find((any) => anyUnpack(any, BadRequestSchema));
  return {
    code,
    message,
    reason: info?.reason,
    domain: info?.domain,
    metadata: info?.metadata ?? {},
    fields: bad?.fieldViolations.map(({ field }) => field) ?? [],
    retry: find((any) => anyUnpack(any, RetryInfoSchema)) !== undefined,
  };
}

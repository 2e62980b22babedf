import { encodeFields } from "../wire/encode.ts";
import { DATA, END_HEADERS, END_STREAM, FRAME_HEADER, HEADERS, MAX_FRAME, writeFrameHeader } from "../wire/frame.ts";
import { connectCode, connectStatus } from "./codes.ts";

export type HeaderPair = readonly [name: string, value: string];

const LARGEST_BODY = 0xffffff;
const GRPC_TYPE: HeaderPair = ["content-type", "application/grpc"];
const GRPC_HEADERS: readonly HeaderPair[] = [GRPC_TYPE];
const GRPC_OK: readonly HeaderPair[] = [["grpc-status", "0"]];
const GRPC_HEAD_BLOCK = encodeFields(200, GRPC_HEADERS);
const GRPC_OK_BLOCK = encodeFields(undefined, GRPC_OK);
const NO_FIELDS: readonly HeaderPair[] = [];
const NO_BYTES: Uint8Array = new Uint8Array(0);

/**
 * An answer, prepared once and sent any number of times on any connection: it never changes. `frames` holds
 * HEADERS, DATA and trailing HEADERS back to back with stream id zero; a sender copies them and writes its id at 0,
 * `dataAt` and `trailersAt`. The same answer is kept as status, headers, body and trailers for Node's own servers.
 */
export class Reply {
  readonly status: number;
  /** Without pseudo-headers, names in lower case. */
  readonly headers: readonly HeaderPair[];
  /** Undefined where the answer ends without trailers. */
  readonly trailers: readonly HeaderPair[] | undefined;
  readonly frames: Buffer;
  /** Where the DATA frame starts in `frames`; 0 when there is none. */
  readonly dataAt: number;
  /** Where the trailing HEADERS frame starts in `frames`; 0 when there is none. */
  readonly trailersAt: number;
  readonly dataLength: number;

  /** Throws RangeError for a body over 2^24-1 octets or a header block that does not fit one frame. */
  constructor(
    status: number,
    headers: readonly HeaderPair[],
    body: Uint8Array = NO_BYTES,
    trailers?: readonly HeaderPair[],
  ) {
    this.status = status;
    this.headers = headers;
    this.trailers = trailers;
    const head = headers === GRPC_HEADERS ? GRPC_HEAD_BLOCK : encodeFields(status, headers);
    const tail = trailers && (trailers === GRPC_OK ? GRPC_OK_BLOCK : encodeFields(undefined, trailers));
    if (body.length > LARGEST_BODY) throw new RangeError("reply body too large");
    if (head.length >= MAX_FRAME || (tail !== undefined && tail.length >= MAX_FRAME)) {
      throw new RangeError("reply header block too large");
    }
    const hasData = body.length > 0;
    const dataAt = FRAME_HEADER + head.length;
    const trailersAt = hasData ? dataAt + FRAME_HEADER + body.length : dataAt;
    const length = tail === undefined ? trailersAt : trailersAt + FRAME_HEADER + tail.length;
    const frames = Buffer.allocUnsafeSlow(length);
    const endsWithHead = !hasData && tail === undefined;
    writeFrameHeader(frames, 0, head.length, HEADERS, endsWithHead ? END_HEADERS | END_STREAM : END_HEADERS, 0);
    frames.set(head, FRAME_HEADER);
    if (hasData) {
      writeFrameHeader(frames, dataAt, body.length, DATA, tail === undefined ? END_STREAM : 0, 0);
      frames.set(body, dataAt + FRAME_HEADER);
    }
    if (tail !== undefined) {
      writeFrameHeader(frames, trailersAt, tail.length, HEADERS, END_HEADERS | END_STREAM, 0);
      frames.set(tail, trailersAt + FRAME_HEADER);
    }
    this.frames = frames;
    this.dataAt = hasData ? dataAt : 0;
    this.trailersAt = tail === undefined ? 0 : trailersAt;
    this.dataLength = body.length;
  }

  /** The DATA octets: for gRPC with its five-octet prefix. */
  get body(): Uint8Array {
    if (this.dataLength === 0) return NO_BYTES;
    const from = this.dataAt + FRAME_HEADER;
    return this.frames.subarray(from, from + this.dataLength);
  }
}

/** An OK unary gRPC answer. The message is copied. Trailers are added to `grpc-status: 0`. */
export function grpcMessage(message: Uint8Array, trailers: readonly HeaderPair[] = NO_FIELDS): Reply {
  const body = Buffer.allocUnsafe(5 + message.length);
  body[0] = 0;
  body.writeUInt32BE(message.length, 1);
  body.set(message, 5);
  return new Reply(200, GRPC_HEADERS, body, trailers.length === 0 ? GRPC_OK : [...GRPC_OK, ...trailers]);
}

/** A failed gRPC call as Trailers-Only. `details` is an encoded google.rpc.Status and goes to grpc-status-details-bin. */
export function grpcStatus(
  code: number,
  message: string,
  details?: Uint8Array,
  headers: readonly HeaderPair[] = NO_FIELDS,
): Reply {
  const fields: HeaderPair[] = [GRPC_TYPE, ["grpc-status", String(code)]];
  if (message !== "") fields.push(["grpc-message", percentEncode(message)]);
  if (details !== undefined) fields.push(["grpc-status-details-bin", unpaddedBase64(details)]);
  return new Reply(200, [...fields, ...headers]);
}

/** An OK Connect unary answer. */
export function connectMessage(body: Uint8Array, contentType: "application/proto" | "application/json"): Reply {
  return http(200, [["content-type", contentType]], body);
}

export interface ConnectDetail {
  /** Fully qualified message name. */
  readonly type: string;
  readonly value: Uint8Array;
  readonly debug?: unknown;
}

/** A failed Connect unary call: the protocol's error JSON and its HTTP status for the gRPC code. */
export function connectError(
  code: number,
  message: string,
  details: readonly ConnectDetail[] = [],
  headers: readonly HeaderPair[] = NO_FIELDS,
): Reply {
  const error = {
    code: connectCode(code),
    ...(message !== "" && { message }),
    ...(details.length > 0 && { details: details.map((one) => ({ ...one, value: unpaddedBase64(one.value) })) }),
  };
  const body = Buffer.from(JSON.stringify(error));
  return http(connectStatus(code), [["content-type", "application/json"], ...headers], body);
}

/** A plain HTTP answer; `content-length` is added unless the status forbids a body. */
export function http(status: number, headers: readonly HeaderPair[], body: Uint8Array = NO_BYTES): Reply {
  if (status === 204 || status === 304) return new Reply(status, headers);
  return new Reply(status, [...headers, ["content-length", String(body.length)]], body);
}

/** `grpc-message`: UTF-8, everything outside printable ASCII and `%` itself as %XX. */
function percentEncode(message: string): string {
  let out = "";
  for (const octet of Buffer.from(message)) {
    const plain = octet >= 0x20 && octet <= 0x7e && octet !== 0x25;
    out += plain ? String.fromCharCode(octet) : `%${octet.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return out.replace(/^ | $/g, "%20");
}

function unpaddedBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    .toString("base64")
    .replace(/={1,2}$/, "");
}

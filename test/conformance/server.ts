// A server under test of the Connect conformance runner: one message on stdin says what to open, one on stdout says
// where. Its service is served by src/http2/: by the HTTP/2 server, and by the mount on HTTP/1.1.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer as createHttp1 } from "node:http";
import type { AddressInfo, Server, Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { createServer as createTls } from "node:tls";
import {
  create,
  createFileRegistry,
  type DescMessage,
  fromBinary,
  fromJsonString,
  type Message,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { type Any, anyPack, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { createUnaryServer } from "../../src/http2/server/server.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { connectError, grpcStatus, type HeaderPair, http, Reply } from "../../src/http2/unary/reply.ts";
import type { Routes, UnaryCall } from "../../src/http2/unary/routes.ts";
import { createUnaryListener } from "../http2/unary-listener.ts";

const PACKAGE = "connectrpc.conformance.v1";
const INVALID_ARGUMENT = 3;
const UNITS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

interface Compat extends Message {
  readonly useTls: boolean;
  readonly clientTlsCert: Uint8Array;
  readonly messageReceiveLimit: number;
  readonly serverCreds?: { readonly cert: Uint8Array; readonly key: Uint8Array };
}

interface Header {
  readonly name: string;
  readonly value: readonly string[];
}

interface Failed {
  readonly code: number;
  readonly message?: string;
  readonly details: readonly Any[];
}

interface UnaryRequest extends Message {
  readonly responseDefinition?: {
    readonly responseHeaders: readonly Header[];
    readonly responseTrailers: readonly Header[];
    readonly responseDelayMs: number;
    readonly response:
      | { case: "responseData"; value: Uint8Array }
      | { case: "error"; value: Failed }
      | { case: undefined };
  };
}

// The runner's own schema, as it came with it.
const schema = fromBinary(FileDescriptorSetSchema, readFileSync(process.argv[2]!));
const registry = createFileRegistry(schema);
const types = {
  compatRequest: message("ServerCompatRequest"),
  compatResponse: message("ServerCompatResponse"),
  request: message("UnaryRequest"),
  response: message("UnaryResponse"),
  info: message("ConformancePayload.RequestInfo"),
};

const compat = fromBinary(types.compatRequest, await readMessage()) as Compat;
const routes: Routes = {
  exact: new Map([
    [
      `/${PACKAGE}.ConformanceService/Unary`,
      { handler: unary, maxMessage: compat.messageReceiveLimit || 1 << 20, deadlineMs: 60_000 },
    ],
  ]),
  prefix: [],
};
const listener = compat.useTls ? secured() : cleartext();
listener.listen(0, "127.0.0.1");
await once(listener, "listening");
const { port } = listener.address() as AddressInfo;
const pemCert = compat.useTls ? compat.serverCreds!.cert : new Uint8Array();
writeMessage(
  toBinary(
    types.compatResponse,
    create(types.compatResponse, { host: "127.0.0.1", port, pemCert } as Record<string, unknown>),
  ),
);
process.once("SIGTERM", () => process.exit());

function cleartext(): Server {
  const http1 = createHttp1(mountHttp1({ routes }));
  return createUnaryListener({
    routes,
    trust: "trusted",
    onHttp1: (socket, head) => {
      socket.unshift(head);
      http1.emit("connection", socket);
      socket.resume();
    },
  }).listener;
}

function secured(): Server {
  const http1 = createHttp1(mountHttp1({ routes }));
  const http2 = createUnaryServer({ routes });
  const { cert, key } = compat.serverCreds!;
  const mutual = compat.clientTlsCert.length > 0;
  const options = {
    cert: Buffer.from(cert),
    key: Buffer.from(key),
    ALPNProtocols: ["h2", "http/1.1"],
    ...(mutual && { ca: Buffer.from(compat.clientTlsCert), requestCert: true, rejectUnauthorized: true }),
  };
  return createTls(options, (socket) => {
    socket.on("error", () => {});
    if (socket.alpnProtocol === "h2") http2.accept(socket as Socket, undefined, "trusted");
    else http1.emit("connection", socket);
  });
}

async function unary(body: Uint8Array, call: UnaryCall): Promise<Reply> {
  let request: UnaryRequest;
  try {
    request = (
      call.protocol === "connect-json"
        ? fromJsonString(types.request, Buffer.from(body).toString(), { registry })
        : fromBinary(types.request, body)
    ) as UnaryRequest;
  } catch (error) {
    const text = (error as Error).message;
    return call.protocol === "grpc" ? grpcStatus(INVALID_ARGUMENT, text) : connectError(INVALID_ARGUMENT, text);
  }
  const wanted = request.responseDefinition;
  if (wanted !== undefined) await delay(wanted.responseDelayMs, undefined, { signal: call.signal });
  const timeoutMs = timeoutOf(call);
  const requestInfo = create(types.info, {
    requestHeaders: grouped(call.rawHeaders()),
    requests: [anyPack(types.request, request)],
    ...(timeoutMs !== undefined && { timeoutMs: BigInt(Math.round(timeoutMs)) }),
  } as Record<string, unknown>);
  const headers = pairs(wanted?.responseHeaders ?? []);
  const trailers = pairs(wanted?.responseTrailers ?? []);
  if (wanted?.response.case === "error") {
    const { code, message: text = "", details } = wanted.response.value;
    return failed(call, code, text, [...details, anyPack(types.info, requestInfo)], headers, trailers);
  }
  const data = wanted?.response.case === "responseData" ? wanted.response.value : new Uint8Array();
  return succeeded(
    call,
    create(types.response, { payload: { data, requestInfo } } as Record<string, unknown>),
    headers,
    trailers,
  );
}

function succeeded(
  call: UnaryCall,
  response: Message,
  headers: readonly HeaderPair[],
  trailers: readonly HeaderPair[],
): Reply {
  if (call.protocol === "grpc") {
    const bytes = toBinary(types.response, response);
    const framed = Buffer.alloc(5 + bytes.length);
    framed.writeUInt32BE(bytes.length, 1);
    framed.set(bytes, 5);
    return new Reply(200, [["content-type", "application/grpc"], ...headers], framed, [
      ["grpc-status", "0"],
      ...trailers,
    ]);
  }
  const json = call.protocol === "connect-json";
  const body = json
    ? Buffer.from(toJsonString(types.response, response, { registry }))
    : toBinary(types.response, response);
  const type: HeaderPair = ["content-type", json ? "application/json" : "application/proto"];
  return http(200, [type, ...headers, ...asHeaders(trailers)], body);
}

function failed(
  call: UnaryCall,
  code: number,
  text: string,
  details: Any[],
  headers: readonly HeaderPair[],
  trailers: readonly HeaderPair[],
): Reply {
  if (call.protocol !== "grpc") {
    const told = details.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value }));
    return connectError(code, text, told, [...headers, ...asHeaders(trailers)]);
  }
  const status = toBinary(StatusSchema, create(StatusSchema, { code, message: text, details }));
  const only = grpcStatus(code, text, status, trailers);
  if (headers.length === 0) return only;
  const [type, ...rest] = only.headers;
  return new Reply(200, [type!, ...headers], undefined, rest);
}

/** Connect's way of sending trailers of a unary call. */
function asHeaders(trailers: readonly HeaderPair[]): HeaderPair[] {
  return trailers.map(([name, value]) => [`trailer-${name}`, value]);
}

function pairs(headers: readonly Header[]): HeaderPair[] {
  return headers.flatMap(({ name, value }) => value.map((one): HeaderPair => [name.toLowerCase(), one]));
}

function grouped(fields: readonly (readonly [string, string])[]): { name: string; value: string[] }[] {
  const found = new Map<string, string[]>();
  for (const [name, value] of fields) found.set(name, [...(found.get(name) ?? []), value]);
  return [...found].map(([name, value]) => ({ name, value }));
}

function timeoutOf(call: UnaryCall): number | undefined {
  const connect = call.metadata("connect-timeout-ms");
  if (connect !== undefined) return Number(connect);
  const grpc = /^(\d+)([HMSmun])$/.exec(call.metadata("grpc-timeout") ?? "");
  return grpc === null ? undefined : Number(grpc[1]) * UNITS[grpc[2]!]!;
}

function message(name: string): DescMessage {
  const found = registry.getMessage(`${PACKAGE}.${name}`);
  if (found === undefined) throw new Error(`the schema has no ${name}`);
  return found;
}

/** Four octets of length, then the message. */
async function readMessage(): Promise<Buffer> {
  let bytes: Buffer = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    bytes = Buffer.concat([bytes, chunk as Buffer]);
    if (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE(0)) break;
  }
  return bytes.subarray(4, 4 + bytes.readUInt32BE(0));
}

function writeMessage(bytes: Uint8Array): void {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  process.stdout.write(Buffer.concat([length, bytes]));
}

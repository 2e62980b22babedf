// One request as bytes, and the expected answer.
import { create, toBinary, toJsonString } from "@bufbuild/protobuf";
import {
  BatchValidateTokensRequestSchema,
  ValidateTokenRequestSchema,
  type Verdict,
} from "../src/gen/sallyport/v1/token_validator_pb.ts";

export interface Request {
  readonly protocol: "grpc" | "connect-json" | "http";
  readonly http1: boolean;
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** The expected content of the answer's body. */
  readonly expect: Buffer;
}

const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const BATCH = "/sallyport.v1.TokenValidator/BatchValidateTokens";
const GRPC = { "content-type": "application/grpc", te: "trailers" };

/** A message after gRPC's five bytes. */
export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.alloc(5 + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, 5);
  return frame;
}

function question(tokenString: string) {
  return create(ValidateTokenRequestSchema, { tokenString, requiredScopes: ["items.read"] });
}

export function validateGrpc(tokenString: string, verdict: Verdict): Request {
  return {
    protocol: "grpc",
    http1: false,
    method: "POST",
    path: VALIDATE,
    headers: GRPC,
    body: framed(toBinary(ValidateTokenRequestSchema, question(tokenString))),
    expect: Buffer.from([0x08, verdict]), // field 1 of the response
  };
}

export function validateJson(tokenString: string, http1: boolean): Request {
  return {
    protocol: "connect-json",
    http1,
    method: "POST",
    path: VALIDATE,
    headers: { "content-type": "application/json" },
    body: Buffer.from(toJsonString(ValidateTokenRequestSchema, question(tokenString))),
    expect: Buffer.from('"VERDICT_ALLOW"'),
  };
}

export function validateBatch(tokenStrings: readonly string[]): Request {
  const batch = create(BatchValidateTokensRequestSchema, { requests: tokenStrings.map(question) });
  return {
    protocol: "grpc",
    http1: false,
    method: "POST",
    path: BATCH,
    headers: GRPC,
    body: framed(toBinary(BatchValidateTokensRequestSchema, batch)),
    expect: Buffer.from([0x08, 1]),
  };
}

export function httpCheck(tokenString: string): Request {
  return {
    protocol: "http",
    http1: true,
    method: "GET",
    path: "/v1/check/forwarded/bench",
    headers: { authorization: `Bearer ${tokenString}`, "x-forwarded-method": "GET", "x-forwarded-uri": "/items/42" },
    body: Buffer.alloc(0),
    expect: Buffer.alloc(0),
  };
}

export function introspect(tokenString: string): Request {
  return {
    protocol: "http",
    http1: true,
    method: "POST",
    path: "/v1/introspect",
    headers: { "content-type": "application/x-www-form-urlencoded" },
    body: Buffer.from(`token=${tokenString}`),
    expect: Buffer.from('"active":true'),
  };
}

/** A CheckRequest as Envoy sends it, with 18 headers. Written by hand; field numbers of envoy.service.auth.v3. */
export function check(tokenString: string): Request {
  const http = [text(1, "123"), text(2, "GET")];
  for (const [name, value] of Object.entries(headersOf(tokenString)))
    http.push(bytes(3, text(1, name), text(2, value)));
  http.push(text(4, "/v1/items/42?expand=true"), text(5, "api.example.com"), text(6, "https"), text(10, "HTTP/2"));
  const attributes = bytes(
    1,
    bytes(1, address("203.0.113.9", 51234)),
    bytes(2, address("10.0.0.5", 8443)),
    bytes(4, bytes(1, number(1, 1_793_000_000), number(2, 5)), bytes(2, ...http)),
    bytes(10, text(1, "policy"), text(2, "bench")),
  );
  return {
    protocol: "grpc",
    http1: false,
    method: "POST",
    path: "/envoy.service.auth.v3.Authorization/Check",
    headers: GRPC,
    body: framed(attributes),
    expect: Buffer.from("x-auth-principal"),
  };
}

/** The same request as a client sends it to a proxy. */
export function throughProxy(tokenString: string): Request {
  const headers = Object.entries(headersOf(tokenString)).filter(([name]) => !name.startsWith(":"));
  return {
    protocol: "http",
    http1: true,
    method: "GET",
    path: "/v1/items/42?expand=true",
    headers: Object.fromEntries(headers),
    body: Buffer.alloc(0),
    expect: Buffer.from("through"),
  };
}

function headersOf(tokenString: string): Record<string, string> {
  return {
    ":authority": "api.example.com",
    ":method": "GET",
    ":path": "/v1/items/42?expand=true",
    ":scheme": "https",
    authorization: `Bearer ${tokenString}`,
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    accept: "application/json",
    "accept-encoding": "gzip, br",
    "accept-language": "en-US,en;q=0.9",
    "x-request-id": "3f1c9b1e-7b1c-9d5e-8f4e-2b6d3c1a0f9e",
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-proto": "https",
    "x-envoy-external-address": "203.0.113.9",
    traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "content-type": "application/json",
    "cache-control": "no-cache",
    referer: "https://app.example.com/",
    "x-client-version": "7.3.1",
  };
}

function varint(value: number): Buffer {
  const out: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) | 128);
  return Buffer.from([...out, value]);
}

function number(field: number, value: number): Buffer {
  return Buffer.concat([varint(field * 8), varint(value)]);
}

function bytes(field: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([varint(field * 8 + 2), varint(body.length), body]);
}

function text(field: number, value: string): Buffer {
  return bytes(field, Buffer.from(value));
}

function address(host: string, port: number): Buffer {
  return bytes(1, bytes(1, text(2, host), number(3, port)));
}

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { PageTokens } from "../src/admin-api/page-token.ts";
import { addressBy } from "../src/data-plane/check/authorization.ts";
import { decodeCheck } from "../src/data-plane/check/check-request.ts";
import { HttpCheck } from "../src/data-plane/check/http-check.ts";
import { credentialOf } from "../src/data-plane/credentials.ts";
import { introspect } from "../src/data-plane/introspection.ts";
import { merged, Policies } from "../src/data-plane/policy.ts";
import { ValidateTokenCodec } from "../src/data-plane/validate-token.ts";
import { checkAnnotations, checkAudiences, checkCidrs, checkName, checkText } from "../src/domain/issue.ts";
import { Keyring } from "../src/domain/keyring.ts";
import { checkTenantId, principalType } from "../src/domain/principal.ts";
import { isScope } from "../src/domain/scope.ts";
import { holdsTokenString, parseTokenString } from "../src/domain/token-string.ts";
import { CheckRequestSchema } from "../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { RevokeTokensRequestSchema } from "../src/gen/sallyport/v1/token_admin_pb.ts";
import { ValidateTokenRequestSchema } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { parseSans } from "../src/http2/server/peer.ts";
import { isAuthority, isUnixAuthority } from "../src/http2/unary/authority.ts";
import { protocolOf } from "../src/http2/unary/head.ts";
import { parseConnectTimeout, parseGrpcTimeout } from "../src/http2/unary/timeout.ts";
import { HpackDecoder, HpackError } from "../src/http2/wire/hpack.ts";
import { encodingOf } from "../src/listen/request-limits.ts";
import { bearerOf } from "../src/rpc/bearer.ts";
import { requestIdFrom } from "../src/rpc/call.ts";
import { TrustedProxies } from "../src/rpc/client-address.ts";
import { requestValidator } from "../src/rpc/validate-request.ts";
import { readCheck } from "./data-plane/read-check.ts";

/** The largest input that any limit lets through to a parser of text. */
const LARGEST = 64 * 1024;
/** CPU time for the largest input: no client may block the event loop for longer. */
const MOST_MS = 5;
/** Below this, the measurement shows only the clock. */
const CLOCK_MS = 0.5;
const MOST_RUNS = 40;

const keyring = new Keyring("1", { "1": Buffer.alloc(32, 7).toString("base64") });
const policies = new Policies({});
const pages = new PageTokens(keyring);
const proxies = new TrustedProxies(["127.0.0.0/8", "10.0.0.0/8"]);
const httpCheck = new HttpCheck(() => ({ verdict: "INVALID_TOKEN", tier: "none" }) as never, policies);
const wire = new ValidateTokenCodec(() => ({ verdict: "INVALID_TOKEN", tier: "none" }) as never);
const carriers = ["bearer", "basic", "x-api-key"] as const;
const ALWAYS = Number.POSITIVE_INFINITY;
const utf8 = (text: string) => Buffer.from(text, "utf8");
const peer = { listener: "admin", address: "127.0.0.1", from: "loopback", sans: [], sanAllowed: false } as const;

/**
 * Pieces that a hostile text repeats: characters that parsers may take for white space, separators, quotes, digits and
 * names.
 */
const PIECES = [
  ..." \t\v\u00a0,;:._-=&?%+/#\\\"'[](){}@~a1A\u0000é",
  "a ",
  " a",
  "a,",
  ", ",
  "a=",
  "a=b&",
  "a.",
  "1.",
  '\\"',
  'a"',
  '",',
  '"a":1,',
  "[[",
  "%2",
  "%20",
  "a_",
  "sp_a_",
  "eyJ",
  "a/../",
  "10.0.0.1,",
  "10.0.0.1:1, ",
  "[::1],",
  "Bearer ",
  "Basic a,",
  "DNS:a, ",
  'DNS:"a',
];
/** Frames around them. */
const FRAMES = [
  ["", ""],
  ["", "\u0000"],
  ["Bearer a", "b"],
  ["Basic ", "\u0000"],
  ['DNS:"', "\u0000"],
  ["token=a&", "b"],
  ['{"token":"', "b"],
  ["sp_pat_1", "b"],
] as const;

/** The parsers of client input. A throw counts as an answer. */
const TEXT_PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  "credentials: authorization": (text) => credentialOf(carriers, [text], []),
  "credentials: x-api-key": (text) => credentialOf(carriers, [], [text]),
  "credentials: Basic": (text) => credentialOf(["basic"], [`Basic ${utf8(text).toString("base64")}`], []),
  "credentials: many": (text) => credentialOf(["bearer"], text.split(","), []),
  "the caller's bearer": (text) => bearerOf(text),
  "token string": (text) => parseTokenString(text, keyring),
  "token string after a prefix": (text) => parseTokenString(`${text}_1${"a".repeat(57)}`, keyring),
  "text that may hold a token string": (text) => holdsTokenString(text),
  "forwarded-for: trusted proxies": (text) => proxies.behind(peer, text),
  "forwarded-for: a policy's hop": (text) => addressBy("xff:9", "", () => [text]),
  "forwarded-for: many lines": (text) => addressBy("xff:1", "", () => text.split(",")),
  "external address": (text) => addressBy("x-envoy-external-address", "", () => [text]),
  scope: (text) => isScope(text),
  principal: (text) => principalType("principal", text),
  tenant: (text) => checkTenantId("tenant", text),
  name: (text) => checkName("display_name", text, true),
  reason: (text) => checkText("reason", text, 1_024),
  annotations: (text) => checkAnnotations("annotations", { a: text, [text]: "a" }),
  audiences: (text) => checkAudiences([text]),
  networks: (text) => checkCidrs([text]),
  "page token": (text) => pages.open(utf8(text).toString("base64url"), []),
  "page token as it came": (text) => pages.open(text, []),
  "request id": (text) => requestIdFrom(text),
  "introspection form": (text) => introspect(never, "application/x-www-form-urlencoded", utf8(text), ALWAYS),
  "introspection JSON": (text) => introspect(never, "application/json", utf8(text), ALWAYS),
  "introspection type": (text) => introspect(never, text, utf8("token=a"), ALWAYS),
  "ValidateToken JSON": (text) => wire.json(utf8(text), { deadline: ALWAYS, reasons: false }),
  "BatchValidateTokens JSON": (text) => wire.batch(utf8(text), "json", { deadline: ALWAYS, reasons: false }),
  "HTTP check: path": (text) => httpCheck.check({ path: `/v1/check/${text}`, method: "GET", headers: [] }, true, 0),
  "HTTP check: headers": (text) =>
    httpCheck.check(
      { path: "/v1/check/forwarded/default", method: "GET", headers: [["authorization", text]] },
      true,
      0,
    ),
  "policy: scopes": (text) => merged(policies, new Map([["required_scopes", text]])),
  "policy: realm": (text) => merged(policies, new Map([["realm", text]])),
  authority: (text) => isAuthority(text),
  "authority on a unix socket": (text) => isUnixAuthority(text),
  "content type": (text) => protocolOf(text),
  "gRPC timeout": (text) => parseGrpcTimeout(text),
  "Connect timeout": (text) => parseConnectTimeout(text),
  "query of a Connect GET": (text) => encodingOf(new Headers(), text, true),
  "certificate names": (text) => parseSans(text),
};

/** Messages of a given size, as bytes. */
const BYTE_PARSERS: Readonly<Record<string, { make(size: number): Uint8Array; read(bytes: Uint8Array): unknown }>> = {
  "Check: one header many times": { make: (size) => checkWith(size, "authorization", "a"), read: readCheck },
  "Check: the same by the full decoder": { make: (size) => checkWith(size, "authorization", "é"), read: decodeCheck },
  "Check: many headers of other names": { make: (size) => checkWith(size, "cookie", "a"), read: decodeCheck },
  "Check: many extensions": { make: checkWithExtensions, read: readCheck },
  "ValidateToken: many scopes": {
    make: (size) => validateWith(size, "a"),
    read: (bytes) => wire.binary(bytes, { deadline: ALWAYS, reasons: false }),
  },
  "ValidateToken: many scopes that are not ASCII": {
    make: (size) => validateWith(size, "é"),
    read: (bytes) => wire.binary(bytes, { deadline: ALWAYS, reasons: false }),
  },
  "ValidateToken: many scopes after a field that nobody knows": {
    make: (size) => Buffer.concat([Buffer.from([0x2a, 0x00]), validateWith(size, "a")]),
    read: (bytes) => wire.binary(bytes, { deadline: ALWAYS, reasons: false }),
  },
  "ValidateToken: fields that nobody knows": {
    make: (size) => Buffer.alloc(size, Buffer.from([0x2a, 0x00])),
    read: (bytes) => wire.binary(bytes, { deadline: ALWAYS, reasons: false }),
  },
  "ValidateToken JSON: many scopes": {
    make: (size) => utf8(`{"requiredScopes":[${Array(size >> 2).fill('"a"')}]}`),
    read: (bytes) => wire.json(bytes, { deadline: ALWAYS, reasons: false }),
  },
  "BatchValidateTokens: many entries": {
    make: (size) => Buffer.alloc(size, Buffer.from([0x0a, 0x00])),
    read: (bytes) => wire.batch(bytes, "binary", { deadline: ALWAYS, reasons: false }),
  },
  "BatchValidateTokens JSON: many entries": {
    make: (size) => utf8(`{"requests":[${Array((size / 3) | 0).fill("{}")}]}`),
    read: (bytes) => wire.batch(bytes, "json", { deadline: ALWAYS, reasons: false }),
  },
  "HPACK: literals": { make: (size) => Buffer.concat(Array(size >> 2).fill(LITERAL)), read: readBlock },
  "HPACK: indexed fields": { make: (size) => Buffer.alloc(size >> 4, 0x82), read: readBlock },
  "HPACK: fields for the table": { make: (size) => Buffer.concat(Array(size >> 2).fill(INDEXED)), read: readBlock },
  "HPACK: one field in Huffman's code": { make: huffmanField, read: readBlock },
};
const LITERAL = Buffer.from([0x00, 0x01, 0x61, 0x00]);
const INDEXED = Buffer.from([0x40, 0x01, 0x61, 0x00]);

function never(): never {
  throw new Error("not asked");
}

function checkWith(size: number, key: string, value: string): Uint8Array {
  const headers = Array.from({ length: size / (key.length + 8) }, () => ({ key, value }));
  return toBinary(
    CheckRequestSchema,
    create(CheckRequestSchema, { attributes: { request: { http: { headerMap: { headers } } } } }),
  );
}

function checkWithExtensions(size: number): Uint8Array {
  const contextExtensions = Object.fromEntries(Array.from({ length: size / 16 }, (_, i) => [`k${i}`, "v"]));
  return toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes: { contextExtensions } }));
}

function validateWith(size: number, scope: string): Uint8Array {
  return toBinary(
    ValidateTokenRequestSchema,
    create(ValidateTokenRequestSchema, { tokenString: "a", requiredScopes: Array(size >> 2).fill(scope) }),
  );
}

/** Zeros are the shortest code: five bits make an octet. */
function huffmanField(size: number): Uint8Array {
  const octets = Math.floor((size / 2) * 0.99);
  const length = [0xff, ...varint(octets - 127)];
  return Buffer.concat([Buffer.from([0x00, 0x01, 0x61, ...length]), Buffer.alloc(octets)]);
}

function varint(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  for (; rest > 127; rest >>= 7) out.push((rest & 127) | 128);
  return [...out, rest];
}

function readBlock(bytes: Uint8Array): void {
  try {
    new HpackDecoder().decode(Buffer.from(bytes), 0, bytes.length, { field() {} });
  } catch (error) {
    if (!(error instanceof HpackError)) throw error;
  }
}

function run(parse: () => unknown): void {
  try {
    const answer = parse();
    if (answer instanceof Promise) answer.catch(() => {});
  } catch {}
}

function costOf(parse: () => unknown): number {
  const start = performance.now();
  run(parse);
  return performance.now() - start;
}

/**
 * Describes a cost that grows faster than its input, for inputs that double in size; undefined if it does not. Other
 * programs on the machine only add to a cost, so the smallest of many runs counts, and the first good one is enough.
 */
function growth(parse: (size: number) => () => unknown): string | undefined {
  const inputs = [parse(LARGEST), parse(LARGEST / 2), parse(LARGEST / 4)];
  const costs = [ALWAYS, ALWAYS, ALWAYS];
  for (let i = 0; i < MOST_RUNS; i++) {
    for (const [at, input] of inputs.entries()) {
      costs[at] = Math.min(costs[at]!, costOf(input));
      if (costs[0]! < CLOCK_MS) return undefined;
    }
    const [whole, half, quarter] = costs as [number, number, number];
    // Twice for each doubling is linear, four times quadratic.
    const isLinear = whole < 2.8 * half || whole < 8 * quarter;
    if (isLinear && whole <= MOST_MS && i >= 2) return undefined;
  }
  return costs.map((cost) => `${cost.toFixed(2)} ms`).join(", ");
}

test.each(Object.keys(TEXT_PARSERS))("%s: twice the text costs twice", (name) => {
  const parse = TEXT_PARSERS[name]!;
  const bad: string[] = [];
  for (const [head, tail] of FRAMES) {
    for (const piece of PIECES) {
      const fault = growth((size) => {
        const text = head + piece.repeat(Math.ceil(size / piece.length)) + tail;
        return () => parse(text);
      });
      if (fault !== undefined) bad.push(`${JSON.stringify([head, piece, tail])}: ${fault}`);
    }
  }
  expect(bad).toEqual([]);
});

test.each(Object.keys(BYTE_PARSERS))("%s: twice the bytes cost twice", (name) => {
  const { make, read } = BYTE_PARSERS[name]!;
  const fault = growth((size) => {
    const bytes = make(size);
    return () => read(bytes);
  });
  expect(fault).toBeUndefined();
});

test("the bounds of the admin listener: twice the entries cost twice", () => {
  const check = requestValidator();
  const fault = growth((size) => {
    const request = create(RevokeTokensRequestSchema, { reason: "a".repeat(size) });
    const bytes = toBinary(RevokeTokensRequestSchema, request);
    return () => check(RevokeTokensRequestSchema, fromBinary(RevokeTokensRequestSchema, bytes));
  });
  expect(fault).toBeUndefined();
});

test("the measurement finds a quadratic parser", () => {
  const quadratic = /^\s*([a-z]+)(?:[ \t]+(.*?))?\s*$/s;
  const fault = growth((size) => {
    const text = `bearer a${" ".repeat(size / 32)}b`;
    return () => quadratic.exec(text);
  });
  expect(fault).toBeDefined();
});

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  create,
  type DescMessage,
  fromBinary,
  fromJson,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  HealthCheckRequestSchema,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Serving,
} from "../../src/gen/grpc/health/v1/health_pb.ts";
import {
  BatchValidateTokensRequestSchema,
  BatchValidateTokensResponseSchema,
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { certify, type Identity, writeFiles } from "../listen/certificates.ts";
import { FREE_PORTS } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";
import {
  type Asker,
  errorOf,
  type Form,
  framed,
  http1Asker,
  http2Asker,
  pipeline,
  type RawAnswer,
  TYPES,
} from "./data-listener.ts";

const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const BATCH = "/sallyport.v1.TokenValidator/BatchValidateTokens";
const HEALTH = "/grpc.health.v1.Health/Check";
const UNDECODABLE = "the request cannot be decoded: it is malformed, or has a field that the method does not know";
const NOBODY = `sp_pat_${"x".repeat(58)}`;

const listeners = (data: object) => ({ listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", ...data } } });

let own: TestSallyport;
let node: TestSallyport;
let good: { tokenString: string; id: string };
let withReasons: string;
let validator: string;
beforeAll(async () => {
  own = await TestSallyport.start();
  node = await TestSallyport.start({
    database: own.database,
    keyring: own.keyring,
    config: listeners({ http2: "node" }),
  });
  good = await own.createToken({ scopes: ["repo:read"] });
  withReasons = (await own.callerWith(["sallyport.validate", "sallyport.reasons"])).tokenString;
  validator = (await own.callerWith(["sallyport.validate"])).tokenString;
});
afterAll(async () => {
  await node?.stop();
  await own?.stop();
});

/** Sends one request in one form, with these headers and octets. */
class Client {
  readonly asker: Asker;
  readonly form: Form;

  constructor(asker: Asker, form: Form) {
    this.asker = asker;
    this.form = form;
  }

  octets(path: string, message: Uint8Array, headers: Record<string, string> = {}): Promise<RawAnswer> {
    const fixed: Record<string, string> = this.form === "grpc" ? { te: "trailers" } : {};
    const body = this.form === "grpc" ? framed(message) : message;
    return this.asker.ask(path, { "content-type": TYPES[this.form], ...fixed, ...headers }, body);
  }

  async call<I extends DescMessage, O extends DescMessage>(
    path: string,
    [input, output]: readonly [I, O],
    init: MessageInitShape<I>,
    headers: Record<string, string> = {},
  ): Promise<MessageShape<O>> {
    const answer = await this.octets(path, this.encode(input, init), headers);
    expect(errorOf(this.form, answer)).toBeUndefined();
    if (this.form === "connect-json") return fromJson(output, JSON.parse(answer.body.toString()));
    return fromBinary(output, this.form === "grpc" ? answer.body.subarray(5) : answer.body);
  }

  async error<I extends DescMessage>(path: string, input: I, init: MessageInitShape<I>, headers = {}) {
    return errorOf(this.form, await this.octets(path, this.encode(input, init), headers));
  }

  encode<I extends DescMessage>(schema: I, init: MessageInitShape<I>): Uint8Array {
    const message = create(schema, init);
    return this.form === "connect-json"
      ? Buffer.from(JSON.stringify(toJson(schema, message)))
      : toBinary(schema, message);
  }
}

const ONE = [ValidateTokenRequestSchema, ValidateTokenResponseSchema] as const;
const MANY = [BatchValidateTokensRequestSchema, BatchValidateTokensResponseSchema] as const;
const UP = [HealthCheckRequestSchema, HealthCheckResponseSchema] as const;

const ways: readonly (readonly [string, () => Asker, readonly Form[]])[] = [
  ["the own HTTP/2 server", () => http2Asker(own.listeners.data), ["grpc", "connect-proto", "connect-json"]],
  ["node:http2", () => http2Asker(node.listeners.data), ["grpc", "connect-proto", "connect-json"]],
  ["node:http", () => http1Asker(own.listeners.data), ["connect-proto", "connect-json"]],
];

describe.each(ways)("%s", (way, connect, forms) => {
  let asker: Asker;
  beforeAll(() => {
    asker = connect();
  });
  afterAll(() => asker.close());

  describe.each(forms)("in %s", (form) => {
    let client: Client;
    beforeAll(() => {
      client = new Client(asker, form);
    });
    const validate = (tokenString: string, headers = {}) => client.call(VALIDATE, ONE, { tokenString }, headers);
    const timeout = (value: string, ms: string) =>
      form === "grpc" ? { "grpc-timeout": value } : { "connect-timeout-ms": ms };

    test("ValidateToken names the owner of a live token, and of no other", async () => {
      const answer = await validate(good.tokenString);
      expect([answer.verdict, answer.token?.id, answer.token?.principal]).toEqual([Verdict.ALLOW, good.id, "user:ann"]);
      const refused = await validate(NOBODY);
      expect([refused.verdict, refused.token, refused.reason]).toEqual([Verdict.INVALID_TOKEN, undefined, ""]);
    });

    test.each([1, 100])("a batch of %d is answered in order", async (count) => {
      const requests = Array.from({ length: count }, (_, n) => ({
        tokenString: n % 3 === 0 ? good.tokenString : `x${n}`,
      }));
      const { responses } = await client.call(BATCH, MANY, { requests });
      expect(responses.map(({ token }) => token?.id)).toEqual(
        requests.map((_, n) => (n % 3 === 0 ? good.id : undefined)),
      );
    });

    test.each([0, 101])("a batch of %d is INVALID_FIELD", async (count) => {
      const requests = Array.from({ length: count }, () => ({ tokenString: "x" }));
      expect(await client.error(BATCH, MANY[0], { requests })).toMatchObject({
        code: "invalid_argument",
        reason: "INVALID_FIELD",
        domain: "sallyport",
        fields: ["requests"],
      });
    });

    test("health is SERVING for the whole and for the validator, and unknown services are NOT_FOUND", async () => {
      for (const service of ["", "sallyport.v1.TokenValidator"])
        expect((await client.call(HEALTH, UP, { service })).status).toBe(Serving.SERVING);
      for (const service of ["sallyport.v1.TokenAdmin", "grpc.health.v1.Health", "x"])
        expect(await client.error(HEALTH, UP[0], { service })).toMatchObject({
          code: "not_found",
          reason: "SERVICE_UNKNOWN",
          domain: "sallyport",
        });
    });

    test.each([
      ["required_scopes", { requiredScopes: Array.from({ length: 33 }, () => "s") }],
      ["audience", { audience: "a".repeat(257) }],
    ])("%s beyond its bound is INVALID_FIELD", async (field, init) => {
      expect(await client.error(VALIDATE, ONE[0], init)).toMatchObject({
        code: "invalid_argument",
        reason: "INVALID_FIELD",
        fields: [field],
      });
    });

    test("an undecodable message is UNDECODABLE in fixed words, without a part of it", async () => {
      const secret = "sp_pat_SECRETINTHEWRONGPLACE";
      const broken = [
        Buffer.concat([Buffer.from([0x0a, 0x7f]), Buffer.from(secret)]),
        Buffer.from([0x0a, 2, 0xff, 0xfe]),
        Buffer.from(`{"tokenString":"${secret}`),
        Buffer.from(`{"${secret}":1}`),
        Buffer.from([0xff]),
      ];
      for (const path of [VALIDATE, BATCH, HEALTH])
        for (const message of broken) {
          const answer = await client.octets(path, message);
          expect(JSON.stringify(answer.fields) + answer.body.toString("latin1")).not.toContain("SECRET");
          expect(errorOf(form, answer), `${path} ${message}`).toMatchObject({
            code: "invalid_argument",
            message: UNDECODABLE,
            reason: "UNDECODABLE",
            domain: "sallyport",
            fields: [],
          });
        }
    });

    test("a message over the method's limit is RESOURCE_EXHAUSTED", async () => {
      const limits = [
        [VALIDATE, 65_536],
        [BATCH, 1_048_576],
        [HEALTH, 4_096],
      ] as const;
      for (const [path, limit] of limits) {
        expect(errorOf(form, await client.octets(path, Buffer.alloc(limit + 1, 0x20)))).toMatchObject({
          code: "resource_exhausted",
          reason: "LIMIT_EXCEEDED",
          domain: "sallyport",
        });
      }
    });

    test("compression is UNIMPLEMENTED", async () => {
      const header = form === "grpc" ? "grpc-encoding" : "content-encoding";
      const refused = await client.octets(VALIDATE, Buffer.alloc(0), { [header]: "gzip" });
      expect(errorOf(form, refused)).toMatchObject({
        code: "unimplemented",
        reason: "UNIMPLEMENTED",
        domain: "sallyport",
      });
      expect(refused.fields[form === "grpc" ? "grpc-accept-encoding" : "accept-encoding"]).toBe("identity");
    });

    test("a malformed timeout is refused, an expired one is DEADLINE_EXCEEDED, a huge one is clamped", async () => {
      for (const [value, ms] of [
        ["soon", "soon"],
        ["-1S", "-1"],
        ["123456789S", "12345678901"],
      ] as const)
        expect(await client.error(VALIDATE, ONE[0], {}, timeout(value, ms))).toMatchObject({
          code: "invalid_argument",
          reason: "UNDECODABLE",
          domain: "sallyport",
        });
      expect(await client.error(VALIDATE, ONE[0], {}, timeout("0n", "0"))).toMatchObject({
        code: "deadline_exceeded",
        reason: "DEADLINE",
        domain: "sallyport",
      });
      expect((await validate(good.tokenString, timeout("99999999H", "9999999999"))).verdict).toBe(Verdict.ALLOW);
    });

    test("other methods, Watch, reflection and the admin services are absent", async () => {
      for (const path of [
        "/sallyport.v1.TokenValidator/Nothing",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/sallyport.v1.TokenAdmin/CreateToken",
      ]) {
        const answer = await client.octets(path, Buffer.alloc(0));
        const error = errorOf(form, answer);
        if (form === "grpc")
          expect(error).toMatchObject({ code: "unimplemented", reason: "UNIMPLEMENTED", domain: "sallyport" });
        else expect([answer.status, error?.code], path).toEqual([404, "unimplemented"]);
      }
    });

    test("a trusted peer sees reasons with its credential; an invalid one changes nothing", async () => {
      const bearer = (value: string) => ({ authorization: value });
      expect((await validate("x", bearer(`Bearer ${withReasons}`))).reason).toBe("malformed");
      expect((await validate(NOBODY, bearer(`Bearer ${withReasons}`))).reason).toBe("malformed");
      for (const other of [
        "Bearer x",
        `Bearer ${validator}`,
        `Bearer ${good.tokenString}`,
        "Basic eDp5",
        "Bearer",
        `Bearer ${withReasons}, Bearer ${withReasons}`,
      ]) {
        const answer = await validate("x", bearer(other));
        expect([answer.verdict, answer.reason], other).toEqual([Verdict.INVALID_TOKEN, ""]);
        expect((await validate(good.tokenString, bearer(other))).verdict).toBe(Verdict.ALLOW);
      }
      const batch = await client.call(
        BATCH,
        MANY,
        { requests: [{ tokenString: "x" }] },
        bearer(`Bearer ${withReasons}`),
      );
      expect(batch.responses[0]?.reason).toBe("malformed");
    });

    test("an error carries the request id that came with the call", async () => {
      const headers = { "x-request-id": "abc-123" };
      const refused = await client.octets(BATCH, client.encode(MANY[0], {}), headers);
      expect(errorOf(form, refused)?.metadata).toEqual({ request_id: "abc-123" });
      expect(refused.fields["x-request-id"]).toBe("abc-123");
    });
  });

  if (way !== "node:http") {
    test("a call without exactly one message is UNIMPLEMENTED, and so is a compressed flag", async () => {
      for (const body of [
        Buffer.alloc(0),
        Buffer.concat([framed(Buffer.alloc(0)), framed(Buffer.alloc(0))]),
        framed(Buffer.alloc(0), 1),
      ]) {
        const answer = await asker.ask(VALIDATE, { "content-type": TYPES.grpc, te: "trailers" }, body);
        expect(errorOf("grpc", answer)).toMatchObject({ code: "unimplemented", domain: "sallyport" });
      }
    });
  } else {
    test("a token never stands in a URL: GET is refused, and so is its message", async () => {
      for (const query of ["", "?encoding=json&message=%7B%7D&connect=v1"]) {
        const refused = await fetch(`${own.listeners.data}${VALIDATE}${query}`);
        expect([404, 405]).toContain(refused.status);
        expect(await refused.json()).toMatchObject({
          code: "unimplemented",
          details: [{ debug: { reason: "UNIMPLEMENTED" } }],
        });
      }
    });
  }
});

describe("a listener that does not trust its peers", () => {
  let ca: Identity;
  let folder: string;
  let bare: TestSallyport;
  let mutual: TestSallyport;
  let live: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "sallyport-untrusted-"));
    ca = certify("ca", []);
    const files = writeFiles(folder, certify("server", [{ dns: "localhost" }], ca), ca);
    const shared = { database: own.database, keyring: own.keyring };
    bare = await TestSallyport.start({ ...shared, config: listeners({ trust_peers: false }) });
    const tls = {
      cert_file: files.certFile,
      key_file: files.keyFile,
      client_ca_file: join(folder, "ca.pem"),
      allowed_sans: ["spiffe://td/envoy"],
    };
    mutual = await TestSallyport.start({ ...shared, config: listeners({ tls }) });
    live = good.tokenString;
  });
  afterAll(async () => {
    await bare?.stop();
    await mutual?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test.each<Form>(["grpc", "connect-proto", "connect-json"])(
    "asks for a credential with the permission, in %s",
    async (form) => {
      const asker = http2Asker(bare.listeners.data);
      try {
        const client = new Client(asker, form);
        for (const headers of [
          {},
          { authorization: "Bearer x" },
          { authorization: "Basic eDp5" },
          { authorization: "" },
        ])
          for (const [path, schema] of [
            [VALIDATE, ONE[0]],
            [BATCH, MANY[0]],
          ] as const) {
            const answer = await client.octets(path, client.encode(schema, {}), headers as Record<string, string>);
            expect(errorOf(form, answer)).toMatchObject({
              code: "unauthenticated",
              reason: "CALLER_UNAUTHENTICATED",
              domain: "sallyport",
            });
            expect(answer.fields["www-authenticate"]).toContain("Bearer");
          }
        const ask = (by: string, tokenString = live) =>
          client.call(VALIDATE, ONE, { tokenString }, { authorization: `Bearer ${by}` });
        const forbidden = await client.error(
          VALIDATE,
          ONE[0],
          { tokenString: live },
          { authorization: `Bearer ${live}` },
        );
        expect(forbidden).toMatchObject({
          code: "permission_denied",
          reason: "CALLER_FORBIDDEN",
          metadata: { permission: "sallyport.validate" },
        });
        expect((await ask(validator)).verdict).toBe(Verdict.ALLOW);
        expect((await ask(validator, "x")).reason).toBe("");
        expect((await ask(withReasons, "x")).reason).toBe("malformed");
        expect((await client.call(HEALTH, UP, {})).status).toBe(Serving.SERVING);
      } finally {
        asker.close();
      }
    },
  );

  test("accepts an allowed SAN as a credential, and nobody else's certificate", async () => {
    const as = (who: Identity | undefined) =>
      http2Asker(mutual.listeners.data.replace("http:", "https:").replace("127.0.0.1", "localhost"), {
        ca: ca.certPem,
        ...(who && { cert: who.certPem, key: who.keyPem }),
      });
    const envoy = as(certify("envoy", [{ dns: "envoy" }, { uri: "spiffe://td/envoy" }], ca));
    const other = as(certify("other", [{ uri: "spiffe://td/other" }], ca));
    const inside = as(certify("tricky", [{ dns: "x, URI:spiffe://td/envoy" }], ca));
    const alien = as(certify("alien", [{ uri: "spiffe://td/envoy" }], certify("another ca", [])));
    const nobody = as(undefined);
    try {
      expect((await new Client(envoy, "grpc").call(VALIDATE, ONE, { tokenString: live })).verdict).toBe(Verdict.ALLOW);
      const headers = { authorization: `Bearer ${validator}` };
      for (const asker of [other, inside, alien])
        await expect(new Client(asker, "grpc").call(VALIDATE, ONE, { tokenString: live }, headers)).rejects.toThrow();
      const client = new Client(nobody, "grpc");
      expect(await client.error(VALIDATE, ONE[0], { tokenString: live })).toMatchObject({ code: "unauthenticated" });
      expect((await client.call(VALIDATE, ONE, { tokenString: live }, headers)).verdict).toBe(Verdict.ALLOW);
    } finally {
      for (const one of [envoy, other, inside, alien, nobody]) one.close();
    }
  });
});

describe("replies", () => {
  const TOKENS = 2_000;
  const CONNECTIONS = 64;
  const made: { question: Buffer; id: string; principal: string }[] = [];
  beforeAll(async () => {
    await inParallel(16, TOKENS, async (n) => {
      const principal = `user:u${n}`;
      const { tokenString, id } = await own.createToken({ principal });
      made[n] = { question: framed(toBinary(ONE[0], create(ONE[0], { tokenString }))), id, principal };
    });
  }, 120_000);

  test.each([
    ["own", () => own, 100_000],
    ["node", () => node, 20_000],
  ] as const)(
    "belong to their request: interleaved validates of 2,000 tokens over 64 connections (%s)",
    async (_name, program, calls) => {
      const port = Number(new URL(program().listeners.data).port);
      const each = async (connection: number, width: number, count: number) => {
        const seen = { allowed: 0, shed: 0, wrong: 0 };
        const pick = (n: number) => made[(n * 7_919 + connection * 31) % TOKENS]!;
        await pipeline(
          port,
          VALIDATE,
          width,
          count,
          (n) => pick(n).question,
          (n, answer) => {
            const { verdict, token } = fromBinary(ONE[1], answer.subarray(5));
            const right = token?.id === pick(n).id && token.principal === pick(n).principal;
            if (answer.length === 0 || verdict === Verdict.UNDETERMINED) seen.shed++;
            else if (verdict === Verdict.ALLOW && right) seen.allowed++;
            else seen.wrong++;
          },
        );
        return seen;
      };
      await each(0, 32, TOKENS); // all are read once
      const all = Array.from({ length: CONNECTIONS }, (_, n) => each(n, 16, Math.ceil(calls / CONNECTIONS)));
      const total = { allowed: 0, shed: 0, wrong: 0 };
      for (const { allowed, shed, wrong } of await Promise.all(all)) {
        total.allowed += allowed;
        total.shed += shed;
        total.wrong += wrong;
      }
      expect(total.wrong).toBe(0);
      expect(total.allowed + total.shed).toBeGreaterThanOrEqual(calls);
      expect(total.allowed).toBeGreaterThan(calls / 2); // A machine without time for them sheds what is not cached.
    },
    120_000,
  );
});

/** Runs `work(0)` to `work(total - 1)`, at most `width` at once. */
async function inParallel(width: number, total: number, work: (n: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < total) await work(next++);
    }),
  );
}

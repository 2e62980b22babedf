import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { IDENTITY } from "../../src/data-plane/policy.ts";
import {
  CheckRequestSchema,
  type CheckResponse,
  CheckResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { framed, http2Asker } from "../data-plane/data-listener.ts";
import { FREE_PORTS } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

const NOBODY = `sp_pat_${"x".repeat(58)}`;
const POLICIES = {
  api: { required_scopes: ["api.read"], realm: "api" },
  all: { carriers: ["bearer", "x-api-key", "basic"] },
};

let sallyport: TestSallyport;
let node: TestSallyport;
let good: { tokenString: string; id: string };
let poor: string;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { policies: POLICIES } });
  const { database, keyring } = sallyport;
  const listeners = { ...FREE_PORTS, data: { bind: "127.0.0.1:0", http2: "node" } };
  node = await TestSallyport.start({ database, keyring, config: { policies: POLICIES, listeners } });
  good = await sallyport.createToken({ scopes: ["api.read"] });
  poor = (await sallyport.createToken({ scopes: ["other"] })).tokenString;
});
afterAll(async () => {
  await node?.stop();
  await sallyport?.stop();
});

interface Answer {
  readonly status: number;
  /** Every value of a name, as it came. */
  readonly fields: Readonly<Record<string, readonly string[]>>;
  readonly body: string;
}
type Fields = readonly (readonly [name: string, value: string])[];
interface Asked {
  readonly method?: string;
  readonly path?: string;
  readonly fields?: Fields;
  readonly body?: Uint8Array;
}

/** One HTTP/1.1 connection with hand-written requests; returns answers in order. */
class Http1 {
  readonly #socket = connect(Number(new URL(sallyport.listeners.data).port), "127.0.0.1");
  #rest = "";
  #waiting: { head: boolean; resolve(answer: Answer): void; reject(error: Error): void }[] = [];

  constructor() {
    this.#socket.setEncoding("latin1").on("data", (text: string) => {
      this.#rest += text;
      this.#read();
    });
    this.#socket.on("error", () => {});
    this.#socket.on("close", () => {
      for (const { reject } of this.#waiting) reject(new Error("the connection ended"));
    });
  }

  ask({ method = "GET", path = "/v1/check/envoy/default", fields = [], body }: Asked): Promise<Answer> {
    const all: Fields = [
      ["host", "a.example"],
      ...fields,
      ...(body ? [["content-length", `${body.length}`] as const] : []),
    ];
    const lines = all.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    this.#socket.write(Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`, "latin1"));
    if (body !== undefined) this.#socket.write(body);
    return new Promise((resolve, reject) => this.#waiting.push({ head: method === "HEAD", resolve, reject }));
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(): void {
    const [waiting] = this.#waiting;
    const end = this.#rest.indexOf("\r\n\r\n");
    if (waiting === undefined || end < 0) return;
    const [first = "", ...lines] = this.#rest.slice(0, end).split("\r\n");
    const pairs = lines.map((line) => line.split(/:\s*(.*)/s, 2) as [string, string]);
    const fields = grouped(pairs);
    const length = waiting.head ? 0 : Number(fields["content-length"]?.[0] ?? 0);
    if (this.#rest.length < end + 4 + length) return;
    const body = this.#rest.slice(end + 4, end + 4 + length);
    this.#rest = this.#rest.slice(end + 4 + length);
    this.#waiting.shift();
    waiting.resolve({ status: Number(first.split(" ")[1]), fields, body });
    this.#read();
  }
}

/** Cleartext HTTP/2 with prior knowledge. */
class H2c {
  readonly #asker: ReturnType<typeof http2Asker>;

  constructor(url: string) {
    // A client that can repeat a field.
    this.#asker = http2Asker(url, { strictSingleValueFields: false } as object);
  }

  ask({ method = "GET", path = "/v1/check/envoy/default", fields = [], body }: Asked): Promise<Answer> {
    const pairs: Fields = [
      [":method", method],
      [":scheme", "http"],
      [":authority", "a.example"],
      [":path", path],
      ...fields,
    ];
    // As a list, so that a field may occur twice.
    const raw = pairs.flatMap(([name, value]) => [name.toLowerCase(), value]);
    const stream = this.#asker.session.request(raw as never, { endStream: body === undefined });
    const seen: [string, string][] = [];
    let text = "";
    return new Promise((resolve, reject) => {
      stream.on("response", (_headers, _flags, raw?: readonly string[]) => {
        for (let i = 0; i + 1 < (raw ?? []).length; i += 2) seen.push([raw![i]!, raw![i + 1]!]);
      });
      stream.on("data", (bytes: Buffer) => (text += bytes.toString("latin1"))).on("error", reject);
      stream.on("close", () => {
        const { ":status": status, ...fields } = grouped(seen);
        if (status === undefined) reject(new Error("the stream ended without an answer"));
        else resolve({ status: Number(status[0]), fields, body: text });
      });
      if (body !== undefined) stream.end(body);
    });
  }

  close(): void {
    this.#asker.close();
  }
}

function grouped(pairs: Fields): Record<string, string[]> {
  const fields: Record<string, string[]> = Object.create(null);
  for (const [name, value] of pairs) (fields[name.toLowerCase()] ??= []).push(value);
  return fields;
}

const bearer = (token: string): [string, string] => ["authorization", `Bearer ${token}`];
const identity = ({ fields }: Answer) => IDENTITY.map((name) => fields[name]?.join("|"));
const NOT_SAID = IDENTITY.map(() => undefined);

describe.each([
  ["HTTP/1.1", () => new Http1()],
  ["h2c", () => new H2c(sallyport.listeners.data)],
  ["h2c on node:http2", () => new H2c(node.listeners.data)],
] as const)("the HTTP check over %s", (protocol, open) => {
  let client: Http1 | H2c;
  beforeAll(() => {
    client = open();
  });
  afterAll(() => client.close());

  test.each(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])(
    "%s of a good token is 200 with identity headers only",
    async (method) => {
      for (const family of ["envoy", "forwarded", "original"]) {
        const answer = await client.ask({
          method,
          path: `/v1/check/${family}/api/a/../b?c=d`,
          fields: [bearer(good.tokenString)],
        });
        expect([answer.status, answer.body, answer.fields["content-length"]]).toEqual([200, "", ["0"]]);
        expect(identity(answer)).toEqual(["user:ann", "default", good.id, "api.read", "pat"]);
        expect(answer.fields["x-envoy-auth-headers-to-remove"]).toEqual(
          family === "envoy" ? ["authorization"] : undefined,
        );
        for (const name of ["cache-control", "server", "x-powered-by", "set-cookie"])
          expect(answer.fields[name]).toBe(undefined);
      }
    },
  );

  test("HEAD has the fields of GET and no body, for every answer and every X-Forwarded-Method", async () => {
    for (const token of [good.tokenString, poor, NOBODY]) {
      const ask = (method: string) =>
        client.ask({
          method,
          path: "/v1/check/forwarded/api",
          fields: [bearer(token), ["x-forwarded-method", "GET"]],
        });
      const [head, get] = [await ask("HEAD"), await ask("GET")];
      const { date: _, ...fields } = get.fields;
      expect([head.status, head.body]).toEqual([get.status, ""]);
      expect(head.fields).toMatchObject(fields);
      expect(get.body.length).toBe(Number(get.fields["content-length"]![0]));
    }
  });

  test("the challenges and bodies are those of RFC 6750 and RFC 9457", async () => {
    const path = "/v1/check/envoy/api";
    for (const [fields, status, challenge] of [
      [[], 401, 'Bearer realm="api"'],
      [[bearer(NOBODY)], 401, 'Bearer realm="api", error="invalid_token"'],
      [[bearer("x")], 401, 'Bearer realm="api", error="invalid_token"'],
      [[bearer(poor)], 403, 'Bearer realm="api", error="insufficient_scope", scope="api.read"'],
      [[["authorization", "Bearer"]], 400, 'Bearer realm="api", error="invalid_request"'],
      [[["authorization", "Digest x"]], 401, 'Bearer realm="api"'],
      [[["authorization", ""]], 401, 'Bearer realm="api"'],
    ] as const) {
      const answer = await client.ask({ path, fields });
      expect([answer.status, answer.fields["www-authenticate"]]).toEqual([status, [challenge]]);
      expect([answer.fields["cache-control"], answer.fields["content-type"]]).toEqual([
        ["no-store"],
        ["application/problem+json"],
      ]);
      expect(identity(answer)).toEqual(NOT_SAID);
      const verdict = { 400: "MALFORMED", 401: "INVALID_TOKEN", 403: "INSUFFICIENT_SCOPE" }[status];
      expect(JSON.parse(answer.body)).toMatchObject({ type: "about:blank", status, verdict });
      expect(answer.body.length).toBeLessThanOrEqual(512);
    }
  });

  test("more than one credential is 400 in any place, and none is taken from a query or a cookie", async () => {
    const token = good.tokenString;
    for (const fields of [
      [bearer(token), bearer(token)],
      [bearer(token), ["Authorization", `bearer ${NOBODY}`]],
      [["authorization", `Bearer ${token}, Bearer ${token}`]],
      [["authorization", `Bearer ${token},`]],
      [bearer(token), ["x-api-key", token]],
      [
        ["x-api-key", token],
        ["X-API-Key", token],
      ],
      [bearer("x".repeat(8_200))],
    ] as Fields[]) {
      const answer = await client.ask({ path: "/v1/check/envoy/all", fields });
      expect([answer.status, identity(answer)], JSON.stringify(fields).slice(0, 60)).toEqual([400, NOT_SAID]);
      // nginx would turn a 400 into a 500.
      const original = await client.ask({ path: "/v1/check/original/all", fields });
      expect([original.status, original.fields["x-auth-status"]]).toEqual([403, ["400"]]);
    }
    const basic = Buffer.from(`anyone:${token}`).toString("base64");
    for (const [fields, status] of [
      [[["cookie", `token=${token}`]], 401],
      [[["cookie", `token=${token}`], bearer(token)], 200],
      [[["x-api-key", token]], 200],
      [[["authorization", `Basic ${basic}`]], 200],
    ] as const) {
      const answer = await client.ask({ path: `/v1/check/envoy/all?access_token=${token}&token=${token}`, fields });
      expect(answer.status).toBe(status);
    }
  });

  test("identity headers that a client forged are not in the answer", async () => {
    const forged: Fields = [...IDENTITY, "x-envoy-auth-headers-to-remove"].map((name) => [name, "root"]);
    for (const [token, expected] of [
      [good.tokenString, ["user:ann", "default", good.id, "api.read", "pat"]],
      [NOBODY, NOT_SAID],
    ] as const) {
      const answer = await client.ask({ fields: [...forged, bearer(token)] });
      expect(identity(answer)).toEqual(expected);
      expect(JSON.stringify(answer)).not.toContain("root");
    }
  });

  const atOnce = protocol === "HTTP/1.1" ? [0] : [0, 1, 65_536];
  test(`the connection goes on after bodies of ${atOnce.join(", ")} octets`, async () => {
    for (const length of atOnce) {
      const fields = [bearer(good.tokenString)];
      expect((await client.ask({ method: "POST", fields, body: Buffer.alloc(length, "x") })).status).toBe(200);
      expect((await client.ask({ fields })).status).toBe(200);
    }
  });

  // HTTP/1.1 does not wait for a body, because proxies announce bodies that they do not send.
  test(`a body of 65,537 octets is ${protocol === "HTTP/1.1" ? "not looked at" : "too large"}`, async () => {
    const larger = open();
    try {
      const asked = larger.ask({ method: "POST", fields: [bearer(good.tokenString)], body: Buffer.alloc(65_537) });
      const { status, fields } = await asked;
      const expected = protocol === "HTTP/1.1" ? [200, ["user:ann"]] : [400, undefined];
      expect([status, fields["x-auth-principal"]]).toEqual(expected);
    } finally {
      larger.close();
    }
  });

  test("octets beyond ASCII cause no error: a token with them is no token, and elsewhere they are ignored", async () => {
    const odd = "\xe9\xff\x80caf\xc3\xa9";
    expect((await client.ask({ fields: [bearer(odd)] })).status).toBe(401);
    expect((await client.ask({ path: "/v1/check/envoy/all", fields: [["x-api-key", odd]] })).status).toBe(401);
    expect((await client.ask({ fields: [["authorization", odd]] })).status).toBe(400);
    const elsewhere: Fields = [
      ["x-forwarded-uri", `/${odd}`],
      ["cookie", odd],
      ["x-odd", odd],
      bearer(good.tokenString),
    ];
    expect((await client.ask({ path: "/v1/check/forwarded/default", fields: elsewhere })).status).toBe(200);
  });

  test("an unknown family or policy and a repeated header of the proxy are denials, never an error", async () => {
    const fields = [bearer(good.tokenString)];
    for (const path of [
      "/v1/check/",
      "/v1/check/other/api",
      "/v1/check/envoy/none",
      "/v1/check/envoy/",
      "/v1/check/envoy/../envoy/api",
      "/v1/check/envoy/__proto__",
      "/v1/check/envoy/%61pi",
    ])
      expect((await client.ask({ path, fields })).status, path).toBe(403);
    for (const [family, name, status] of [
      ["forwarded", "x-forwarded-method", 400],
      ["forwarded", "x-forwarded-uri", 400],
      ["original", "x-original-method", 403],
      ["original", "x-real-ip", 403],
    ] as const) {
      const twice: Fields = [...fields, [name, "GET"], [name, "GET"]];
      expect((await client.ask({ path: `/v1/check/${family}/default`, fields: twice })).status, name).toBe(status);
    }
  });

  test("accepts as many and as large fields as the protocol may have here, and not one more", async () => {
    const line = (n: number): [string, string] => [`x-${n}`, "v"];
    const [most, bytes] = protocol === "HTTP/1.1" ? [256, 65_536] : [128, 16_384];
    // The authority, method, path and scheme count on HTTP/2; the host on HTTP/1.1.
    const own = protocol === "HTTP/1.1" ? 2 : 5;
    const many = (count: number) => [
      bearer(good.tokenString),
      ...Array.from({ length: count - own }, (_, n) => line(n)),
    ];
    const ask = async (fields: Fields) => {
      const fresh = open();
      return fresh.ask({ fields }).finally(() => fresh.close());
    };
    const refused = (fields: Fields) => ask(fields).then(({ status }) => status, String);
    // Node's own server has only one answer to a field too many.
    const tooMuch = protocol === "h2c on node:http2" ? expect.stringContaining("ENHANCE_YOUR_CALM") : 431;
    expect((await ask(many(most))).status).toBe(200);
    expect(await refused(many(most + 1))).toEqual(tooMuch);
    expect((await ask([bearer(good.tokenString), ["x-large", "x".repeat(bytes - 700)]])).status).toBe(200);
    expect(await refused([bearer(good.tokenString), ["x-large", "x".repeat(bytes + 10)]])).toBe(431);
    expect((await client.ask({ fields: [bearer(good.tokenString)] })).status).toBe(200);
  });

  const LONG = "x".repeat(128);
  test.each([
    ["pat", `user:${LONG}`],
    ["bot", `bot:${LONG}`],
    ["svc", `service:${LONG}`],
    ["org", `org:${LONG}`],
    ["adm", `user:${LONG}`],
  ])(
    "a token of profile %s for the longest principal is sent whole, and its scopes cut at a whole one",
    async (profile, principal) => {
      if (/^(bot|service):/.test(principal)) await sallyport.registered(principal).catch(() => {}); // once for both
      const scopes =
        profile === "adm" ? ["sallyport.tokens.read"] : Array.from({ length: 100 }, (_, n) => `${n}.`.padEnd(128, "~"));
      const { tokenString, id } = await sallyport.createToken({ profile, principal, scopes });
      for (const family of ["envoy", "forwarded", "original"]) {
        const answer = await client.ask({ path: `/v1/check/${family}/default`, fields: [bearer(tokenString)] });
        const [owner, tenant, tokenId, scopeList = "", of] = identity(answer);
        expect([answer.status, owner, tenant, tokenId, of]).toEqual([200, principal, "default", id, profile]);
        const granted = scopeList.split(" ");
        expect(granted.filter((scope) => !scopes.includes(scope))).toEqual([]);
        expect(granted.length).toBe(profile === "adm" ? 1 : 27);
        const size = IDENTITY.reduce((sum, name) => sum + name.length + answer.fields[name]!.join().length, 0);
        expect(size).toBeLessThanOrEqual(4_096);
      }
    },
  );
});

test("an absolute target is refused on HTTP/1.1, and no check is answered in its place", async () => {
  for (const path of ["http://a.example/v1/check/envoy/default", "http://a.example/", "*", "a.example:80"]) {
    const client = new Http1();
    const answer = await client.ask({ path, fields: [bearer(good.tokenString)] }).finally(() => client.close());
    expect([answer.status, identity(answer)], path).toEqual([400, NOT_SAID]);
  }
});

describe("policies after a reload", () => {
  const GRPC = { "content-type": "application/grpc", te: "trailers" };
  const check = async (listener: string, policy: string): Promise<CheckResponse> => {
    const asker = http2Asker(listener);
    const http = { headers: { authorization: `Bearer ${good.tokenString}` } };
    const attributes = { request: { http }, contextExtensions: { policy } };
    const question = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
    const path = "/envoy.service.auth.v3.Authorization/Check";
    const { body } = await asker.ask(path, GRPC, framed(question)).finally(() => asker.close());
    return fromBinary(CheckResponseSchema, body.subarray(5));
  };

  test("are in force after SIGHUP, in Check and in the HTTP check; removed ones deny", async () => {
    const { database, keyring } = sallyport;
    const policies = { stays: {}, goes: {}, renames: { headers: { "x-auth-principal": "x-old" } } };
    await using reloaded = await TestSallyport.start({ database, keyring, config: { policies } });
    const ask = async (policy: string) => {
      const headers = { authorization: `Bearer ${good.tokenString}` };
      const answer = await fetch(`${reloaded.listeners.data}/v1/check/envoy/${policy}`, { headers });
      await answer.arrayBuffer();
      const { status } = await check(reloaded.listeners.data, policy);
      return [answer.status, status?.code, answer.headers.get("x-old"), answer.headers.get("x-new")];
    };
    expect([await ask("stays"), await ask("goes"), await ask("comes"), await ask("renames")]).toEqual([
      [200, 0, null, null],
      [200, 0, null, null],
      [403, 7, null, null],
      [200, 0, "user:ann", null],
    ]);
    const file = reloaded.program.child.spawnargs.at(-1)!;
    const fresh = {
      stays: { required_scopes: ["more"] },
      comes: {},
      renames: { headers: { "x-auth-principal": "x-new" } },
    };
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), policies: fresh }));
    reloaded.program.kill("SIGHUP");
    await reloaded.program.until(({ out }) => out.includes('"reloaded"'), "it reloaded");
    expect([await ask("stays"), await ask("goes"), await ask("comes"), await ask("renames")]).toEqual([
      [403, 7, null, null],
      [403, 7, null, null],
      [200, 0, null, null],
      [200, 0, null, "user:ann"],
    ]);
  });
});

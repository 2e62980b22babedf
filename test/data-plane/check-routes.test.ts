import type { Socket } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { ExtAuthz } from "../../src/data-plane/check/ext-authz.ts";
import { HttpCheck } from "../../src/data-plane/check/http-check.ts";
import { checkRoutes } from "../../src/data-plane/check/routes.ts";
import { DataCallers } from "../../src/data-plane/data-caller.ts";
import { Policies, type PolicySettings } from "../../src/data-plane/policy.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import {
  CheckRequestSchema,
  type CheckResponse,
  CheckResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { createUnaryServer } from "../../src/http2/server/server.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { mountNode } from "../../src/http2/unary/mount-node.ts";
import type { Routes } from "../../src/http2/unary/routes.ts";
import { listenerLimits } from "../../src/listen/limits.ts";
import { type Listener, openListener } from "../../src/listen/listener.ts";
import { type HttpHandler, peersByCall } from "../../src/listen/peers.ts";
import { type Admission, createAdmission } from "../../src/rpc/admission.ts";
import { Callers } from "../../src/rpc/caller.ts";
import type { Validate, ValidationResult } from "../../src/validation/validate.ts";
import { type Asker, framed, http2Asker, type RawAnswer } from "./data-listener.ts";

const CHECK = "/envoy.service.auth.v3.Authorization/Check";
const CAP_MS = 150;
/** A margin for a busy machine. */
const SLACK_MS = 250;
const ALLOW_CODE = 0;

const settings: PolicySettings = {
  required_scopes: [],
  audience: "",
  tenant: "",
  tenant_from: "",
  carriers: ["bearer"],
  realm: "sallyport",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};
const snapshot: TokenSnapshot = {
  version: { epoch: "e", position: 1 },
  id: "tok_0000000000000000000000",
  digest: "d",
  tenant: "acme",
  profile: "pat",
  principal: "user:ann",
  scopes: [],
  roles: [],
  attachments: [],
  audiences: [],
  allowedCidrs: [],
  annotations: {},
  hint: "sp_pat_1abcdefgh",
  rotated: false,
  revoked: false,
  disabled: false,
  cut: false,
  principalState: "ACTIVE",
  tenantState: "ACTIVE",
};
const allowed: ValidationResult = { verdict: "ALLOW", tier: "l1", snapshot };

const held: ((answer: ValidationResult) => void)[] = [];

/** An outcome for each token string, so that one listener can meet every failure. */
const fates: Readonly<Record<string, Validate>> = {
  good: () => allowed,
  slow: (_token, _requirement, _context, deadline) => later(Math.min(10, left(deadline)), allowed),
  "is held": () => new Promise((resolve) => held.push(resolve)),
  undetermined: (_token, _requirement, _context, deadline) =>
    later(left(deadline), { verdict: "UNDETERMINED", tier: "none" }),
  "has no answer": () => ({ verdict: "UNDETERMINED", tier: "none" }),
  throws: () => {
    throw new Error("a bug");
  },
  rejects: () => Promise.reject(new Error("a bug")),
  "rejects late": async () => {
    await later(20, undefined);
    throw new Error("a bug");
  },
  hangs: () => new Promise<ValidationResult>(() => {}),
  "allows too late": () => later(CAP_MS + 100, allowed),
  /** The answer comes in the turn in which the loop is free again, before any timer of the deadline. */
  "allows after a pause": async () => {
    await later(1, undefined);
    const end = performance.now() + CAP_MS + 30;
    while (performance.now() < end);
    return allowed;
  },
  "has an unsendable name": async () => ({ ...allowed, snapshot: { ...snapshot, principal: "user:\ud800" } }),
};
const validate: Validate = (token, ...rest) => fates[decodeURIComponent(token)]!(token, ...rest);

function left(deadline: number): number {
  return Math.max(0, deadline - performance.now());
}

function later<T>(ms: number, value: T): Promise<T> {
  return new Promise((resolve) => setTimeout(resolve, ms, value));
}

interface Gate {
  readonly listener: Listener;
  readonly url: string;
  readonly admission: Admission;
  readonly broken: unknown[];
}

/** A listener with the real routes of proxies, and validations that fail as the test chooses. */
async function gate(
  http2: "own" | "node",
  options: { trust?: boolean; slots?: number; policies?: Record<string, PolicySettings> } = {},
): Promise<Gate> {
  const clock = { mono: () => performance.now(), wall: () => Date.now() };
  const callers = new Callers({
    clock,
    validate,
    audit: { append: async () => {}, list: async () => ({ rows: [] }) },
    breakGlass: undefined,
    events: { alarm: () => {} },
    mtls: [],
  });
  const admission = createAdmission({
    clock,
    onShed: () => {},
    utilization: () => 0,
    ...(options.slots !== undefined && { concurrency: { validate: options.slots } }),
  });
  const policies = new Policies(options.policies ?? { open: { ...settings, outage: "error" } });
  const { exact, prefix } = checkRoutes({
    clock,
    validate,
    callers: new DataCallers(callers, options.trust ?? true),
    authz: new ExtAuthz(validate, policies),
    httpCheck: new HttpCheck(validate, policies),
    admission,
    peerOf: peersByCall([]),
    answered: () => () => {},
    failed: () => {},
  });
  const routes: Routes = { exact: new Map(exact), prefix };
  const broken: unknown[] = [];
  const onHandlerError = (error: unknown): void => void broken.push(error);
  const own = createUnaryServer({ routes, onHandlerError });
  const listener = await openListener({
    name: "data",
    bind: "127.0.0.1:0",
    limits: listenerLimits("data-trusted"),
    handler: mountHttp1({ routes, onHandlerError }) as HttpHandler,
    ...(http2 === "own"
      ? { http2: (socket: Socket, head: Buffer) => own.accept(socket, head, "trusted") }
      : { onStream: mountNode({ routes, onHandlerError }) }),
    onTrouble: (_what, error) => broken.push(error),
  });
  return { listener, url: `http://127.0.0.1:${listener.port}`, admission, broken };
}

async function close({ listener, admission }: Gate): Promise<void> {
  await listener.close();
  admission.close();
}

function question(token: string, extensions: Record<string, string> = {}): Uint8Array {
  const headers = { authorization: `Bearer ${encodeURIComponent(token)}` };
  const attributes = { request: { http: { method: "GET", headers } }, contextExtensions: extensions };
  return toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
}

interface Seen {
  /** -1 if there is no grpc-status. */
  readonly grpcStatus: number;
  readonly response: CheckResponse | undefined;
  /** Envoy's decision under `failure_mode_allow: true`. */
  readonly passes: boolean;
  readonly ms: number;
}

const GRPC = { "content-type": "application/grpc", te: "trailers" };

async function ask(asker: Asker, body: Uint8Array, headers: Record<string, string> = {}): Promise<Seen> {
  const start = performance.now();
  const answer: RawAnswer | undefined = await asker.ask(CHECK, { ...GRPC, ...headers }, body).catch(() => undefined);
  const ms = performance.now() - start;
  const grpcStatus = Number(answer?.fields["grpc-status"] ?? -1);
  const message = answer?.body.subarray(5) ?? Buffer.alloc(0);
  const response = grpcStatus === 0 ? fromBinary(CheckResponseSchema, message) : undefined;
  const opens = response?.httpResponse.case === "errorResponse";
  return { grpcStatus, response, passes: response === undefined || !response.status?.code || opens, ms };
}

const checked = (asker: Asker, token: string, extensions?: Record<string, string>, headers?: Record<string, string>) =>
  ask(asker, framed(question(token, extensions)), headers);

describe.each(["own", "node"] as const)("Check never errors (%s HTTP/2 server)", (http2) => {
  let at: Gate;
  let asker: ReturnType<typeof http2Asker>;
  beforeAll(async () => {
    at = await gate(http2);
    asker = http2Asker(at.url);
  });
  afterAll(async () => {
    asker.close();
    await close(at);
  });

  /** A denial of this code inside an OK RPC, in time. The listener still works afterwards. */
  const denies = async (seen: Seen, code: number, status: number, within = CAP_MS): Promise<void> => {
    expect([seen.grpcStatus, seen.passes]).toEqual([0, false]);
    expect(seen.response?.status?.code).toBe(code);
    expect(seen.response?.httpResponse).toMatchObject({ case: "deniedResponse", value: { status: { code: status } } });
    expect(seen.response?.dynamicMetadata).toHaveProperty("verdict");
    expect(seen.ms).toBeLessThan(within + SLACK_MS);
    expect((await checked(asker, "good")).response?.status?.code).toBe(ALLOW_CODE);
  };

  test.each(["throws", "rejects", "rejects late", "hangs", "allows too late", "allows after a pause", "undetermined"])(
    "a judgement that %s is a denial in time",
    async (fate) => denies(await checked(asker, fate), 14, 503),
  );

  test("an ALLOW that cannot be written is a denial", async () => {
    await denies(await checked(asker, "has an unsendable name"), 14, 503);
  });

  test("a judgement that throws or rejects opens only if the policy says so", async () => {
    for (const fate of ["throws", "rejects", "has no answer"]) {
      const seen = await checked(asker, fate, { policy: "open" });
      expect([seen.grpcStatus, seen.response?.httpResponse.case]).toEqual([0, "errorResponse"]);
      expect(seen.response?.status?.code).toBe(14);
    }
  });

  const message = question("good");
  test.each<[string, Uint8Array]>([
    ["129 KiB", framed(Buffer.alloc(129 * 1024))],
    ["a length of 4 GiB", Buffer.from([0, 255, 255, 255, 255])],
    ["the compressed flag", framed(message, 1)],
    ["an unknown flag", framed(message, 2)],
    ["no frame at all", Buffer.alloc(0)],
    ["a prefix cut short", Buffer.from([0, 0, 0])],
    ["less than the length says", framed(message).subarray(0, -1)],
    ["more than the length says", Buffer.concat([framed(message), Buffer.from([0])])],
    ["two messages", Buffer.concat([framed(message), framed(message)])],
    ["bytes that are no CheckRequest", framed(Buffer.from([0xff, 0xff, 0xff]))],
  ])("%s: a denial of a malformed check", async (_what, body) => denies(await ask(asker, body), 3, 400));

  test("a compressed message is a denial of a malformed check", async () => {
    await denies(await ask(asker, framed(message), { "grpc-encoding": "gzip" }), 3, 400);
  });

  test.each(["soon", "-1S", "1", "123456789S", "1.5S"])(
    "grpc-timeout %j is a denial of a malformed check",
    async (value) => denies(await checked(asker, "good", {}, { "grpc-timeout": value }), 3, 400),
  );

  test.each(["hangs", "undetermined", "rejects late", "allows too late"])(
    "a caller's deadline of 20 ms is kept by a judgement that %s",
    async (fate) => denies(await checked(asker, fate, {}, { "grpc-timeout": "20m" }), 14, 503, 20),
  );

  test("a deadline of zero is a denial, and a long one is cut to ours", async () => {
    await denies(await checked(asker, "slow", {}, { "grpc-timeout": "0n" }), 14, 503, 0);
    await denies(await checked(asker, "hangs", {}, { "grpc-timeout": "99999999H" }), 14, 503);
  });

  test("a check without an HTTP request and an empty one are denials", async () => {
    for (const body of [
      new Uint8Array(0),
      toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes: {} })),
    ])
      expect(await ask(asker, framed(body))).toMatchObject({
        grpcStatus: 0,
        passes: false,
        response: { status: { code: 3 }, httpResponse: { case: undefined } },
      });
  });

  test("a peer that is not trusted is denied, whatever it sends", async () => {
    const closed = await gate(http2, { trust: false });
    const stranger = http2Asker(closed.url);
    try {
      for (const fate of ["good", "hangs", "throws"])
        expect(await checked(stranger, fate)).toMatchObject({ passes: false, response: { status: { code: 7 } } });
      // A credential of its own does not open Check.
      const own = await checked(stranger, "good", {}, { authorization: "Bearer good" });
      expect(own).toMatchObject({ passes: false, response: { status: { code: 7 } } });
      expect(await ask(stranger, framed(message, 1))).toMatchObject({ grpcStatus: 0, passes: false });
    } finally {
      stranger.close();
      await close(closed);
    }
  });

  test("a full listener denies at once or within its queue's time, and answers cached requests", async () => {
    const full = await gate(http2, { slots: 1 });
    const many = http2Asker(full.url);
    try {
      const waiting = Array.from({ length: 80 }, () => checked(many, "undetermined"));
      const cached = await checked(many, "good");
      expect(cached.response?.status?.code).toBe(ALLOW_CODE);
      for (const seen of await Promise.all(waiting)) {
        expect([seen.grpcStatus, seen.passes, seen.response?.status?.code]).toEqual([0, false, 14]);
        expect(seen.ms).toBeLessThan(CAP_MS + SLACK_MS);
      }
    } finally {
      many.close();
      await close(full);
    }
  });

  test("cancelled work never comes out as ALLOW", async () => {
    const octets: Buffer[] = [];
    const streams = Array.from({ length: 20 }, () => {
      const stream = asker.session.request({ ":method": "POST", ":path": CHECK, ...GRPC });
      stream.on("error", () => {}).on("data", (bytes: Buffer) => octets.push(bytes));
      stream.end(framed(question("is held")));
      return stream;
    });
    await vi.waitFor(() => expect(held).toHaveLength(20), { interval: 1 });
    const closed = streams.map((stream) => new Promise((resolve) => stream.once("close", resolve)));
    for (const stream of streams) stream.close(8);
    await Promise.all(closed);
    await checked(asker, "good"); // the resets came before it
    for (const allow of held.splice(0)) allow(allowed);
    await checked(asker, "good"); // an answer to them would come before this one
    expect([octets, streams.map(({ rstCode }) => rstCode)]).toEqual([[], streams.map(() => 8)]);
    expect((await checked(asker, "slow")).response?.status?.code).toBe(ALLOW_CODE);
  });

  test("1,000 cancels a second leave the other calls of the connection alone", async () => {
    const end = performance.now() + 2_000;
    let cancels = 0;
    let gone = false;
    asker.session.once("goaway", () => (gone = true));
    const flood = setInterval(() => {
      for (let n = 0; n < 10 && cancels < 2_000; n++) {
        const stream = asker.session.request({ ":method": "POST", ":path": CHECK, ...GRPC });
        stream.on("error", () => {});
        stream.end(framed(question("undetermined")));
        cancels++;
        setImmediate(() => stream.close(8));
      }
    }, 10);
    let answered = 0;
    try {
      while (performance.now() < end) {
        for (const fate of ["good", "slow"]) {
          const { grpcStatus, response } = await checked(asker, fate);
          // A machine that is full may shed work that waits, but never with an error.
          expect([grpcStatus, fate === "good" ? response?.status?.code : ALLOW_CODE]).toEqual([0, ALLOW_CODE]);
          answered++;
        }
      }
    } finally {
      clearInterval(flood);
    }
    expect([gone, asker.session.destroyed]).toEqual([false, false]);
    expect(cancels).toBeGreaterThan(500);
    expect(answered).toBeGreaterThan(20);
  });
});

describe("the HTTP check of a listener", () => {
  let at: Gate;
  beforeAll(async () => {
    const keep: PolicySettings = { ...settings, keep_credential: true };
    at = await gate("own", { policies: { strip: settings, keep } });
  });
  afterAll(() => close(at));

  const get = (path: string, fate: string, init: RequestInit = {}) =>
    fetch(`${at.url}${path}`, { ...init, headers: { authorization: `Bearer ${encodeURIComponent(fate)}` } });

  test.each(["throws", "rejects", "rejects late", "hangs", "allows too late", "allows after a pause"])(
    "a judgement that %s is a denial in time, in the words of each family",
    async (fate) => {
      for (const [family, status] of [
        ["envoy", 403],
        ["original", 403],
        ["forwarded", 503],
      ] as const) {
        const start = performance.now();
        const answer = await get(`/v1/check/${family}/default`, fate);
        expect(performance.now() - start).toBeLessThan(CAP_MS + SLACK_MS);
        expect(answer.status).toBe(status);
        expect(answer.headers.get("x-auth-status")).toBe(status === 403 ? "503" : null);
        expect(answer.headers.get("cache-control")).toBe("no-store");
        await answer.arrayBuffer();
      }
    },
  );

  test("HEAD answers like GET, without the body", async () => {
    for (const fate of ["good", "undetermined", "throws"]) {
      const [head, full] = await Promise.all(
        ["HEAD", "GET"].map((method) => get("/v1/check/forwarded/default", fate, { method })),
      );
      expect(await head!.text()).toBe("");
      await full!.arrayBuffer();
      const fields = ({ headers }: Response) =>
        [...headers].filter(([name]) => !["connection", "date", "keep-alive"].includes(name));
      expect([head!.status, fields(head!)]).toEqual([full!.status, fields(full!)]);
    }
  });

  test("a listener without trusted peers denies with 403, and accepts no credential for itself", async () => {
    const closed = await gate("own", { trust: false });
    try {
      for (const fate of ["good", "throws"]) {
        const headers = { authorization: `Bearer ${fate}` };
        const answer = await fetch(`${closed.url}/v1/check/envoy/default`, { headers });
        expect([answer.status, answer.headers.get("x-auth-principal")]).toEqual([403, null]);
        await answer.arrayBuffer();
      }
    } finally {
      await close(closed);
    }
  });
});

test("the cached ALLOW of a policy that strips the credential does not serve a policy that keeps it", async () => {
  const policies = new Policies({ strip: settings, keep: { ...settings, keep_credential: true } });
  const authz = new ExtAuthz(validate, policies);
  const removed = async (policy: string) => {
    const { bytes } = await authz.check(question("good", { policy }), true, performance.now() + 1_000);
    const { httpResponse } = fromBinary(CheckResponseSchema, bytes);
    return httpResponse.case === "okResponse" ? httpResponse.value.headersToRemove : undefined;
  };
  expect(await removed("keep")).toEqual(["x-auth-tenants"]);
  expect(await removed("strip")).toEqual(["x-auth-tenants", "authorization"]);
  expect(await removed("keep")).toEqual(["x-auth-tenants"]);
});

test("a check whose ALLOW cannot be written is a denial, over gRPC and HTTP, and nothing rejects", async () => {
  const policies = new Policies({});
  const token = encodeURIComponent("has an unsendable name");
  const { bytes } = await new ExtAuthz(validate, policies).check(question("has an unsendable name"), true, 0);
  expect(fromBinary(CheckResponseSchema, bytes).status?.code).toBe(14);
  const asked = { path: "/v1/check/forwarded/default", method: "GET", headers: [["authorization", `Bearer ${token}`]] };
  expect(await new HttpCheck(validate, policies).check(asked as never, true, 0)).toMatchObject({ status: 503 });
});

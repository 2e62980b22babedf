import { createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { revocationPath } from "../../src/admin-api/revocation-endpoint.ts";
import type { AuditAct } from "../../src/domain/audit-event.ts";
import { AppError } from "../../src/domain/errors.ts";
import { Health as HealthDesc } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { ByteBudget } from "../../src/http2/server/limits.ts";
import { connectHandler } from "../../src/listen/connect-adapter.ts";
import { listenerLimits } from "../../src/listen/limits.ts";
import { type Listener, openListener } from "../../src/listen/listener.ts";
import { type Admission, createAdmission } from "../../src/rpc/admission.ts";
import { Callers } from "../../src/rpc/caller.ts";
import { TrustedProxies } from "../../src/rpc/client-address.ts";
import { DenialAudit } from "../../src/rpc/denial-audit.ts";
import { addHealth, Health } from "../../src/rpc/health.ts";
import { Pipeline } from "../../src/rpc/pipeline.ts";
import type { CallLine } from "../../src/telemetry/events.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";
import { snapshot } from "../support/token-snapshot.ts";

const SLOTS = 2;
const ID = "tok_0123456789abcdefghijkl";
const clock = { mono: () => performance.now(), wall: () => Date.now() };
// Every refusal in a second of its own: rows of one second are limited.
let seconds = 0;
const eachASecond = { ...clock, mono: () => 1_000 * seconds++ };

/** What the parts that the steps use have seen, in order. */
let seen: string[] = [];
let lines: CallLine[] = [];
let denied: AuditAct[] = [];
let refusal: AppError | undefined;
let admission: Admission;
/** The read of the states of a session. */
let states: () => Promise<void> = async () => {};
const REVOKES = { scopes: ["sallyport.tokens.revoke"], roles: [] as string[] };
/** The rights of a session, and the scopes of its roles. */
let rights: typeof REVOKES & { principal?: string } = REVOKES;
let roleScopes: string[] = [];
let listener: Listener;
let url: string;

/** The handler: it refuses as it is told. */
const revoked = () => {
  seen.push("handle");
  if (refusal !== undefined) throw refusal;
};

beforeAll(async () => {
  admission = createAdmission({ clock, concurrency: { admin: SLOTS }, onShed: () => {}, utilization: () => 0 });
  const telemetry = createTelemetry("silent");
  const audit = {
    append: async (_actor: unknown, act: AuditAct) => void denied.push(act),
    list: async () => ({ rows: [] }),
  };
  const callers = new Callers({
    // The bearer is the name of the scope that its token has.
    validate: (bearer) => {
      seen.push("authenticate");
      if (bearer === "nobody") return { verdict: "INVALID_TOKEN", tier: "none" };
      // Of no principal: nothing is its own.
      return { verdict: "ALLOW", tier: "l1", snapshot: snapshot(1, { scopes: [bearer], principal: "" }) };
    },
    audit,
    clock,
    breakGlass: undefined,
    events: telemetry,
    mtls: [],
    sessions: {
      owns: (bearer) => bearer === "a.b.c",
      authenticate: async () => {
        seen.push("authenticate");
        const who = { principal: "user:ann", provenance: "session:ann", scopesIn: new Map() };
        return { tenant: "acme", tenants: ["acme"], ...who, ...rights };
      },
      confirm: async () => {
        seen.push("confirm");
        await states();
        return { roleScopes };
      },
      tooLong: () => new AppError("CALLER_UNAUTHENTICATED", "too long"),
    },
  });
  const pipeline = new Pipeline({
    tracing: undefined,
    clock,
    proxies: new TrustedProxies(["127.0.0.0/8"]),
    callers,
    admission: {
      ...admission,
      enter: (...args) => {
        seen.push("admit");
        return admission.enter(...args);
      },
    },
    called: (line) => {
      seen.push("log");
      lines.push(line);
    },
    denials: new DenialAudit({ audit, clock: eachASecond, events: telemetry }),
  });
  const limits = listenerLimits("admin");
  const budget = new ByteBudget(limits.bufferedBytes);
  const rpc = connectHandler({
    routes: (router) => {
      router.service(TokenAdmin, {
        revokeToken: () => {
          revoked();
          return {};
        },
        listTokens: () => ({}),
      });
      addHealth(router, new Health([]), "all");
    },
    gate: pipeline.gate,
    interceptors: [pipeline.interceptor],
    grpcWeb: true,
    budget,
    streamsPerConnection: limits.streamsPerConnection,
  });
  const tokens = {
    byString: async () => {
      revoked();
      throw new AppError("TOKEN_NOT_FOUND", "no such token");
    },
    revoke: async () => {
      throw new Error("never reached");
    },
  };
  listener = await openListener({
    name: "admin",
    bind: "127.0.0.1:0",
    limits,
    budget,
    handler: revocationPath({ clock, pipeline, tokens }, rpc),
    onTrouble: () => {},
  });
  url = `http://127.0.0.1:${listener.port}`;
});
afterAll(async () => {
  await listener?.close();
  admission?.close();
});
beforeEach(() => {
  seen = [];
  lines = [];
  denied = [];
  refusal = undefined;
  rights = REVOKES;
  roleScopes = [];
});

interface Faults {
  readonly bearer: string | undefined;
  readonly full: boolean;
  readonly outOfBounds: boolean;
  readonly refused: boolean;
}

type Send = (headers: Record<string, string>, outOfBounds: boolean) => Promise<unknown>;

/** RevokeToken by an RPC; its answer is read from the log. */
const byRpc =
  (transport: () => Transport): Send =>
  (headers, outOfBounds) => {
    const request = { target: { case: "id" as const, value: ID }, reason: outOfBounds ? "r".repeat(5_000) : "" };
    return createClient(TokenAdmin, transport())
      .revokeToken(request, { headers })
      .catch(() => undefined);
  };

const WAYS: readonly (readonly [name: string, send: Send])[] = [
  ["an RPC over Connect", byRpc(() => createConnectTransport({ baseUrl: url, httpVersion: "1.1" }))],
  ["an RPC over gRPC", byRpc(() => createGrpcTransport({ baseUrl: url }))],
  [
    "POST /v1/revoke",
    async (headers, outOfBounds) => {
      const body = new URLSearchParams(outOfBounds ? { other: "x" } : { token: "x" });
      await (await fetch(`${url}/v1/revoke`, { method: "POST", headers, body })).text();
    },
  ],
];

/** Sends a request with these faults; gives how the log says it ended. */
async function outcome(send: Send, faults: Faults): Promise<string> {
  seen = [];
  lines = [];
  refusal = faults.refused ? new AppError("RIGHTS_EXCEEDED", "the handler refuses") : undefined;
  // All slots: those that are kept for revocations, too.
  const held = faults.full ? await admission.enter("revoke", SLOTS, Number.POSITIVE_INFINITY) : undefined;
  const credential: Record<string, string> =
    faults.bearer === undefined ? {} : { authorization: `Bearer ${faults.bearer}` };
  await send({ "x-forwarded-for": "203.0.113.7", ...credential }, faults.outOfBounds);
  held?.();
  expect(lines).toHaveLength(1);
  return lines[0]!.reason ?? lines[0]!.code;
}

describe.each(WAYS)("%s", (_name, send) => {
  const all: Faults = { bearer: "nobody", full: true, outOfBounds: true, refused: true };

  test("with every fault at once is refused by the first step, and with that fault mended by the next step", async () => {
    expect(await outcome(send, { ...all, bearer: undefined })).toBe("CALLER_UNAUTHENTICATED");
    expect(seen).toEqual(["log"]);
    expect(await outcome(send, all)).toBe("CALLER_UNAUTHENTICATED");
    expect(seen).toEqual(["authenticate", "log"]);
    expect(await outcome(send, { ...all, bearer: "sallyport.tokens.read" })).toBe("CALLER_FORBIDDEN");
    expect(seen).toEqual(["authenticate", "log"]);
    const bearer = "sallyport.tokens.revoke";
    expect(await outcome(send, { ...all, bearer })).toBe("OVERLOADED");
    expect(seen).toEqual(["authenticate", "admit", "log"]);
    expect(await outcome(send, { ...all, bearer, full: false })).toBe("INVALID_FIELD");
    expect(seen).toEqual(["authenticate", "admit", "log"]);
    expect(await outcome(send, { bearer, full: false, outOfBounds: false, refused: true })).toBe("RIGHTS_EXCEEDED");
    expect(seen).toEqual(["authenticate", "admit", "handle", "log"]);
    expect(await outcome(send, { bearer, full: false, outOfBounds: false, refused: false })).toBe("OK");
    expect(seen).toEqual(["authenticate", "admit", "handle", "log"]);
    // Every slot is free again, at once.
    const leave = admission.enter("revoke", SLOTS, 10_000);
    expect(leave).toBeTypeOf("function");
    (leave as () => void)();
  });

  test("by a session reads the states once the call is admitted, and before its bounds are checked", async () => {
    const session = { bearer: "a.b.c", full: false, outOfBounds: true, refused: true };
    expect(await outcome(send, { ...session, full: true })).toBe("OVERLOADED");
    expect(seen).toEqual(["authenticate", "admit", "log"]);
    expect(await outcome(send, session)).toBe("INVALID_FIELD");
    expect(seen).toEqual(["authenticate", "admit", "confirm", "log"]);
    states = async () => Promise.reject(new AppError("CALLER_UNAUTHENTICATED", "the credential is not good"));
    expect(await outcome(send, session)).toBe("CALLER_UNAUTHENTICATED");
    expect(seen).toEqual(["authenticate", "admit", "confirm", "log"]);
    states = async () => {};
    expect(await outcome(send, { ...session, outOfBounds: false, refused: false })).toBe("OK");
    const leave = admission.enter("revoke", SLOTS, 10_000);
    expect(leave).toBeTypeOf("function");
    (leave as () => void)();
  });

  test("by a session with roles is authorized by what they give, once they are read", async () => {
    const session = { bearer: "a.b.c", full: false, outOfBounds: true, refused: true };
    // Of no principal: nothing is its own.
    rights = { scopes: ["x"], roles: ["revoker"], principal: "" };
    expect(await outcome(send, session)).toBe("CALLER_FORBIDDEN");
    expect(seen).toEqual(["authenticate", "admit", "confirm", "log"]);
    await expect.poll(() => denied).toEqual([expect.objectContaining({ action: "caller.denied", outcome: "DENIED" })]);
    roleScopes = ["sallyport.tokens.revoke"];
    expect(await outcome(send, session)).toBe("INVALID_FIELD");
    expect(await outcome(send, { ...session, outOfBounds: false, refused: false })).toBe("OK");
    expect(seen).toEqual(["authenticate", "admit", "confirm", "handle", "log"]);
    roleScopes = [];
    rights = { ...rights, roles: [] };
    expect(await outcome(send, session)).toBe("CALLER_FORBIDDEN");
    expect(seen).toEqual(["authenticate", "log"]);
  });

  test("has one log line with its caller or address, and an audit row if a known caller is denied", async () => {
    await outcome(send, all);
    expect(lines[0]).toMatchObject({ address: "203.0.113.7" });
    expect(lines[0]!.actor).toBeUndefined();
    expect(denied).toEqual([]);
    await outcome(send, { ...all, bearer: "sallyport.tokens.read" });
    await outcome(send, { bearer: "sallyport.tokens.revoke", full: false, outOfBounds: false, refused: true });
    expect(lines[0]).toMatchObject({ method: "sallyport.v1.TokenAdmin/RevokeToken", code: "PERMISSION_DENIED" });
    expect(lines[0]!.actor).toMatch(/^token:/);
    const row = { action: "caller.denied", target: "rpc:sallyport.v1.TokenAdmin/RevokeToken", outcome: "DENIED" };
    expect(denied).toEqual([
      expect.objectContaining({ ...row, metadata: { reason: "CALLER_FORBIDDEN" } }),
      expect.objectContaining({ ...row, metadata: { reason: "RIGHTS_EXCEEDED" } }),
    ]);
  });
});

test("a flood of sessions asks the database no more than its slots let it, and a revocation goes on", async () => {
  let asked = 0;
  const answer = Promise.withResolvers<void>();
  states = () => {
    asked++;
    return answer.promise;
  };
  const client = createClient(TokenAdmin, createGrpcTransport({ baseUrl: url }));
  const as = (bearer: string) => ({ headers: { authorization: `Bearer ${bearer}` } });
  const reasons: string[] = [];
  const flood = Array.from({ length: 40 }, () =>
    client.listTokens({}, as("a.b.c")).then(
      () => reasons.push("OK"),
      (error) => reasons.push(/overloaded/.test(String(error)) ? "OVERLOADED" : String(error)),
    ),
  );
  try {
    await expect.poll(() => reasons.length).toBe(40 - (SLOTS - 1));
    expect(asked).toBe(SLOTS - 1);
    await client.revokeToken({ target: { case: "id", value: ID } }, as("sallyport.tokens.revoke"));
  } finally {
    states = async () => {};
    answer.resolve();
  }
  await Promise.all(flood);
  expect(reasons.sort()).toEqual(["OK", ...Array.from({ length: 39 }, () => "OVERLOADED")]);
});

test("an open method needs no credential, and is logged with its request id like every other", async () => {
  const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1" });
  let sent: string | null = null;
  await createClient(HealthDesc, transport).check(
    {},
    { headers: { "x-request-id": "mine-1" }, onHeader: (header) => void (sent = header.get("x-request-id")) },
  );
  expect(sent).toBe("mine-1");
  expect(seen).toEqual(["admit", "log"]);
  expect(lines).toMatchObject([{ requestId: "mine-1", method: "grpc.health.v1.Health/Check", code: "OK" }]);
});

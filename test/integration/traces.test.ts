import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ATTRIBUTES, parentOf } from "../../src/telemetry/tracing.ts";
import { Collector, type ReceivedSpan } from "../support/collector.ts";
import { FREE_PORTS, folder, freshKeyring, ROOT, run, writeConfig } from "../support/program.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { TestSallyport } from "../support/sallyport.ts";

const parent = (flags = "01") => {
  const traceId = randomBytes(16).toString("hex");
  const spanId = randomBytes(8).toString("hex");
  return { traceId, spanId, traceparent: `00-${traceId}-${spanId}-${flags}` };
};
const attributes = (span: ReceivedSpan) =>
  Object.fromEntries(span.attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
const REASON = "sallyport.reason";
const VALIDATE = "sallyport.v1.TokenValidator/ValidateToken";

describe("with a collector", () => {
  let collector: Collector;
  let redis: RedisServer;
  let sallyport: TestSallyport;
  beforeAll(async () => {
    [collector, redis] = await Promise.all([Collector.open(), startRedis()]);
    sallyport = await TestSallyport.start({
      config: { redis: { url: redis.url } },
      env: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url },
    });
  }, 60_000);
  afterAll(async () => {
    await sallyport?.stop();
    await redis?.stop();
    collector?.close();
  });

  const ask = (tokenString: string, traceparent?: string) =>
    sallyport.post("data", `/${VALIDATE}`, { tokenString }, traceparent === undefined ? {} : { traceparent });
  const admin = (method: string, body: object, headers: Record<string, string> = {}) =>
    sallyport.post("admin", `/sallyport.v1.TokenAdmin/${method}`, body, {
      authorization: `Bearer ${sallyport.adminToken}`,
      ...headers,
    });
  /**
   * The span of a call and its children, once all have arrived. A busy machine sheds calls, which are sent again: those
   * spans are left out.
   */
  const traceOf = (traceId: string, children: readonly string[] = []) =>
    collector.until(() => {
      const spans = collector.spans.filter((span) => span.traceId === traceId);
      const server = spans.find(
        (span) =>
          span.kind === 2 && Object.keys(attributes(span)).length > 1 && attributes(span)[REASON] !== "OVERLOADED",
      );
      const own = spans.filter(({ parentSpanId }) => parentSpanId === server?.spanId);
      return server !== undefined && children.every((name) => own.some((span) => span.name === name))
        ? { server, own, child: (name: string) => own.find((span) => span.name === name)! }
        : undefined;
    });

  test("a call of the admin listener has a span with its steps, in the caller's trace", async () => {
    const creation = parent();
    const made = (await (
      await admin(
        "CreateToken",
        { profile: "pat", principal: "user:ann", displayName: "x" },
        { traceparent: creation.traceparent },
      )
    ).json()) as { token: { id: string } };
    const { server, child } = await traceOf(creation.traceId, ["authenticate", "transaction"]);
    expect(server).toMatchObject({
      name: "sallyport.v1.TokenAdmin/CreateToken",
      parentSpanId: creation.spanId,
      status: { code: 0 },
    });
    expect(attributes(server)).toEqual({
      "rpc.method": "sallyport.v1.TokenAdmin/CreateToken",
      "sallyport.token_id": expect.stringMatching(/^tok_/),
    });
    expect(attributes(child("authenticate"))).toMatchObject({ "sallyport.verdict": "ALLOW" });

    const revocation = parent();
    await admin("RevokeToken", { id: made.token.id }, { traceparent: revocation.traceparent });
    const revoked = await traceOf(revocation.traceId, ["authenticate", "transaction", "ack_wait"]);
    const wait = revoked.child("ack_wait");
    expect(attributes(wait)).toEqual({
      "sallyport.mode": expect.stringMatching(/^(ACKED|LEASE_EXPIRED)$/),
      "sallyport.waited_ms": expect.anything(),
      "sallyport.position": expect.anything(),
    });
    expect(BigInt(wait.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(wait.startTimeUnixNano));
    expect(collector.resources[0]).toMatchObject({
      attributes: expect.arrayContaining([{ key: "service.name", value: { stringValue: "sallyport" } }]),
    });
  });

  test("a refused call is an error with its reason, without a text", async () => {
    const { traceId, traceparent } = parent();
    await admin("GetToken", { id: "tok_0000000000000000000000" }, { traceparent });
    const { server } = await traceOf(traceId);
    expect(server.status).toEqual({ code: 2 });
    expect(attributes(server)).toMatchObject({ "sallyport.reason": "TOKEN_NOT_FOUND" });
  });

  test("a validation has a span only for a sampled traceparent, with the reads that it needed", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const first = parent();
    expect(await (await ask(tokenString, first.traceparent)).json()).toMatchObject({ verdict: "VERDICT_ALLOW" });
    const { server } = await traceOf(first.traceId, ["postgres.lookup"]);
    expect(server).toMatchObject({ name: VALIDATE, parentSpanId: first.spanId });
    expect(attributes(server)).toEqual({
      "rpc.method": VALIDATE,
      "sallyport.verdict": "ALLOW",
      "sallyport.tier": "store",
      "sallyport.token_id": id,
    });
    for (const traceparent of [parent("00").traceparent, parent("00").traceparent, "nonsense", undefined])
      await ask(tokenString, traceparent);
    const refused = parent();
    await ask(`${tokenString.slice(0, -1)}!`, refused.traceparent);
    const last = parent();
    await ask(tokenString, last.traceparent);
    const warm = await traceOf(last.traceId);
    expect(attributes(warm.server)).toMatchObject({ "sallyport.tier": "l1" });
    expect(warm.own).toEqual([]);
    expect(attributes((await traceOf(refused.traceId)).server)).toEqual({
      "rpc.method": VALIDATE,
      "sallyport.verdict": "INVALID_TOKEN",
      "sallyport.tier": "none",
      "sallyport.reason": "malformed",
    });
    const traced = new Set(collector.spans.filter(({ name }) => name === VALIDATE).map(({ traceId }) => traceId));
    expect(traced).toEqual(new Set([first.traceId, refused.traceId, last.traceId]));
  });

  test("the protocol makes no difference", async () => {
    const { tokenString, id } = await sallyport.createToken();
    for (const protocol of ["grpc", "connect"] as const) {
      const { traceId, traceparent } = parent();
      const client = sallyport.client(TokenValidator, "data", protocol);
      // The second answer is from memory, by the fast path.
      for (const headers of [{}, {}, { traceparent }]) await client.validateToken({ tokenString }, { headers });
      const { server, own } = await traceOf(traceId);
      expect(attributes(server)).toMatchObject({ "sallyport.tier": "l1", "sallyport.token_id": id });
      expect(own).toEqual([]);
    }
  });

  test("a read of Redis is a child, too", async () => {
    // Redis rests for a second after an answer that was late, which a busy machine causes.
    for (let found = false; !found; ) {
      const { tokenString } = await sallyport.createToken();
      const { traceId, traceparent } = parent();
      await ask(tokenString, traceparent);
      const { own } = await traceOf(traceId, ["postgres.lookup"]);
      found = own.some(({ name }) => name === "redis.get");
    }
  });

  test("a call of the admin listener that its caller does not sample has no span", async () => {
    const unsampled = parent("00");
    await admin("ListTokens", {}, { traceparent: unsampled.traceparent });
    const sampled = parent();
    await admin("ListTokens", {}, { traceparent: sampled.traceparent });
    await traceOf(sampled.traceId);
    expect(collector.spans.filter(({ traceId }) => traceId === unsampled.traceId)).toEqual([]);
  });

  test("no span has an attribute outside of the list, an event, or a text", () => {
    expect(collector.spans.length).toBeGreaterThan(10);
    const keys = new Set(collector.spans.flatMap((span) => span.attributes.map(({ key }) => key)));
    expect([...keys].filter((key) => !(Object.values(ATTRIBUTES) as string[]).includes(key))).toEqual([]);
    for (const { events, status } of collector.spans) expect([events, status.message]).toEqual([[], undefined]);
    const text = collector.bytes.toString();
    for (const hidden of ["user:ann", "user:admin", sallyport.adminToken, "sp_pat_", "sp_adm_"])
      expect(text).not.toContain(hidden);
  });
});

test("a frozen collector holds no call up; what it does not take is counted", async () => {
  const collector = await Collector.open();
  collector.frozen = true;
  const sallyport = await TestSallyport.start({
    env: { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/v1/traces` },
  });
  try {
    const { tokenString } = await sallyport.createToken();
    await collector.until(() => collector.requests > 0);
    // The collector has answered nothing, and never does. More spans than the queue holds.
    const requests = Array.from({ length: 50 }, () => ({ tokenString }));
    for (let sent = 0; sent < 2_600; sent += 50) {
      const answers = await Promise.all(
        requests.map((body) => sallyport.post("data", `/${VALIDATE}`, body, { traceparent: parent().traceparent })),
      );
      for (const answer of answers) expect(await answer.json()).toMatchObject({ verdict: "VERDICT_ALLOW" });
    }
    const metrics = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
    expect(Number(/^sallyport_spans_dropped_total (\d+)$/m.exec(metrics)![1])).toBeGreaterThan(0);
  } finally {
    await sallyport.stop();
    collector.close();
  }
}, 120_000);

describe("without the packages", () => {
  const place = folder();
  afterAll(() => place.remove());
  const hidden = `--import=data:text/javascript,${encodeURIComponent(
    'import{registerHooks as r}from"node:module";r({resolve(s,c,n){if(/^@opentelemetry.(sdk|exporter)/.test(s))throw Object.assign(new Error("x"),{code:"ERR_MODULE_NOT_FOUND"});return n(s,c)}})',
  )}`;
  const config = () => writeConfig(place.path, { listeners: FREE_PORTS, keyring: freshKeyring() });
  const env = { NODE_OPTIONS: hidden, DATABASE_URL: "postgres://127.0.0.1:1/x" };

  test("an endpoint is refused with the command that installs them, and none is not", async () => {
    const asked = await run(["serve", "--config", config()], {
      ...env,
      OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1",
    });
    expect([asked.code, asked.err]).toEqual([
      78,
      expect.stringMatching(
        /^sallyport: OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, .*: npm install --no-save --save-prod --omit=dev @open/,
      ),
    ]);
    // It comes as far as the database.
    const off = await run(["serve", "--config", config()], env);
    expect([off.code, off.err]).toEqual([69, expect.stringContaining("database.url: nothing listens")]);
  });

  test("an endpoint that is no URL is refused without its text", async () => {
    const { code, err } = await run(["serve", "--config", config()], {
      ...env,
      OTEL_EXPORTER_OTLP_ENDPOINT: "hunter2",
    });
    expect([code, err]).toEqual([78, expect.stringContaining("OTEL_EXPORTER_OTLP_ENDPOINT: must be http://host:port")]);
    expect(err).not.toContain("hunter2");
  });

  test("the command installs the versions that these tests use", async () => {
    const { err } = await run(["serve", "--config", config()], {
      ...env,
      OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1",
    });
    const { default: manifest } = await import(join(ROOT, "package.json"), { with: { type: "json" } });
    const named = err.trim().split("--omit=dev ")[1]!.split(" ");
    const ours = Object.entries(manifest.devDependencies as Record<string, string>).filter(([name]) =>
      name.startsWith("@opentelemetry/"),
    );
    expect(named.sort()).toEqual(ours.map(([name, version]) => `${name}@${version}`).sort());
    expect(Object.keys(manifest.dependencies).filter((name) => name.startsWith("@opentelemetry/"))).toEqual([]);
  });
});

test("a traceparent is read by the rules of W3C Trace Context", () => {
  const [a, b] = ["a".repeat(32), "b".repeat(16)];
  expect(parentOf(`00-${a}-${b}-01`)).toEqual({ traceId: a, spanId: b, sampled: true });
  expect(parentOf(`00-${a}-${b}-00`)?.sampled).toBe(false);
  expect(parentOf(`01-${a}-${b}-03-more`)?.sampled).toBe(true);
  for (const bad of [
    "",
    `ff-${a}-${b}-01`,
    `00-${a}-${b}-01-more`,
    `00-${"0".repeat(32)}-${b}-01`,
    `00-${a}-${"0".repeat(16)}-01`,
    `00-${a.toUpperCase()}-${b}-01`,
    `00-${a}-${b}-01, 00-${a}-${b}-01`,
    `01-${a}-${b}-01-${"x".repeat(600)}`,
  ])
    expect(parentOf(bad), bad).toBeUndefined();
});

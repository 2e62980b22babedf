import { create, toBinary } from "@bufbuild/protobuf";
import pg from "pg";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { AccessEvent, ListAccessEventsRequest } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { framed, http2Asker } from "../data-plane/data-listener.ts";
import { outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  const profiles = { pat: { access_audit: "full" }, svc: { access_audit: "off" } };
  sallyport = await TestSallyport.start({ config: { profiles, policies: { api: { required_scopes: ["read"] } } } });
});
afterAll(() => sallyport?.stop());

type Filter = Partial<Pick<ListAccessEventsRequest, "tenant" | "principal" | "tokenId" | "verdict">>;

const list = async (filter: Filter) => (await sallyport.admin.audit.listAccessEvents(filter)).events;

/** The events of a token, once there are so many uses. */
async function uses(tokenId: string, count: number): Promise<AccessEvent[]> {
  return vi.waitFor(
    async () => {
      const events = await list({ tokenId });
      expect(events.reduce((sum, event) => sum + event.uses, 0)).toBe(count);
      return events;
    },
    { timeout: 20_000, interval: 100 },
  );
}

async function dropped(): Promise<number> {
  const text = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
  const values = [...text.matchAll(/^sallyport_access_audit_dropped_total\{[^}]*\} (\d+)$/gm)];
  expect(values).toHaveLength(2);
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
}

/** Envoy's Check for a request with a bearer. */
async function envoy(tokenString: string, http: { method: string; host: string; path: string }): Promise<void> {
  const headers = { authorization: `Bearer ${tokenString}` };
  const source = {
    principal: "spiffe://mesh/web",
    address: { address: { case: "socketAddress" as const, value: { address: "203.0.113.9" } } },
  };
  const attributes = { source, request: { http: { ...http, headers } }, contextExtensions: { policy: "api" } };
  const question = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
  const asker = http2Asker(sallyport.listeners.data);
  const form = { "content-type": "application/grpc", te: "trailers" };
  await asker.ask("/envoy.service.auth.v3.Authorization/Check", form, framed(question)).finally(() => asker.close());
}

test("a use is recorded with its target and its decision: by ValidateToken, by Envoy and by the HTTP check", async () => {
  const { id, tokenString } = await sallyport.createToken({ scopes: ["read"] });
  const context = {
    clientAddress: "203.0.113.7",
    method: "PUT",
    host: "api.example",
    path: "/v1/x?q=1",
    workload: "web",
  };
  const asked = { requiredScopes: ["write"], audience: "api", context };
  // A cached token and one that is not take different ways.
  for (let i = 0; i < 3; i++) expect(await sallyport.verdict(tokenString, asked)).toBe("INSUFFICIENT_SCOPE");
  const [event] = await uses(id, 3);
  expect(event).toMatchObject({
    ...{ tenant: "default", principal: "user:ann", tokenId: id, profile: "pat", listener: "data" },
    ...{ verdict: Verdict.INSUFFICIENT_SCOPE, reason: "", scopes: ["write"], audience: "api" },
    ...{ method: "PUT", host: "api.example", path: "/v1/x", workload: "web", clientAddress: "203.0.113.7" },
  });
  expect(tokenString.startsWith(event!.hint)).toBe(true);

  const other = await sallyport.createToken({ scopes: ["read"] });
  const http = { method: "DELETE", host: "files.example", path: "/a/b?c=d" };
  for (let i = 0; i < 2; i++) await envoy(other.tokenString, http);
  const events = await uses(other.id, 2);
  for (const one of events) {
    expect(one).toMatchObject({
      ...{ verdict: Verdict.ALLOW, scopes: ["read"], method: "DELETE", host: "files.example", path: "/a/b" },
      ...{ workload: "spiffe://mesh/web", clientAddress: "203.0.113.9" },
    });
  }

  const third = await sallyport.createToken({ scopes: ["read"] });
  const authorization = `Bearer ${third.tokenString}`;
  const ways: [string, Record<string, string>][] = [
    [
      "/v1/check/forwarded/api",
      { "x-forwarded-method": "GET", "x-forwarded-host": "f.example", "x-forwarded-uri": "/f?x=/y" },
    ],
    ["/v1/check/original/api", { "x-original-method": "GET", "x-original-url": "https://o.example/o?x" }],
    ["/v1/check/envoy/api/e/f?x=/y", {}],
  ];
  for (const [path, headers] of ways) {
    const response = await fetch(`${sallyport.listeners.data}${path}`, { headers: { authorization, ...headers } });
    expect(response.status).toBe(200);
  }
  expect((await uses(third.id, 3)).map(({ path }) => path).sort()).toEqual(["/e/f", "/f", "/o"]);
});

test("a dead token is recorded with its reason, one of another profile is not", async () => {
  const dead = await sallyport.createToken();
  expect(await sallyport.verdict(dead.tokenString)).toBe("ALLOW");
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: dead.id } });
  expect(await sallyport.verdict(dead.tokenString)).toBe("INVALID_TOKEN");
  await sallyport.registered("service:x");
  const unrecorded = await sallyport.createToken({ profile: "svc", principal: "service:x" });
  expect(await sallyport.verdict(unrecorded.tokenString)).toBe("ALLOW");
  await uses(dead.id, 2);
  const [refused, ...others] = await list({ tokenId: dead.id, verdict: Verdict.INVALID_TOKEN });
  expect([refused?.reason, others]).toEqual(["revoked", []]);
  // Flushed after the others: they would be there by now.
  const later = await sallyport.createToken();
  await sallyport.verdict(later.tokenString);
  await uses(later.id, 1);
  expect(await list({ tokenId: unrecorded.id })).toEqual([]);
});

test("a token string in a path, a host or a workload never reaches the table", async () => {
  const { id, tokenString } = await sallyport.createToken({ scopes: ["read"] });
  const secret = tokenString.slice(-49, -6);
  const context = {
    path: `/x/${tokenString}/y`,
    host: `${tokenString}.example`,
    method: tokenString,
    workload: tokenString,
  };
  const asked = { context, audience: tokenString, requiredScopes: [tokenString] };
  for (let i = 0; i < 2; i++) await sallyport.validate(tokenString, asked);
  await envoy(tokenString, { method: "GET", host: "h", path: `/z/%73${tokenString.slice(1)}?t=${tokenString}` });
  const events = await uses(id, 3);
  expect(events.map(({ path }) => path).sort()).toEqual(["/x/[token]/y", "/z/[token]"]);
  const rows = await sallyport.sql("select a::text as text from sallyport.access_log a");
  expect(rows.length).toBeGreaterThan(1);
  for (const { text } of rows) expect(text).not.toContain(secret);
});

test("only sallyport.audit.read lists uses, and only those of the caller's tenant", async () => {
  const reader = await sallyport.callerWith(["sallyport.audit.read"]);
  const stranger = await sallyport.callerWith(["sallyport.tokens.read"], { principal: "user:other" });
  expect(await outcome(sallyport.as(reader.tokenString).audit.listAccessEvents({}))).toBe("OK");
  expect(await outcome(sallyport.as(stranger.tokenString).audit.listAccessEvents({}))).toBe("CALLER_FORBIDDEN");
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
  expect(await outcome(sallyport.as(reader.tokenString).audit.listAccessEvents({ tenant: "acme" }))).toBe(
    "TENANT_NOT_FOUND",
  );
  expect(await list({ tenant: "acme" })).toEqual([]);
  expect(await outcome(sallyport.admin.audit.listAccessEvents({ tenant: "nowhere" }))).toBe("TENANT_NOT_FOUND");
});

test("while the table is locked, validations go on, and the uses that it does not take are counted", async () => {
  const { id, tokenString } = await sallyport.createToken();
  await sallyport.verdict(tokenString);
  await uses(id, 1);
  const before = await dropped();
  const locking = new pg.Client(sallyport.database.url);
  await locking.connect();
  let asked = 0;
  try {
    await locking.query("begin");
    await locking.query("lock table sallyport.access_log in access exclusive mode");
    let longest = 0;
    await vi.waitFor(
      async () => {
        const start = performance.now();
        expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
        longest = Math.max(longest, performance.now() - start);
        asked++;
        expect(await dropped()).toBeGreaterThan(before);
      },
      { timeout: 20_000, interval: 50 },
    );
    // A store waits two seconds for the table.
    expect(longest).toBeLessThan(1_500);
    // One that is not cached reads the database, and does not wait either.
    const fresh = await sallyport.createToken();
    expect(await sallyport.verdict(fresh.tokenString)).toBe("ALLOW");
  } finally {
    await locking.query("rollback");
    await locking.end();
  }
  await vi.waitFor(
    async () => {
      const seen = (await list({ tokenId: id })).reduce((sum, event) => sum + event.uses, 0) - 1;
      expect(seen).toBeLessThan(asked);
      // The token that was not cached is among them, or in the table.
      expect([asked, asked + 1]).toContain(seen + (await dropped()) - before);
    },
    { timeout: 20_000, interval: 200 },
  );
}, 60_000);

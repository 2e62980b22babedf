import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { folder } from "../support/program.ts";
import { outcome, seconds, TestSallyport } from "../support/sallyport.ts";

const SECRET = "break-glass-".padEnd(40, "x");
/** The headers of the proxy in front of the admin listener. */
const CLIENT = "203.0.113.77";

let sallyport: TestSallyport;
const place = folder();
beforeAll(async () => {
  writeFileSync(join(place.path, "secret"), `${SECRET}\n`, { mode: 0o600 });
  sallyport = await TestSallyport.start({
    config: {
      listeners: {
        data: { bind: "127.0.0.1:0" },
        admin: { bind: "127.0.0.1:0", trusted_proxies: ["127.0.0.0/8"] },
        ops: { bind: "127.0.0.1:0" },
      },
      break_glass: { secret_file: join(place.path, "secret") },
    },
  });
});
afterAll(async () => {
  await sallyport?.stop();
  place.remove();
});

interface Row {
  readonly action: string;
  readonly actor_address: string;
  readonly owner: string;
  readonly outcome: string;
  readonly metadata: Record<string, string>;
}

/** The rows about a target, oldest first. */
const about = (target: string) =>
  sallyport.sql<Row>(
    `select action, actor_address, owner, outcome, metadata from sallyport.audit where target = $1 order by seq`,
    [target],
  );
const byId = (value: string) => ({ target: { case: "id" as const, value } });
const iso = (time: { seconds: bigint; nanos: number }) =>
  new Date(Number(time.seconds) * 1000 + time.nanos / 1e6).toISOString();

/** A call through the proxy. */
const through = (method: string, body: object, bearer: string | undefined, from = CLIENT) =>
  sallyport.post("admin", `/sallyport.v1.${method}`, body, {
    "x-forwarded-for": from,
    ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
  });

/** The log lines so far that hold all these texts. */
const lines = (...parts: string[]) =>
  sallyport.program.out
    .split("\n")
    .filter((line) => parts.every((part) => line.includes(part)))
    .map((line) => JSON.parse(line));

describe("behind a trusted proxy", () => {
  test("the address of an RPC is the client's: in its audit row, and against the networks of its token", async () => {
    const { id } = await sallyport.createToken();
    expect((await through("TokenAdmin/RevokeToken", { id, noWait: true }, sallyport.adminToken)).status).toBe(200);
    expect((await about(`token:${id}`)).at(-1)).toMatchObject({ action: "token.revoke", actor_address: CLIENT });
    const bound = (
      await sallyport.callerWith(["sallyport.tokens.read"], {
        principal: "user:bound",
        allowedCidrs: [`${CLIENT}/32`],
      })
    ).tokenString;
    expect((await through("TokenAdmin/ListTokens", {}, bound)).status).toBe(200);
    expect((await through("TokenAdmin/ListTokens", {}, bound, "203.0.113.78")).status).toBe(401);
  });

  test("the address of /v1/revoke is the client's, too", async () => {
    const { id, tokenString } = await sallyport.createToken();
    const response = await sallyport.post("admin", "/v1/revoke", `token=${tokenString}`, {
      "content-type": "application/x-www-form-urlencoded",
      "x-forwarded-for": CLIENT,
      authorization: `Bearer ${sallyport.adminToken}`,
    });
    expect(response.status).toBe(200);
    expect((await about(`token:${id}`)).at(-1)).toMatchObject({ action: "token.revoke", actor_address: CLIENT });
  });

  test("a failed authentication is logged with the address, by RPC and by /v1/revoke; a known caller is not", async () => {
    const rpc = "203.0.113.101";
    const path = "203.0.113.102";
    expect((await through("TokenAdmin/ListTokens", {}, "nonsense", rpc)).status).toBe(401);
    const revoke = await sallyport.post("admin", "/v1/revoke", "token=x", {
      "content-type": "application/x-www-form-urlencoded",
      "x-forwarded-for": path,
    });
    expect(revoke.status).toBe(401);
    await sallyport.program.until(() => lines(rpc).length > 0 && lines(path).length > 0, "the lines were written");
    expect(lines(rpc)).toMatchObject([{ reason: "CALLER_UNAUTHENTICATED", address: rpc, msg: "call" }]);
    expect(lines(path)).toMatchObject([{ reason: "CALLER_UNAUTHENTICATED", address: path, msg: "call" }]);
    expect(lines('"code":"OK"').some((line) => "address" in line)).toBe(false);
  });
});

describe("the row of a new token", () => {
  test("records the rights of the token", async () => {
    const { id, token } = await sallyport.createToken({
      principal: "user:shown",
      displayName: "for the nightly run",
      scopes: ["repo:read", "wiki:*"],
      audiences: ["https://a.example"],
      allowedCidrs: ["198.51.100.0/24", "2001:db8::/32"],
      lifetime: { case: "ttl", value: seconds(600) },
    });
    const { metadata, owner } = (await about(`token:${id}`))[0]!;
    expect(owner).toBe("user:shown");
    expect(metadata).toEqual({
      profile: "pat",
      hint: token.hint,
      kid: expect.stringMatching(/./),
      display_name: "for the nightly run",
      scopes: "repo:read wiki:*",
      audiences: "https://a.example",
      allowed_cidrs: "198.51.100.0/24 2001:db8::/32",
      expire_time: iso(token.expireTime!),
    });
  });

  test("records the parent of a child, its bounds from the parent, and that it has no end", async () => {
    await sallyport.registered("bot:ci");
    const bot = (scopes: string[], more: object, by?: string) =>
      sallyport.createToken(
        { profile: "bot", principal: "bot:ci", displayName: "", scopes, ...more },
        by === undefined ? sallyport.admin : sallyport.as(by),
      );
    const forever = { lifetime: { case: "noExpiry" as const, value: true } };
    const bound = { allowedCidrs: ["127.0.0.0/8"], ...forever };
    const parent = await bot(["sallyport.tokens.create", "repo:*"], bound);
    const child = await bot(["repo:read"], forever, parent.tokenString);
    expect((await about(`token:${parent.id}`))[0]!.metadata).not.toHaveProperty("parent");
    expect((await about(`token:${child.id}`))[0]!.metadata).toMatchObject({
      scopes: "repo:read",
      allowed_cidrs: "127.0.0.0/8",
      expire_time: "never",
      parent: parent.id,
    });
  });
});

describe("the row of a changed token", () => {
  const update = async (id: string, token: object, paths: string[]) => {
    await sallyport.admin.tokens.updateToken({ token: { id, ...token }, updateMask: { paths }, noWait: true });
    return (await about(`token:${id}`)).at(-1)!;
  };

  test("tells the fields that were set, and what they are now", async () => {
    const { id } = await sallyport.createToken({ principal: "user:changed", allowedCidrs: ["10.0.0.0/8"] });
    const end = new Date(Math.floor(Date.now() / 1000) * 1000 + 600_000);
    const given = {
      displayName: " renamed ",
      description: "not told",
      scopes: ["repo:read", "wiki:*", "repo:read"],
      audiences: ["https://b.example"],
      allowedCidrs: [],
      annotations: { not: "told" },
      disabled: true,
      expireTime: { seconds: BigInt(end.getTime() / 1000), nanos: 0 },
    };
    const paths = "display_name description scopes audiences allowed_cidrs annotations disabled expire_time".split(" ");
    expect(await update(id, given, paths)).toMatchObject({
      action: "token.update",
      owner: "user:changed",
      metadata: {
        fields: "allowed_cidrs annotations audiences description disabled display_name expire_time scopes",
        display_name: "renamed",
        scopes: "repo:read wiki:*",
        audiences: "https://b.example",
        allowed_cidrs: "",
        disabled: "true",
        expire_time: end.toISOString(),
      },
    });
    expect((await update(id, { disabled: false, scopes: ["ignored"] }, ["disabled"])).metadata).toEqual({
      fields: "disabled",
      disabled: "false",
    });
  });

  test("tells that its end is gone", async () => {
    await sallyport.registered("bot:endless");
    const { id } = await sallyport.createToken({ profile: "bot", principal: "bot:endless", displayName: "" });
    expect((await update(id, {}, ["expire_time"])).metadata).toEqual({ fields: "expire_time", expire_time: "never" });
  });

  test("of a rotation tells what the new token was given, its end too", async () => {
    const made = await sallyport.createToken({
      principal: "user:rotated",
      displayName: "nightly",
      scopes: ["repo:read"],
      allowedCidrs: ["10.0.0.0/8"],
    });
    const { token, tokenString } = await sallyport.admin.tokens.rotateToken({
      id: made.id,
      overlap: seconds(60),
      lifetime: { case: "ttl", value: seconds(300) },
      noWait: true,
    });
    const { action, metadata } = (await about(`token:${made.id}`)).at(-1)!;
    expect([action, metadata]).toEqual([
      "token.rotate",
      {
        new_token: token!.id,
        overlap_seconds: "60",
        profile: "pat",
        hint: token!.hint,
        kid: expect.stringMatching(/./),
        display_name: "nightly",
        scopes: "repo:read",
        allowed_cidrs: "10.0.0.0/8",
        expire_time: iso(token!.expireTime!),
      },
    ]);
    expect(JSON.stringify(metadata)).not.toContain(tokenString.slice(-20));
  });
});

describe("the row of a revocation", () => {
  const REASON = "laptop was lost";

  test("of one token names the owner and the reason, and no reason where none was given", async () => {
    for (const reason of [REASON, ""]) {
      const { id } = await sallyport.createToken({ principal: "user:owner" });
      await sallyport.admin.tokens.revokeToken({ ...byId(id), reason, noWait: true });
      expect((await about(`token:${id}`)).at(-1)).toMatchObject({
        action: "token.revoke",
        owner: "user:owner",
        metadata: reason === "" ? {} : { reason },
      });
    }
  });

  test("of a family names them, too", async () => {
    const { id } = await sallyport.createToken({ principal: "user:owner" });
    await sallyport.admin.tokens.revokeToken({ ...byId(id), family: true, reason: REASON, noWait: true });
    expect((await about(`token:${id}`)).at(-1)).toMatchObject({
      owner: "user:owner",
      metadata: { family: "true", reason: REASON },
    });
  });

  test("of many has it in each row, by rows or by a cut, and if there was nothing to revoke", async () => {
    const bulk = (request: object) => sallyport.admin.tokens.revokeTokens({ reason: REASON, noWait: true, ...request });
    const made = [await sallyport.createToken({ principal: "user:bulk" }), await sallyport.createToken()];
    await bulk({ ids: made.map(({ id }) => id) });
    for (const [i, { id }] of made.entries()) {
      expect((await about(`token:${id}`)).at(-1)).toMatchObject({
        action: "token.revoke",
        owner: i === 0 ? "user:bulk" : "user:ann",
        metadata: { bulk: "true", reason: REASON },
      });
    }
    await bulk({ ids: made.map(({ id }) => id) });
    expect((await about("tokens:")).at(-1)!.metadata).toEqual({ revoked: "0", reason: REASON });
    await bulk({ principal: "user:bulk" });
    expect((await about("principal:user:bulk")).at(-1)).toMatchObject({
      action: "tokens.revoke",
      metadata: { reason: REASON },
    });
    await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
    await bulk({ tenant: "acme" });
    expect((await about("tenant:acme")).at(-1)).toMatchObject({
      action: "tokens.revoke",
      metadata: { reason: REASON },
    });
    const silent = await sallyport.createToken();
    await bulk({ ids: [silent.id], reason: "" });
    expect((await about(`token:${silent.id}`)).at(-1)!.metadata).toEqual({ bulk: "true" });
  });
});

test("a caller that lacks the permission is recorded as denied", async () => {
  const weak = await sallyport.callerWith(["repo:read"], { principal: "user:weak" });
  const rows = () =>
    sallyport.sql<Row & { target: string; actor: string }>(
      "select target, actor, owner, outcome, metadata from sallyport.audit where action = 'caller.denied' order by seq",
    );
  expect(await outcome(sallyport.as(weak.tokenString).audit.listAuditEvents({}))).toBe("CALLER_FORBIDDEN");
  await expect.poll(rows, { timeout: 5_000 }).toMatchObject([
    {
      target: "rpc:sallyport.v1.AuditLog/ListAuditEvents",
      actor: `token:${weak.token.hint}`,
      owner: "user:weak",
      outcome: "DENIED",
      metadata: { reason: "CALLER_FORBIDDEN" },
    },
  ]);
});

test("each use of break-glass raises an alarm, with the call and the address", async () => {
  const alarms = async () =>
    /alarms_total\{what="break_glass_used"\} (\d+)/.exec(
      await (await fetch(`${sallyport.listeners.ops}/metrics`)).text(),
    )?.[1];
  expect(await alarms()).toBe("0");
  expect((await through("TenantAdmin/ListTenants", {}, SECRET)).status).toBe(200);
  expect(await alarms()).toBe("1");
  expect(lines("break_glass_used")).toMatchObject([
    { alarm: true, level: "error", method: "sallyport.v1.TenantAdmin/ListTenants", address: CLIENT },
  ]);
  expect(sallyport.program.out).not.toContain(SECRET);
});

test("every answer with a token string says in one sentence that it is shown once", async () => {
  const made = await through(
    "TokenAdmin/CreateToken",
    { profile: "pat", principal: "user:ann", displayName: "x" },
    sallyport.adminToken,
  );
  const { warning, token } = (await made.json()) as { warning: string; token: { id: string } };
  expect(warning).toMatch(/^[^.]*shown once[^.]*\.$/);
  const rotated = await through("TokenAdmin/RotateToken", { id: token.id, noWait: true }, sallyport.adminToken);
  expect(await rotated.json()).toMatchObject({ warning });
});

test("calls are counted by the name of their gRPC status, whatever refuses them", async () => {
  const stranger = await through("TokenAdmin/ListTokens", {}, "nonsense");
  const wrongField = await through("TokenAdmin/CreateToken", { profile: "nonsense" }, sallyport.adminToken);
  const undecodable = await through("TokenAdmin/ListTokens", { nonsense: 1 }, sallyport.adminToken);
  const revoke = await sallyport.post("admin", "/v1/revoke", "token=x", {
    "content-type": "application/x-www-form-urlencoded",
  });
  expect([stranger, wrongField, undecodable, revoke].map(({ status }) => status)).toEqual([401, 400, 400, 401]);
  const text = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
  const codes = new Set([...text.matchAll(/^sallyport_rpc_total\{.*code="([^"]*)"/gm)].map((found) => found[1]!));
  expect([...codes].filter((code) => !/^[A-Z]+(_[A-Z]+)*$/.test(code))).toEqual([]);
  expect([...codes]).toEqual(expect.arrayContaining(["OK", "UNAUTHENTICATED", "INVALID_ARGUMENT"]));
});

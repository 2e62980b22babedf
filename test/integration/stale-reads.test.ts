import pg from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

// `database.url` leads through a proxy that can lead elsewhere; `database.direct_url` leads to the primary.
let primary: ThrowawayServer;
let standby: ThrowawayServer;
let proxy: TcpProxy;
const target = { port: 0 };
let sallyport: TestSallyport;
let admin: ReturnType<TestSallyport["as"]>;
let adminToken = "";

const leadTo = async (server: ThrowawayServer) => {
  target.port = server.port;
  await proxy.set({ kind: "reset" });
  await proxy.set({ kind: "pass" });
};

beforeAll(async () => {
  primary = await startServer({ fsync: false });
  await migrate(primary.url);
  const keyring = freshKeyring();
  const keep = (secret: { reveal(): string }) => (adminToken = secret.reveal());
  await bootstrap({ url: primary.url, keyring, ttlMs: 86_400_000, again: false, keep });
  standby = await primary.standby();
  const sql = new pg.Client({ connectionString: standby.url });
  await sql.connect();
  await sql.query("select pg_wal_replay_pause()");
  await sql.end();
  target.port = primary.port;
  proxy = await startTcpProxy(target);
  const through = new URL(primary.url);
  through.port = String(proxy.port);
  sallyport = await TestSallyport.start({
    database: { url: through.href, drop: async () => {} },
    keyring,
    config: { database: { allow_fsync_off: true, direct_url: primary.url } },
  });
  admin = sallyport.as(adminToken);
}, 60_000);
afterAll(async () => {
  await leadTo(primary);
  await sallyport?.stop();
  await proxy?.stop();
  await standby?.remove();
  await primary?.remove();
});

// Also after a try that failed half-way.
beforeEach(async () => {
  await leadTo(primary);
  await expect.poll(() => outcome(sallyport.createToken({}, admin)), { timeout: 10_000 }).toBe("OK");
});

test("a standby in the place of the primary revokes nothing, and no answer claims a revocation", async () => {
  const { tokenString, id, token } = await sallyport.createToken({ principal: "user:late" }, admin);
  const form = () =>
    sallyport.post("admin", "/v1/revoke", `token=${tokenString}`, {
      "content-type": "application/x-www-form-urlencoded",
      authorization: `Bearer ${adminToken}`,
    });
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");

  await leadTo(standby);
  const tokens = admin.tokens;
  expect((await form()).status).toBe(503);
  const calls = {
    "by string": tokens.revokeToken({ target: { case: "tokenString", value: tokenString } }),
    "by id": tokens.revokeToken({ target: { case: "id", value: id } }),
    "by hint": tokens.revokeTokens({ hints: [token.hint] }),
    "by maker": tokens.revokeTokens({ createdBy: token.createdBy }),
    "by principal": tokens.revokeTokens({ principal: "user:late" }),
    "a dry run": tokens.revokeTokens({ principal: "user:late", dryRun: true }),
    "a rotation": tokens.rotateToken({ id }),
    "a read": tokens.getToken({ id }),
    "a principal": admin.principals.getPrincipal({ name: "user:late" }),
    "deleting a principal": admin.principals.deletePrincipal({ name: "user:late" }),
    "disabling a principal": admin.principals.updatePrincipal({
      principal: { name: "user:late", state: 2 },
      updateMask: { paths: ["state"] },
    }),
    "a principal of an unknown tenant": admin.principals.createPrincipal({
      principal: { name: "bot:x", tenant: "unknown" },
    }),
  };
  const answers = Object.entries(calls).map(async ([what, call]) => [what, (await failure(call)).code]);
  expect(await Promise.all(answers)).toEqual(Object.keys(calls).map((what) => [what, "Unavailable"]));

  await leadTo(primary);
  // None of them was done, and no connection to the standby is left in the pool.
  await expect.poll(() => outcome(tokens.getToken({ id })), { timeout: 10_000 }).toBe("OK");
  expect((await tokens.getToken({ id })).token?.state).toBe(1);
  expect((await form()).status).toBe(200);
  expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
}, 60_000);

test("the first read abandons a connection that was opened to a standby, and no later read gets it", async () => {
  const { id } = await sallyport.createToken({}, admin);
  await leadTo(standby);
  expect((await failure(admin.tokens.getToken({ id }))).reason).toBe("STORE_UNAVAILABLE");
  const sql = new pg.Client({ connectionString: standby.url });
  await sql.connect();
  const left = async () =>
    (await sql.query("select from pg_stat_activity where application_name = 'sallyport'")).rowCount;
  await expect.poll(left, { timeout: 5000 }).toBe(0);
  await sql.end();
  // The way back, without a reset: what is open goes on.
  target.port = primary.port;
  expect(await outcome(admin.tokens.getToken({ id }))).toBe("OK");
}, 60_000);

import { chownSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { migrate } from "../../src/postgres/migrate.ts";
import { certify } from "../listen/certificates.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { folder, freshKeyring, run, writeConfig } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

/** One way. A connection with TLS and SCRAM takes six round trips. */
const AWAY_MS = 80;

let server: ThrowawayServer;
let proxy: TcpProxy;
const place = folder();
beforeAll(async () => {
  server = await startServer({ fsync: false });
  const ca = certify("ca", []);
  const { certPem, keyPem } = certify("database", [{ ip: "127.0.0.1" }], ca);
  const { uid, gid } = statSync(server.dataDir);
  for (const [name, text] of [
    ["server.crt", certPem],
    ["server.key", keyPem],
  ] as const) {
    const file = join(server.dataDir, name);
    writeFileSync(file, text, { mode: 0o600 });
    chownSync(file, uid, gid);
  }
  writeFileSync(join(place.path, "ca.pem"), ca.certPem);
  const admin = new pg.Client(server.url);
  await admin.connect();
  await admin.query("alter system set ssl = on");
  await admin.query("alter role sallyport password 'far'");
  await admin.end();
  const access = join(server.dataDir, "pg_hba.conf");
  writeFileSync(access, `hostssl all all 127.0.0.1/32 scram-sha-256\n${readFileSync(access, "utf8")}`);
  await server.restart();
  await migrate(server.url);
  proxy = await startTcpProxy({ port: server.port });
}, 60_000);
afterAll(async () => {
  await proxy?.stop();
  await server?.remove();
  place.remove();
});

test("a database at a distance of 160 ms there and back, with TLS, is ready, and works like a near one", async () => {
  const url = new URL(server.url);
  url.port = String(proxy.port);
  url.password = "far";
  url.search = `?sslmode=verify-full&sslrootcert=${join(place.path, "ca.pem")}`;
  const keyring = freshKeyring();
  const file = writeConfig(place.path, { keyring, database: { allow_fsync_off: true } });
  const { code, out, err } = await run(["bootstrap", "--config", file], { DATABASE_URL: server.url });
  expect([code, err]).toEqual([0, ""]);
  await proxy.set({ kind: "latency", ms: AWAY_MS });
  const database = { url: url.href, drop: async () => {} };
  await using sallyport = await TestSallyport.start({ database, keyring });
  const admin = sallyport.as(out.trim());
  expect((await fetch(`${sallyport.listeners.ops}/readyz`)).status).toBe(200);
  const { id, tokenString } = await sallyport.createToken({}, admin);
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  expect((await admin.tokens.listTokens({ principal: "user:ann" })).tokens).toHaveLength(1);
  await admin.tokens.revokeToken({ target: { case: "id", value: id } });
  expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
  expect((await fetch(`${sallyport.listeners.ops}/readyz`)).status).toBe(200);
  await proxy.set({ kind: "pass" });
}, 120_000);

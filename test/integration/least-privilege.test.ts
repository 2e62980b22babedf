import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import type { Database } from "../support/postgres.ts";
import { TestSallyport } from "../support/sallyport.ts";

let first: TestSallyport;
let database: Database;
const running: TestSallyport[] = [];
const role = `sallyport_test_${process.pid}`;

beforeAll(async () => {
  first = await TestSallyport.start();
  database = first.database;
  await owner(`create role ${role}_w login password 'w' in role sallyport_writer`);
  await owner(`create role ${role}_r login password 'r' in role sallyport_reader`);
});
afterAll(async () => {
  for (const sallyport of running) await sallyport.stop();
  await owner(`drop role ${role}_w`);
  await owner(`drop role ${role}_r`);
  await first?.stop();
});

async function owner(sql: string): Promise<void> {
  const client = new pg.Client(database.url);
  await client.connect();
  await client.query(sql).finally(() => client.end());
}

function as(suffix: "w" | "r"): Database {
  const url = new URL(database.url);
  url.username = `${role}_${suffix}`;
  url.password = suffix;
  return { ...database, url: url.href, drop: async () => {} };
}

test("an instance needs only the writer's rights, a validating one the reader's, and both see a revocation at OK", async () => {
  const { keyring, adminToken } = first;
  const writer = await TestSallyport.start({ database: as("w"), keyring });
  running.push(writer);
  const reader = await TestSallyport.start({ database: as("r"), keyring, config: { mode: "validate" } });
  running.push(reader);
  const tokens = writer.client(TokenAdmin, "admin", "grpc", adminToken);
  const { token, tokenString } = await tokens.createToken({ profile: "pat", principal: "user:ann", displayName: "n" });
  expect([await writer.verdict(tokenString), await reader.verdict(tokenString)]).toEqual(["ALLOW", "ALLOW"]);
  const { effect } = await tokens.revokeToken({ target: { case: "id", value: token!.id } });
  expect([1, 2]).toContain(effect?.mode);
  expect([await writer.verdict(tokenString), await reader.verdict(tokenString)]).toEqual([
    "INVALID_TOKEN",
    "INVALID_TOKEN",
  ]);
  expect(reader.listeners.admin).toBe("");
}, 60_000);

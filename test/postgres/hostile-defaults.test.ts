import { randomBytes } from "node:crypto";
import { connect, createServer, type Socket } from "node:net";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Keyring } from "../../src/domain/keyring.ts";
import { checkDatabase } from "../../src/postgres/boot.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { checkDirectSession } from "../../src/postgres/session-check.ts";
import { SESSION_SETTINGS } from "../../src/postgres/session-settings.ts";
import type { Database } from "../support/postgres.ts";
import { folder, freshKeyring, run, writeConfig } from "../support/program.ts";
import { migratedDatabase, TestSallyport } from "../support/sallyport.ts";
import { byHand } from "./migrated.ts";

/** What `ALTER DATABASE … SET` can do to every session. */
const HOSTILE: Readonly<Record<string, string>> = {
  datestyle: "'German, DMY'",
  timezone: "'Asia/Kathmandu'",
  bytea_output: "escape",
  extra_float_digits: "-15",
  search_path: "evil, pg_catalog",
  standard_conforming_strings: "off",
  default_transaction_isolation: "serializable",
  row_security: "off",
  client_min_messages: "error",
  exit_on_error: "on",
  lock_timeout: "1",
  statement_timeout: "1",
  intervalstyle: "iso_8601",
  jit: "on",
};

async function made(hostile: Readonly<Record<string, string>>): Promise<Database> {
  const database = await migratedDatabase();
  const admin = new pg.Client(database.url);
  await admin.connect();
  const name = new URL(database.url).pathname.slice(1);
  await admin.query(`create schema evil;
    create function evil.clock_timestamp() returns timestamptz language sql as 'select ''1999-01-01''::timestamptz'`);
  for (const [setting, value] of Object.entries(hostile)) {
    await admin.query(`alter database ${name} set ${setting} = ${value}`);
  }
  await admin.end();
  return database;
}

/** By the program, so that its start is tried, too. */
async function administered(database: Database) {
  const keyring = freshKeyring();
  const place = folder();
  onTestFinished(() => place.remove());
  const file = writeConfig(place.path, { keyring });
  const { code, out } = await run(["bootstrap", "--config", file], { DATABASE_URL: database.url });
  expect(code).toBe(0);
  return { keyring, adminToken: out.trim() };
}

describe("with every session default set against the program", () => {
  let database: Database;
  beforeAll(async () => {
    database = await made(HOSTILE);
  });
  afterAll(() => database?.drop());

  test("a direct connection issues, validates, lists, expires and revokes as usual", async () => {
    const { keyring, adminToken } = await administered(database);
    await using sallyport = await TestSallyport.start({ database, keyring });
    const admin = sallyport.as(adminToken);
    const now = Date.now();
    const { id, tokenString, token } = await sallyport.createToken(
      { lifetime: { case: "ttl", value: { seconds: 3600n, nanos: 0 } } },
      admin,
    );
    expect(Math.abs(Number(token.createTime!.seconds) * 1000 - now)).toBeLessThan(60_000);
    expect(Number(token.expireTime!.seconds - token.createTime!.seconds)).toBe(3600);
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
    expect((await admin.tokens.listTokens({ principal: "user:ann" })).tokens.map((of) => of.id)).toEqual([id]);
    expect((await admin.audit.listAuditEvents({ target: `token:${id}` })).events).toHaveLength(1);
    await admin.principals.createPrincipal({ principal: { name: "bot:ci" } });
    const { effect } = await admin.tokens.revokeToken({ target: { case: "id", value: id } });
    expect(effect?.mode).toBeGreaterThan(0);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect((await admin.tokens.revokeTokens({ principal: "bot:ci" })).effect?.position).toBeGreaterThan(0n);
  }, 120_000);
});

describe("on shared connections, where the program sets nothing", () => {
  for (const { name } of SESSION_SETTINGS) {
    test(`a ${name} that breaks something refuses the start, with the line to run`, async () => {
      const database = await made({ jit: "off", [name]: HOSTILE[name]! });
      onTestFinished(() => database.drop());
      const boot = async () => {
        const db = new Postgres({
          url: database.url,
          shared: true,
          maxConnections: 1,
          applicationName: "sallyport",
          onTrouble: () => {},
        });
        const { current, keys } = freshKeyring();
        const rules = { fsyncOffAllowed: true, mayWrite: false, shared: true };
        return checkDatabase(db, new Keyring(current, keys), rules).finally(() => db.close());
      };
      const refused = await boot().then(
        () => undefined,
        (error) => error as Error,
      );
      // A statement that ends after a millisecond can end the check itself.
      if (name === "statement_timeout" && refused?.name === "AppError") return;
      expect(refused?.name).toBe("StartError");
      const line = /ALTER ROLE \S+ SET [^;]+;/.exec(refused!.message)![0];
      expect(line).toContain(` SET ${name} = `);
      const admin = await byHand(database.url);
      await admin.query(
        line.replace(/ALTER ROLE \S+ SET/, `alter database ${new URL(database.url).pathname.slice(1)} set`),
      );
      await boot();
    });
  }
});

/** What a pooler does with startup options: `refuse`s the connection, or `drop`s them. Counts what it let through. */
async function pooler(url: string, way: "refuse" | "drop") {
  const target = new URL(url);
  const sent: string[] = [];
  const server = createServer((client: Socket) => {
    client.on("error", () => {});
    client.once("data", (startup: Buffer) => {
      const fields = startup.subarray(8).toString("latin1").split("\0");
      const at = fields.indexOf("options");
      if (at !== -1 && way === "refuse") {
        const body = Buffer.from("SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0", "latin1");
        const head = Buffer.alloc(5);
        head.write("E");
        head.writeInt32BE(body.length + 4, 1);
        return void client.end(Buffer.concat([head, body]));
      }
      if (at !== -1) fields.splice(at, 2);
      const rest = Buffer.from(fields.join("\0"), "latin1");
      const head = Buffer.from(startup.subarray(0, 8));
      head.writeInt32BE(rest.length + 8, 0);
      const upstream = connect({ host: "127.0.0.1", port: Number(target.port) });
      upstream.on("error", () => client.destroy());
      upstream.write(Buffer.concat([head, rest]));
      client.on("data", (data) => sent.push(data.toString("latin1")));
      client.pipe(upstream).pipe(client);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const through = new URL(url);
  through.port = String((server.address() as { port: number }).port);
  return { url: through.href, sent };
}

describe("through a pooler", () => {
  let database: Database;
  beforeAll(async () => {
    database = await migratedDatabase();
  });
  afterAll(() => database?.drop());

  for (const way of ["refuse", "drop"] as const) {
    test(`that ${way}s startup options, without a direct URL: every command ends with 78 and says what to give`, async () => {
      const { url } = await pooler(database.url, way);
      await expect(checkDirectSession(url)).rejects.toMatchObject({ name: "StartError", kind: "database_unfit" });
      const place = folder();
      onTestFinished(() => place.remove());
      for (const [word, config] of [
        ["serve", { keyring: freshKeyring() }],
        ["serve", { keyring: freshKeyring(), mode: "validate" }],
        ["migrate", { keyring: freshKeyring() }],
        ["bootstrap", { keyring: freshKeyring() }],
      ] as const) {
        const file = writeConfig(place.path, config);
        const { code, err } = await run([word, "--config", file], { DATABASE_URL: url });
        expect([word, code]).toEqual([word, 78]);
        expect(err).toContain("database.direct_url");
      }
    }, 120_000);
  }

  test("with a direct URL around the pooler, shared connections get settings only inside a transaction", async () => {
    const owner = await byHand(database.url);
    const role = `app_${randomBytes(4).toString("hex")}`;
    await owner.query(`create role ${role} login in role sallyport_writer; alter role ${role} set jit = off`);
    onTestFinished(async () => void (await owner.query(`drop role ${role}`)));
    const { url, sent } = await pooler(database.url.replace("sallyport@", `${role}@`), "drop");
    const { keyring, adminToken } = await administered(database);
    await using sallyport = await TestSallyport.start({
      database,
      keyring,
      config: { database: { allow_fsync_off: true, direct_url: database.url } },
      env: { DATABASE_URL: url },
    });
    const admin = sallyport.as(adminToken);
    const { tokenString, id } = await sallyport.createToken({}, admin);
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
    await admin.tokens.listTokens({});
    await admin.tokens.revokeToken({ target: { case: "id", value: id } });
    const text = sent.join("\n");
    expect(text).toContain("sallyport.token_view");
    expect(text).toContain("set local statement_timeout");
    expect(text).not.toMatch(/\b(?:un)?listen\b/i);
    expect(text).not.toMatch(/\bset\s+(?!local\b|[a-z_]+\s*=\s*(?:\$|date_trunc|clock|coalesce|excluded))/i);
    expect(text).not.toMatch(/set_config\([^)]*false\s*\)/i);
    expect(text).not.toMatch(/pg_(?:try_)?advisory_lock\(/i);
  }, 120_000);
});

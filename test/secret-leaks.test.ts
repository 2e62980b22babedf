import { randomBytes, randomUUID } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runningEmbedded } from "../src/embedded/embedded.ts";
import { AUDIENCE, TestIssuer } from "./sessions/issuer.ts";
import { Collector } from "./support/collector.ts";
import {
  FREE_PORTS,
  fetchPatiently,
  folder,
  freshKeyring,
  listenersOf,
  Program,
  run,
  writeConfig,
} from "./support/program.ts";
import { migratedDatabase } from "./support/sallyport.ts";

/*
 * Secrets never leave. Unique token strings, session JWTs, peppers, passwords and the break-glass secret go through a scenario at log
 * level trace, with errors of each class and with secrets in wrong places. Then every sink is searched for them in
 * every encoding. A token string may appear only in the answer to the call that created it.
 */

const ENCODINGS: Readonly<Record<string, (secret: Buffer) => Buffer[]>> = {
  raw: (secret) => [secret],
  // Inside a longer text base64 has three alignments: the characters that depend on neighbours are left out.
  base64: (secret) => [0, 1, 2].map((shift) => inner(Buffer.concat([Buffer.alloc(shift), secret]), shift, "base64")),
  base64url: (secret) =>
    [0, 1, 2].map((shift) => inner(Buffer.concat([Buffer.alloc(shift), secret]), shift, "base64url")),
  hex: (secret) => [Buffer.from(secret.toString("hex")), Buffer.from(secret.toString("hex").toUpperCase())],
  url: (secret) => [
    Buffer.from([...secret].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("")),
    Buffer.from(encodeURIComponent(secret.toString("latin1"))),
  ],
  json: (secret) => [Buffer.from(JSON.stringify(secret.toString("latin1")).slice(1, -1))],
  reversed: (secret) => [Buffer.from(secret).reverse()],
  utf16: (secret) => [Buffer.from(secret.toString("latin1"), "utf16le")],
};

function inner(bytes: Buffer, shift: number, encoding: "base64" | "base64url"): Buffer {
  const text = bytes.toString(encoding).replace(/=+$/, "");
  return Buffer.from(text.slice(shift === 0 ? 0 : 4, text.length - (text.length % 4) || text.length));
}

/** One line per secret, encoding and sink in which it was found; never the secret. */
function hits(secrets: ReadonlyMap<string, Buffer>, sinks: ReadonlyMap<string, Buffer>): string[] {
  const needles = [...secrets].flatMap(([name, secret]) =>
    Object.entries(ENCODINGS).flatMap(([encoding, encode]) =>
      encode(secret).map((needle) => ({ what: `${name} as ${encoding}`, needle })),
    ),
  );
  const found = new Set<string>();
  for (const [sink, bytes] of sinks) {
    for (const { what, needle } of needles) if (bytes.includes(needle)) found.add(`${what} in ${sink}`);
  }
  return [...found];
}

/** The secret part of a token string: everything after its tag; of a JWT, the signature. */
const secretPart = (tokenString: string) =>
  Buffer.from(tokenString.includes(".") ? tokenString.slice(-86, -2) : tokenString.slice(-49, -6), "latin1");

class Scenario {
  readonly secrets = new Map<string, Buffer>();
  /** All answers except those that hand out a token string. */
  readonly answers: Buffer[] = [];
  readonly listeners: { data: string; admin: string; ops: string };
  #admin: string;

  constructor(listeners: { data: string; admin: string; ops: string }, admin: string) {
    this.listeners = listeners;
    this.#admin = admin;
    this.keep("admin token", admin);
  }

  keep(name: string, tokenString: string): string {
    this.secrets.set(name, secretPart(tokenString));
    return tokenString;
  }

  async post(
    listener: "data" | "admin" | "ops",
    path: string,
    body: unknown,
    headers: Record<string, string> = {},
  ): Promise<string> {
    const response = await fetchPatiently(`${this.listeners[listener]}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${this.#admin}`, ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    const answer = [...response.headers].map((header) => header.join(": ")).join("\n") + text;
    this.answers.push(Buffer.from(answer.replace(/"tokenString":"[^"]*"/, "")));
    return text;
  }

  admin(method: string, body: unknown, headers?: Record<string, string>) {
    return this.post("admin", `/sallyport.v1.${method}`, body, headers);
  }

  async mint(name: string, more: object = {}): Promise<{ tokenString: string; id: string }> {
    const text = await this.admin("TokenAdmin/CreateToken", {
      profile: "pat",
      principal: "user:ann",
      displayName: "x",
      ...more,
    });
    const made = JSON.parse(text) as { tokenString: string; token: { id: string } };
    return { tokenString: this.keep(name, made.tokenString), id: made.token.id };
  }

  validate(tokenString: string, more: object = {}, headers: Record<string, string> = {}) {
    return this.post("data", "/sallyport.v1.TokenValidator/ValidateToken", { tokenString, ...more }, headers);
  }

  /**
   * Session JWTs, good and bad, as the credential of every kind of call. A reader of a good one can use it until it
   * ends.
   */
  async sessions(issuer: TestIssuer): Promise<void> {
    const used = async (name: string, jwt: string) => {
      this.secrets.set(`signature of the ${name} session`, Buffer.from(jwt.slice(-40)));
      this.secrets.set(`claims of the ${name} session`, Buffer.from(jwt.split(".")[1]!.slice(0, 60)));
      const authorization = `Bearer ${jwt}`;
      const own = { profile: "pat", principal: "user:ann", displayName: "x" };
      const made = JSON.parse(await this.admin("TokenAdmin/CreateToken", own, { authorization })) as Partial<
        Record<"tokenString", string>
      >;
      if (made.tokenString !== undefined) this.keep(`token of the ${name} session`, made.tokenString);
      await this.admin("TokenAdmin/CreateToken", { ...own, principal: "user:bob" }, { authorization });
      await this.admin("TokenAdmin/ListTokens", {}, { authorization, "x-sallyport-tenant": "acme" });
      await this.admin("TokenAdmin/ListTokens", {}, { authorization: `${authorization}, ${authorization}` });
      await this.post("admin", "/v1/revoke", "token=x", {
        authorization,
        "content-type": "application/x-www-form-urlencoded",
      });
      await this.validate(jwt, {}, { authorization });
    };
    await used("good", await issuer.jwt());
    await used("expired", await issuer.jwt({ claims: { exp: 1_700_000_000 } }));
    await used("forged", await issuer.jwt({ key: 1 }));
    await used("strange", await issuer.jwt({ claims: { iss: "https://other.example", groups: 7 } }));
    await used("groupless", await issuer.jwt({ claims: { groups: 7 } }));
  }

  /** Sends raw bytes to a listener and returns its answer. */
  raw(listener: "data" | "admin" | "ops", bytes: Buffer | string): Promise<void> {
    const { hostname, port } = new URL(this.listeners[listener]);
    return new Promise((resolve) => {
      const socket = connectTcp(Number(port), hostname);
      socket.on("data", (chunk) => this.answers.push(chunk));
      socket.on("error", () => {});
      socket.on("close", () => resolve());
      socket.setTimeout(1_000, () => socket.destroy());
      socket.write(bytes);
    });
  }

  /** The successful calls: every way in which a token string is created, and its life. */
  async life(profile = "pat"): Promise<{ live: string; revoked: string }> {
    const live = await this.mint(`minted ${profile}`, { profile });
    const repeated = { requestId: randomUUID(), principal: "user:bob", profile };
    const once = await this.mint(`${profile} by request_id`, repeated);
    await this.mint(`${profile} by request_id`, repeated);
    const rotated = JSON.parse(
      await this.admin("TokenAdmin/RotateToken", { id: once.id, requestId: randomUUID() }),
    ) as { tokenString: string };
    this.keep(`rotated ${profile}`, rotated.tokenString);
    const revoked = await this.mint(`revoked ${profile}`, { profile });
    await this.admin("TokenAdmin/RevokeToken", { tokenString: revoked.tokenString, reason: "found in a log" });
    const leaked = await this.mint(`leaked ${profile}`, { profile });
    await this.admin("TokenAdmin/RevokeTokens", { tokenStrings: [leaked.tokenString] });
    for (const tokenString of [live.tokenString, once.tokenString, rotated.tokenString, revoked.tokenString]) {
      await this.validate(tokenString, { requiredScopes: ["a"], audience: "b" });
      await this.validate(tokenString, {}, { authorization: `Bearer ${tokenString}` });
    }
    for (const method of [
      "TokenAdmin/ListTokens",
      "PrincipalAdmin/ListPrincipals",
      "TenantAdmin/ListTenants",
      "AuditLog/ListAuditEvents",
      "AuditLog/ListAccessEvents",
      "ServerInfo/GetServerInfo",
      "ServerInfo/ListInstances",
    ]) {
      await this.admin(method, {});
    }
    return { live: live.tokenString, revoked: revoked.tokenString };
  }

  /**
   * Secrets in wrong places: in every field, header, path and malformed frame, except in required scopes, because the
   * answer names the missing ones to its caller by contract.
   */
  async misuse(secret: string): Promise<void> {
    const create = (more: object) =>
      this.admin("TokenAdmin/CreateToken", { profile: "pat", principal: "user:ann", displayName: "x", ...more });
    for (const more of [
      { displayName: secret },
      { description: `see ${secret}` },
      { principal: `user:${secret}` },
      { profile: secret },
      { tenant: secret },
      { scopes: [secret] },
      { audiences: [secret] },
      { allowedCidrs: [secret] },
      { annotations: { [secret]: "x" } },
      { annotations: { x: secret } },
      { requestId: secret },
      { ttl: secret },
      { [secret]: 1 },
    ]) {
      await create(more);
    }
    await this.admin("TokenAdmin/GetToken", { id: secret });
    await this.admin("TokenAdmin/RevokeToken", { id: secret });
    await this.admin("TokenAdmin/RevokeToken", { tokenString: `${secret}x`, reason: secret });
    await this.admin("TokenAdmin/RotateToken", { id: secret });
    await this.admin("TokenAdmin/RevokeTokens", { ids: [secret], hints: [secret.slice(0, 48)], dryRun: true });
    await this.admin("TokenAdmin/UpdateToken", { token: { id: secret }, updateMask: secret.replaceAll("_", ".") });
    await this.admin("TokenAdmin/ListTokens", { pageToken: secret, principal: secret });
    await this.admin("TokenAdmin/ListTokens", { hint: secret.slice(0, 48), principal: secret });
    await this.admin("AuditLog/ListAuditEvents", {
      actor: secret,
      target: secret,
      owner: secret,
      action: secret.slice(0, 64),
    });
    await this.admin("PrincipalAdmin/CreatePrincipal", {
      principal: { name: `bot:${secret}`, displayName: secret, email: secret, owner: secret },
    });
    await this.admin("TenantAdmin/CreateTenant", { tenant: { id: "acme", displayName: secret } });
    await this.admin("TokenAdmin/CreateToken", `{"profile": ${secret}}`);
    await this.admin("TokenAdmin/ListTokens", {}, { "x-request-id": secret });
    await this.admin(
      "TokenAdmin/ListTokens",
      {},
      { authorization: `Basic ${Buffer.from(`x:${secret}`).toString("base64")}` },
    );
    await this.admin("TokenAdmin/ListTokens", {}, { authorization: `Bearer ${secret}x` });
    await this.admin("TokenAdmin/ListTokens", {}, { authorization: secret });
    await this.admin("TokenAdmin/ListTokens", {}, { "content-encoding": secret, "connect-timeout-ms": secret });
    await this.admin(secret, {});
    await this.validate(secret, {
      audience: secret,
      context: { clientAddress: secret, host: secret, path: `/${secret}`, workload: secret },
    });
    await this.validate(
      secret,
      {},
      { authorization: `Bearer ${secret}, Bearer ${secret}`, "user-agent": secret, cookie: `t=${secret}` },
    );
    await this.post("data", "/v1/check/envoy/own", {}, { authorization: "", "private-token": secret });
    await this.post("data", "/v1/check/envoy/own", {}, { authorization: "", "private-token": `${secret},${secret}` });
    await this.post("data", "/v1/check/envoy/own", {}, { "private-token": secret });
    await this.post("data", `/${secret}?token=${secret}`, {});
    await this.post("data", "/sallyport.v1.TokenValidator/ValidateToken", `\n${secret}`, {
      "content-type": "application/proto",
    });
    await this.post("data", "/sallyport.v1.TokenValidator/ValidateToken", `\u0000${secret}`, {
      "content-type": "application/grpc",
    });
    await this.post("ops", `/metrics?${secret}`, {});
    for (const listener of ["data", "admin", "ops"] as const) {
      await this.raw(listener, `GET /${secret} HTTP/1.1\r\nhost: ${secret}\r\nx: y\r\n\r\n`);
      await this.raw(listener, `${secret} / HTTP/9\r\n\r\n`);
      await this.raw(listener, `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${secret.repeat(3)}`);
    }
  }
}

const tables = async (url: string): Promise<Buffer> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query(
    "select format('%I.%I', table_schema, table_name) as t from information_schema.tables where table_schema = 'sallyport'",
  );
  const dumps: string[] = [];
  for (const { t } of rows as { t: string }[]) {
    for (const { row } of (await client.query(`select r::text as row from ${t} r`)).rows) dumps.push(row);
  }
  await client.end();
  expect(rows.length).toBeGreaterThan(10);
  return Buffer.from(dumps.join("\n"));
};

const filesOf = (path: string, not: readonly string[]) =>
  new Map(
    readdirSync(path, { recursive: true, encoding: "utf8" })
      .filter((name) => !not.includes(name) && statSync(join(path, name), { throwIfNoEntry: false })?.isFile())
      .map((name) => [`file ${name}`, readFileSync(join(path, name))] as const),
  );

const place = folder();
afterAll(() => place.remove());

test("the search finds what it looks for, in each encoding", () => {
  const secret = Buffer.from("A-secret+that/is~unique%41");
  const secrets = new Map([["s", secret]]);
  for (const [encoding, encode] of Object.entries(ENCODINGS)) {
    for (const needle of encode(secret)) {
      const sinks = new Map([["sink", Buffer.concat([Buffer.from("…before "), needle, Buffer.from(" after")])]]);
      expect(hits(secrets, sinks)).toContain(`s as ${encoding} in sink`);
    }
  }
  const around = (text: Buffer) => hits(secrets, new Map([["sink", text]]));
  for (const shift of [0, 1, 2]) {
    const inside = Buffer.concat([Buffer.alloc(shift, 7), secret, Buffer.from("tail")]);
    expect(around(Buffer.from(inside.toString("base64")))).toContain("s as base64 in sink");
    expect(around(Buffer.from(inside.toString("base64url")))).toContain("s as base64url in sink");
  }
  expect(around(Buffer.from("nothing"))).toEqual([]);
});

describe("an instance with its own embedded database", () => {
  test("leaves no secret in its output, answers, metrics, tables, nor in any file but the three that are for them", async () => {
    const data = join(place.path, "data");
    const breakGlass = `glass-${randomBytes(24).toString("base64url")}`;
    const issuer = await TestIssuer.open();
    const groups = [{ group: "staff", scopes: ["repo:*"] }];
    const file = writeConfig(place.path, {
      listeners: FREE_PORTS,
      log: { level: "trace" },
      break_glass: { secret: breakGlass },
      profiles: { jot: { format: "jwt", access_audit: "full" }, pat: { access_audit: "full" } },
      policies: { own: { carriers: ["bearer", "header:private-token"] } },
      callers: { oidc: [{ name: "corp", issuer: issuer.url, audiences: [AUDIENCE], tenant: "default", groups }] },
    });
    const collector = await Collector.open();
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url };
    const program = new Program(["serve", "--config", file, "--data", data], env);
    const scenario = new Scenario(await listenersOf(program), "");
    const admin = readFileSync(join(data, "admin-token"), "utf8").trim();
    const real = new Scenario(scenario.listeners, admin);
    const keys = JSON.parse(readFileSync(join(data, "keyring.json"), "utf8")).keys as Record<string, string>;
    real.secrets.set("pepper", Buffer.from(keys["1"]!, "base64"));
    real.secrets.set("pepper text", Buffer.from(keys["1"]!));
    real.secrets.set("break-glass secret", Buffer.from(breakGlass));
    const { live, revoked } = await real.life();
    await real.admin("TenantAdmin/ListTenants", {}, { authorization: `Bearer ${breakGlass}` });
    // No check can recognize the break-glass secret in a text, because it has no fixed form.
    for (const secret of [live, revoked]) await real.misuse(secret);
    const signing = JSON.parse(readFileSync(join(data, "signing.json"), "utf8")).keys as Record<string, { d: string }>;
    for (const [id, { d }] of Object.entries(signing)) real.secrets.set(`signing key ${id}`, Buffer.from(d));
    await real.misuse((await real.life("jot")).live);
    await real.sessions(issuer);
    await issuer.close();
    await run(["bootstrap", "--data", data]);

    const metrics = Buffer.from(await (await fetch(`${real.listeners.ops}/metrics`)).text());
    const dump = await tables((await runningEmbedded(data))!);
    // The record of uses, where the secrets of the contexts would be.
    expect(dump.includes("/[token]")).toBe(true);
    const answers = Buffer.concat(real.answers);
    expect(answers.length).toBeGreaterThan(20_000);
    const running = filesOf(data, ["admin-token", "keyring.json", "signing.json"]);
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    const sinks = new Map([
      ["stdout", Buffer.from(program.out)],
      ["stderr", Buffer.from(program.err)],
      ["answers", answers],
      ["/metrics", metrics],
      ["spans", collector.bytes],
      ["tables", dump],
      ...running,
      ...filesOf(data, ["admin-token", "keyring.json", "signing.json"]),
    ]);
    collector.close();
    expect(collector.spans.length).toBeGreaterThan(20);
    expect(program.out).toContain('"level":"debug"');
    expect(sinks.size).toBeGreaterThan(100);
    expect(real.secrets.size).toBeGreaterThanOrEqual(26);
    expect(hits(real.secrets, sinks)).toEqual([]);
  }, 90_000);
});

describe("an instance with a database and a cache of others", () => {
  let program: Program;
  let scenario: Scenario;
  let database: Awaited<ReturnType<typeof migratedDatabase>>;
  const passwords = {
    database: `pg-${randomBytes(18).toString("hex")}`,
    redis: `re-${randomBytes(18).toString("hex")}`,
  };
  const here = folder();

  beforeAll(async () => {
    database = await migratedDatabase();
    const keyring = freshKeyring();
    const keyringFile = join(here.path, "keyring.json");
    writeFileSync(keyringFile, JSON.stringify(keyring), { mode: 0o600 });
    const file = writeConfig(here.path, {
      listeners: FREE_PORTS,
      database: { allow_fsync_off: true },
      keyring_file: keyringFile,
      log: { level: "trace" },
    });
    const url = database.url.replace("//sallyport@", `//sallyport:${passwords.database}@`);
    const env = { DATABASE_URL: url, REDIS_URL: `redis://:${passwords.redis}@127.0.0.1:1` };
    const { out } = await run(["bootstrap", "--config", file], env);
    program = new Program(["serve", "--config", file], env);
    scenario = new Scenario(await listenersOf(program), out.trim());
    scenario.secrets.set("database password", Buffer.from(passwords.database));
    scenario.secrets.set("redis password", Buffer.from(passwords.redis));
    scenario.secrets.set("pepper", Buffer.from(keyring.keys["1"]!, "base64"));
    scenario.secrets.set("pepper text", Buffer.from(keyring.keys["1"]!));
  }, 60_000);
  afterAll(async () => {
    program.kill("SIGTERM");
    await program.exited;
    await database.drop();
    here.remove();
  });

  test("leaves no secret anywhere when its database refuses, breaks, and is unreachable", async () => {
    const { live } = await scenario.life();
    const client = new pg.Client({ connectionString: database.url });
    client.on("error", () => {});
    await client.connect();
    const broken = async (breaking: string, mending: string, work: () => Promise<unknown>) => {
      await client.query(breaking);
      await work();
      await client.query(mending);
    };
    // A value that the database repeats in its errors: stored in its column, and absent from every log.
    const value = `value-${randomBytes(12).toString("hex")}`;
    const mint = () =>
      scenario.admin("TokenAdmin/CreateToken", {
        profile: "pat",
        principal: "user:ann",
        displayName: "x",
        description: value,
        requestId: randomUUID(),
      });
    await broken(
      "alter table sallyport.requests rename to gone",
      "alter table sallyport.gone rename to requests",
      mint,
    );
    await broken(
      "alter table sallyport.audit add constraint no check (actor = '') not valid",
      "alter table sallyport.audit drop constraint no",
      async () => {
        await mint();
        await scenario.admin("TokenAdmin/RevokeToken", { tokenString: live });
      },
    );
    await broken(
      "alter table sallyport.tokens add constraint no check (kid = '0') not valid",
      "alter table sallyport.tokens drop constraint no",
      mint,
    );
    await broken(
      "alter table sallyport.tokens rename column hint to h",
      "alter table sallyport.tokens rename column h to hint",
      () => scenario.validate(`${live.slice(0, -49)}${live.slice(-49)}`),
    );
    await client.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    );
    await Promise.all(Array.from({ length: 20 }, () => scenario.validate(live)));
    await scenario.misuse(live);
    const metrics = Buffer.from(await (await fetch(`${scenario.listeners.ops}/metrics`)).text());
    await client.end();
    const sinks = new Map([
      ["stdout", Buffer.from(program.out)],
      ["stderr", Buffer.from(program.err)],
      ["answers", Buffer.concat(scenario.answers)],
      ["/metrics", metrics],
      ["tables", await tables(database.url)],
    ]);
    expect(program.out).toMatch(/"level":"(?:warn|error)"/);
    expect(program.out).toContain(" 23514 no"); // the check that was violated, by state and name alone
    expect(hits(scenario.secrets, sinks)).toEqual([]);
    sinks.delete("tables");
    expect(hits(new Map([["value of a field", Buffer.from(value)]]), sinks)).toEqual([]);
  }, 90_000);
});

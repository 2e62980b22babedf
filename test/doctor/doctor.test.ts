import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { examine } from "../../src/doctor/doctor.ts";
import { checkNode } from "../../src/doctor/machine.ts";
import { CHECKS, type Finding } from "../../src/domain/finding.ts";
import { versionFinding } from "../../src/postgres/diagnosis.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrateJournal } from "../../src/postgres/journal-schema.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { systemClock } from "../../src/sallyport.ts";
import { certify, writeFiles } from "../listen/certificates.ts";
import { type Pooler, startPooler } from "../support/pooler.ts";
import { startServer, type ThrowawayServer } from "../support/postgres-server.ts";
import { FREE_PORTS, folder, freshKeyring, listenersOf, Program, ROOT, run, writeConfig } from "../support/program.ts";
import { startRedis } from "../support/redis.ts";
import { TestSallyport } from "../support/sallyport.ts";

/* Every fault is made on real servers, and the line that the operator reads is compared. */
const SECRET = "hunter2hunter2";
const place = folder();
const keyring = freshKeyring();
let server: ThrowawayServer;
let made = 0;

const urlOf = ({ user = "serves", password = SECRET, database = "sallyport", port = server.port } = {}) =>
  `postgres://${user}:${password}@127.0.0.1:${port}/${database}`;
const sql = async (text: string, database = "sallyport", port = server.port) => {
  const client = new pg.Client(`postgres://sallyport@127.0.0.1:${port}/${database}`);
  await client.connect();
  return client.query(text).finally(() => client.end());
};
const configOf = (over: object = {}, url: string | undefined = urlOf()) => {
  const path = join(place.path, `c${++made}`);
  mkdirSync(path);
  const settings = { listeners: FREE_PORTS, keyring, database: { url }, canary: { every: "1m" }, ...over };
  return { path, file: writeConfig(path, settings) };
};
const seen: Finding[] = [];
/** The findings of some checks, as the lines have them. */
const doctor = async (over: object = {}, checks: readonly string[] = CHECKS, url?: string, clock = systemClock) => {
  const findings = await examine(loadConfig(configOf(over, url).file, {}), clock);
  seen.push(...findings);
  return findings
    .filter(({ check }) => checks.some((one) => check === one || check.startsWith(`${one}.`)))
    .map(({ level, check, text }) => `${level} ${check} ${text}`);
};
const line = (start: string) => expect.stringMatching(start) as unknown as string;

beforeAll(async () => {
  server = await startServer();
  await sql(`create role serves login password '${SECRET}'; create role plain login`);
  await migrate(urlOf({ user: "sallyport" }));
  await sql("grant sallyport_writer to serves");
  await sql("create role reads login in role sallyport_reader");
}, 120_000);
afterAll(async () => {
  await server?.remove();
  place.remove();
});

test("a sound installation has a line per check, each ok, and exit code 0", async () => {
  const redis = await startRedis();
  const path = join(place.path, "sound");
  mkdirSync(path);
  const ca = certify("ca", []);
  const leaf = certify("server", [{ dns: "localhost" }, { ip: "127.0.0.1" }], ca);
  writeFiles(path, { ...leaf, certPem: leaf.certPem + ca.certPem });
  chmodSync(join(path, "key.pem"), 0o600);
  const tls = { cert_file: join(path, "cert.pem"), key_file: join(path, "key.pem") };
  const config = {
    canary: { every: "1m" },
    database: {},
    redis: { url: redis.url },
    listeners: { ...FREE_PORTS, admin: { bind: "127.0.0.1:0", tls } },
  };
  const database = { url: urlOf(), drop: async () => {} };
  const sallyport = await TestSallyport.start({ config, database, keyring });
  try {
    const { data, admin, ops } = sallyport.listeners;
    const bind = (url: string) => ({ bind: new URL(url).host });
    const listeners = { data: bind(data), admin: { ...bind(admin), tls }, ops: bind(ops) };
    const { file } = configOf({ ...config, listeners, database: { url: urlOf() } });
    const { code, out, err } = await run(["doctor", "--config", file]);
    expect([code, err], out).toEqual([0, ""]);
    const lines = out.trimEnd().split("\n");
    expect(lines.filter((text) => !/^ok {4}[a-z.]+ +\S/.test(text))).toEqual([]);
    expect(lines.map((text) => text.split(/ +/)[1])).toEqual(CHECKS);
    expect(out).toMatch(/^ok {4}ports +a running Sallyport has them$/m);
    expect(out).toMatch(/^ok {4}validators +1 live, version /m);

    const json = await run(["doctor", "--json", "--config", file]);
    const { findings } = JSON.parse(json.out) as { findings: Finding[] };
    expect(findings.map(({ check, level }) => `${check} ${level}`)).toEqual(CHECKS.map((check) => `${check} ok`));
  } finally {
    await sallyport[Symbol.asyncDispose]();
    await redis.stop();
  }
}, 120_000);

describe("config and files", () => {
  test("a configuration that cannot be read: exit 78, a line per problem, also as JSON", async () => {
    const { file } = configOf({ log: { level: SECRET }, nonsense: 1 });
    const { code, out, err } = await run(["doctor", "--config", file]);
    expect([code, err]).toEqual([78, ""]);
    expect(out).toMatch(/^fail {2}config +log\.level: .+\nfail {2}config +nonsense: no such setting\n$/);
    const json = await run(["doctor", "--json", "--config", join(place.path, "none.yaml")]);
    expect(json.code).toBe(78);
    expect(JSON.parse(json.out)).toEqual({
      findings: [{ check: "config", level: "fail", text: expect.stringContaining("no such file") }],
    });
    expect(out).not.toContain(SECRET);
  });

  test("a file of a secret that every user can read, and a CA that is none", async () => {
    const { path } = configOf();
    const url = join(path, "url");
    writeFileSync(url, urlOf(), { mode: 0o644 });
    chmodSync(url, 0o644);
    expect(await doctor({ database: { url_file: url }, canary: { every: "1m", ca_file: url } }, ["files"])).toEqual([
      `fail files canary.ca_file: ${url}: is not a PEM certificate`,
      `warn files database.url_file: every user of this machine can read the file (mode 0644): chmod o-r`,
    ]);
  });
});

describe("keyring", () => {
  test.each<[string, object, string]>([
    ["is not the database's", { keyring: freshKeyring() }, "fail keyring the keyring's pepper 1 is not the one"],
    [
      "lacks a pepper",
      { keyring: { current: "2", keys: { "2": keyring.keys["1"] } } },
      "fail keyring .*lacks pepper 1",
    ],
    ["is too short", { keyring: { current: "1", keys: { "1": "c2hvcnQ=" } } }, "fail keyring keyring: keys.1 must be"],
  ])("%s", async (_, over, text) => {
    expect(await doctor(over, ["keyring"])).toEqual([line(`^${text}`)]);
  });
});

describe("this machine", () => {
  test("a newer Node than the tested one is a warning", () => {
    expect(checkNode("v24.1.0").level).toBe("ok");
    expect(checkNode("v26.1.0")).toEqual({
      check: "node",
      level: "warn",
      text: "v26.1.0: Sallyport is tested with Node 24: use that",
    });
  });

  test("too few open files for the connections", async () => {
    const { file } = configOf();
    const words = [process.execPath, join(ROOT, "src/main.ts"), "doctor", "--config", file];
    const child = spawn("bash", ["-c", `ulimit -n 300; exec "$@"`, "bash", ...words], {
      env: { PATH: process.env["PATH"] },
    });
    let out = "";
    child.stdout.on("data", (data) => (out += data));
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect(out).toMatch(/^fail {2}limits +300 open files, and full listeners need 1408: raise ulimit -n /m);
    expect(code).toBe(1);
  });

  test("a cache that is larger than the memory, and one that is larger than Node's heap", async () => {
    expect(await doctor({ cache: { l1: { bytes: "900000 GiB" } } }, ["memory"])).toEqual([
      line("^fail memory a full cache and the program need \\d+ MiB, and there are \\d+ MiB: lower cache.l1.bytes"),
    ]);
    const { file } = configOf({ cache: { l1: { bytes: "256 MiB" } } });
    const { out } = await run(["doctor", "--config", file], { NODE_OPTIONS: "--max-old-space-size=128" });
    expect(out).toMatch(/^warn {2}memory +a full cache needs 256 MiB, and Node's heap ends at \d+ MiB: lower/m);
  });

  test("a port that another program has, an address that is not here, a folder that is not there", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => taken.once("listening", resolve));
    const { port } = taken.address() as AddressInfo;
    const listeners = {
      data: { bind: "unix:/no/such/folder/s" },
      admin: { bind: "192.0.2.1:7401" },
      ops: { bind: `127.0.0.1:${port}` },
    };
    try {
      expect(await doctor({ listeners }, ["ports"])).toEqual([
        "fail ports listeners.data.bind: /no/such/folder/s: there is no such folder",
        line("^fail ports listeners.admin.bind: 192.0.2.1:7401 cannot be bound"),
        `fail ports listeners.ops.bind: 127.0.0.1:${port} is in use by another process: end it, or choose another address`,
      ]);
    } finally {
      taken.close();
    }
  });
});

describe("tls", () => {
  const identity = certify("server", [{ dns: "localhost" }]);
  const tlsOf = (cert: string, key = identity.keyPem) => {
    const { path } = configOf();
    writeFileSync(join(path, "cert.pem"), cert);
    writeFileSync(join(path, "key.pem"), key, { mode: 0o600 });
    return {
      listeners: {
        ...FREE_PORTS,
        data: { bind: "127.0.0.1:0", tls: { cert_file: join(path, "cert.pem"), key_file: join(path, "key.pem") } },
      },
    };
  };
  const days = (from: number, until: number) =>
    certify("server", [], undefined, { key: identity, days: [from, until] }).certPem;

  test.each<[string, () => object, readonly string[]]>([
    [
      "the key of another certificate",
      () => tlsOf(identity.certPem, certify("x", []).keyPem),
      ["^fail tls.chain listeners.data.tls.key_file: .*is not the key of"],
    ],
    [
      "no such file",
      () => ({
        listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", tls: { cert_file: "/no/c", key_file: "/no/k" } } },
      }),
      ["^fail tls.chain .*cert_file: /no/c: there is no such file", "^fail tls.chain .*key_file: /no/k"],
    ],
    [
      "an intermediate that did not issue it",
      () => tlsOf(identity.certPem + certify("other", []).certPem),
      ["^fail tls.chain .*not issued by the one after it", "^ok tls.expiry"],
    ],
    [
      "one that has expired",
      () => tlsOf(days(-30, -1)),
      ["^ok tls.chain", "^fail tls.expiry listeners.data.tls.cert_file: .*has expired on .*: renew it"],
    ],
    ["one that is not good yet", () => tlsOf(days(1, 30)), ["^ok tls.chain", "^fail tls.expiry .*is good only from"]],
    [
      "one that ends in a week",
      () => tlsOf(days(-30, 7)),
      ["^ok tls.chain", "^warn tls.expiry .*ends on .*: renew it"],
    ],
    [
      "none on an address that others reach",
      () => ({ listeners: { ...FREE_PORTS, admin: { bind: "0.0.0.0:0" } } }),
      ["^warn tls.chain listeners.admin.bind: other machines reach it without TLS"],
    ],
  ])("%s", async (_, over, wanted) => {
    expect(await doctor(over(), ["tls"])).toEqual(wanted.map(line));
  });
});

describe("database", () => {
  test.each<[string, () => string, string]>([
    [
      "a wrong host and port",
      () => urlOf({ port: 1 }),
      "^fail database.reach database.url: nothing listens at this host and port",
    ],
    [
      "no such database",
      () => urlOf({ database: "none" }),
      "^fail database.reach database.url: there is no such database",
    ],
    [
      "what is no URL",
      () => "postgres://u:hun@ter2:x@h:y/d",
      "^fail database.reach database.url: cannot be parsed as a URL",
    ],
  ])("%s: one line, and exit code 1", async (_, url, text) => {
    const { file } = configOf({}, url());
    const { code, out } = await run(["doctor", "--config", file]);
    const lines = out.split("\n").filter((one) => one.includes("database"));
    expect(lines.map((one) => one.replace(/ +/g, " "))).toEqual([line(text)]);
    expect(code).toBe(1);
    expect(out).not.toMatch(/hunter2|hun@ter2/);
  });

  test("a server that is frozen: the answer comes all the same", async () => {
    const frozen = await startServer();
    try {
      frozen.signal("SIGSTOP");
      const { file } = configOf({}, urlOf({ port: frozen.port }));
      const program = new Program(["doctor", "--config", file]);
      expect(await program.exited).toBe(1);
      expect(program.out).toMatch(/^fail {2}database\.reach +database\.url: the database does not answer in time$/m);
      frozen.signal("SIGCONT");
    } finally {
      await frozen.remove();
    }
  }, 60_000);

  test("a version that is older than the tested ones, and one that is newer", () => {
    const levels = [14, 15, 16, 17, 18, 19].map((version) => versionFinding(version).level);
    expect(levels).toEqual(["fail", "ok", "ok", "ok", "ok", "warn"]);
    expect(versionFinding(14).text).toMatch(/^PostgreSQL 14: use one from 15 to 18, /);
  });

  test("no database.url at all is a warning", async () => {
    const { file, path } = configOf({ database: {}, keyring: undefined });
    const findings = await examine(loadConfig(file, { SALLYPORT_EMBEDDED__DATA_DIR: join(path, "data") }), systemClock);
    const found = findings.filter(({ check }) => /^database|^keyring/.test(check));
    expect(found.map(({ level, check, text }) => `${level} ${check} ${text}`)).toEqual([
      "ok keyring the embedded database makes its own",
      line("^warn database.reach no database.url: serve starts an embedded PostgreSQL, which is for trying"),
    ]);
  });

  test("fsync=off, a standby, commits that are not waited for, asynchronous standbys, none of the named ones", async () => {
    const own = await startServer({ fsync: false });
    const standby = await own.standby();
    const url = (at: ThrowawayServer) => `postgres://sallyport@127.0.0.1:${at.port}/sallyport`;
    const checks = ["database.fsync", "database.primary", "database.sync"];
    const replicates = async () => {
      for (;;) {
        const { rows } = await sql("select from pg_stat_replication", "sallyport", own.port);
        if (rows.length > 0) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    };
    try {
      await replicates();
      await sql("alter role sallyport set synchronous_commit = off", "sallyport", own.port);
      const off = "the database runs with fsync=off: it can lose revocations that were acknowledged";
      expect(await doctor({}, checks, url(own))).toEqual([
        "ok database.primary it is the primary",
        `fail database.fsync ${off}`,
        line("^warn database.sync 1 standbys replicate asynchronously: a failover can lose revocations"),
        line("^warn database.sync synchronous_commit=off: Sallyport commits its own changes with on"),
      ]);
      expect(await doctor({ database: { url: url(own), allow_fsync_off: true } }, ["database.fsync"])).toEqual([
        `warn database.fsync ${off}`,
      ]);
      expect(await doctor({}, ["database.primary"], url(standby))).toEqual([
        "fail database.primary the database is a standby: database.url must lead to the primary",
      ]);
      await standby.stop();
      await sql("alter role sallyport reset synchronous_commit", "sallyport", own.port);
      await sql("alter system set synchronous_standby_names = 'one'", "sallyport", own.port);
      await own.restart();
      expect(await doctor({}, ["database.sync"], url(own))).toEqual([
        line("^fail database.sync synchronous_standby_names is set and no standby is connected"),
      ]);
    } finally {
      await standby.remove();
      await own.remove();
    }
  }, 120_000);

  test("a user without rights, one of the other mode, and a superuser", async () => {
    const roles = ["database.roles"];
    expect(await doctor({}, roles, urlOf({ user: "plain" }))).toEqual([
      line("^fail database.roles database.url: the user has not the rights that are needed"),
    ]);
    expect(await doctor({}, roles, urlOf({ user: "reads" }))).toEqual([
      line("^fail database.roles database.url: this user may not .*: mode full needs the role sallyport_writer"),
    ]);
    expect(await doctor({ mode: "validate", canary: {} }, roles, urlOf({ user: "reads" }))).toEqual([
      "ok database.roles this user has the rights of mode validate",
    ]);
    expect(await doctor({}, roles, urlOf({ user: "sallyport" }))).toEqual([
      line("^warn database.roles this user is a superuser"),
      "ok database.roles this user has the rights of mode full",
    ]);
  });

  test("an empty database, one that lacks migrations, and one of a newer program", async () => {
    const schema = ["database.schema"];
    await sql("create database bare");
    expect(await doctor({}, schema, urlOf({ database: "bare" }))).toEqual([
      line("^warn database.schema the database is empty"),
    ]);
    expect(await doctor({ mode: "validate", canary: {} }, schema, urlOf({ database: "bare" }))).toEqual([
      line("^fail database.schema database.url: the database has no Sallyport in it: run sallyport migrate"),
    ]);
    await sql("create database other template sallyport");
    const url = urlOf({ database: "other" });
    await sql("delete from sallyport.migrations where version > 13", "other");
    expect(await doctor({}, schema, url)).toEqual([
      line("^warn database.schema \\d+ migrations are missing, from 0014_\\w+.sql on: run sallyport migrate"),
    ]);
    await sql("drop function sallyport.validator_describe(uuid, bytea, text, text)", "other");
    expect(await doctor({ mode: "validate", canary: {} }, schema, url)).toEqual([
      line(
        "^fail database.schema database.url: the database's schema is older than this program: run sallyport migrate",
      ),
    ]);
    await sql("update sallyport.migrations set checksum = 'x' where version = 3", "other");
    expect(await doctor({}, schema, url)).toEqual([
      line("^fail database.schema migration 0003_\\w+.sql was changed after"),
    ]);
    await sql("create database next template sallyport");
    const next = urlOf({ database: "next" });
    await sql("insert into sallyport.migrations (version, name, checksum) values (9000, '9000_x.sql', 'x')", "next");
    expect(await doctor({}, schema, next)).toEqual([line("^warn database.schema 1 migrations are of a newer program")]);
    await sql(
      "alter table sallyport.rev_state disable trigger all; update sallyport.rev_state set min_reader = 99",
      "next",
    );
    expect(await doctor({}, schema, next)).toEqual([
      line("^fail database.schema the database was made by a newer Sallyport .*: upgrade this program"),
    ]);
  });

  describe("behind PgBouncer", () => {
    let pooler: Pooler;
    beforeAll(async () => {
      pooler = await startPooler(server.port);
    }, 120_000);
    afterAll(() => pooler?.stop());
    const pooled = () => `postgres://sallyport@127.0.0.1:${pooler.port}/sallyport`;

    test("without a direct way", async () => {
      expect(await doctor({}, ["database"], pooled())).toEqual([
        line("^fail database.pooler the database's sessions do not take startup options: a pooler is in between; give"),
      ]);
    });

    test("with sessions that lack a setting", async () => {
      const database = { url: pooled(), direct_url: urlOf({ user: "sallyport" }) };
      await sql("alter role sallyport set jit = on");
      const [found] = await doctor({ database }, ["database.pooler"]);
      expect(found).toMatch(
        /^fail database\.pooler database\.url leads through a pooler, .*jit=off.*ALTER ROLE sallyport/,
      );
    });
  });

  test("a clock that differs, and one that differs by more than sessions allow", async () => {
    const ahead = { ...systemClock, wall: () => Date.now() + 60_000 };
    const behind = { ...systemClock, wall: () => Date.now() - 60_000 };
    const checks = ["database.clock"];
    expect(await doctor({}, checks, undefined, ahead)).toEqual([
      line("^warn database.clock this machine's clock is (59.9|60.\\d) s ahead of the database's, and .*: check NTP"),
    ]);
    expect(await doctor({}, checks, undefined, behind)).toEqual([line("^warn .* behind the database's")]);
    const oidc = [
      { name: "x", issuer: "https://x.example", audiences: ["a"], tenant: "default", groups: [{ group: "g" }] },
    ];
    expect(await doctor({ callers: { oidc } }, checks, undefined, ahead)).toEqual([
      line("^fail database.clock .* it refuses good sessions: check NTP on both"),
    ]);
  });

  test("no instance, and one that was killed", async () => {
    await sql("create database alone template sallyport");
    const url = urlOf({ database: "alone" });
    expect(await doctor({}, ["validators"], url)).toEqual([line("^warn validators no instance runs on this database")]);
    const own = new Program(["serve", "--config", configOf({}, url).file]);
    await listenersOf(own);
    own.kill("SIGKILL");
    await own.exited;
    await sql(
      "alter table sallyport.validators disable trigger user; update sallyport.validators set seen = seen - interval '1 minute'",
      "alone",
    );
    expect(await doctor({}, ["validators"], url)).toEqual([
      line("^warn validators 1 of 1 instances sent nothing for \\d+ s, so changes wait for the end of a lease"),
    ]);
  }, 60_000);

  test("the first administrator's token ends soon", async () => {
    await sql("create database young template sallyport");
    const ttlMs = 86_400_000;
    await bootstrap({
      url: urlOf({ database: "young", user: "sallyport" }),
      keyring,
      ttlMs,
      again: false,
      keep: () => {},
    });
    expect(await doctor({}, ["administrator"], urlOf({ database: "young" }))).toEqual([
      line("^warn administrator the token sp_adm_\\S+ of the first administrator ends on .*: make another in time"),
    ]);
  });
});

describe("journal", () => {
  const checks = ["journal"];
  const journalUrl = (database = "kept", user = "serves", port = server.port) => urlOf({ user, database, port });
  const own = () => urlOf({ database: "attached" });
  const seenWith = (url?: string, over: object = {}) => doctor({ journal: { url }, ...over }, checks, own());
  beforeAll(async () => {
    await sql("create database attached template sallyport");
    for (const name of ["kept", "others", "begun"]) {
      await sql(`create database ${name}`);
      await migrateJournal(journalUrl(name, "sallyport"));
    }
    await sql("create database blank");
    const [{ database }] = (await sql("select database from sallyport.rev_state", "attached")).rows;
    await sql(`select sallyport_journal.begin_epoch('e1', '${database}', true)`, "kept");
    await sql("select sallyport_journal.begin_epoch('e1', gen_random_uuid(), true)", "others");
  }, 60_000);

  test("one that cannot be reached, another database's, one without rights, one that is no URL", async () => {
    expect(await seenWith(journalUrl("kept", "serves", 1))).toEqual([
      line("^fail journal journal.url: nothing listens at this host and port"),
    ]);
    expect(await seenWith(journalUrl("others"))).toEqual([
      "fail journal journal.url: this is the journal of another database: give each its own",
    ]);
    expect(await seenWith(journalUrl("kept", "plain"))).toEqual([
      'fail journal journal.url: this user may not use the schema of the journal: as its owner run: GRANT USAGE ON SCHEMA sallyport_journal TO "plain";',
    ]);
    await sql("grant usage on schema sallyport_journal to plain", "kept");
    expect(await seenWith(journalUrl("kept", "plain"))).toEqual([
      line("^fail journal journal.url: this user may not select meta, .*: as the owner of the journal run: GRANT"),
    ]);
    expect(await seenWith("postgres://u:hun@ter2:x@h:y/d")).toEqual([
      line("^fail journal journal.url: cannot be parsed as a URL"),
    ]);
    expect(await seenWith(journalUrl())).toEqual(["ok journal journal.url answers, the guard is open"]);
  });

  test("none, an empty one and one that has not begun: before it is attached, and after", async () => {
    expect(await seenWith()).toEqual(["ok journal the guard is open"]);
    expect(await seenWith(journalUrl("blank"))).toEqual([line("^warn journal the journal is empty: serve or")]);
    expect(await seenWith(journalUrl("begun"))).toEqual([line("^ok journal")]);
    await sql("update sallyport.rev_state set journal = true", "attached");
    expect(await seenWith()).toEqual([
      line("^warn journal journal.url is not set, but this database has a journal: after its next restart no token"),
    ]);
    for (const name of ["blank", "begun"])
      expect(await seenWith(journalUrl(name))).toEqual([
        line("^fail journal journal.url: it is empty, and this database has a journal: mend journal.url"),
      ]);
    expect(await seenWith(undefined, { mode: "validate", canary: {} })).toEqual([line("^ok journal")]);
  });

  test("the guard is closed, by the journal and by hand, in both modes", async () => {
    const close = (why: string) =>
      sql(`update sallyport.rev_state set guard = 'regressed', mismatch = ${why}`, "attached");
    await close("'it is empty'");
    const closed = "^fail journal the guard is closed, so no token is allowed: ";
    expect(await seenWith(journalUrl())).toEqual([line(`${closed}the journal does not fit \\(it is empty\\)`)]);
    await close("null");
    const validate = { mode: "validate", canary: {} };
    expect(await seenWith(undefined, validate)).toEqual([line(`${closed}somebody has closed it by hand`)]);
    const user = urlOf({ user: "reads", database: "attached" });
    expect(await doctor(validate, checks, user)).toEqual([line(`${closed}somebody`)]);
  });

  test("a server that is frozen is named: the journal's, and not the database's", async () => {
    const frozen = await startServer();
    try {
      frozen.signal("SIGSTOP");
      const away = urlOf({ port: frozen.port });
      const late = "fail journal journal.url: the database does not answer in time";
      expect(await seenWith(away)).toContain(late);
      expect(await doctor({ journal: { url: journalUrl() } }, checks, away)).toEqual([
        "ok journal journal.url answers",
      ]);
      expect(await doctor({}, checks, away)).toEqual([]);
      frozen.signal("SIGCONT");
    } finally {
      await frozen.remove();
    }
  }, 60_000);
});

describe("redis", () => {
  const acl = (...rules: string[]) => ["--user", "default", "off", "--user", "serves", "on", `>${SECRET}`, ...rules];
  const ours = [
    "~sallyport:v1:*",
    "&sallyport:rev",
    "-@all",
    "+get",
    "+set",
    "+eval",
    "+evalsha",
    "+publish",
    "+subscribe",
    "+ping",
  ];
  const asked = async (args: string[], user = `serves:${SECRET}@`) => {
    const redis = await startRedis({ args });
    try {
      return await doctor({ redis: { url: `redis://${user}127.0.0.1:${redis.port}` } }, ["redis"]);
    } finally {
      await redis.stop();
    }
  };

  test("the documented rights are enough", async () => {
    expect(await asked(acl(...ours))).toEqual(["ok redis.reach it answers", "ok redis.acl all rights"]);
  });

  test("a right that is missing is named", async () => {
    const rules = ours.filter((rule) => !/\+set|\+publish/.test(rule));
    expect(await asked(acl(...rules))).toEqual([
      "ok redis.reach it answers",
      line("^fail redis.acl redis.url: set, publish: this user lacks a right: give it ~sallyport:v1:"),
    ]);
    expect(await asked(acl(...ours.map((rule) => rule.replace("sallyport:rev", "other"))))).toEqual([
      "ok redis.reach it answers",
      line("^fail redis.acl redis.url: publish, subscribe: "),
    ]);
  });

  test("nothing there, a wrong password, none, a replica, no memory", async () => {
    expect(await doctor({ redis: { url: "redis://127.0.0.1:1" } }, ["redis"])).toEqual([
      line("^fail redis.reach redis.url: nothing listens at this host and port"),
    ]);
    expect(await asked(acl(...ours), "serves:wrong@")).toEqual([line("^fail redis.reach .*refuses the password")]);
    expect(await asked(["--requirepass", SECRET], "")).toEqual([line("^fail redis.reach .*asks for a password")]);
    expect(await asked(["--replicaof", "127.0.0.1 1"], "")).toEqual([line("^fail redis.reach .*is a replica")]);
    expect(await asked(["--maxmemory", "1"], "")).toEqual([line("^fail redis.reach .*out of memory")]);
    expect(await doctor({ redis: { url: `http://${SECRET}` } }, ["redis"])).toEqual([
      line("^fail redis.reach redis.url must be redis://"),
    ]);
  }, 60_000);

  test("a doctor's visit changes nothing", async () => {
    const redis = await startRedis();
    await doctor({ redis: { url: redis.url } });
    expect(await redis.cli("DBSIZE")).toBe(0);
    await redis.stop();
  });
});

describe("canary", () => {
  test("off, and a peer that does not answer, or is no Sallyport", async () => {
    expect(await doctor({ canary: {} }, ["canary"])).toEqual([line("^warn canary off: set canary.every")]);
    const peers = ["http://127.0.0.1:1"];
    expect(await doctor({ canary: { every: "1m", peers } }, ["canary"])).toEqual([
      line("^fail canary canary.peers: http://127.0.0.1:1 cannot be asked \\(ECONNREFUSED\\): check its address"),
    ]);
  });
});

test("no finding of these tests holds a secret", () => {
  expect(seen.length).toBeGreaterThan(100);
  const secrets = [SECRET, "hunter2", keyring.keys["1"]!];
  for (const { text } of seen) for (const secret of secrets) expect(text).not.toContain(secret);
});

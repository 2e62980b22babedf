import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { migrationFiles } from "../src/postgres/migrate.ts";
import { certify, writeFiles } from "./listen/certificates.ts";
import { type Database, freshDatabase } from "./support/postgres.ts";
import {
  FLAGS,
  FREE_PORTS,
  fetchPatiently,
  folder,
  freshKeyring,
  listenersOf,
  Program,
  ROOT,
  run,
  writeConfig,
} from "./support/program.ts";
import { migratedDatabase } from "./support/sallyport.ts";

/* The program as a person meets it: its output, its start, its refusals to start, and its end. */
const place = folder();
const keyring = freshKeyring();
const settings = { listeners: FREE_PORTS, database: { allow_fsync_off: true }, keyring };
let made = 0;
/** A configuration file of its own. */
const config = (over: object = {}) => {
  const path = join(place.path, `c${++made}`);
  mkdirSync(path);
  return writeConfig(path, { ...settings, ...over });
};
afterAll(() => place.remove());

const query = async (database: Database, text: string) => {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
};

describe("words and flags of the command line", () => {
  test.each([
    [["serve", "--nonsense"]],
    [["serve", "--ttl", "1h"]],
    [["migrate", "extra"]],
    [["bootstrap", "--ttl"]],
    [["bootstrap", "--ttl", "366d"]],
    [["bootstrap", "--ttl", "0s"]],
    [["no-such-word"]],
    [["keys"]],
    [["keys", "statuses"]],
  ])("%j is a usage error: exit 2, one line on stderr, nothing on stdout", async (argv) => {
    const { code, out, err } = await run(argv);
    expect([code, out]).toEqual([2, ""]);
    expect(err).not.toContain("    at ");
    expect(err.length).toBeGreaterThan(0);
  });

  test.each(["serve", "migrate", "bootstrap", "reconcile", "restore", "keys", "check-config", "doctor"])(
    "%s --help says what it does, and does nothing",
    async (word) => {
      const { code, out, err } = await run([word, "--help"]);
      expect([code, err]).toEqual([0, ""]);
      expect(out).toContain(`sallyport ${word}`);
    },
  );
});

describe("exit 78: a configuration that cannot be used", () => {
  test("reports all problems at once, each with its key, none with its value", async () => {
    const secret = "hunter2-hunter2";
    const file = config({
      listeners: { data: { bind: "everywhere" }, attic: {} },
      log: { level: secret },
      revocation: { lease: "fast" },
      break_glass: { secret },
      nonsense: 1,
    });
    for (const word of ["check-config", "serve", "migrate"]) {
      const { code, out, err } = await run([word, "--config", file], {
        DATABASE_URL: `postgres://u:${secret}@127.0.0.1:1/x`,
      });
      expect([code, out], word).toEqual([78, ""]);
      for (const key of [
        "listeners.data.bind",
        "listeners.attic",
        "log.level",
        "revocation.lease",
        "break_glass.secret",
        "nonsense",
      ]) {
        expect(err).toContain(`sallyport: ${key}: `);
      }
      expect(err).not.toContain(secret);
    }
  });

  test.each<[string, object, string]>([
    ["half a configuration: a database without a keyring", { keyring: undefined }, "keyring"],
    ["a poll that does not fit into the lease", { revocation: { lease: "500ms" } }, "revocation.poll"],
    [
      "a data listener that trusts the world",
      { listeners: { ...FREE_PORTS, data: { bind: "0.0.0.0:0", trust_peers: true } } },
      "listeners.data.trust_peers",
    ],
    ["a pepper that is too short", { keyring: { current: "1", keys: { "1": "c2hvcnQ=" } } }, "keyring: keys.1"],
    ["a current key that is not there", { keyring: { current: "2", keys: keyring.keys } }, "keyring: current"],
    ["a kid of two characters", { keyring: { current: "12", keys: { "12": keyring.keys["1"] } } }, "keyring: keys"],
    [
      "SANs without a CA",
      {
        listeners: {
          ...FREE_PORTS,
          admin: { bind: "127.0.0.1:0", tls: { cert_file: "/c", key_file: "/k", allowed_sans: ["x"] } },
        },
      },
      "listeners.admin.tls.client_ca_file",
    ],
  ])("%s", async (_, over, text) => {
    const { code, err } = await run(["check-config", "--config", config(over)], {
      DATABASE_URL: "postgres://127.0.0.1:1/x",
    });
    expect([code, err]).toEqual([78, expect.stringContaining(text)]);
    expect(err).not.toContain("    at ");
  });

  test.each<[string, (folder: string) => object, RegExp]>([
    [
      "a certificate that is not there",
      (path) => ({ cert_file: join(path, "none.pem"), key_file: join(path, "key.pem") }),
      /listeners\.data\.tls\.cert_file: \S+none\.pem: there is no such file/,
    ],
    [
      "the key of another certificate",
      (path) => ({ cert_file: join(path, "cert.pem"), key_file: join(path, "other.pem") }),
      /listeners\.data\.tls\.key_file: \S+other\.pem: is not the key of/,
    ],
    [
      "a certificate that has expired",
      (path) => ({ cert_file: join(path, "old.pem"), key_file: join(path, "key.pem") }),
      /listeners\.data\.tls\.cert_file: \S+old\.pem: has expired on/,
    ],
    [
      "a key that is no PEM, and a CA that is none",
      (path) => ({
        cert_file: join(path, "cert.pem"),
        key_file: join(path, "garbage"),
        client_ca_file: join(path, "garbage"),
      }),
      /listeners\.data\.tls\.key_file: .*garbage: holds no PEM(?:.|\n)*listeners\.data\.tls\.client_ca_file: .*garbage: holds no PEM/,
    ],
  ])("TLS files: %s", async (_, tls, text) => {
    const path = join(place.path, `tls${++made}`);
    mkdirSync(path);
    const identity = certify("server", [{ dns: "localhost" }]);
    writeFiles(path, identity);
    writeFileSync(join(path, "old.pem"), certify("server", [], undefined, { key: identity, days: [-30, -1] }).certPem);
    writeFileSync(join(path, "other.pem"), certify("other", []).keyPem);
    writeFileSync(join(path, "garbage"), "hunter2");
    const file = config({ listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", tls: tls(path) } } });
    const { code, out, err } = await run(["serve", "--config", file], { DATABASE_URL: "postgres://127.0.0.1:1/x" });
    expect([code, out, err]).toEqual([78, "", expect.stringMatching(text)]);
    expect(err).not.toMatch(/ {4}at |hunter2/);
  });

  test.each([
    ["check-config", "postgres://u:hunter2#x@h/d", "write it %23"],
    ["serve", "postgres://u:hun@ter2:x@h:y/d", "cannot be parsed as a URL"],
    ["migrate", "postgres://u:hunter2@h/d?sslrootcert=/no/such/ca.pem", "sslrootcert"],
    ["bootstrap", "hunter2", "must be postgres://"],
  ])("%s with a database URL of %s: no stack, and no part of it", async (word, url, text) => {
    const { code, out, err } = await run([word, "--config", config()], { DATABASE_URL: url });
    expect([code, out, err]).toEqual([78, "", expect.stringMatching(/^sallyport: database\.url: [^\n]*\n$/)]);
    expect(err).toContain(text);
    expect(err).not.toMatch(/hun|ter2/);
  });

  test("a database that must be repaired is reported: by its name, or by the rights of its user", async () => {
    const database = await migratedDatabase();
    const url = new URL(database.url);
    url.pathname = "/no-such-database";
    for (const argv of [["check-config", "--connect"], ["migrate"]]) {
      const { code, err } = await run([...argv, "--config", config()], { DATABASE_URL: url.href });
      expect([code, err], argv.join(" ")).toEqual([78, expect.stringContaining("no such database")]);
    }
    const role = `sallyport_reads_${process.pid}`;
    await query(database, `create role ${role} login in role sallyport_reader`);
    const reader = new URL(database.url);
    reader.username = role;
    for (const argv of [["check-config", "--connect"], ["serve"]]) {
      const { code, err } = await run([...argv, "--config", config()], { DATABASE_URL: reader.href });
      expect([code, err], argv.join(" ")).toEqual([78, expect.stringContaining("sallyport_writer")]);
    }
    await query(database, `drop role ${role}`);
    await database.drop();
  }, 60_000);

  test("a socket in a missing folder is refused", async () => {
    const database = await migratedDatabase();
    const listeners = { ...FREE_PORTS, data: { bind: "unix:/no/such/folder/s" } };
    const { code, err } = await run(["serve", "--config", config({ listeners })], { DATABASE_URL: database.url });
    expect([code, err]).toEqual([78, "sallyport: /no/such/folder/s: there is no such folder\n"]);
    await database.drop();
  });

  test("a pepper that does not match the database's tokens, or is missing, is refused", async () => {
    const database = await migratedDatabase();
    const first = new Program(["serve", "--config", config()], { DATABASE_URL: database.url });
    await listenersOf(first);
    first.kill("SIGTERM");
    expect(await first.exited).toBe(0);
    const wrong = await run(["serve", "--config", config({ keyring: freshKeyring() })], { DATABASE_URL: database.url });
    expect([wrong.code, wrong.err]).toEqual([78, expect.stringContaining("pepper 1 is not the one")]);
    const lost = { current: "2", keys: { "2": freshKeyring().keys["1"]! } };
    const missing = await run(["serve", "--config", config({ keyring: lost })], { DATABASE_URL: database.url });
    expect([missing.code, missing.err]).toEqual([78, expect.stringContaining("lacks pepper 1")]);
    for (const { out, err } of [wrong, missing])
      for (const key of Object.values(keyring.keys)) expect(out + err).not.toContain(key);
    await database.drop();
  });

  test("a database of a newer program, or with changed migrations, is refused", async () => {
    const database = await migratedDatabase();
    await query(database, "update sallyport.rev_state set min_reader = 99");
    for (const word of ["serve", "migrate"]) {
      const { code, err } = await run([word, "--config", config()], { DATABASE_URL: database.url });
      expect([code, err], word).toEqual([78, expect.stringContaining("newer Sallyport")]);
    }
    await query(
      database,
      "update sallyport.rev_state set min_reader = 1; update sallyport.migrations set checksum = 'x'",
    );
    const changed = await run(["migrate", "--config", config()], { DATABASE_URL: database.url });
    expect([changed.code, changed.err]).toEqual([78, expect.stringContaining("was changed after")]);
    await database.drop();
  });

  test("a missing file, or one that is not YAML, is refused", async () => {
    const gone = await run(["check-config", "--config", join(place.path, "none.yaml")]);
    expect([gone.code, gone.err]).toEqual([78, expect.stringContaining("no such file")]);
    const bad = join(place.path, "bad.yaml");
    writeFileSync(bad, "a: [");
    expect((await run(["check-config", "--config", bad])).code).toBe(78);
  });
});

describe("exit 69: something that the server needs is missing", () => {
  test("a missing database is reported", async () => {
    for (const argv of [["serve"], ["migrate"], ["bootstrap"], ["check-config", "--connect"]]) {
      const { code, err } = await run([...argv, "--config", config()], {
        DATABASE_URL: "postgres://u:hunter2@127.0.0.1:1/x",
      });
      expect([code, err], argv[0]).toEqual([69, expect.stringMatching(/database\.url: nothing listens/)]);
      expect(err).not.toContain("hunter2");
    }
  });

  test.each(["data", "admin", "ops"])(
    "the port of the %s listener is in use: it says which, and ends",
    async (listener) => {
      const database = await migratedDatabase();
      const taken = createServer();
      await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
      const bind = `127.0.0.1:${(taken.address() as AddressInfo).port}`;
      const listeners = { ...FREE_PORTS, [listener]: { bind } };
      const { code, err } = await run(["serve", "--config", config({ listeners })], { DATABASE_URL: database.url });
      expect([code, err]).toEqual([69, expect.stringContaining(`${bind} is in use`)]);
      // An instance that starts instead need not wait for it.
      expect(await query(database, "select from sallyport.validators")).toHaveLength(0);
      taken.close();
      await database.drop();
    },
  );
});

describe("check-config", () => {
  test("prints the effective configuration, and no secret of it", async () => {
    const file = config({ break_glass: { secret: "b".repeat(40) }, log: { level: "warn" } });
    const { code, out } = await run(["check-config", "--config", file], {
      DATABASE_URL: "postgres://user:pa%24%24word@db.example/x",
      SALLYPORT_LIMITS__MINT_PER_ADDRESS_PER_HOUR: "7",
    });
    expect(code).toBe(0);
    const shown = JSON.parse(out);
    expect(shown).toMatchObject({
      log: { level: "warn" },
      limits: { mint_per_address_per_hour: 7 },
      database: { url: "postgres://user:[secret]@db.example/x" },
      break_glass: { secret: "[secret]" },
      keyring: { keys: { "1": "[secret]" } },
    });
    expect(out).not.toMatch(/bbbb|pa%24/);
  });
});

describe("check-config --connect", () => {
  test("tries credentials, rights and keyring, and changes nothing", async () => {
    const database = await freshDatabase();
    const check = (over: object = {}) =>
      run(["check-config", "--connect", "--config", config(over)], { DATABASE_URL: database.url });
    const empty = await check();
    expect([empty.code, empty.err]).toEqual([0, expect.stringContaining("the database is empty")]);
    const validate = await check({ mode: "validate" });
    expect([validate.code, validate.err]).toEqual([78, expect.stringContaining("run sallyport migrate")]);
    expect(await query(database, "select from pg_namespace where nspname = 'sallyport'")).toHaveLength(0);
    expect((await run(["bootstrap", "--config", config()], { DATABASE_URL: database.url })).code).toBe(0);
    await query(database, "delete from sallyport.key_checks");
    const good = await check();
    expect([good.code, good.err]).toEqual([0, ""]);
    expect(JSON.parse(good.out)).toMatchObject({ mode: "full" });
    expect(await query(database, "select from sallyport.key_checks")).toHaveLength(0);
    await query(database, "insert into sallyport.key_checks (kid, check_value) values ('1', 'x')");
    const wrong = await check();
    expect([wrong.code, wrong.out, wrong.err]).toEqual([78, "", expect.stringContaining("pepper 1 is not the one")]);
    await database.drop();
  }, 60_000);
});

describe("three instances at once", () => {
  test("on an empty database all start, one schema is created, and a revocation at one is in force at all", async () => {
    const database = await freshDatabase();
    const programs = Array.from(
      { length: 3 },
      () => new Program(["serve", "--config", config()], { DATABASE_URL: database.url }),
    );
    const listeners = await Promise.all(programs.map(listenersOf));
    expect(await query(database, "select version from sallyport.migrations")).toHaveLength(migrationFiles().length);
    expect(await query(database, "select from sallyport.validators")).toHaveLength(3);
    const keys = await query(database, "select kid from sallyport.key_checks");
    expect(keys).toEqual([{ kid: "1" }]);
    const { out } = await run(["bootstrap", "--config", config()], { DATABASE_URL: database.url });
    const post = async (at: string, path: string, body: object, bearer?: string) =>
      (
        await fetchPatiently(`${at}/sallyport.v1.${path}`, {
          method: "POST",
          headers: { "content-type": "application/json", ...(bearer && { authorization: `Bearer ${bearer}` }) },
          body: JSON.stringify(body),
        })
      ).json() as Promise<Record<string, never>>;
    const { tokenString, token } = (await post(
      listeners[0]!.admin,
      "TokenAdmin/CreateToken",
      { profile: "pat", principal: "user:a", displayName: "x" },
      out.trim(),
    )) as unknown as { tokenString: string; token: { id: string } };
    const verdicts = async () =>
      Promise.all(
        listeners.map(
          async ({ data }) => (await post(data, "TokenValidator/ValidateToken", { tokenString }))["verdict"],
        ),
      );
    expect(await verdicts()).toEqual(["VERDICT_ALLOW", "VERDICT_ALLOW", "VERDICT_ALLOW"]);
    await post(listeners[1]!.admin, "TokenAdmin/RevokeToken", { id: token.id }, out.trim());
    expect(await verdicts()).toEqual(["VERDICT_INVALID_TOKEN", "VERDICT_INVALID_TOKEN", "VERDICT_INVALID_TOKEN"]);
    for (const program of programs) program.kill("SIGTERM");
    expect(await Promise.all(programs.map(({ exited }) => exited))).toEqual([0, 0, 0]);
    expect(await query(database, "select from sallyport.validators")).toHaveLength(0);
    await database.drop();
  }, 60_000);
});

describe("signals", () => {
  test("SIGTERM and SIGINT end it with 0 and are logged; the ports are free", async () => {
    const database = await migratedDatabase();
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const program = new Program(["serve", "--config", config()], { DATABASE_URL: database.url });
      const { ops } = await listenersOf(program);
      program.kill(signal);
      expect(await program.exited).toBe(0);
      expect(program.out).toContain(`"because":"${signal}"`);
      expect(program.out).toContain('"event":"stopped"');
      expect(program.err).toBe("");
      await expect(fetch(`${ops}/healthz`)).rejects.toThrow();
    }
    await database.drop();
  });

  test("a duplicate Ctrl-C, as npm sends it, counts once: it drains and ends with 0", async () => {
    const database = await migratedDatabase();
    const program = new Program(["serve", "--config", config()], { DATABASE_URL: database.url });
    await listenersOf(program);
    program.kill("SIGINT");
    await program.until(({ out }) => out.includes('"event":"stopping"'), "it began to stop");
    program.kill("SIGINT");
    program.kill("SIGINT");
    expect(await program.exited).toBe(0);
    expect(program.out).toContain('"event":"stopped"');
    await database.drop();
  });

  test("SIGUSR1 opens no inspector", async () => {
    const database = await migratedDatabase();
    const program = new Program(["serve", "--config", config()], { DATABASE_URL: database.url });
    const { ops } = await listenersOf(program);
    program.kill("SIGUSR1");
    program.kill("SIGHUP");
    await program.until(({ out }) => out.includes('"event":"reloaded"'), "it had handled the signals");
    expect((await fetch(`${ops}/healthz`)).status).toBe(200);
    expect(program.err).not.toContain("Debugger");
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    await database.drop();
  });

  test("a second signal, more than a second later, ends it at once, also during a call", async () => {
    const database = await migratedDatabase();
    const program = new Program(["serve", "--config", config()], { DATABASE_URL: database.url });
    const { admin } = await listenersOf(program);
    // A request whose body never comes: the drain waits for it.
    const { connect } = await import("node:net");
    const socket = connect(Number(new URL(admin).port), "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{",
    );
    await new Promise((resolve) => socket.once("connect", resolve));
    program.kill("SIGTERM");
    await program.until(({ out }) => out.includes('"event":"stopping"'), "it began to stop");
    // Only after a second is it another signal, and not a duplicate.
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    const asked = Date.now();
    program.kill("SIGTERM");
    expect(await program.exited).toBe(1);
    expect(Date.now() - asked).toBeLessThan(2_000);
    socket.destroy();
    await database.drop();
  });
});

describe("the embedded database", () => {
  const data = join(place.path, "data");
  let first: Program;
  let listeners: { data: string; admin: string; ops: string };
  const env = {
    SALLYPORT_LISTENERS__DATA__BIND: "127.0.0.1:0",
    SALLYPORT_LISTENERS__ADMIN__BIND: "127.0.0.1:0",
    SALLYPORT_LISTENERS__OPS__BIND: "127.0.0.1:0",
  };
  const serve = () => new Program(["serve", "--data", data], env);
  beforeAll(async () => {
    first = serve();
    listeners = await listenersOf(first);
  }, 60_000);
  afterAll(async () => {
    first.kill("SIGTERM");
    await first.exited;
  });

  test("the first start creates a keyring and an admin token, both 0600 in a folder of 0700, and prints neither", () => {
    const token = readFileSync(join(data, "admin-token"), "utf8");
    expect(token).toMatch(/^sp_adm_1[0-9A-Za-z]{57}\n$/);
    for (const file of ["admin-token", "keyring.json"])
      expect(statSync(join(data, file)).mode & 0o777, file).toBe(0o600);
    expect(statSync(data).mode & 0o777).toBe(0o700);
    expect(readdirSync(data).filter((name) => name.endsWith(".new"))).toEqual([]);
    const pepper = JSON.parse(readFileSync(join(data, "keyring.json"), "utf8")).keys["1"];
    for (const secret of [token.trim(), pepper]) expect(first.out + first.err).not.toContain(secret);
    expect(first.out).toContain('"event":"first_admin_written"');
  });

  test("a terminal is shown commands that, pasted into bash, create, accept, revoke and refuse a token", async () => {
    const other = join(place.path, "shown");
    const argv = [...FLAGS, join(ROOT, "src/main.ts"), "serve", "--data", other].map((word) => `'${word}'`).join(" ");
    const variables = { PATH: process.env["PATH"], HOME: process.env["HOME"], ...env };
    // util-linux's script gives it a terminal.
    const shown = spawn("script", ["-qfec", `'${process.execPath}' ${argv}`, "/dev/null"], { env: variables });
    let text = "";
    try {
      await new Promise<void>((resolve, reject) => {
        shown.on("exit", () => reject(new Error(`it ended: ${text}`)));
        shown.stdout.setEncoding("utf8").on("data", (more: string) => {
          text += more;
          if (text.split("sallyport -- validate").length > 2) resolve();
        });
      });
      expect(text).toMatch(/^Sallyport 0\.1\.0 is ready \(\d+\.\d s\)\r?$/m);
      expect(text).not.toContain('"event":"ready"');
      const commands = text.split(/\r?\n/).filter((line) => /^ {2}(npm|export) /.test(line));
      expect(commands).toHaveLength(5);
      const pasted = commands.join("\n").replaceAll("first.token", join(place.path, "first.token"));
      const { stdout, stderr } = await promisify(execFile)("bash", ["-c", `${pasted}; true`], { cwd: ROOT });
      expect(stderr).toBe("");
      expect(stdout).toMatch(/^ALLOW\n.*\nRevoked, in force everywhere .*\nINVALID_TOKEN\n/s);
    } finally {
      shown.removeAllListeners("exit");
      shown.stdin.write("\x03");
      await once(shown, "exit");
    }
  }, 120_000);

  test("a second instance on the same data folder is refused with 69, and harms nothing", async () => {
    const second = serve();
    expect(await second.exited).toBe(69);
    expect(second.err).toMatch(/^sallyport: .*another/m);
    expect((await fetch(`${listeners.ops}/readyz`)).status).toBe(200);
  });

  test("bootstrap beside a running instance says that an admin exists; with --again it replaces the file", async () => {
    const before = readFileSync(join(data, "admin-token"), "utf8");
    const refused = await run(["bootstrap", "--data", data]);
    expect([refused.code, refused.out]).toEqual([1, ""]);
    const again = await run(["bootstrap", "--again", "--data", data]);
    expect(again.code).toBe(0);
    expect(readFileSync(join(data, "admin-token"), "utf8")).toBe(again.out);
    expect(again.out).not.toBe(before);
    for (const bearer of [before.trim(), again.out.trim()]) {
      const response = await fetchPatiently(`${listeners.admin}/sallyport.v1.TenantAdmin/ListTenants`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${bearer}` },
        body: "{}",
      });
      expect(response.status).toBe(200);
    }
  });

  test("after a kill -9 the next start finds everything: tokens accepted, revoked ones refused, no second admin", async () => {
    const bearer = readFileSync(join(data, "admin-token"), "utf8").trim();
    const post = async (at: string, path: string, body: object) =>
      (await (
        await fetchPatiently(`${at}/sallyport.v1.${path}`, {
          method: "POST",
          headers: { "content-type": "application/json", authorization: `Bearer ${bearer}` },
          body: JSON.stringify(body),
        })
      ).json()) as { tokenString: string; token: { id: string }; verdict: string };
    const create = () =>
      post(listeners.admin, "TokenAdmin/CreateToken", { profile: "pat", principal: "user:ann", displayName: "x" });
    const kept = await create();
    const gone = await create();
    await post(listeners.admin, "TokenAdmin/RevokeToken", { id: gone.token.id });
    first.kill("SIGKILL");
    await first.exited;
    first = serve();
    listeners = await listenersOf(first);
    const verdict = async (tokenString: string) =>
      (await post(listeners.data, "TokenValidator/ValidateToken", { tokenString })).verdict;
    expect(await verdict(kept.tokenString)).toBe("VERDICT_ALLOW");
    expect(await verdict(gone.tokenString)).toBe("VERDICT_INVALID_TOKEN");
    expect(readFileSync(join(data, "admin-token"), "utf8").trim()).toBe(bearer);
    expect(first.out).not.toContain("first_admin_written");
  }, 60_000);

  test("a start does not replace a lost admin token: it says how to get one", async () => {
    first.kill("SIGTERM");
    expect(await first.exited).toBe(0);
    rmSync(join(data, "admin-token"));
    first = serve();
    listeners = await listenersOf(first);
    expect(existsSync(join(data, "admin-token"))).toBe(false);
    expect(first.out).toContain("sallyport bootstrap --again");
  }, 60_000);
});

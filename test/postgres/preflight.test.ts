import { chownSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { freshKeyring } from "../../src/domain/keyring.ts";
import { StartError } from "../../src/domain/start-error.ts";
import { urlProblem } from "../../src/postgres/connect-errors.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { assertReachable, assertRights } from "../../src/postgres/preflight.ts";
import { certify } from "../listen/certificates.ts";
import { startServer, type ThrowawayServer } from "../support/postgres-server.ts";
import { folder, Program } from "../support/program.ts";

/*
 * What a start says of a database that it can not use: in words, with what to do, and whether that may pass by itself.
 */
const SECRET = "hunter2hunter2";
const place = folder();
let server: ThrowawayServer;
const listeners: Server[] = [];

const sql = async (text: string, database = "sallyport") => {
  const client = new pg.Client(urlOf({ database }));
  await client.connect();
  await client.query(text).finally(() => client.end());
};
const urlOf = ({ user = "sallyport", password = "", database = "sallyport", host = "127.0.0.1", query = "" }) =>
  `postgres://${user}${password && `:${password}`}@${host}:${server.port}/${database}${query}`;

beforeAll(async () => {
  server = await startServer({ fsync: false });
  const owner = statSync(server.dataDir);
  const identity = certify("server", [{ dns: "db.example" }]);
  for (const [name, text] of [
    ["server.crt", identity.certPem],
    ["server.key", identity.keyPem],
  ] as const) {
    writeFileSync(join(server.dataDir, name), text, { mode: 0o600 });
    chownSync(join(server.dataDir, name), owner.uid, owner.gid);
  }
  writeFileSync(join(place.path, "ca.pem"), identity.certPem);
  const hba = join(server.dataDir, "pg_hba.conf");
  writeFileSync(
    hba,
    `host all checked all scram-sha-256\nhost all nobody all reject\nhostssl all tls all trust\nhost all tls all reject\n${readFileSync(hba, "utf8")}`,
  );
  await sql(
    `create role checked login password '${SECRET}'; create role nobody login; create role tls login; create role plain login`,
  );
  for (const name of ["closed", "bare"]) await sql(`create database ${name}`);
  await sql("alter database closed allow_connections false");
  await sql("alter system set ssl = on");
  await sql("select pg_reload_conf()");
  await migrate(urlOf({}));
  await sql(`create role writer login in role sallyport_writer; create role reader login in role sallyport_reader`);
}, 120_000);
afterAll(async () => {
  for (const listener of listeners) listener.close();
  await server?.remove();
  place.remove();
});

/** Something that is not PostgreSQL: says `text` to whoever connects, or hangs up. */
async function pretender(answer: (socket: Socket) => void): Promise<string> {
  const listener = createServer((socket) => {
    socket.on("error", () => {});
    answer(socket);
  });
  listeners.push(listener);
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  return `postgres://u:${SECRET}@127.0.0.1:${(listener.address() as AddressInfo).port}/d`;
}

const refusal = async (url: string) => {
  const error = await assertReachable(url, "database.url").then(
    () => undefined,
    (failure: unknown) => failure,
  );
  expect(error).toBeInstanceOf(StartError);
  const { kind, message } = error as StartError;
  expect(message).toMatch(/^database\.url: /);
  expect(message).not.toContain(SECRET);
  expect(message).not.toContain("127.0.0.1");
  return { mend: kind === "database_unusable", message };
};

describe("a database that the operator must mend", () => {
  test.each<[string, () => string, RegExp]>([
    ["a wrong password", () => urlOf({ user: "checked", password: "wrong" }), /refuses the password.*28P01/],
    ["no such user", () => urlOf({ user: "missing" }), /does not admit this user.*28000/],
    ["an address that pg_hba.conf refuses", () => urlOf({ user: "nobody" }), /pg_hba\.conf.*28000/],
    ["a user that must come by TLS", () => urlOf({ user: "tls" }), /TLS.*28000/],
    ["no such database", () => urlOf({ database: "missing" }), /no such database.*3D000/],
    ["a database that is closed", () => urlOf({ database: "closed" }), /takes no connections.*55000/],
    ["a certificate that is not trusted", () => urlOf({ query: "?sslmode=verify-full" }), /sslrootcert/],
    [
      "a certificate for another name",
      () => urlOf({ query: `?sslmode=verify-full&sslrootcert=${join(place.path, "ca.pem")}` }),
      /another host name.*ERR_TLS_CERT_ALTNAME_INVALID/,
    ],
    ["a CA file that is not there", () => urlOf({ query: "?sslrootcert=/no/such/ca.pem" }), /sslrootcert.*ENOENT/],
  ])("%s", async (_, url, words) => {
    expect(await refusal(url())).toEqual({ mend: true, message: expect.stringMatching(words) });
  });

  test.each<[string, (socket: Socket) => void]>([
    ["a web server", (socket) => socket.once("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))],
    ["a Redis", (socket) => socket.once("data", () => socket.write("-ERR unknown command\r\n"))],
    ["a server that greets", (socket) => socket.write("SSH-2.0-OpenSSH_9.9\r\n")],
  ])("%s at the database's port", async (_, answer) => {
    const { mend, message } = await refusal(await pretender(answer));
    expect([mend, message]).toEqual([true, expect.stringContaining("is not PostgreSQL")]);
  });

  test("a server without TLS although the URL requires TLS", async () => {
    const url = await pretender((socket) => socket.once("data", () => socket.write("N")));
    const { mend, message } = await refusal(`${url}?sslmode=verify-full`);
    expect([mend, message]).toEqual([true, expect.stringContaining("does not offer TLS")]);
  });

  test.each(["postgres://u:p@ss:w/x@h/d", "postgres://h:port/d", "postgres://h1:1,h2:2/d"])(
    "%s cannot be parsed as a URL",
    (url) => {
      expect(urlProblem(url)).toMatch(/^cannot be parsed as a URL/);
    },
  );
});

describe("a failure that may pass by itself", () => {
  test.each<[string, () => string, RegExp]>([
    ["a port that refuses", () => `postgres://u:${SECRET}@127.0.0.1:1/d`, /nothing listens.*ECONNREFUSED/],
    ["a host that is not known", () => `postgres://u:${SECRET}@no-such-host.invalid/d`, /host.*(ENOTFOUND|EAI_AGAIN)/],
    ["a socket that is not there", () => `postgres://u:${SECRET}@/d?host=/no/such/folder`, /no such socket/],
  ])("%s", async (_, url, words) => {
    expect(await refusal(url())).toEqual({ mend: false, message: expect.stringMatching(words) });
  });

  test("a proxy that closes the connection", async () => {
    const { mend, message } = await refusal(await pretender((socket) => socket.destroy()));
    expect([mend, message]).toEqual([false, expect.stringMatching(/closed without an answer|was cut/)]);
  });

  test("a server that does not answer", async () => {
    const { mend, message } = await refusal(await pretender(() => {}));
    expect([mend, message]).toEqual([false, expect.stringContaining("does not answer")]);
  });
});

describe("rights", () => {
  test("each role has enough rights for its mode, and the owner for both modes", async () => {
    for (const [user, mode] of [
      ["writer", "full"],
      ["writer", "validate"],
      ["reader", "validate"],
      ["sallyport", "full"],
    ] as const)
      expect(await assertRights(urlOf({ user }), mode), `${user} ${mode}`).toBe(true);
  });

  test("the reader's credentials in mode full are refused, with the missing rights and the remedy", async () => {
    const error = await assertRights(urlOf({ user: "reader" }), "full").catch((failure: unknown) => failure);
    expect(error).toMatchObject({ name: "StartError", kind: "database_unfit" });
    expect((error as StartError).message).toMatch(/may not .*(insert|select) .*sallyport_writer.*sallyport_reader/);
  });

  describe("a function that may not be called is reported, with the command to run", () => {
    const told = async (user: string, mode: "full" | "validate", direct?: string) => {
      const directUrl = direct === undefined ? undefined : urlOf({ user: direct });
      const error = await assertRights(urlOf({ user }), mode, false, directUrl).catch((failure: unknown) => failure);
      expect(error, `${user} ${mode}`).toBeInstanceOf(StartError);
      return (error as StartError).message;
    };

    test.each<[string, "writer" | "reader", "full" | "validate"]>([
      ["validator_join(uuid, bytea, uuid, bytea, text, int, int, text[])", "reader", "validate"],
      ["validator_ack(uuid, bytea, text, bigint)", "reader", "validate"],
      ["validator_leave(uuid, bytea)", "reader", "validate"],
      ["draw_incarnation(uuid)", "writer", "full"],
      ["validators_reap(uuid[])", "writer", "full"],
      ["canary_prune(int)", "writer", "full"],
    ])("%s of the %s", async (name, user, mode) => {
      const role = `sallyport_${user}`;
      await sql(`revoke execute on function sallyport.${name} from ${role}`);
      const message = await told(user, mode);
      expect(message).toContain(`may not execute ${name.slice(0, name.indexOf("("))}:`);
      const grant = /GRANT EXECUTE .*;$/.exec(message)?.[0];
      expect(grant).toBe(`GRANT EXECUTE ON FUNCTION sallyport.${name} TO ${role};`);
      await sql(grant!);
      expect(await assertRights(urlOf({ user }), mode)).toBe(true);
    });

    test("a user with its own rights that is no member of the role", async () => {
      await sql(
        `create role "by-hand" login; grant usage on schema sallyport to "by-hand";
         grant select on all tables in schema sallyport to "by-hand"; grant insert, update on sallyport.token_usage to "by-hand"`,
      );
      const message = await told("by-hand", "validate");
      expect(message).toContain('GRANT sallyport_reader TO "by-hand";');
      await sql('GRANT sallyport_reader TO "by-hand"');
      expect(await assertRights(urlOf({ user: "by-hand" }), "validate")).toBe(true);
    });

    test("the user of the direct URL, which calls the functions of the log", async () => {
      expect(await told("writer", "full", "reader")).toMatch(
        /^database\.direct_url: this user may not execute audit_months, canary_prune, .*GRANT sallyport_writer TO reader;$/,
      );
      expect(await assertRights(urlOf({ user: "writer" }), "full", false, urlOf({}))).toBe(true);
    });

    test("a schema that is older than the program", async () => {
      await sql("alter function sallyport.validator_leave(uuid, bytea) rename to kept");
      expect(await told("reader", "validate")).toContain("run sallyport migrate");
      // A start in mode full makes it new.
      expect(await assertRights(urlOf({ user: "writer" }), "full", true)).toBe(true);
      await sql("alter function sallyport.kept(uuid, bytea) rename to validator_leave");
    });

    test("ends the program with 78, at check-config --connect and at the start", async () => {
      await sql("revoke execute on function sallyport.validator_join from sallyport_reader");
      const env = { DATABASE_URL: urlOf({ user: "reader" }) };
      const file = join(place.path, "validate.yaml");
      const listeners = { data: { bind: "127.0.0.1:0" }, ops: { bind: "127.0.0.1:0" } };
      writeFileSync(file, JSON.stringify({ mode: "validate", keyring: freshKeyring(), listeners }), { mode: 0o600 });
      for (const args of [["check-config", "--connect"], ["serve"]]) {
        const program = new Program([...args, "--config", file], env);
        expect(await program.exited, args[0]).toBe(78);
        expect(program.out + program.err).toContain("GRANT EXECUTE ON FUNCTION sallyport.validator_join(");
      }
      await sql("grant execute on function sallyport.validator_join to sallyport_reader");
    });
  });

  test("a user without any right gets the reason", async () => {
    const error = await assertRights(urlOf({ user: "plain" }), "validate").catch((failure: unknown) => failure);
    expect(error).toMatchObject({ message: expect.stringMatching(/rights|sallyport_reader/) });
  });

  test("an empty database is an error in mode validate, and reported as empty in mode full", async () => {
    const bare = urlOf({ database: "bare" });
    const error = await assertRights(bare, "validate").catch((failure: unknown) => failure);
    expect(error).toMatchObject({
      kind: "database_unusable",
      message: expect.stringContaining("run sallyport migrate"),
    });
    expect(await assertRights(bare, "full", true)).toBe(false);
  });

  test("a user that may not create the schema is refused at the migration", async () => {
    const error = await migrate(urlOf({ database: "bare", user: "plain" })).catch((failure: unknown) => failure);
    expect(error).toMatchObject({ kind: "database_unusable", message: expect.stringContaining("42501") });
  });
});

import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Database } from "../support/postgres.ts";
import { auditRow, byHand, digestOf, makeTokens, migrated, tokenId } from "./migrated.ts";

let database: Database;
let sql: pg.Client;
beforeEach(async () => {
  database = await migrated();
  onTestFinished(() => database.drop());
  sql = await byHand(database.url);
});

const head = async (client = sql) => (await client.query("select n from sallyport.rev_head")).rows[0].n as number;

/** What the log says above a position: `n key`, keys as latin1 with NUL as `|`. */
async function logAbove(n: number): Promise<string[]> {
  const { rows } = await sql.query("select n, key from sallyport.rev_log where n > $1 order by n, key", [n]);
  return rows.map((row) => `${row.n - n} ${(row.key as Buffer).toString("latin1").replaceAll("\0", "|")}`);
}

/** One transaction by hand, with its audit row. */
async function change(...statements: string[]): Promise<void> {
  await sql.query("begin");
  try {
    await auditRow(sql);
    for (const statement of statements) await sql.query(statement);
    await sql.query("commit");
  } catch (error) {
    await sql.query("rollback");
    throw error;
  }
}

const ROLE_ID = `rol_1${"0".repeat(21)}`;
const ROLE = `insert into sallyport.roles (id, tenant, name) values ('${ROLE_ID}', 'default', 'one')`;
const T1 = `'${tokenId(1)}'`;
const revoked = (id: string) => `update sallyport.tokens set revoke_time = now() where id = ${id}`;

describe("every change of a row that validation reads is noted once, under its own position", () => {
  const token = `t${digestOf(1)}`;
  test.each<[string, string[], string[]]>([
    ["a token updated", [revoked(T1)], [`1 ${token}`]],
    [
      "a token changed in what does not matter",
      [`update sallyport.tokens set display_name = 'x' where id = ${T1}`],
      [`1 ${token}`],
    ],
    ["a token updated to what it was", [`update sallyport.tokens set hint = hint where id = ${T1}`], [`1 ${token}`]],
    ["a token deleted", [`delete from sallyport.tokens where id = ${T1}`], [`1 ${token}`]],
    ["tokens truncated", ["truncate sallyport.tokens"], ["1 *"]],
    [
      "a principal updated",
      ["update sallyport.principals set state = 'DISABLED' where name = 'bot:ci'"],
      ["1 pdefault|bot:ci"],
    ],
    ["a principal deleted", ["delete from sallyport.principals where name = 'bot:idle'"], ["1 pdefault|bot:idle"]],
    [
      "an active principal inserted",
      ["insert into sallyport.principals (tenant, name) values ('default', 'bot:x')"],
      [],
    ],
    [
      "a disabled principal inserted",
      ["insert into sallyport.principals (tenant, name, state) values ('default', 'bot:x', 'DISABLED')"],
      ["1 pdefault|bot:x"],
    ],
    [
      "a principal inserted with a cut",
      ["insert into sallyport.principals (tenant, name, cut_time) values ('default', 'bot:x', now())"],
      ["1 pdefault|bot:x"],
    ],
    ["principals truncated", ["truncate sallyport.principals cascade"], ["1 *"]],
    ["a tenant updated", ["update sallyport.tenants set state = 'SUSPENDED' where id = 'default'"], ["1 odefault"]],
    ["a tenant deleted", ["delete from sallyport.tenants where id = 'other'"], ["1 oother"]],
    ["an active tenant inserted", ["insert into sallyport.tenants (id) values ('x')"], []],
    ["a suspended tenant inserted", ["insert into sallyport.tenants (id, state) values ('x', 'SUSPENDED')"], ["1 ox"]],
    ["a tenant inserted with a cut", ["insert into sallyport.tenants (id, cut_time) values ('x', now())"], ["1 ox"]],
    ["tenants truncated", ["truncate sallyport.tenants cascade"], ["1 *"]],
    ["a role inserted", [`${ROLE.replace("rol_1", "rol_2").replace("'one'", "'two'")}`], []],
    ["a role updated", ["update sallyport.roles set scopes = '{x}'"], [`1 r${ROLE_ID}`]],
    ["a role deleted for good", ["update sallyport.roles set state = 'DELETED'"], [`1 r${ROLE_ID}`]],
    ["a role's row deleted", ["delete from sallyport.roles"], [`1 r${ROLE_ID}`]],
    ["roles truncated", ["truncate sallyport.roles"], ["1 *"]],
    ["a pepper retired", ["delete from sallyport.key_checks where kid = '1'"], ["1 *"]],
    [
      "several at once: one position",
      [
        revoked(T1),
        revoked(`'${tokenId(2)}'`),
        "update sallyport.tenants set state = 'SUSPENDED' where id = 'default'",
      ],
      ["1 odefault", `1 ${token}`, `1 t${digestOf(2)}`],
    ],
  ])("%s", async (_, statements, noted) => {
    await makeTokens(sql, 2);
    await change(
      "insert into sallyport.tenants (id) values ('other')",
      "insert into sallyport.principals (tenant, name) values ('default', 'bot:idle')",
      "insert into sallyport.key_checks (kid, check_value) values ('1', 'x')",
      ROLE,
    );
    const before = await head();
    await change(...statements);
    expect(await logAbove(before)).toEqual(noted);
    expect(await head()).toBe(before + (noted.length > 0 ? 1 : 0));
  });

  test("minting takes no position, and neither does last use", async () => {
    const before = await head();
    await makeTokens(sql, 3);
    await sql.query("insert into sallyport.token_usage values ($1, now(), '')", [tokenId(1)]);
    await sql.query("update sallyport.token_usage set last_use_time = now()");
    expect(await head()).toBe(before);
    expect(await logAbove(0)).toEqual([]);
  });

  test("a transaction that is rolled back leaves no position and no note", async () => {
    await makeTokens(sql, 1);
    const before = await head();
    await sql.query("begin");
    await auditRow(sql);
    await sql.query(revoked(T1));
    await sql.query("set constraints all immediate");
    expect(await head()).toBe(before + 1);
    await sql.query("rollback");
    expect(await head()).toBe(before);
    expect(await logAbove(before)).toEqual([]);
  });

  test("a transaction has one position over all savepoints, released or rolled back", async () => {
    await makeTokens(sql, 4);
    const before = await head();
    await change(
      "savepoint a",
      revoked(T1),
      "set constraints all immediate",
      "rollback to a",
      "set constraints all deferred",
      "savepoint b",
      revoked(`'${tokenId(2)}'`),
      "set constraints all immediate",
      "release b",
      revoked(`'${tokenId(3)}'`),
      "set constraints all deferred",
      "savepoint c",
      revoked(`'${tokenId(4)}'`),
      "set constraints all immediate",
      "rollback to c",
    );
    expect(await logAbove(before)).toEqual([`1 t${digestOf(2)}`, `1 t${digestOf(3)}`]);
    expect(await head()).toBe(before + 1);
  });

  test("a transaction with more than 10,000 notes writes the key of everything", async () => {
    await makeTokens(sql, 10_001);
    const before = await head();
    await change("update sallyport.tokens set revoke_time = now()");
    const { rows } = await sql.query(
      "select count(*) as rows, count(*) filter (where key = '*') as all, min(n) as low, max(n) as high from sallyport.rev_log where n > $1",
      [before],
    );
    expect(rows[0]).toMatchObject({ all: 1, low: before + 1, high: before + 1 });
    expect(rows[0].rows).toBeLessThanOrEqual(10_000);
  });

  test("the triggers run in a replication role, too", async () => {
    await makeTokens(sql, 1);
    const before = await head();
    await sql.query("set session_replication_role = replica");
    await change(revoked(T1));
    expect(await logAbove(before)).toEqual([`1 ${token}`]);
    await expect(sql.query(`update sallyport.tokens set display_name = 'x'`)).rejects.toThrow(/needs an audit row/);
    await expect(sql.query("update sallyport.audit set actor = 'x'")).rejects.toThrow(/kept as they are/);
    await expect(change(`update sallyport.tokens set revoke_time = null where id = ${T1}`)).rejects.toThrow(
      /stays revoked/,
    );
  });

  test("without the head's row no change is possible", async () => {
    await makeTokens(sql, 1);
    await sql.query("delete from sallyport.rev_head");
    await expect(change(revoked(T1))).rejects.toThrow();
    const { rows } = await sql.query("select revoke_time from sallyport.tokens");
    expect(rows).toEqual([{ revoke_time: null }]);
  });

  test("its commit is flushed to disk although the server's default is off", async () => {
    await makeTokens(sql, 1);
    await sql.query("set synchronous_commit = off");
    await sql.query("begin");
    await auditRow(sql);
    await sql.query(revoked(T1));
    await sql.query("set constraints all immediate");
    expect((await sql.query("show synchronous_commit")).rows[0].synchronous_commit).toBe("on");
    await sql.query("commit");
    expect((await sql.query("show synchronous_commit")).rows[0].synchronous_commit).toBe("off");
  });

  test("a transaction sends one NOTIFY, at its commit", async () => {
    await makeTokens(sql, 5);
    const listener = await byHand(database.url);
    const heard: string[] = [];
    listener.on("notification", ({ channel }) => heard.push(channel));
    await listener.query("listen sallyport_rev");
    await change("update sallyport.tokens set revoke_time = now()");
    await listener.query("select 1");
    expect(heard).toEqual(["sallyport_rev"]);
  });
});

describe("cuts", () => {
  const live = async () => {
    const { rows } = await sql.query("select id from sallyport.token_view where state = 'ACTIVE' order by id");
    return rows.map(({ id }) => Number((id as string).slice(4)));
  };
  const cutN = async (of: "principals" | "tenants") =>
    (await sql.query(`select cut_n from sallyport.${of} where cut_time is not null`)).rows;
  const cutPrincipal = "update sallyport.principals set cut_time = clock_timestamp() where name = 'bot:ci'";

  test("a cut has the position of its own transaction, and ends what was issued before it, not after", async () => {
    await makeTokens(sql, 2);
    const before = await head();
    await change(cutPrincipal);
    expect(await cutN("principals")).toEqual([{ cut_n: before + 1 }]);
    expect(await logAbove(before)).toEqual(["1 pdefault|bot:ci"]);
    expect(await live()).toEqual([]);
    await makeTokens(sql, 1, "bot:ci", 3);
    expect(await live()).toEqual([3]);
    await makeTokens(sql, 1, "bot:other", 4);
    await change("update sallyport.tenants set cut_time = clock_timestamp() where id = 'default'");
    expect(await cutN("tenants")).toEqual([{ cut_n: before + 2 }]);
    expect(await live()).toEqual([]);
    await makeTokens(sql, 1, "bot:ci", 5);
    expect(await live()).toEqual([5]);
  });

  test("a second cut ends the tokens issued since the first; two cuts in one transaction are one", async () => {
    const before = await head();
    await makeTokens(sql, 1);
    await change(cutPrincipal);
    await makeTokens(sql, 1, "bot:ci", 2);
    await change(cutPrincipal, cutPrincipal);
    expect(await live()).toEqual([]);
    expect(await cutN("principals")).toEqual([{ cut_n: before + 2 }]);
  });

  test("a principal without a row can be cut: a first mint under way is ended, too", async () => {
    const minter = await byHand(database.url);
    await minter.query("begin");
    await auditRow(minter);
    await minter.query("insert into sallyport.principals (tenant, name) values ('default', 'bot:new')");
    await minter.query(
      `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
       values ($1, convert_to($2, 'UTF8'), '1', 'h', 'default', 'bot', 'bot:new', 'user:a', $1)`,
      [tokenId(1), digestOf(1)],
    );
    const upsert = `insert into sallyport.principals (tenant, name, cut_time) values ('default', 'bot:new', clock_timestamp())
      on conflict (tenant, name) do update set cut_time = clock_timestamp()`;
    const cutting = change(upsert);
    await expect
      .poll(async () => (await minter.query("select from pg_stat_activity where wait_event_type = 'Lock'")).rowCount)
      .toBe(1);
    await minter.query("commit");
    await cutting;
    expect(await live()).toEqual([]);
  });

  test("a cut is final, and its position never decreases", async () => {
    await makeTokens(sql, 1);
    await change(cutPrincipal, "update sallyport.tenants set cut_time = clock_timestamp() where id = 'default'");
    for (const of of ["principals", "tenants"]) {
      await expect(change(`update sallyport.${of} set cut_time = null`)).rejects.toThrow(/a cut stays/);
      await expect(change(`update sallyport.${of} set cut_n = 0`)).rejects.toThrow(/a cut stays/);
    }
  });
});

describe("changes that the triggers refuse", () => {
  test("no user can make a revoked token live again", async () => {
    await makeTokens(sql, 1);
    await change(revoked(T1));
    for (const time of ["null", "now() + interval '1 day'", "now() - interval '1 day'"]) {
      await expect(change(`update sallyport.tokens set revoke_time = ${time}`)).rejects.toMatchObject({
        code: "23514",
        message: "a revoked token stays revoked",
      });
    }
    // Other columns may still be written.
    await change("update sallyport.tokens set display_name = 'was stolen'");
  });

  test.each([
    ["digest", "sha256('x')"],
    ["kid", "'2'"],
    ["tenant", "'other'"],
    ["principal", "'bot:other'"],
    ["profile", "'adm'"],
    ["parent_id", `'${tokenId(2)}'`],
    ["family", "'f'"],
    ["issued_n", "99"],
    ["create_time", "now()"],
    ["created_by", "'x'"],
    ["format", "'jwt'"],
    ["signing_key", "'k'"],
    ["id", `'${tokenId(8)}'`],
  ])("what a token is does not change: %s", async (column, value) => {
    await makeTokens(sql, 2);
    await expect(change(`update sallyport.tokens set ${column} = ${value} where id = ${T1}`)).rejects.toThrow(
      /what a token is cannot be changed/,
    );
  });

  test.each([
    ["insert into sallyport.tenants (id) values ('x')"],
    ["update sallyport.tenants set display_name = 'x'"],
    ["delete from sallyport.tenants where id = 'other'"],
    ["insert into sallyport.principals (tenant, name) values ('default', 'bot:x')"],
    ["update sallyport.principals set state = 'DISABLED'"],
    ["delete from sallyport.principals where name = 'bot:idle'"],
    [
      `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
       values ('${tokenId(7)}', sha256('x'), '1', 'h', 'default', 'bot', 'bot:ci', 'user:a', 'f')`,
    ],
    ["update sallyport.tokens set revoke_time = now()"],
    ["delete from sallyport.tokens"],
    ["truncate sallyport.tokens"],
    ["truncate sallyport.tenants cascade"],
  ])("without an audit row of its own transaction: %s", async (statement) => {
    await makeTokens(sql, 1);
    await change(
      "insert into sallyport.tenants (id) values ('other')",
      "insert into sallyport.principals (tenant, name) values ('default', 'bot:idle')",
    );
    const before = await head();
    await expect(sql.query(statement)).rejects.toMatchObject({
      code: "23000",
      message: expect.stringContaining("needs an audit row"),
    });
    // A row that tells of a refusal is not one, nor one of another transaction id.
    await sql.query("begin");
    await sql.query(
      "insert into sallyport.audit (tenant, actor, action, target, outcome) values ('default', 't', 't', 't', 'DENIED')",
    );
    await sql.query(
      "insert into sallyport.audit (xid, tenant, actor, action, target) values ('1', 'default', 't', 't', 't')",
    );
    await expect(sql.query(statement).then(() => sql.query("commit"))).rejects.toMatchObject({ code: "23000" });
    await sql.query("rollback");
    expect(await head()).toBe(before);
  });

  test("audit rows cannot be changed or deleted", async () => {
    for (const statement of [
      "update sallyport.audit set actor = 'x'",
      "delete from sallyport.audit",
      "truncate sallyport.audit",
    ]) {
      await expect(sql.query(statement)).rejects.toMatchObject({
        code: "42501",
        message: "audit rows are kept as they are",
      });
    }
  });
});

describe("roles", () => {
  async function as(role: string, statement: string): Promise<string> {
    await sql.query("begin");
    await sql.query(`set local role ${role}`);
    const code = await sql.query(statement).then(
      () => "ok",
      (error: { code: string }) => error.code,
    );
    await sql.query("rollback");
    return code;
  }
  test("no role can take a position by hand", async () => {
    for (const role of ["sallyport_reader", "sallyport_writer"]) {
      expect(await as(role, "select sallyport.rev_note('*')")).toBe("42501");
    }
  });

  test("a writer's change is noted and needs its audit row, although the writer can call neither function", async () => {
    await makeTokens(sql, 1);
    const before = await head();
    await sql.query("set role sallyport_writer");
    await change(revoked(T1));
    await expect(sql.query("update sallyport.tokens set display_name = 'x'")).rejects.toThrow(/needs an audit row/);
    await sql.query("reset role");
    expect(await logAbove(before)).toEqual([`1 t${digestOf(1)}`]);
  });

  test("sallyport.revoke(id, reason) revokes with its audit row, repeats, and knows no unknown id", async () => {
    await makeTokens(sql, 1);
    const before = await head();
    await sql.query("set role sallyport_writer");
    await sql.query("select sallyport.revoke($1, 'leaked')", [tokenId(1)]);
    const read = async () =>
      (await sql.query("select revoke_time, revoked_by, revoke_reason from sallyport.tokens")).rows[0];
    const first = await read();
    expect(first).toMatchObject({
      revoked_by: "sql:sallyport",
      revoke_reason: "leaked",
      revoke_time: expect.any(Number),
    });
    await sql.query("select sallyport.revoke($1, 'again')", [tokenId(1)]);
    expect(await read()).toEqual(first);
    await expect(sql.query("select sallyport.revoke('tok_x')")).rejects.toMatchObject({ code: "P0002" });
    await sql.query("reset role");
    expect(await head()).toBe(before + 2);
    const { rows } = await sql.query(
      "select actor, action, target, owner from sallyport.audit where action = 'token.revoke'",
    );
    const row = { actor: "sql:sallyport", action: "token.revoke", target: `token:${tokenId(1)}`, owner: "bot:ci" };
    expect(rows).toEqual([row, row]);
  });
});

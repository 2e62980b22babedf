import { execFile } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { migrate, migrationFiles } from "../../src/postgres/migrate.ts";
import { hasPostgres, startServer, type ThrowawayServer } from "../support/postgres.ts";
import { auditRow, byHand, makeTokens, migrateAt, tokenId } from "./migrated.ts";

const VERSIONS = ([15, 18] as const).map((major) => ({
  major,
  there: hasPostgres(major),
  title: `the audit in months, PostgreSQL ${major}${hasPostgres(major) ? "" : " (it is not installed)"}`,
}));

describe.each(VERSIONS)("$title", ({ major, there, title }) => {
  if (!there) return test.skip(title, () => {});
  let server: ThrowawayServer;
  let admin: pg.Client;
  let sql: pg.Client;
  let url: string;
  let databases = 0;

  beforeAll(async () => {
    server = await startServer({ major, fsync: false });
    await migrateAt(server.url);
    admin = new pg.Client(at("postgres"));
    await admin.connect();
  }, 60_000);
  afterAll(async () => {
    await admin?.end();
    await server?.remove();
  });
  beforeEach(async () => {
    url = await database("sallyport");
    sql = await byHand(url);
  });

  const at = (name: string) => server.url.replace(/sallyport$/, name);
  async function database(template: string): Promise<string> {
    const name = `months_${databases++}`;
    await admin.query(`create database ${name} template ${template}`);
    return at(name);
  }
  const one = async <T>(text: string): Promise<T> => (await sql.query(`select ${text} as value`)).rows[0].value;
  const months = () => one<number>("sallyport.audit_months()");
  const partitions = () =>
    one<string[]>(
      `array(select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'sallyport.audit'::regclass order by 1)`,
    );
  const row = async (time: string, action = "test", client = sql): Promise<string> => {
    const { rows } = await client.query(
      `insert into sallyport.audit (tenant, actor, action, target, at) values ('default', 't', $1, 't', ${time})
       returning (select relname::text from pg_class where oid = audit.tableoid) as place`,
      [action],
    );
    return rows[0].place;
  };
  /** The first moment of the month that is so many months away. */
  const start = (month: number) =>
    `(date_trunc('month', now() at time zone 'UTC') + interval '${month} months') at time zone 'UTC'`;
  const nameOf = (month: number) => one<string>(`'audit_' || to_char((${start(month)}) at time zone 'UTC', 'YYYY_MM')`);
  /** No partition of the first, nor of this month, takes a row of now: as if the clock had left the months. */
  async function outside(): Promise<void> {
    for (const name of await partitions()) {
      if (name !== "audit_other") await sql.query(`alter table sallyport.audit detach partition sallyport.${name}`);
    }
    await sql.query(
      "do $$ declare t text; begin for t in select relname from pg_class where relname ~ '^audit_(first|2)' and relkind = 'r' loop execute 'drop table sallyport.' || t; end loop; end $$",
    );
  }

  test("starts with one partition for all that was written before, and gets twelve months ahead, once", async () => {
    const made = await partitions();
    // The first one reaches to the end of the next month.
    expect(made).toHaveLength(2 + 11);
    expect(made).toEqual(expect.arrayContaining(["audit_first", "audit_other", await nameOf(12)]));
    expect(await months()).toBe(12);
    expect(await partitions()).toEqual(made);
  });

  /** Without the partitions of the months from this one on. */
  async function without(from: number, to = 12): Promise<void> {
    for (let month = from; month <= to; month++) {
      const name = await nameOf(month);
      await sql.query(`alter table sallyport.audit detach partition sallyport.${name}; drop table sallyport.${name}`);
    }
  }

  test("two processes make the months at once, beside an open writer, and none waits for it", async () => {
    await without(2);
    const [writer, other] = [await byHand(url), await byHand(url)];
    await writer.query("begin");
    await auditRow(writer);
    await Promise.all([months(), other.query("select sallyport.audit_months()")]);
    expect(await partitions()).toHaveLength(2 + 11);
    await writer.query("commit");
  });

  test("a reader of all partitions delays the months to the next call, and nobody for longer than a moment", async () => {
    await without(2);
    const reader = await byHand(url);
    await reader.query("begin");
    await reader.query("select count(*) from sallyport.audit");
    expect(await months()).toBe(1);
    expect(await partitions()).toEqual(["audit_first", "audit_other"]);
    await reader.query("commit");
    expect(await months()).toBe(12);
  });

  test("puts a row where its time belongs, and lists all in order over the partitions", async () => {
    const places: string[] = [];
    for (let month = 0; month <= 12; month++) {
      places.push(await row(`${start(month)} + interval '14 days'`, "later"));
      if (month > 1) expect(places.at(-1)).toBe(await nameOf(month));
    }
    expect(new Set(places).size).toBe(12);
    expect(await row("'2001-01-01'")).toBe("audit_first");
    expect(await row("now() + interval '20 years'")).toBe("audit_other");
    const { rows } = await sql.query(
      "select seq from sallyport.audit where tenant = 'default' and action = 'later' order by at desc, seq desc",
    );
    expect(rows.map(({ seq }) => seq)).toEqual(rows.map(({ seq }) => seq).toSorted((a, b) => b - a));
    expect(rows).toHaveLength(13);
  });

  test("a clock that has left the months fails no revocation, and its rows are put into their months later", async () => {
    await makeTokens(sql, 1);
    await outside();
    await sql.query("select sallyport.revoke($1, 'leaked')", [tokenId(1)]);
    const far = "'2044-03-05 12:00Z'";
    expect(await row(far)).toBe("audit_other");
    const all = "jsonb_agg(a order by seq) from sallyport.audit a";
    const before = await one(`(select ${all})`);
    expect(await one("(select count(*)::int from sallyport.audit_other)")).toBe(2);
    expect(await months()).toBe(12);
    expect(await one(`(select jsonb_agg(o.at) from sallyport.audit_other o where o.at <> ${far})`)).toBeNull();
    expect(await one(`(select count(*)::int from sallyport.${await nameOf(0)})`)).toBe(1);
    expect(await one(`(select ${all})`)).toEqual(before);
    await expect(sql.query("delete from sallyport.audit_other")).rejects.toThrow(/kept as they are/);
    expect(
      await one(
        "(select tgenabled from pg_trigger where tgrelid = 'sallyport.audit_other'::regclass and tgname = 'kept')",
      ),
    ).toBe("A");
  });

  test("a month that a clock far ahead skipped is made when the time comes", async () => {
    await without(5, 6);
    const made = await partitions();
    expect(await months()).toBe(12);
    expect(await partitions()).toEqual([...made, await nameOf(5), await nameOf(6)].toSorted());
  });

  test("says for how many months ahead there are partitions when it cannot make more", async () => {
    await without(4);
    const reader = await byHand(url);
    await reader.query("begin; select count(*) from sallyport.audit");
    expect(await months()).toBe(3);
    await reader.query("commit");
  });

  test("keeps the rows of every partition as they are, addressed by the partition's own name too", async () => {
    for (const [i, name] of (await partitions()).entries()) {
      const of = await one<string>(
        `(select coalesce((select coalesce(since, until - interval '1 day')::text from sallyport.audit_parts() where name = '${name}'), '2090-01-01'))`,
      );
      expect(await row(`'${of}'::timestamptz`, `kept ${i}`)).toBe(name);
      for (const statement of [
        `truncate sallyport.${name}`,
        `truncate sallyport.tokens, sallyport.${name} cascade`,
        `update sallyport.${name} set actor = 'x'`,
        `delete from sallyport.${name}`,
      ]) {
        await expect(sql.query(statement), statement).rejects.toThrow(/kept as they are/);
      }
    }
    for (const statement of ["truncate", "delete from", "truncate only"]) {
      await expect(sql.query(`${statement} sallyport.audit`), statement).rejects.toThrow();
    }
    const { rows } = await sql.query(
      `select t.tgname, count(*)::int as n from pg_trigger t join pg_class c on c.oid = t.tgrelid
       where c.relname like 'audit%' and c.relkind in ('r', 'p') and t.tgenabled = 'A' group by 1 order by 1`,
    );
    const tables = (await partitions()).length + 1;
    expect(rows).toEqual([
      { tgname: "kept", n: tables },
      { tgname: "kept_truncate", n: tables },
    ]);
  });

  test("has in every partition the indexes of the whole, and no constraint that a dump could drop", async () => {
    const { rows } = await sql.query(
      `select (select count(*)::int from pg_index x where x.indrelid = c.oid and x.indisvalid) as indexes, c.relreplident
       from pg_class c where c.relname ~ '^audit(_|$)' and c.relkind in ('r', 'p') and c.relnamespace = 'sallyport'::regnamespace
         and c.relname <> 'audit'`,
    );
    expect(new Set(rows.map((some) => JSON.stringify(some)))).toEqual(new Set(['{"indexes":7,"relreplident":"f"}']));
    const keys = await sql.query(
      "select conrelid::regclass from pg_constraint where contype in ('p', 'u') and conrelid::regclass::text like 'sallyport.audit%'",
    );
    expect(keys.rows).toEqual([]);
    expect(
      await one(
        "(select count(*)::int from pg_indexes where tablename = 'audit' and indexdef like '%UNIQUE%(seq, at)')",
      ),
    ).toBe(1);
  });

  test("a change looks for its audit row in the partitions of now, not in those of later years", async () => {
    const body = await one<string>("pg_get_functiondef('sallyport.require_audit'::regproc)");
    const [query] = body.match(/select from sallyport\.audit[^;]*?interval '1 day'/) ?? [];
    const { rows } = await sql.query(`explain (format json) ${query}`);
    const removed = JSON.stringify(rows[0]["QUERY PLAN"]).match(/"Subplans Removed":\s*(\d+)/)?.[1];
    expect(Number(removed)).toBeGreaterThanOrEqual(11);
    await makeTokens(sql, 1);
    const disable = `update sallyport.tokens set disabled = true where id = '${tokenId(1)}'`;
    await expect(sql.query(disable)).rejects.toThrow(/needs an audit row/);
    for (const time of ["'2001-01-01'", "now() + interval '20 years'", "now() + interval '2 days'"]) {
      await sql.query("begin");
      await row(time);
      await sql.query(disable);
      await expect(sql.query("commit"), time).rejects.toThrow(/needs an audit row/);
    }
  });

  test("drops whole months for the owner alone, and says so in the audit", async () => {
    const keep = (interval: string) => one<string[]>(`sallyport.audit_keep(${interval})`);
    expect(await keep("interval '2 years'")).toEqual([]);
    for (const wrong of ["interval '1 day'", "interval '-1 year'", "null"]) {
      await expect(keep(wrong), wrong).rejects.toThrow(/at least one month/);
    }
    await outside();
    await sql.query(
      `select sallyport.audit_table('audit_2001_01'), sallyport.audit_table('audit_2001_02');
       alter table sallyport.audit attach partition sallyport.audit_2001_01 for values from ('2001-01-01Z') to ('2001-02-01Z');
       alter table sallyport.audit attach partition sallyport.audit_2001_02 for values from ('2001-02-01Z') to ('2001-03-01Z')`,
    );
    expect(await row("'2001-01-31 23:59:59Z'")).toBe("audit_2001_01");
    expect(await row("'2001-02-01Z'", "young")).toBe("audit_2001_02");
    expect(await row("'1999-12-31Z'")).toBe("audit_other");
    expect(await keep("clock_timestamp() - '2001-02-28Z'")).toEqual(["audit_2001_01", "audit_other"]);
    const { rows } = await sql.query("select actor, action, target, metadata from sallyport.audit order by at");
    expect(rows).toEqual([
      expect.objectContaining({ action: "young" }),
      {
        actor: "sql:sallyport",
        action: "audit.drop",
        target: expect.stringMatching(/^audit:2001-02-28 /),
        metadata: { partitions: "audit_2001_01 audit_other" },
      },
    ]);
    const may = (name: string) => one(`has_function_privilege('sallyport_writer', 'sallyport.${name}', 'execute')`);
    expect([await may("audit_keep(interval)"), await may("audit_table(text)"), await may("audit_months()")]).toEqual([
      false,
      false,
      true,
    ]);
  });

  test("what the canary wrote is deleted from the months that it is in", async () => {
    const old = (time: string) =>
      sql.query(
        `insert into sallyport.audit (tenant, actor, action, target, owner, request_id, at)
         values ('default', 'sallyport', 'token.create', 't', 'user:sallyport-canary', 'canary', ${time})`,
      );
    for (const time of ["'2001-01-01'", "now() - interval '2 days'", "now()", "now() + interval '4 months'"])
      await old(time);
    await row("now() - interval '2 days'", "other");
    expect(await one("sallyport.canary_prune(1000)")).toBe(2);
    expect(
      await one("(select count(*)::int from sallyport.audit where request_id = 'canary' or action = 'other')"),
    ).toBe(3);
  });

  // Of 18 there is the server alone, without pg_dump.
  if (major === 15) {
    test("a dump brings back partitions, indexes, triggers and rights, and the months go on", async () => {
      const restored = await database("template0");
      const shape = `select c.relname, c.relreplident, pg_get_expr(c.relpartbound, 0) as bound, (select array_agg(a::text order by a::text) from aclexplode(c.relacl) a where a.grantee <> c.relowner) as rights,
        (select count(*)::int from pg_index x where x.indrelid = c.oid and x.indisvalid) as indexes,
        (select count(*)::int from pg_inherits i join pg_index x on x.indexrelid = i.inhrelid where x.indrelid = c.oid) as attached,
        (select array_agg(t.tgname || t.tgenabled::text order by t.tgname) from pg_trigger t where t.tgrelid = c.oid) as triggers
      from pg_class c where c.relname ~ '^audit(_|$)' and c.relkind in ('r', 'p') order by 1`;
      await row("now() + interval '20 years'");
      const before = (await sql.query(shape)).rows;
      const rows = await one("(select jsonb_agg(a order by seq) from sallyport.audit a)");
      const programs = "/usr/lib/postgresql/15/bin";
      const { stdout } = await promisify(execFile)(`${programs}/pg_dump`, [url], { maxBuffer: 1 << 26 });
      const restoring = execFile(`${programs}/psql`, ["--quiet", "--set", "ON_ERROR_STOP=1", restored]);
      restoring.stdin!.end(stdout);
      await once(restoring, "close");
      expect(restoring.exitCode).toBe(0);
      sql = await byHand(restored);
      expect((await sql.query(shape)).rows).toEqual(before);
      expect(await one("(select jsonb_agg(a order by seq) from sallyport.audit a)")).toEqual(rows);
      await without(12);
      expect(await months()).toBe(12);
      await auditRow(sql);
    });
  }

  test("an upgrade keeps every row and right, and counts on", async () => {
    url = await database("template0");
    sql = await byHand(url);
    const MINE = migrationFiles().find(({ name }) => name.endsWith("_audit_keys.sql"))!.version;
    await sql.query(
      "create schema sallyport; create table sallyport.migrations (version int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())",
    );
    for (const { version, name, sql: text, checksum } of migrationFiles().filter(({ version }) => version < MINE)) {
      if (text.startsWith("-- no-transaction")) for (const part of text.split(/;$/m)) await sql.query(part);
      else await sql.query(`begin;${text};commit`);
      await sql.query("insert into sallyport.migrations values ($1, $2, $3)", [version, name, checksum]);
    }
    await sql.query(
      `insert into sallyport.audit (tenant, actor, action, target, at)
       select 'default', 'a' || i, 'old', 't', now() - i * interval '1 hour' from generate_series(1, 5000) i;
       insert into sallyport.audit (tenant, actor, action, target, at)
       values ('default', 'x', 'future', 't', now() + interval '170 days');
       drop role if exists reporter; create role reporter; grant select on sallyport.audit to reporter`,
    );
    const all = "(select jsonb_agg(a order by seq) from sallyport.audit a)";
    const before = await one<{ seq: number }[]>(all);
    await migrate(url);
    expect(await one(all)).toEqual(before);
    await auditRow(sql);
    expect(await one("(select max(seq) from sallyport.audit)")).toBe(before.at(-1)!.seq + 1);
    expect(await months()).toBe(12);
    expect(await row("now() + interval '170 days'")).toBe("audit_first");
    expect(await one("has_table_privilege('reporter', 'sallyport.audit', 'select')")).toBe(true);
    expect(await one("has_table_privilege('reporter', 'sallyport.audit_first', 'select')")).toBe(false);
    expect(await migrate(url)).toEqual([]);
    await sql.query("drop owned by reporter; drop role reporter");
  });
});

import { randomBytes } from "node:crypto";
import type pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CALLED } from "../../src/postgres/grants.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { type Database, freshDatabase } from "../support/postgres.ts";
import { byHand } from "./migrated.ts";

/*
 * What each role may do with every object of the schema. An object without a row here fails: say first, here and in
 * docs/security.md, what the roles may do with it.
 *
 * Tables and views: letters of select, insert, update, delete, truncate, references and trigger (`S I U D T R G`), and
 * `S*` for all columns but those named after it. Sequences: `U` use, `S` select, `W` setval. Functions: `X` execute.
 */
type Rights = readonly [owner: string, writer: string, reader: string];

const ALL = "SIUDTRG";
const TABLES: Readonly<Record<string, Rights>> = {
  access_log: [ALL, "SI", "I"],
  audit: [ALL, "SI", ""],
  console_sessions: [ALL, "SIUD", ""],
  exchange_replays: [ALL, "SID", ""],
  first_admin: [ALL, "SIU", "S"],
  key_checks: [ALL, "SIU", "S"],
  lost_changes: [ALL, "S", "S"],
  migrations: [ALL, "S", "S"],
  mint_counts: [ALL, "SIUD", ""],
  principals: [ALL, "SIU", "S"],
  requests: [ALL, "SIUD", ""],
  rev_head: [ALL, "S", "S"],
  rev_log: [ALL, "S", "S"],
  rev_state: [ALL, "S", "S"],
  roles: [ALL, "SIU", "S"],
  tenants: [ALL, "SIU", "S"],
  token_usage: [ALL, "SIU", "SIU"],
  token_view: [ALL, "S", "S"],
  tokens: [ALL, "SIU", "S"],
  trust_rules: [ALL, "SIU", ""],
  validators: [ALL, "S* but secret_hash", "S* but secret_hash"],
};

const SEQUENCES: Readonly<Record<string, Rights>> = {
  access_log_seq_seq: ["USW", "", ""],
  audit_seq_seq: ["USW", "", ""],
  lost_changes_id_seq: ["USW", "", ""],
};

const FUNCTIONS: Readonly<Record<string, Rights>> = {
  // Triggers fire whoever changes a row; nobody else may put them on a table of their own.
  "another_history()": ["X", "", ""],
  "guard_attachments()": ["X", "", ""],
  "guard_family()": ["X", "", ""],
  "guard_principal()": ["X", "", ""],
  "guard_role()": ["X", "", ""],
  "guard_tenant()": ["X", "", ""],
  "guard_token()": ["X", "", ""],
  "guard_trust_rule()": ["X", "", ""],
  "keep_audit()": ["X", "", ""],
  "note_everything()": ["X", "", ""],
  "note_principal()": ["X", "", ""],
  "note_role()": ["X", "", ""],
  "note_tenant()": ["X", "", ""],
  "note_token()": ["X", "", ""],
  "require_audit()": ["X", "", ""],
  "seal_again()": ["X", "", ""],
  "seal_head()": ["X", "", ""],
  "seal_state()": ["X", "", ""],
  // For the owner, who keeps the audit as long as it must be kept.
  "audit_keep(interval)": ["X", "", ""],
  "audit_parts()": ["X", "", ""],
  "audit_table(text)": ["X", "", ""],
  // With the rights of the caller.
  "lock_id(bytea)": ["X", "X", "X"],
  "lock_shared(bytea[])": ["X", "X", "X"],
  "lowered(tokens,tokens)": ["X", "", ""],
  "principal_key(text,text)": ["X", "X", "X"],
  "rev_epoch()": ["X", "", ""],
  "rev_now()": ["X", "X", "X"],
  "role_key(text)": ["X", "X", "X"],
  "rule_key(text)": ["X", "X", "X"],
  "revoke(text,text)": ["X", "X", "X"],
  "tenant_key(text)": ["X", "X", "X"],
  // With the rights of the owner.
  "access_log_ahead()": ["X", "X", ""],
  "access_log_prune(interval)": ["X", "X", ""],
  "audit_months()": ["X", "X", ""],
  "canary_prune(integer)": ["X", "X", ""],
  "draw_incarnation(uuid)": ["X", "X", "X"],
  "journal_attach()": ["X", "X", ""],
  "journal_compared(text)": ["X", "X", ""],
  "journal_mismatch(text,text)": ["X", "X", ""],
  "journal_reached(text,bigint)": ["X", "X", ""],
  "journal_waive(boolean,boolean)": ["X", "X", ""],
  "lost_apply(bigint)": ["X", "X", ""],
  "lost_dismiss(bigint,text)": ["X", "X", ""],
  "lost_redo()": ["X", "X", ""],
  "lost_report(text,bigint[],bytea[],bigint[],text[],text[])": ["X", "X", "X"],
  "readers_from(integer)": ["X", "X", ""],
  "rev_note(bytea)": ["X", "", ""],
  "rev_note(bytea,text,jsonb)": ["X", "", ""],
  "rev_prove(text,boolean)": ["X", "X", "X"],
  "rev_prune(integer)": ["X", "X", ""],
  "rev_raise_floor()": ["X", "X", ""],
  "rev_settle(text)": ["X", "X", ""],
  "validator_ack(uuid,bytea,text,bigint)": ["X", "X", "X"],
  "validator_describe(uuid,bytea,text,text)": ["X", "X", "X"],
  "validator_hold(uuid,bytea,text,bigint,integer)": ["X", "X", "X"],
  "validator_join(uuid,bytea,uuid,bytea,text,integer,integer,text[])": ["X", "X", "X"],
  "validator_leave(uuid,bytea)": ["X", "X", "X"],
  "validator_replace(uuid,bytea,uuid,bytea,text,integer,integer,text[])": ["X", "X", "X"],
  "validators_bury(uuid[])": ["X", "X", ""],
  "validators_reap(uuid[])": ["X", "X", ""],
};

/** Functions with the rights of the owner, that anybody may name: a trigger function refuses to be called by hand. */
const DEFINERS =
  /^(access_log_|another_|audit_months|canary_|draw_|guard_|journal_|lost_|note_|readers_|require_audit|rev_note|rev_prove|rev_prune|rev_raise_floor|rev_settle|seal_|validator)/;

const owner = `owner_${randomBytes(6).toString("hex")}`;
let database: Database;
let sql: pg.Client;
let close: () => Promise<void>;

beforeAll(async () => {
  // Without roles, as on a server of its own, the first migration makes them; whoever made them, the grants are the same.
  database = await freshDatabase();
  const admin = await connect(database.url);
  await admin.query(`create role ${owner} login createrole`);
  await admin.query(`alter database ${new URL(database.url).pathname.slice(1)} owner to ${owner}`);
  const url = new URL(database.url);
  url.username = owner;
  await migrate(url.href);
  sql = admin;
  close = async () => {
    await admin.query(`drop owned by ${owner} cascade`);
    await admin.query(`alter database ${new URL(database.url).pathname.slice(1)} owner to sallyport`);
    await admin.query(`drop role ${owner}`);
    await admin.end();
    await database.drop();
  };
});
afterAll(() => close?.());

async function connect(url: string): Promise<pg.Client> {
  const { default: driver } = await import("pg");
  const client = new driver.Client(url);
  client.on("error", () => {});
  await client.connect();
  return client;
}

const ROLES = [owner, "sallyport_writer", "sallyport_reader"] as const;

/** Of each object its rights, role by role. `letters` is an SQL expression over `o` (the object) and `r` (the role). */
async function matrix(objects: string, letters: string): Promise<Record<string, string[]>> {
  const { rows } = await sql.query<{ name: string; rights: string[] }>(
    `select o.name, array_agg(${letters} order by r.place) as rights
     from (${objects}) o cross join unnest($1::text[]) with ordinality r (role, place) group by o.name`,
    [ROLES],
  );
  return Object.fromEntries(rows.map(({ name, rights }) => [name, rights]));
}

const when = (condition: string, letter: string) => `case when ${condition} then '${letter}' else '' end`;

test("each role has exactly the listed rights on each table and view, and all of them are listed", async () => {
  const of = (privilege: string, letter: string) => when(`has_table_privilege(r.role, o.oid, '${privilege}')`, letter);
  const columns = (privilege: string) => `(
    select count(*) filter (where has_column_privilege(r.role, o.oid, a.attnum, '${privilege}'))
    from pg_attribute a where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped)`;
  const missing = `(
    select string_agg(a.attname, ' ' order by a.attname) from pg_attribute a
    where a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
      and not has_column_privilege(r.role, o.oid, a.attnum, 'SELECT'))`;
  // A right on some columns only shows, too: for select by its columns, for others as a letter that no row allows.
  const letters = [
    `case when has_table_privilege(r.role, o.oid, 'SELECT') then 'S'
      when ${columns("SELECT")} > 0 then 'S* but ' || ${missing} else '' end`,
    ...["INSERT", "UPDATE"].map(
      (privilege) =>
        `case when has_table_privilege(r.role, o.oid, '${privilege}') then '${privilege[0]}'
          when ${columns(privilege)} > 0 then ' some ${privilege}' else '' end`,
    ),
    of("DELETE", "D"),
    of("TRUNCATE", "T"),
    of("REFERENCES", "R"),
    of("TRIGGER", "G"),
  ].join(" || ");
  // Partitions come and go. Nobody but the owner has a right on one: rows are read and written by the whole table's name.
  const tables = `select c.oid, c.relname as name from pg_class c
    where c.relnamespace = 'sallyport'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')`;
  const { rows: parts } = await sql.query<{ name: string }>(
    "select relname as name from pg_class where relispartition and relkind = 'r'",
  );
  expect(parts.map(({ name }) => name)).toEqual(expect.arrayContaining(["audit_first", "audit_other"]));
  const partitions = Object.fromEntries(parts.map(({ name }) => [name, [ALL, "", ""]]));
  expect(await matrix(tables, letters)).toEqual({ ...TABLES, ...partitions });
});

test("each role has exactly the listed rights on each sequence, and all of them are listed", async () => {
  const of = (privilege: string, letter: string) =>
    when(`has_sequence_privilege(r.role, o.oid, '${privilege}')`, letter);
  const letters = [of("USAGE", "U"), of("SELECT", "S"), of("UPDATE", "W")].join(" || ");
  const sequences = `select c.oid, c.relname as name from pg_class c
    where c.relnamespace = 'sallyport'::regnamespace and c.relkind = 'S'`;
  expect(await matrix(sequences, letters)).toEqual(SEQUENCES);
});

test("each role may call exactly the listed functions, and all functions are listed", async () => {
  const functions = `select p.oid, replace(p.oid::regprocedure::text, 'sallyport.', '') as name
    from pg_proc p where p.pronamespace = 'sallyport'::regnamespace`;
  expect(await matrix(functions, when("has_function_privilege(r.role, o.oid, 'EXECUTE')", "X"))).toEqual(FUNCTIONS);
});

test("the check at the start covers exactly the functions that the program calls", async () => {
  const { rows } = await sql.query<{ use: string; name: string }>(
    `select u.use, replace(to_regprocedure('sallyport.' || f.name)::text, 'sallyport.', '') as name
     from jsonb_each($1) u (use, names), jsonb_array_elements_text(u.names) f (name)`,
    [JSON.stringify(CALLED)],
  );
  const called = (role: string) => rows.filter(({ use }) => use.endsWith(role)).map(({ name }) => name);
  for (const [at, role] of [
    [1, "writer"],
    [2, "reader"],
  ] as const) {
    for (const name of called(role)) expect(FUNCTIONS[name]?.[at], name).toBe("X");
    const granted = Object.keys(FUNCTIONS).filter((name) => DEFINERS.test(name) && FUNCTIONS[name]![at] === "X");
    expect(called(role)).toEqual(expect.arrayContaining(granted));
  }
});

test("every function with the owner's rights is listed, and resolves names in pg_catalog first", async () => {
  const { rows } = await sql.query<{
    proname: string;
    proconfig: string[] | null;
    prosecdef: boolean;
    trigger: boolean;
  }>(
    `select proname, proconfig, prosecdef, prorettype = 'trigger'::regtype as trigger
     from pg_proc where pronamespace = 'sallyport'::regnamespace`,
  );
  for (const { proname, proconfig, prosecdef } of rows) {
    expect(prosecdef, proname).toBe(DEFINERS.test(proname));
    if (prosecdef) expect(proconfig, proname).toContain("search_path=pg_catalog, pg_temp");
  }
});

test("no other role has a right on the schema, and no role may create anything in it", async () => {
  const { rows } = await sql.query(
    `select a.grantee::regrole::text as grantee, a.privilege_type
     from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'sallyport' order by 1, 2`,
  );
  const granted = rows.map(({ grantee, privilege_type }) => `${grantee} ${privilege_type}`);
  expect(granted).toEqual([`${owner} CREATE`, `${owner} USAGE`, "sallyport_reader USAGE", "sallyport_writer USAGE"]);
  const strangers = await sql.query(
    `select c.relname, a.grantee from pg_class c, aclexplode(c.relacl) a
     where c.relnamespace = 'sallyport'::regnamespace and a.grantee not in (
       select oid from pg_roles where rolname = any($1))`,
    [ROLES],
  );
  expect(strangers.rows).toEqual([]);
  const { rows: members } = await sql.query("select rolname from pg_roles where rolname = any($1) and rolcanlogin", [
    ["sallyport_writer", "sallyport_reader"],
  ]);
  expect(members).toEqual([]);
});

test("a login of neither role sees nothing", async () => {
  const stranger = `stranger_${randomBytes(6).toString("hex")}`;
  await sql.query(`create role ${stranger} login`);
  try {
    const url = new URL(database.url);
    url.username = stranger;
    const client = await byHand(url.href);
    for (const text of [
      "select from sallyport.tokens",
      "select sallyport.rev_now()",
      "select sallyport.rev_note('*')",
    ]) {
      await expect(client.query(text)).rejects.toMatchObject({ code: "42501" });
    }
  } finally {
    await sql.query(`drop role ${stranger}`);
  }
});

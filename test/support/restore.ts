import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";

/** A database on a server for this test only. Superuser `sallyport`, no password. */
export interface Place {
  readonly port: number;
  readonly database: string;
  /** The folder with pg_dump and similar programs, if the server's version has them here. */
  readonly binDir?: string;
}

/** A way in which an operator puts an older state in place of the present one. */
export interface Way {
  readonly name: string;
  /** True if it needs client programs of the server's version. */
  readonly programs: boolean;
  /** Saves the present state; returns the function that restores it. */
  keep(place: Place): Promise<() => Promise<void>>;
}

const TABLES = [
  "tenants",
  "principals",
  "tokens",
  "audit",
  "token_usage",
  "requests",
  "mint_counts",
  "key_checks",
  "first_admin",
  "rev_log",
  "rev_head",
  "rev_state",
  "validators",
  "lost_changes",
  "roles",
  "trust_rules",
  "exchange_replays",
  "console_sessions",
  "access_log",
];

async function on<T>(place: Place, database: string, work: (sql: pg.Client) => Promise<T>): Promise<T> {
  const sql = new pg.Client(`postgres://sallyport@127.0.0.1:${place.port}/${database}`);
  sql.on("error", () => {});
  await sql.connect();
  try {
    return await work(sql);
  } finally {
    await sql.end().catch(() => {});
  }
}

const inside = (place: Place, ...statements: string[]) =>
  on(place, place.database, async (sql) => {
    for (const statement of statements) await sql.query(statement);
  });
const outside = (place: Place, ...statements: string[]) =>
  on(place, "postgres", async (sql) => {
    for (const statement of statements) await sql.query(statement);
  });

/** The tables that have triggers of their own: those above, and the partitions. */
const triggered = (place: Place) =>
  on(place, place.database, async (sql) => {
    const { rows } = await sql.query<{ name: string }>(
      "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'sallyport.audit'::regclass order by 1",
    );
    return [...TABLES.map((table) => `sallyport.${table}`), ...rows.map(({ name }) => name)];
  });

/** Runs a client program on the database. */
function run(place: Place, program: string, ...words: string[]) {
  if (place.binDir === undefined) throw new Error(`${program} of this version is not here`);
  const whole = ["-h", "127.0.0.1", "-p", String(place.port), "-U", "sallyport", "-d", place.database, ...words];
  return promisify(execFile)(join(place.binDir, program), whole, { maxBuffer: 1 << 26 });
}

/** A dump in a file, removed once it is restored. */
function dumped(name: string, format: "custom" | "plain", restore: (place: Place, file: string) => Promise<void>): Way {
  return {
    name,
    programs: true,
    async keep(place) {
      const folder = await mkdtemp(join(tmpdir(), "sallyport-dump-"));
      const file = join(folder, "dump");
      await run(place, "pg_dump", "--format", format, "--file", file);
      return async () => {
        await restore(place, file);
        await rm(folder, { recursive: true });
      };
    },
  };
}

/** Tables that were saved beside the schema, restored by one transaction. */
function copied(name: string, emptied: "truncate" | "delete", triggers: "on" | "off"): Way {
  const names = TABLES.map((table) => `sallyport.${table}`);
  const each = (tables: readonly string[], what: string) => tables.map((table) => `alter table ${table} ${what}`);
  return {
    name,
    programs: false,
    async keep(place) {
      const kept = `kept_${Math.random().toString(36).slice(2)}`;
      await inside(
        place,
        "begin isolation level repeatable read",
        `create schema ${kept}`,
        ...TABLES.map((table) => `create table ${kept}.${table} as table sallyport.${table}`),
        "commit",
      );
      const columns = (table: string) =>
        on(place, place.database, async (sql) => {
          const { rows } = await sql.query<{ list: string }>(
            `select string_agg(quote_ident(attname), ', ' order by attnum) as list from pg_attribute
             where attrelid = $1::regclass and attnum > 0 and not attisdropped`,
            [`sallyport.${table}`],
          );
          return rows[0]!.list;
        });
      return async () => {
        const lists = await Promise.all(TABLES.map(columns));
        // The other tables cannot be emptied otherwise.
        const silent = (await triggered(place)).filter(
          (table) => triggers === "off" || !/rev_head|rev_state/.test(table),
        );
        await inside(
          place,
          "begin",
          `lock table ${names.join(", ")} in access exclusive mode`,
          ...each(silent, "disable trigger all"),
          ...(emptied === "truncate"
            ? [`truncate ${names.join(", ")}`]
            : names.toReversed().map((table) => `delete from ${table}`)),
          ...TABLES.map(
            (table, i) =>
              `insert into sallyport.${table} (${lists[i]}) overriding system value select ${lists[i]} from ${kept}.${table}`,
          ),
          ...each(silent, "enable trigger all"),
          "commit",
          `drop schema ${kept} cascade`,
        );
      };
    },
  };
}

/** Closes the database to everybody while `work` runs. */
async function alone(place: Place, ...statements: string[]): Promise<void> {
  const { database } = place;
  await outside(
    place,
    `alter database ${database} allow_connections false`,
    `select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '${database}'`,
    ...statements,
  );
}

const TEMPLATE: Way = {
  name: "CREATE DATABASE … TEMPLATE, then renamed",
  programs: false,
  async keep(place) {
    const { database } = place;
    const kept = `${database}_kept`;
    await alone(
      place,
      `create database ${kept} template ${database}`,
      `alter database ${database} allow_connections true`,
    );
    return () => alone(place, `drop database ${database} with (force)`, `alter database ${kept} rename to ${database}`);
  },
};

/** Every way of restoring that PostgreSQL offers. */
export const WAYS: readonly Way[] = [
  dumped("pg_restore --clean into the running server", "custom", async (place, file) => {
    await run(place, "pg_restore", "--clean", "--if-exists", file);
  }),
  dumped("pg_restore into a database dropped and created", "custom", async (place, file) => {
    await outside(place, `drop database ${place.database} with (force)`, `create database ${place.database}`);
    await run(place, "pg_restore", file);
  }),
  dumped("psql < dump, after DROP SCHEMA", "plain", async (place, file) => {
    await inside(place, "drop schema sallyport cascade");
    await run(place, "psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", file);
  }),
  ...(["truncate", "delete from"] as const).map((empty) =>
    dumped(`pg_restore --data-only, after ${empty.toUpperCase()}`, "custom", async (place, file) => {
      const names = [...TABLES, "migrations"].map((table) => `sallyport.${table}`);
      const again = async () => {
        const silent = [...(await triggered(place)), "sallyport.migrations"];
        await inside(
          place,
          "begin",
          ...silent.map((table) => `alter table ${table} disable trigger all`),
          ...(empty === "truncate"
            ? [`truncate ${names.join(", ")}`]
            : names.toReversed().map((table) => `delete from ${table}`)),
          ...silent.map((table) => `alter table ${table} enable trigger all`),
          "commit",
        );
        await run(place, "pg_restore", "--data-only", "--disable-triggers", file);
      };
      // An instance that runs meanwhile may write a row that the dump has, too. An operator would then start again.
      for (let left = 5; ; left--) {
        const failure = await again().catch((error: Error) => error);
        if (!(failure instanceof Error)) return;
        if (left === 0 || !failure.message.includes("duplicate key")) throw failure;
      }
    }),
  ),
  TEMPLATE,
  copied("TRUNCATE + COPY, triggers on", "truncate", "on"),
  copied("TRUNCATE + COPY, triggers off", "truncate", "off"),
  copied("DELETE + COPY, triggers off", "delete", "off"),
];

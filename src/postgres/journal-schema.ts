import pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { withConnection } from "./connect-errors.ts";

/** One lock of the journal's database: epochs begin alone, and changes are appended between them. */
const LOCK = 7_400_740_178;

const KEY = "journal.url";

export const NO_JOURNAL =
  "journal.url is not set, but this database has a journal: after its next restart no token is allowed, and its log only grows. " +
  "Set journal.url, or run sallyport reconcile --without-journal without it";
export const EMPTY_JOURNAL = "the journal is empty: serve or sallyport migrate makes its schema";
export const OTHERS = `${KEY}: this is the journal of another database: give each its own`;

/*
 * Rows are never changed or deleted by the program: its user needs INSERT and SELECT only. The functions run with the
 * rights of their caller.
 */
const SCHEMA = `
create schema sallyport_journal;
-- The database whose journal this is.
create table sallyport_journal.meta (
  one bool primary key default true check (one),
  database uuid not null,
  made timestamptz not null default clock_timestamp()
);
create table sallyport_journal.epochs (
  seq bigint generated always as identity primary key,
  epoch text not null unique,
  began timestamptz not null default clock_timestamp()
);
-- The change i of the changes that have the position n in this epoch.
create table sallyport_journal.changes (
  seq bigint generated always as identity primary key,
  epoch text not null,
  n bigint not null,
  i int not null,
  "of" int not null,
  key bytea not null,
  kind text not null,
  at timestamptz not null,
  change jsonb,
  unique (epoch, n, i)
);

-- Begins an epoch, or finds that it has begun. After that no earlier epoch appends.
create function sallyport_journal.begin_epoch(epoch text, database uuid, fresh bool) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  mine uuid;
begin
  perform pg_advisory_xact_lock(${LOCK}), set_config('synchronous_commit', 'on', true);
  select m.database into mine from sallyport_journal.meta m;
  if mine is null or not exists (select from sallyport_journal.epochs) then
    if not fresh then
      return 'empty';
    end if;
    insert into sallyport_journal.meta (database) values (begin_epoch.database) on conflict do nothing;
  end if;
  if exists (select from sallyport_journal.meta m where m.database <> begin_epoch.database) then
    return 'other';
  end if;
  if begin_epoch.epoch = (select e.epoch from sallyport_journal.epochs e order by e.seq desc limit 1) then
    return 'begun';
  end if;
  if exists (select from sallyport_journal.epochs e where e.epoch = begin_epoch.epoch) then
    return 'older';
  end if;
  insert into sallyport_journal.epochs (epoch) values (begin_epoch.epoch);
  return 'begun';
end $$;

-- Appends changes that are not here yet. False, and nothing is done, if a later epoch has begun.
create function sallyport_journal.append(
  epoch text, ns bigint[], nrs int[], ofs int[], keys bytea[], kinds text[], ats bigint[], changes text[]
) returns bool
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock_shared(${LOCK}), set_config('synchronous_commit', 'on', true);
  if append.epoch is distinct from (select e.epoch from sallyport_journal.epochs e order by e.seq desc limit 1) then
    return false;
  end if;
  insert into sallyport_journal.changes (epoch, n, i, "of", key, kind, at, change)
  select append.epoch, a.n, a.i, a.f, a.key, a.kind, timestamptz 'epoch' + a.at * interval '1 microsecond', a.change::jsonb
  from unnest(ns, nrs, ofs, keys, kinds, ats, changes) a (n, i, f, key, kind, at, change)
  order by a.n, a.i
  on conflict do nothing;
  return true;
end $$;

do $$
begin
  if exists (select from pg_roles where rolname = 'sallyport_writer') then
    grant usage on schema sallyport_journal to sallyport_writer;
    grant select, insert on all tables in schema sallyport_journal to sallyport_writer;
  end if;
end $$;
`;

/** Makes the journal's schema if it is missing. True if it did. Rejects with StartError. */
export async function migrateJournal(url: string): Promise<boolean> {
  return withConnection(url, KEY, async (client) => {
    if (await isThere(client)) return false;
    await client.query("begin");
    // Another instance may be at it.
    await client.query("select pg_advisory_xact_lock($1)", [LOCK]);
    if (await isThere(client)) {
      await client.query("rollback");
      return false;
    }
    await client.query(SCHEMA);
    await client.query("commit");
    return true;
  });
}

/**
 * Checks that the journal can be reached and is a journal, and that its user has the rights. False if it has no schema and
 * may have none. Rejects with StartError.
 */
export async function assertJournal(url: string, mayBeEmpty: boolean): Promise<boolean> {
  return withConnection(url, KEY, async (client) => {
    if (!(await isThere(client))) {
      if (mayBeEmpty) return false;
      throw new StartError("database_unusable", `${KEY}: there is no journal in this database: run sallyport migrate`);
    }
    const { rows } = await client.query<{ right: string; login: string }>(
      `select lower(r.name) || ' ' || t.name as "right", current_user::text as login
       from unnest(array['meta', 'epochs', 'changes']) t (name), unnest(array['SELECT', 'INSERT']) r (name)
       where not has_table_privilege('sallyport_journal.' || t.name, r.name)`,
    );
    if (rows.length === 0) return true;
    const grants = "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA sallyport_journal TO";
    throw new StartError(
      "database_unfit",
      `${KEY}: this user may not ${rows.map(({ right }) => right).join(", ")}: as the owner of the journal run: ${grants} ${pg.escapeIdentifier(rows[0]!.login)};`,
    );
  });
}

/**
 * Makes the journal if it is missing, and checks it. `url`: the own database. Rejects with StartError, also if the journal is
 * another database's. Returns the error if the journal's server is away and the database knows the journal already: then the
 * program starts without it, and no epoch is proven until it is back.
 */
export async function openJournal(url: string, journalUrl: string): Promise<StartError | undefined> {
  const own = await ownState(url);
  try {
    await migrateJournal(journalUrl);
    await assertJournal(journalUrl, false);
    const of = await ownerOf(journalUrl);
    // Once it is attached, the guard says so, because only then can tokens be at stake.
    if (own?.journal !== true && of !== undefined && of !== own?.database) {
      throw new StartError("database_unfit", OTHERS);
    }
    return undefined;
  } catch (error) {
    if (error instanceof StartError && error.kind === "database_unavailable" && own?.journal === true) return error;
    throw error;
  }
}

/** The epochs of this database need a journal. Rejects with StartError. */
export async function needsJournal(url: string): Promise<boolean> {
  return (await ownState(url))?.journal === true;
}

/** The own database's view of its journal. */
export interface OwnState {
  readonly database: string;
  /** A journal is attached. */
  readonly journal: boolean;
  readonly guard: string;
  /** Why the guard is closed, if the journal is the cause. */
  readonly mismatch: string | null;
}

/** Rejects with StartError. */
export async function ownState(url: string): Promise<OwnState | undefined> {
  return withConnection(url, "database.url", async (client) => {
    const { rows } = await client.query<OwnState>(
      "select database::text, journal, guard, mismatch from sallyport.rev_state",
    );
    return rows[0];
  });
}

/** The id of the database whose journal this is; undefined if it has begun for none. Rejects with StartError. */
export async function ownerOf(journalUrl: string): Promise<string | undefined> {
  return withConnection(journalUrl, KEY, async (client) => {
    const { rows } = await client.query<{ database: string }>("select database::text from sallyport_journal.meta");
    return rows[0]?.database;
  });
}

/** Asks the catalog, because a user without USAGE must not look like a missing schema. */
async function isThere(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ there: boolean; may: boolean; login: string }>(
    `select exists (select from pg_class c join pg_namespace s on s.oid = c.relnamespace
         where s.nspname = 'sallyport_journal' and c.relname = 'changes') as there,
       coalesce(has_schema_privilege(to_regnamespace('sallyport_journal')::oid, 'USAGE'), true) as may,
       current_user::text as login`,
  );
  if (rows[0]!.may) return rows[0]!.there;
  throw new StartError(
    "database_unfit",
    `${KEY}: this user may not use the schema of the journal: as its owner run: GRANT USAGE ON SCHEMA sallyport_journal TO ${pg.escapeIdentifier(rows[0]!.login)};`,
  );
}

import type pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { withConnection } from "./connect-errors.ts";
import { missingFunctions, type Use } from "./grants.ts";
import { checkDirectSession } from "./session-check.ts";
import { isShared } from "./session-settings.ts";

export const EMPTY_DATABASE = "the database is empty: serve or sallyport migrate makes the schema";

/**
 * Checks that the database can be reached with these credentials. Rejects with a StartError that explains the failure.
 */
export async function assertReachable(url: string, key: string, shared = false): Promise<void> {
  await withConnection(url, key, (client) => client.query("select 1"), shared);
}

/** Checks both URLs, and that the direct one is direct: a pooler there accepts no startup options. */
export async function assertBothReachable(url: string, directUrl: string | undefined): Promise<void> {
  await checkDirectSession(directUrl ?? url);
  await assertReachable(url, "database.url", isShared(url, directUrl));
  if (directUrl !== undefined) await assertReachable(directUrl, "database.direct_url");
}

/**
 * Checks that the database has our schema, and that the users of both URLs have the rights of the mode. Otherwise a
 * call would find out later, as INTERNAL. Returns false if there is no schema and one may be created. Rejects with
 * StartError.
 */
export async function assertRights(
  url: string,
  mode: "full" | "validate",
  mayBeEmpty = false,
  directUrl?: string,
): Promise<boolean> {
  const role = mode === "full" ? "sallyport_writer" : "sallyport_reader";
  const kind = mode === "full" ? "writer" : "reader";
  const mayCall = async (client: pg.Client, key: string, use: Use) => {
    const problem = await missingFunctions(client, use, role, mayBeEmpty);
    if (problem !== undefined) throw new StartError("database_unfit", `${key}: ${problem}`);
  };
  const check = async (client: pg.Client) => {
    const { rows } = await client.query<{ there: boolean }>(
      "select to_regnamespace('sallyport') is not null and to_regclass('sallyport.tokens') is not null as there",
    );
    if (!rows[0]!.there) {
      if (mayBeEmpty) return false;
      throw new StartError(
        "database_unusable",
        "database.url: the database has no Sallyport in it: run sallyport migrate, or start an instance in mode full",
      );
    }
    const missing = await missingRights(client, role);
    if (missing.length === 0) {
      await mayCall(client, "database.url", kind);
      if (directUrl === undefined) await mayCall(client, "database.url", `direct-${kind}`);
      return true;
    }
    const some = missing.slice(0, 3).join(", ") + (missing.length > 3 ? ", …" : "");
    throw new StartError(
      "database_unfit",
      mode === "full"
        ? `database.url: this user may not ${some}: mode full needs the role sallyport_writer, mode validate only sallyport_reader`
        : `database.url: this user may not ${some}: mode validate needs the role sallyport_reader`,
    );
  };
  if (!(await withConnection(url, "database.url", check, isShared(url, directUrl)))) return false;
  const key = "database.direct_url";
  if (directUrl !== undefined) await withConnection(directUrl, key, (client) => mayCall(client, key, `direct-${kind}`));
  return true;
}

/** The rights on our tables that the group role has and this user lacks; without the role, the minimum of them. */
async function missingRights(client: pg.Client, role: string): Promise<string[]> {
  const { rows } = await client.query<{ right: string }>(
    `select lower(wanted.privilege) || ' ' || wanted.name as "right", wanted.name <> 'tokens' as beside
     from (
       select c.oid, c.relname::text as name, acl.privilege_type as privilege
       from pg_class c, aclexplode(c.relacl) acl
       where c.relnamespace = 'sallyport'::regnamespace and c.relkind in ('r', 'p', 'v') and acl.grantee = to_regrole($1)
       union
       select 'sallyport.tokens'::regclass::oid, 'tokens', 'SELECT'
       union
       select 'sallyport.tokens'::regclass::oid, 'tokens', 'INSERT' where $1 = 'sallyport_writer'
     ) wanted
     where not has_table_privilege(wanted.oid, wanted.privilege)
     order by beside, 1`,
    [role],
  );
  return rows.map(({ right }) => right);
}

import type pg from "pg";

/*
 * The functions of the schema that the program calls, and the roles that must be allowed to call them.
 * `test/postgres/roles.test.ts` compares the list with the grants of the migrations. The functions of the log and the
 * registry are called on the direct connections.
 */
const FOLLOWING = [
  "draw_incarnation(uuid)",
  "lost_report(text, bigint[], bytea[], bigint[], text[], text[])",
  "rev_now()",
  "rev_prove(text, bool)",
  "validator_ack(uuid, bytea, text, bigint)",
  "validator_describe(uuid, bytea, text, text)",
  "validator_hold(uuid, bytea, text, bigint, int)",
  "validator_join(uuid, bytea, uuid, bytea, text, int, int, text[])",
  "validator_leave(uuid, bytea)",
  "validator_replace(uuid, bytea, uuid, bytea, text, int, int, text[])",
];
const KEEPING = [
  "audit_months()",
  "canary_prune(int)",
  "journal_attach()",
  "journal_compared(text)",
  "journal_mismatch(text, text)",
  "journal_reached(text, bigint)",
  "lost_redo()",
  "rev_prune(int)",
  "rev_raise_floor()",
  "rev_settle(text)",
  "validators_bury(uuid[])",
  "validators_reap(uuid[])",
];
const CHANGING = [
  "access_log_ahead()",
  "access_log_prune(interval)",
  "journal_waive(bool, bool)",
  "lock_id(bytea)",
  "lock_shared(bytea[])",
  "lost_apply(bigint)",
  "lost_dismiss(bigint, text)",
  "principal_key(text, text)",
  "readers_from(int)",
  "rev_now()",
  "role_key(text)",
  "rule_key(text)",
  "tenant_key(text)",
];

export type Use = "reader" | "writer" | "direct-reader" | "direct-writer";

export const CALLED: Readonly<Record<Use, readonly string[]>> = {
  reader: [],
  writer: CHANGING,
  "direct-reader": FOLLOWING,
  "direct-writer": [...FOLLOWING, ...KEEPING],
};

/**
 * The missing rights of this user for the functions of this use, with the commands that grant them; undefined if none
 * is missing.
 */
export async function missingFunctions(
  client: pg.ClientBase,
  use: Use,
  role: string,
  mayBeOld: boolean,
): Promise<string | undefined> {
  const { rows } = await client.query<{ name: string; there: boolean; may: boolean; role_may: boolean; login: string }>(
    `select f.name, f.oid is not null as there, has_function_privilege(f.oid, 'EXECUTE') as may,
       has_function_privilege(to_regrole($2)::oid, f.oid, 'EXECUTE') as role_may,
       case when r.oid is not null and pg_has_role(r.oid, 'USAGE') then r.rolname::text else current_user::text end as login
     from (select name, to_regprocedure('sallyport.' || name) as oid from unnest($1::text[]) name) f
       left join pg_roles r on r.rolname = $2
     order by f.name`,
    [CALLED[use], role],
  );
  if (!mayBeOld && rows.some(({ there }) => !there)) {
    return "the database's schema is older than this program: run sallyport migrate";
  }
  const lacking = rows.filter(({ there, may }) => there && !may);
  if (lacking.length === 0) return undefined;
  const names = lacking.map(({ name }) => name.slice(0, name.indexOf("(")));
  const { login } = lacking[0]!;
  const grant = lacking.every(({ role_may }) => role_may)
    ? `GRANT ${role} TO ${quoted(login)}`
    : `GRANT EXECUTE ON FUNCTION ${lacking.map(({ name }) => `sallyport.${name}`).join(", ")} TO ${quoted(login)}`;
  return `this user may not execute ${names.join(", ")}: as the owner of the schema run: ${grant};`;
}

function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

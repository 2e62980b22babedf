import type { Attempt } from "./history.ts";
import type { World } from "./world.ts";

/** Where changes of authority and rows of the audit do not fit together; empty where they do. */
export async function auditProblems(world: World, attempts: readonly Attempt[], newEpoch: boolean): Promise<string[]> {
  const problems: string[] = [];
  const rows = await world.rows<{ request_id: string; rows: number }>(
    `select request_id, count(*)::int as rows from sallyport.audit
     where request_id = any($1) and outcome = 'OK' group by request_id`,
    [attempts.map(({ id }) => id)],
  );
  const found = new Map(rows.map((row) => [row.request_id, row.rows]));
  for (const { id, op, outcome, detail, rows: least } of attempts) {
    if (id === "") continue;
    const count = found.get(id) ?? 0;
    // One change has one row, unless it is of several tokens; where it was run again in a new epoch it has more.
    const exact = op !== "bulk" && !newEpoch;
    if (outcome === "OK" && (count < least || (exact && count !== 1))) {
      problems.push(`(E) ${op} ${id} is OK with ${count} audit rows`);
    }
    if (outcome === "NOT_DONE" && count > 0) problems.push(`(E) ${op} ${id} is ${detail} with ${count} audit rows`);
  }
  return problems;
}

/** The other way round, once for all: no audit row without its call, and no token that ended without one. */
export async function strayChanges(world: World): Promise<string[]> {
  const ids = new Set(world.history.attempts.map(({ id }) => id));
  const rows = await world.rows<{ request_id: string; action: string; target: string; actor: string }>(
    `select request_id, action, target, actor from sallyport.audit
     where outcome = 'OK' and action not in ('history.mint', 'tenant.create', 'token.create')`,
  );
  const byHand = new Set(
    world.history.attempts.filter(({ at }) => at === "sql").map(({ op }) => op).length > 0 ? ["sql:sallyport"] : [],
  );
  const stray = rows.filter(({ request_id, actor }) => !ids.has(request_id) && !byHand.has(actor));
  const unaudited = await world.rows<{ id: string }>(
    `select id from sallyport.tokens t where revoke_time is not null and not exists (
       select from sallyport.audit a where a.target = 'token:' || t.id and a.action = 'token.revoke')`,
  );
  return [
    ...stray.slice(0, 5).map((row) => `(E) an audit row that no call explains: ${JSON.stringify(row)}`),
    ...unaudited.slice(0, 5).map(({ id }) => `(E) ${id} is revoked without an audit row`),
  ];
}

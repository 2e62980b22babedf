import type { Attempt } from "./history.ts";
import type { World } from "./world.ts";

/** The key of an attempt: the request id or, if none was sent, the target of the row. */
const ID = "coalesce(nullif(request_id, ''), target)";

/** The mismatches between changes of authority and audit rows; empty if there are none. */
export async function auditProblems(world: World, attempts: readonly Attempt[], newEpoch: boolean): Promise<string[]> {
  const problems: string[] = [];
  const found = new Map(
    (
      await world.rows<{ id: string; rows: number }>(
        `select ${ID} as id, count(*)::int as rows from sallyport.audit
         where ${ID} = any($1) and outcome = 'OK' and not metadata ? 'replayed' and action <> 'history.mint' group by 1`,
        [attempts.map(({ id }) => id)],
      )
    ).map(({ id, rows }) => [id, rows]),
  );
  const byRequest = new Map<string, number>();
  for (const { id, request } of attempts) {
    if (request !== undefined) byRequest.set(request, (byRequest.get(request) ?? 0) + (found.get(id) ?? 0));
  }
  for (const { id, op, outcome, detail, request } of attempts) {
    const count = request === undefined ? (found.get(id) ?? 0) : byRequest.get(request)!;
    // One change has one row, unless it affects several tokens or ran again: in a new epoch, or by hand.
    const exact = request === undefined && op !== "bulk" && op !== "filter" && op !== "sql" && !newEpoch;
    if (outcome === "OK" && (count < 1 || (exact && count !== 1))) {
      problems.push(`(E) ${op} ${id} is OK with ${count} audit rows`);
    }
    if (outcome === "NOT_DONE" && count > 0) problems.push(`(E) ${op} ${id} is ${detail} with ${count} audit rows`);
  }
  return problems;
}

/** The other direction, once for all: no audit row without its call, and no ended token without a row. */
export async function strayChanges(world: World): Promise<string[]> {
  const tries = new Map<string, number>();
  for (const { id } of world.history.attempts) tries.set(id, (tries.get(id) ?? 0) + 1);
  // The other tenant's row of an attachment has no request id.
  const rows = await world.rows<{ id: string; action: string; actor: string; by_hand: boolean; rows: number }>(
    `select ${ID} as id, action, actor, request_id = '' as by_hand, count(*)::int as rows from sallyport.audit
     where outcome = 'OK' and not metadata ? 'replayed' and action not in ('history.mint', 'tenant.create', 'token.create')
       and not (action in ('token.attach', 'token.detach') and request_id = '') group by 1, 2, 3, 4`,
  );
  // Each statement by hand has one row; a call may affect several tokens.
  const stray = rows.filter(({ id, by_hand, rows }) => (by_hand ? rows : 1) > (tries.get(id) ?? 0));
  const unaudited = await world.rows<{ id: string }>(
    `select id from sallyport.tokens t where revoke_time is not null and not exists (
       select from sallyport.audit a where a.target = 'token:' || t.id and a.action in ('token.revoke', 'token.rotate'))`,
  );
  return [
    ...stray.slice(0, 5).map((row) => `(E) an audit row that no call explains: ${JSON.stringify(row)}`),
    ...unaudited.slice(0, 5).map(({ id }) => `(E) ${id} is revoked without an audit row`),
  ];
}

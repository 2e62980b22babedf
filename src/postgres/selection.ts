import type { RevokeSelection, Selectors } from "../management/ports.ts";
import { holding } from "./holders.ts";
import { Where } from "./newest-first.ts";

/**
 * Tokens that could be accepted, now or later. That includes those of a disabled principal. It does not use the view,
 * which reads the last use and shows states after a cut. Values that are equal for all rows are read once.
 */
export function selected(selection: RevokeSelection): { made: string; from: string; where: Where } {
  const where = new Where();
  const { tenant, principal, cutFrom, descendants = false } = selection;
  const inTenant = where.value(tenant);
  const named = descendants ? new Where(where.values) : where;
  nameSelected(named, inTenant, selection);
  if (descendants) named.always(`t.tenant = ${inTenant}`);
  where.add("t.principal = ?", selection.within);
  const spared = selection.holding && where.value(selection.holding);
  const heldBy = (of: string) => (spared === undefined ? "" : ` and ${holding(of, spared, inTenant)}`);
  where.always(`t.tenant = ${inTenant}`);
  let cuts = ["p.cut_n", `(select cut_n from sallyport.tenants where id = ${inTenant})`];
  let from = descendants
    ? "(select distinct id from made) m join sallyport.tokens t on t.id = m.id"
    : "sallyport.tokens t";
  if (principal !== undefined) named.add("t.principal = ?", principal);
  if (principal === undefined || descendants) {
    from += " join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal and p.state <> 'DELETED'";
  } else {
    const name = where.value(principal);
    cuts[0] = `(select cut_n from sallyport.principals
      where tenant = ${inTenant} and name = ${name} and state <> 'DELETED')`;
  }
  if (cutFrom !== undefined) {
    const made = principal === undefined ? 1 : 0;
    where.always(`t.issued_n < ${cuts[made]}`);
    cuts = cuts.with(made, `${where.value(cutFrom)}::bigint`);
  }
  const live = (of: string) => `${of}.revoke_time is null and ${of}.issued_n >= ${cuts[0]}
    and ${of}.issued_n >= ${cuts[1]} and (${of}.expire_time is null or ${of}.expire_time > clock_timestamp())`;
  where.always(`${live("t")}${heldBy("t")} and (t.parent_id is null
    or exists (select from sallyport.tokens q where q.id = t.parent_id and ${live("q")}${heldBy("q")}))`);
  return { made: descendants ? descent(named, inTenant) : "", from, where };
}

/** The conditions on the row itself. */
function nameSelected(where: Where, tenant: string, selection: RevokeSelection): void {
  const { hints, digests, ids } = selection;
  const time = "to_timestamp(?::float8 / 1000)";
  const conditions: Record<keyof Selectors, string> = {
    profile: "t.profile = ?",
    createdBy: "t.created_by = ?",
    createdBefore: `t.create_time < ${time}`,
    // Its ids first, by the index, which has no tokens without roles.
    role: `t.id = any(array(select id from sallyport.tokens where roles <> '{}' and roles && array(
      select id from sallyport.roles where tenant = ${tenant} and name = ? and state = 'ACTIVE')))`,
    lastUsedBefore: `coalesce((select last_use_time from sallyport.token_usage where token_id = t.id), t.create_time) < ${time}`,
    noExpiry: "(t.expire_time is null) = ?",
    expiresAfter: `t.expire_time > ${time}`,
  };
  for (const selector of Object.keys(conditions) as (keyof Selectors)[]) {
    where.add(conditions[selector], selection[selector]);
  }
  if (hints === undefined && digests === undefined && ids === undefined) return;
  const bytes = (digests ?? []).map((digest) => Buffer.from(digest, "latin1"));
  // Collects the ids first, each by its index: an `or` of three conditions would use none.
  where.always(`t.id = any(array(
    select id from sallyport.tokens where tenant = ${tenant} and hint = any(${where.value(hints ?? [])})
    union all select id from sallyport.tokens where digest = any(${where.value(bytes)})
    union all select id from unnest(${where.value(ids ?? [])}::text[]) id))`);
}

/** `made`: the named tokens, and repeatedly the tokens that they minted or that replaced them. Dead ones count too. */
function descent(named: Where, tenant: string): string {
  return `with recursive made (id, hint, family) as (
    select t.id, t.hint, t.family from sallyport.tokens t ${named.text}
    union
    select n.id, n.hint, n.family from made m cross join lateral (
      select id, hint, family from sallyport.tokens where tenant = ${tenant} and created_by = 'token:' || m.hint
      union all
      select id, hint, family from sallyport.tokens where family = m.family and rotated_from = m.id
    ) n
  )`;
}

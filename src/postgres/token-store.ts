import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { Token } from "../domain/token.ts";
import type { PageStart, RevokeSelection, TokenFilter, TokenStore } from "../ports.ts";
import type { Postgres } from "./pool.ts";
import {
  PRINCIPAL_COLUMNS,
  type PrincipalRow,
  principalOf,
  TENANT_COLUMNS,
  type TenantRow,
  TOKEN_COLUMNS,
  type TokenRow,
  tenantOf,
  tokenOf,
} from "./rows.ts";

const BY_ID = {
  name: "sallyport-token",
  text: `select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`,
};
const BY_DIGEST = {
  name: "sallyport-token-by-digest",
  text: `select ${TOKEN_COLUMNS} from sallyport.token_view v where v.digest = $1`,
};

/** The records, as they are now. Reads of the admin door; validation has its own statement. */
export class PostgresTokenStore implements TokenStore {
  readonly #db: Postgres;

  constructor(db: Postgres) {
    this.#db = db;
  }

  async get(id: string): Promise<Token | undefined> {
    const rows = await this.#db.read<TokenRow>(BY_ID, [id]);
    return rows[0] && tokenOf(rows[0]);
  }

  async getByDigest(digest: string): Promise<Token | undefined> {
    const rows = await this.#db.read<TokenRow>(BY_DIGEST, [Buffer.from(digest, "latin1")]);
    return rows[0] && tokenOf(rows[0]);
  }

  async list(filter: TokenFilter, limit: number, start?: PageStart): Promise<Token[]> {
    const where = new Where();
    where.add("v.tenant = ?", filter.tenant);
    where.add("v.principal = ?", filter.principal);
    where.add("v.profile = ?", filter.profile);
    where.add("v.hint = ?", filter.hint);
    where.add("v.state = ?", filter.state);
    where.add("v.create_time >= to_timestamp(?::float8 / 1000)", filter.createdAfter);
    where.add("v.create_time < to_timestamp(?::float8 / 1000)", filter.createdBefore);
    where.add("(v.last_use_time is null or v.last_use_time < to_timestamp(?::float8 / 1000))", filter.lastUsedBefore);
    where.after("v.create_time", "v.id", start);
    const rows = await this.#db.read<TokenRow>(
      `select ${TOKEN_COLUMNS} from sallyport.token_view v ${where.text}
       order by v.create_time desc, v.id desc limit ${where.value(limit)}`,
      where.values,
    );
    return rows.map(tokenOf);
  }

  async select(selection: RevokeSelection, limit: number, afterId?: string): Promise<string[]> {
    const { made, from, where } = selected(selection);
    where.add("t.id > ?", afterId);
    const order = afterId === undefined ? "" : "order by t.id";
    const rows = await this.#db.read<{ id: string }>(
      `${made} select t.id from ${from} ${where.text} ${order} limit ${where.value(limit)}`,
      where.values,
      30_000,
    );
    return rows.map((row) => row.id);
  }

  async count(selection: RevokeSelection): Promise<number> {
    const { made, from, where } = selected(selection);
    const rows = await this.#db.read<{ count: number }>(
      `${made} select count(*) as count from ${from} ${where.text}`,
      where.values,
      30_000,
    );
    return rows[0]?.count ?? 0;
  }

  /** When the last of the administrators that `bootstrap` made ends; undefined: never, or none is live. */
  async firstAdminEnds(): Promise<{ hint: string; expireTime: number } | undefined> {
    const rows = await this.#db.read<{ hint: string; expire_time: number | null }>(
      `select v.hint, v.expire_time from sallyport.token_view v
       where v.tenant = 'default' and v.created_by = 'bootstrap' and v.state = 'ACTIVE'
       order by v.expire_time desc nulls first limit 1`,
    );
    const row = rows[0];
    return row === undefined || row.expire_time === null ? undefined : { hint: row.hint, expireTime: row.expire_time };
  }

  /** Those of the peppers that every running instance has. */
  async kidsOfAll(kids: readonly string[]): Promise<string[]> {
    const rows = await this.#db.read<{ kid: string }>(
      `select k as kid from unnest($1::text[]) with ordinality as of (k, place) where not exists (
         select from sallyport.validators v where v.reaped_at is null and not (k = any(v.kids))) order by place`,
      [kids],
    );
    return rows.map((row) => row.kid);
  }

  async getPrincipal(tenant: string, name: string): Promise<Principal | undefined> {
    const rows = await this.#db.read<PrincipalRow>(
      `select ${PRINCIPAL_COLUMNS} from sallyport.principals where tenant = $1 and name = $2`,
      [tenant, name],
    );
    return rows[0] && principalOf(rows[0]);
  }

  async listPrincipals(
    filter: { tenant: string; type?: string; state?: PrincipalState },
    limit: number,
    start?: PageStart,
  ): Promise<Principal[]> {
    const where = new Where();
    where.add("tenant = ?", filter.tenant);
    where.add("split_part(name, ':', 1) = ?", filter.type);
    if (filter.state === undefined) where.add("state <> ?", "DELETED");
    where.add("state = ?", filter.state);
    where.after("create_time", "name", start);
    const rows = await this.#db.read<PrincipalRow>(
      `select ${PRINCIPAL_COLUMNS} from sallyport.principals ${where.text}
       order by create_time desc, name desc limit ${where.value(limit)}`,
      where.values,
    );
    return rows.map(principalOf);
  }

  async getTenant(id: string): Promise<Tenant | undefined> {
    const rows = await this.#db.read<TenantRow>(`select ${TENANT_COLUMNS} from sallyport.tenants where id = $1`, [id]);
    return rows[0] && tenantOf(rows[0]);
  }

  async listTenants(filter: { state?: TenantState }, limit: number, start?: PageStart): Promise<Tenant[]> {
    const where = new Where();
    where.add("state = ?", filter.state);
    where.after("create_time", "id", start);
    const rows = await this.#db.read<TenantRow>(
      `select ${TENANT_COLUMNS} from sallyport.tenants ${where.text}
       order by create_time desc, id desc limit ${where.value(limit)}`,
      where.values,
    );
    return rows.map(tenantOf);
  }
}

/**
 * Tokens that could be accepted, now or some day: also those of a principal that is disabled for now. Not by the view,
 * whose usage nobody asks for, and whose states are those after a cut. What is the same for all rows is read once.
 */
function selected(selection: RevokeSelection): { made: string; from: string; where: Where } {
  const where = new Where();
  const { tenant, principal, cutFrom, descendants = false } = selection;
  const inTenant = where.value(tenant);
  const named = descendants ? new Where(where.values) : where;
  nameSelected(named, selection);
  if (descendants) named.always(`t.tenant = ${inTenant}`);
  where.add("t.principal = ?", selection.within);
  where.add("t.scopes && ?::text[]", selection.holding);
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
  where.always(`${live("t")} and (t.parent_id is null
    or exists (select from sallyport.tokens q where q.id = t.parent_id and ${live("q")}))`);
  return { made: descendants ? descent(named, inTenant) : "", from, where };
}

/** The conditions on the row itself. */
function nameSelected(where: Where, { profile, createdBy, createdBefore, hints, digests, ids }: RevokeSelection): void {
  where.add("t.profile = ?", profile);
  where.add("t.created_by = ?", createdBy);
  where.add("t.create_time < to_timestamp(?::float8 / 1000)", createdBefore);
  if (hints === undefined && digests === undefined && ids === undefined) return;
  const bytes = (digests ?? []).map((digest) => Buffer.from(digest, "latin1"));
  where.add(
    `(t.hint = any(${where.value(hints ?? [])}) or t.digest = any(${where.value(bytes)}) or t.id = any(?))`,
    ids ?? [],
  );
}

/** `made`: the named ones, whatever was made by one of them, and whatever replaced one of them; dead or not. */
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

/** A where clause made of conditions that have a value; `?` in a condition is that value's place. */
export class Where {
  readonly values: unknown[];
  readonly #conditions: string[] = [];

  /** `values`: of another clause of the same statement, to go on with. */
  constructor(values: unknown[] = []) {
    this.values = values;
  }

  add(condition: string, value: unknown): void {
    if (value === undefined) return;
    this.#conditions.push(condition.replace("?", this.value(value)));
  }

  always(condition: string): void {
    this.#conditions.push(condition);
  }

  /** Rows that come after `start`, newest first. */
  after(timeColumn: string, keyColumn: string, start: PageStart | undefined): void {
    if (start === undefined) return;
    this.#conditions.push(
      `(${timeColumn}, ${keyColumn}) < (to_timestamp(${this.value(start.time)}::float8 / 1000), ${this.value(start.key)})`,
    );
  }

  /** Places a value; returns its placeholder. */
  value(value: unknown): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }

  get text(): string {
    return this.#conditions.length === 0 ? "" : `where ${this.#conditions.join(" and ")}`;
  }
}

import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { Token } from "../domain/token.ts";
import type { PageStart, RevokeSelection, TokenFilter, TokenStore } from "../ports.ts";
import type { Postgres } from "./pool.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";
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
  text: proving(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`),
};
const BY_DIGEST = {
  name: "sallyport-token-by-digest",
  text: proving(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.digest = $1`),
};

/**
 * The records, as they are now. Reads of the admin door; validation has its own statement. All but the lists may decide
 * what a change does, and are proven.
 */
export class PostgresTokenStore implements TokenStore {
  readonly #db: Postgres;
  readonly #proven: ProvenReads;

  constructor(db: Postgres, followed: Followed) {
    this.#db = db;
    this.#proven = new ProvenReads(db, followed);
  }

  async get(id: string): Promise<Token | undefined> {
    const { rows } = await this.#proven.rows<TokenRow>(BY_ID, [id]);
    return rows[0] && tokenOf(rows[0]);
  }

  async getByDigest(digest: string): Promise<Token | undefined> {
    const { rows } = await this.#proven.rows<TokenRow>(BY_DIGEST, [Buffer.from(digest, "latin1")]);
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

  async select(
    selection: RevokeSelection,
    limit: number,
    afterId?: string,
  ): Promise<{ ids: readonly string[]; epoch: string }> {
    const { from, where } = selected(selection);
    where.add("t.id > ?", afterId);
    const order = afterId === undefined ? "" : "order by t.id";
    const { rows, epoch } = await this.#proven.rows<{ id: string }>(
      proving(
        `select t.id from ${from} ${where.text} ${order} limit ${where.value(limit)}`,
        order && "order by found.id",
      ),
      where.values,
      30_000,
    );
    return { ids: rows.map((row) => row.id), epoch };
  }

  async count(selection: RevokeSelection): Promise<number> {
    const { from, where } = selected(selection);
    const { rows } = await this.#proven.rows<{ count: number }>(
      proving(`select count(*) as count from ${from} ${where.text}`),
      where.values,
      30_000,
    );
    return rows[0]?.count ?? 0;
  }

  /** Those of the peppers that every running instance has. */
  async kidsOfAll(kids: readonly string[]): Promise<string[]> {
    const { rows } = await this.#proven.rows<{ kid: string }>(
      proving(
        `select k as kid, place from unnest($1::text[]) with ordinality as of (k, place) where not exists (
           select from sallyport.validators v where v.reaped_at is null and not (k = any(v.kids)))`,
        "order by found.place",
      ),
      [kids],
    );
    return rows.map((row) => row.kid);
  }

  async getPrincipal(tenant: string, name: string): Promise<Principal | undefined> {
    const { rows } = await this.#proven.rows<PrincipalRow>(
      proving(`select ${PRINCIPAL_COLUMNS} from sallyport.principals where tenant = $1 and name = $2`),
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
    const { rows } = await this.#proven.rows<TenantRow>(
      proving(`select ${TENANT_COLUMNS} from sallyport.tenants where id = $1`),
      [id],
    );
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
function selected(selection: RevokeSelection): { from: string; where: Where } {
  const where = new Where();
  const { tenant, principal, hints, digests, ids, cutFrom } = selection;
  where.add("t.profile = ?", selection.profile);
  where.add("t.created_by = ?", selection.createdBy);
  where.add("t.create_time < to_timestamp(?::float8 / 1000)", selection.createdBefore);
  if (hints !== undefined || digests !== undefined || ids !== undefined) {
    const bytes = (digests ?? []).map((digest) => Buffer.from(digest, "latin1"));
    where.add(
      `(t.hint = any(${where.value(hints ?? [])}) or t.digest = any(${where.value(bytes)}) or t.id = any(?))`,
      ids ?? [],
    );
  }
  const inTenant = where.value(tenant);
  where.always(`t.tenant = ${inTenant}`);
  let cuts = ["p.cut_n", `(select cut_n from sallyport.tenants where id = ${inTenant})`];
  let from = "sallyport.tokens t";
  if (principal === undefined) {
    from += " join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal and p.state <> 'DELETED'";
  } else {
    const name = where.value(principal);
    where.always(`t.principal = ${name}`);
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
  return { from, where };
}

/** A where clause made of conditions that have a value; `?` in a condition is that value's place. */
export class Where {
  readonly values: unknown[] = [];
  readonly #conditions: string[] = [];

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

import type { Principal, PrincipalState, Tenant, TenantState } from "../domain/principal.ts";
import type { Role } from "../domain/role.ts";
import type { Token } from "../domain/token.ts";
import type { PageStart, Part, Patience, RevokeSelection, TokenFilter, TokenStore } from "../management/ports.ts";
import { firstAdminEnds } from "./first-admin.ts";
import type { ListReads } from "./list-reads.ts";
import { driven, MOST_SCANNED, newestFirst, type Where } from "./newest-first.ts";
import type { Postgres } from "./pool.ts";
import {
  PRINCIPAL_COLUMNS,
  type PrincipalRow,
  principalOf,
  TENANT_COLUMNS,
  type TenantRow,
  tenantOf,
} from "./principal-rows.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";
import { ROLE_COLUMNS, type RoleRow, roleOf } from "./role-rows.ts";
import { TOKEN_COLUMNS, type TokenRow, tokenOf } from "./rows.ts";
import { selected } from "./selection.ts";

const BY_ID = {
  name: "sallyport-token",
  text: proving(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`),
};
const BY_DIGEST = {
  name: "sallyport-token-by-digest",
  text: proving(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.digest = $1`),
};

/** The columns that the filters of a list read. */
const SCANNED =
  "id, tenant, create_time, hint, family, parent_id, principal, profile, created_by, display_name, expire_time, roles, tenants";

/**
 * The rows of a list whose filter names few of them and has no index in the order of the list; undefined for any other.
 * They are read first, each by its index, and then sorted.
 */
function fewTokens(
  { ids, tenant, attached, hint }: TokenFilter,
  fewAttached: boolean,
): ((where: Where) => string) | undefined {
  const few = (condition: string) => `(select ${SCANNED} from sallyport.tokens where ${condition} offset 0) few`;
  if (ids !== undefined) return (where) => few(`id = any(${where.value(ids)}::text[])`);
  if (fewAttached) return (where) => few(ATTACHED.replace("?", where.value(tenant)));
  if ((tenant !== undefined && !attached) || hint === undefined) return undefined;
  return (where) => few(`tenant = any(array(select id from sallyport.tenants)) and hint = ${where.value(hint)}`);
}

/** By an index that does not have the order of a list. */
const ATTACHED = "tenants <> '{}' and tenants @> array[?]";

/** Each tenant's role of the name, by its index. A token holds only roles of its own tenant. */
const ROLE_HELD = `roles <> '{}' and roles && array(select r.id from sallyport.roles r
  where r.tenant = any(array(select id from sallyport.tenants)) and r.name = ? and r.state = 'ACTIVE')`;

/** The time for the reads of a bulk revocation, which are long. Milliseconds. */
const SELECT_MS = 30_000;

/**
 * The reads of the admin listener. Validation has its own statement. A change may depend on every read but the lists, so
 * those reads are proven.
 */
export class PostgresTokenStore implements TokenStore {
  readonly #db: Postgres;
  readonly #lists: ListReads;
  readonly #proven: ProvenReads;
  readonly #followed: Followed;

  constructor(db: Postgres, lists: ListReads, followed: Followed) {
    this.#db = db;
    this.#lists = lists;
    this.#proven = new ProvenReads(db, followed);
    this.#followed = followed;
  }

  async get(id: string): Promise<Token | undefined> {
    const { rows } = await this.#proven.rows<TokenRow>(BY_ID, [id]);
    return rows[0] && tokenOf(rows[0]);
  }

  async getByDigest(digest: string): Promise<Token | undefined> {
    const { rows } = await this.#proven.rows<TokenRow>(BY_DIGEST, [Buffer.from(digest, "latin1")]);
    return rows[0] && tokenOf(rows[0]);
  }

  async list(filter: TokenFilter, limit: number, start?: PageStart, patience?: Patience): Promise<Part<Token>> {
    // Each of them has an index. A hint belongs to hardly more than one token, so it comes first.
    const [driver, others] = driven([
      ["hint = ?", filter.hint],
      ["family = (select family from sallyport.tokens where id = ?)", filter.familyOf],
      ["parent_id = ?", filter.parent],
      ["principal = ?", filter.principal],
      ["profile = ?", filter.profile],
    ]);
    // The indexes of principal and profile begin with the tenant: without one, each row is asked.
    const inIndex =
      (filter.tenant !== undefined && !filter.attached) || !/^(?:principal|profile) /.test(driver[0]?.[0] ?? "");
    const { rows, rest } = await newestFirst<TokenRow>(
      this.#lists,
      {
        table: fewTokens(filter, await this.#fewAttached(filter, patience)) ?? "sallyport.tokens",
        time: "create_time",
        key: "id",
        keyType: "text",
        narrowed: [
          ["tenant = ?", filter.attached ? undefined : filter.tenant],
          ...(inIndex ? driver : []),
          ["create_time >= to_timestamp(?::float8 / 1000)", filter.createdAfter],
          ["create_time < to_timestamp(?::float8 / 1000)", filter.createdBefore],
        ],
        filters: [
          ...(inIndex ? [] : driver),
          ...others,
          ["created_by = ?", filter.createdBy],
          ["starts_with(display_name, ?)", filter.displayNamePrefix],
          [ROLE_HELD, filter.role],
          [ATTACHED, filter.attached ? filter.tenant : undefined],
          ["expire_time < to_timestamp(?::float8 / 1000)", filter.expiresBefore],
          ["(expire_time is null) = ?", filter.noExpiry],
        ],
        columns: SCANNED,
        view: {
          columns: TOKEN_COLUMNS,
          row: `select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = s.id`,
          filters: [
            ["v.state = ?", filter.state],
            ["v.state = any(?)", filter.states],
            ["(v.last_use_time is null or v.last_use_time < to_timestamp(?::float8 / 1000))", filter.lastUsedBefore],
          ],
        },
        place: (row) => ({ time: row.create_time, key: row.id }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(tokenOf), rest };
  }

  /** True if the tokens that are attached to the tenant are few enough to be read for each page. */
  async #fewAttached({ ids, tenant, attached, hint }: TokenFilter, patience: Patience | undefined): Promise<boolean> {
    if (!attached || tenant === undefined || ids !== undefined || hint !== undefined) return false;
    const text = `select count(*) as count from (
      select from sallyport.tokens where ${ATTACHED.replace("?", "$1")} limit ${MOST_SCANNED + 1}) a`;
    const [row] = await this.#lists.read<{ count: number }>(text, [tenant], patience);
    return row !== undefined && row.count <= MOST_SCANNED;
  }

  async select(
    selection: RevokeSelection,
    limit: number,
    afterId: string,
  ): Promise<{ ids: readonly string[]; epoch: string }> {
    const { made, from, where } = selected(selection);
    where.add("t.id > ?", afterId);
    const { rows, epoch } = await this.#proven.rows<{ id: string }>(
      proving(
        `${made} select t.id from ${from} ${where.text} order by t.id limit ${where.value(limit)}`,
        "order by found.id",
      ),
      where.values,
      SELECT_MS,
    );
    return { ids: rows.map((row) => row.id), epoch };
  }

  async matched(
    selection: RevokeSelection,
    most: number,
    patience?: Patience,
  ): Promise<{ count: number; ids: string[] }> {
    const few = selected(selection);
    // It can be as long as a list, so it uses their connections. It is proven, because a standby misses tokens.
    const read: Postgres["read"] = (text, values = [], mostMs, trusted) =>
      this.#lists.read(typeof text === "string" ? text : text.text, values, patience, mostMs, trusted);
    const proven = new ProvenReads({ read }, this.#followed);
    const { rows } = await proven.rows<{ id: string }>(
      proving(`${few.made} select t.id from ${few.from} ${few.where.text} limit ${few.where.value(most)}`),
      few.where.values,
      SELECT_MS,
    );
    const ids = rows.map((row) => row.id);
    // Only a long list needs a second statement for its count.
    if (ids.length < most) return { count: ids.length, ids };
    const all = selected(selection);
    const counted = await proven.rows<{ count: number }>(
      proving(`${all.made} select count(*) as count from ${all.from} ${all.where.text}`),
      all.where.values,
      SELECT_MS,
    );
    return { count: counted.rows[0]?.count ?? 0, ids };
  }

  /** When the last live administrator of `bootstrap` expires. Undefined: never, or none is live. */
  async firstAdminEnds(): Promise<{ hint: string; expireTime: number } | undefined> {
    return firstAdminEnds(this.#db);
  }

  /** The peppers among `kids` that every running instance has. */
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
    filter: { tenant: string; type?: string; state?: PrincipalState; namePrefix?: string },
    limit: number,
    start?: PageStart,
    patience?: Patience,
  ): Promise<Part<Principal>> {
    const { rows, rest } = await newestFirst<PrincipalRow>(
      this.#lists,
      {
        table: "sallyport.principals",
        time: "create_time",
        key: "name",
        keyType: "text",
        narrowed: [["tenant = ?", filter.tenant]],
        filters: [
          ["split_part(name, ':', 1) = ?", filter.type],
          ["starts_with(name, ?)", filter.namePrefix],
          ["state <> ?", filter.state === undefined ? "DELETED" : undefined],
          ["state = ?", filter.state],
        ],
        columns: PRINCIPAL_COLUMNS,
        place: (row) => ({ time: row.create_time, key: row.name }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(principalOf), rest };
  }

  async getTenant(id: string): Promise<Tenant | undefined> {
    const { rows } = await this.#proven.rows<TenantRow>(
      proving(`select ${TENANT_COLUMNS} from sallyport.tenants where id = $1`),
      [id],
    );
    return rows[0] && tenantOf(rows[0]);
  }

  async getRole(tenant: string, name: string): Promise<Role | undefined> {
    const { rows } = await this.#proven.rows<RoleRow>(
      proving(`select ${ROLE_COLUMNS} from sallyport.roles where tenant = $1 and name = $2 and state = 'ACTIVE'`),
      [tenant, name],
    );
    return rows[0] && roleOf(rows[0]);
  }

  async listRoles(tenant: string, limit: number, start?: PageStart, patience?: Patience): Promise<Part<Role>> {
    const { rows, rest } = await newestFirst<RoleRow>(
      this.#lists,
      {
        table: "sallyport.roles",
        time: "create_time",
        key: "id",
        keyType: "text",
        narrowed: [["tenant = ?", tenant]],
        filters: [["state = ?", "ACTIVE"]],
        columns: ROLE_COLUMNS,
        place: (row) => ({ time: row.create_time, key: row.id }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(roleOf), rest };
  }

  async listTenants(
    filter: { state?: TenantState },
    limit: number,
    start?: PageStart,
    patience?: Patience,
  ): Promise<Part<Tenant>> {
    const { rows, rest } = await newestFirst<TenantRow>(
      this.#lists,
      {
        table: "sallyport.tenants",
        time: "create_time",
        key: "id",
        keyType: "text",
        narrowed: [],
        filters: [["state = ?", filter.state]],
        columns: TENANT_COLUMNS,
        place: (row) => ({ time: row.create_time, key: row.id }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(tenantOf), rest };
  }
}

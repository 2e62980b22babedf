import { AppError } from "../domain/errors.ts";
import type { Held } from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { Idempotency, NewToken } from "../revocation/authority-store.ts";
import type { Tx } from "./pool.ts";

// ---------------------------------------------------------------------------------------------------- the column map

/** A column, and how its values map to those of the domain. Without functions they are the same. */
interface Column {
  readonly name: string;
  /** Makes the parameter of a statement from a value of the domain. */
  readonly parameter?: (value: never) => unknown;
  /** SQL that makes the column's value from that parameter. */
  readonly sql?: (parameter: string) => string;
  /** Makes the value of the domain from that of a row. */
  readonly value?: (column: never) => unknown;
}

const plain = (name: string): Column => ({ name });
const json = (name: string): Column => ({ name, parameter: JSON.stringify });
/** Null in the table is undefined in the domain. */
const optional = (name: string): Column => ({
  name,
  parameter: (value: unknown) => value ?? null,
  value: (column: unknown) => column ?? undefined,
});
/** Null in the table is the empty string in the domain. */
const orEmpty = (name: string): Column => ({
  name,
  parameter: (value: string) => (value === "" ? null : value),
  value: (column: string | null) => column ?? "",
});
const time = (name: string): Column => ({
  ...optional(name),
  sql: (parameter) => `to_timestamp(${parameter}::float8 / 1000)`,
});
const bytes = (name: string): Column => ({ name, parameter: (value: string) => Buffer.from(value, "latin1") });

/** The fields of a Token that its row stores. This map selects, inserts, copies and updates them. */
const STORED = {
  id: plain("id"),
  kid: plain("kid"),
  format: plain("format"),
  hint: plain("hint"),
  tenant: plain("tenant"),
  profile: plain("profile"),
  principal: plain("principal"),
  displayName: plain("display_name"),
  description: plain("description"),
  scopes: plain("scopes"),
  roleIds: plain("roles"),
  tenants: plain("tenants"),
  audiences: plain("audiences"),
  allowedCidrs: plain("allowed_cidrs"),
  annotations: json("annotations"),
  disabled: plain("disabled"),
  createTime: time("create_time"),
  createdBy: plain("created_by"),
  notBeforeTime: time("not_before_time"),
  expireTime: time("expire_time"),
  revokeTime: time("revoke_time"),
  revokedBy: plain("revoked_by"),
  revokeReason: plain("revoke_reason"),
  parent: orEmpty("parent_id"),
  rotatedFrom: plain("rotated_from"),
  rotatedTo: plain("rotated_to"),
  etag: { name: "revision", value: String },
} satisfies Partial<Record<keyof Token, Column>>;

/** The other fields of a Token, which the view adds. */
const VIEWED = {
  lastUseTime: optional("last_use_time"),
  lastUseAddress: orEmpty("last_use_address"),
  useCount: { name: "use_count", value: (column: number | null) => column ?? 0 },
  state: plain("state"),
  roles: plain("role_names"),
  roleScopes: plain("role_scopes"),
  liveTenants: plain("live_tenants"),
  parentScopes: optional("parent_scopes"),
} satisfies Record<Exclude<keyof Token, keyof typeof STORED>, Column>;

/** The grant of a token's family, and the positions of its tenants. */
const FAMILY = {
  tenantPositions: { name: "tenants_n", value: (column: readonly string[]) => column.map(Number) },
  family: plain("family"),
  familyTime: time("family_time"),
  familyLife: optional("family_life"),
} satisfies Record<Exclude<keyof Held, keyof Token>, Column>;

/** Columns that are written once and that no Token shows. */
const HIDDEN = {
  digest: bytes("digest"),
  issuedPosition: plain("issued_n"),
  signingKey: plain("signing_key"),
};

const TOKEN: Readonly<Record<keyof Token, Column>> = { ...STORED, ...VIEWED };
const WRITABLE = { ...STORED, ...FAMILY, ...HIDDEN };

/** Fields that a statement writes. */
export type Fields = { readonly [field in keyof typeof WRITABLE]?: unknown };

function listed(columns: Readonly<Record<string, Column>>, of: string): string {
  return Object.values(columns)
    .map(({ name }) => `${of}.${name}`)
    .join(", ");
}

/** The columns of a Token that are in the row itself, each as `of.column`. */
export function storedColumns(of: string): string {
  return listed(STORED, of);
}

/** Columns of `sallyport.token_view v` that make a Token. */
export const TOKEN_COLUMNS = `${storedColumns("v")}, ${listed(VIEWED, "v")}`;

/** Columns of `sallyport.token_view v` that make a Held. */
export const HELD_COLUMNS = `${TOKEN_COLUMNS}, ${listed(FAMILY, "v")}`;

/** A row with TOKEN_COLUMNS. `tokenOf` reads all of them; other code reads these two. */
export interface TokenRow {
  readonly id: string;
  readonly create_time: number;
}

export function tokenOf(row: TokenRow): Token {
  return read(TOKEN, row) as unknown as Token;
}

/** Reads a row with HELD_COLUMNS. A row from before families were recorded counts as the first of its family. */
export function heldOf(row: TokenRow): Held {
  const token = tokenOf(row);
  const family = read(FAMILY, row) as unknown as Pick<Held, "family" | "familyTime" | "familyLife" | "tenantPositions">;
  if (family.familyTime !== undefined) return { ...token, ...family };
  const familyLife = token.expireTime === undefined ? undefined : token.expireTime - token.createTime;
  return { ...token, ...family, familyTime: token.createTime, familyLife };
}

function read(columns: Readonly<Record<string, Column>>, row: object): Record<string, unknown> {
  const values = row as Readonly<Record<string, unknown>>;
  const of = ({ name, value }: Column) => (value === undefined ? values[name] : value(values[name] as never));
  return Object.fromEntries(Object.entries(columns).map(([field, column]) => [field, of(column)]));
}

interface Written {
  readonly columns: readonly string[];
  /** SQL of each column's value; its parameters are `$first` and those after it. */
  readonly sql: readonly string[];
  readonly values: readonly unknown[];
}

function written(fields: Fields, first: number): Written {
  const columns = Object.keys(fields).map((field): Column => WRITABLE[field as keyof Fields]);
  return {
    columns: columns.map(({ name }) => name),
    sql: columns.map(({ sql }, i) => (sql ?? String)(`$${first + i}`)),
    values: Object.values(fields).map((value, i) => parameter(columns[i]!, value)),
  };
}

function parameter({ parameter }: Column, value: unknown): unknown {
  return parameter === undefined ? value : parameter(value as never);
}

// ---------------------------------------------------------------------------------------------------- reading and writing

export async function readToken(tx: Tx, id: string): Promise<Token> {
  const rows = await tx.query<TokenRow>(`select ${TOKEN_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return tokenOf(rows[0]);
}

/** A token with the grant of its family. */
export async function readHeld(tx: Tx, id: string): Promise<Held> {
  const rows = await tx.query<TokenRow>(`select ${HELD_COLUMNS} from sallyport.token_view v where v.id = $1`, [id]);
  if (rows[0] === undefined) throw new AppError("TOKEN_NOT_FOUND", "no such token");
  return heldOf(rows[0]);
}

/** The parent of a token. `lockTokens` has locked it with the token. */
export async function parentOf(tx: Tx, token: Token): Promise<Held | undefined> {
  return token.parent === "" ? undefined : readHeld(tx, token.parent);
}

/** The fields of a new row. The other columns have their defaults. */
interface Inserted extends NewToken, Pick<Held, "createTime" | "notBeforeTime" | "expireTime" | "parent"> {
  readonly roleIds: readonly string[];
  readonly tenantPositions: readonly number[];
  readonly issuedPosition: number;
  readonly family: string;
  readonly familyTime: number;
  readonly familyLife: number | undefined;
  readonly rotatedFrom?: string;
}

/** Inserts the row. A string in JWT form is made here, because its claims state what the row holds. */
export async function insertToken(
  tx: Tx,
  fields: Inserted,
  roleScopes: readonly string[],
  idempotency: Idempotency | undefined,
): Promise<void> {
  // The row has their ids.
  const { roles: _, sign, ...row } = fields;
  const signed = sign?.({ ...row, issueTime: row.createTime, scopes: [...new Set([...row.scopes, ...roleScopes])] });
  const jwt = signed !== undefined && { digest: signed.digest, format: "jwt", signingKey: signed.signingKey };
  const { columns, sql, values } = written({ ...row, ...jwt }, 1);
  await tx.query(`insert into sallyport.tokens (${columns.join(", ")}) values (${sql.join(", ")})`, values);
  if (signed !== undefined) await keepSigned(tx, idempotency, signed.input);
}

/** Keeps the signed part of the string, so that a repeat can sign it again. */
async function keepSigned(tx: Tx, of: Idempotency | undefined, input: string): Promise<void> {
  if (of === undefined) return;
  const values = [of.caller, of.requestId, input];
  await tx.query("update sallyport.requests set signed = $3 where caller = $1 and request_id = $2", values);
}

/** Sets these fields of a token. `more`: further assignments. */
export async function writeToken(tx: Tx, id: string, fields: Fields, more: readonly string[] = []): Promise<void> {
  const { columns, sql, values } = written(fields, 2);
  const set = [...columns.map((column, i) => `${column} = ${sql[i]}`), ...more];
  if (set.length > 0) await tx.query(`update sallyport.tokens set ${set.join(", ")} where id = $1`, [id, ...values]);
}

// ---------------------------------------------------------------------------------------------------- scopes, in SQL

/** SQL for the scopes of the roles of a row `of`, which exist. Most rows have none: those read no other table. */
export function roleScopesSql(of: string): string {
  return `case when ${of}.roles = '{}' then '{}'::text[] else array(
    select distinct s from sallyport.roles r, unnest(r.scopes) s where r.id = any(${of}.roles) and r.state = 'ACTIVE' order by s
  ) end`;
}

/**
 * SQL for the Attachments of a token's row `of`, in their order. A token without any has null, and reads no other table.
 * `parent`: the row of the token that minted it, whose columns are null if none did. A child counts
 * in no tenant in which its parent does not, nor by an attachment that is older than its parent's: what ended with one
 * attachment of the parent does not come back with the next.
 */
export function attachmentsSql(of: string, parent: string): string {
  return `case when ${of}.tenants <> '{}' then (
    select jsonb_agg(jsonb_build_object('tenant', a.id, 'tenantState', coalesce(x.state, 'SUSPENDED'), 'cut',
      coalesce(a.n < x.cut_n, true) or ${parent}.id is not null and not exists (
        select from unnest(${parent}.tenants, ${parent}.tenants_n) b (id, n)
        where b.id = a.id and b.n >= x.cut_n and b.n <= a.n)) order by a.place)
    from unnest(${of}.tenants, ${of}.tenants_n) with ordinality a (id, n, place) left join sallyport.tenants x on x.id = a.id
  ) end`;
}

/** SQL for what a row `of` was given: its scopes and those of its roles. */
export function grantedScopesSql(of: string): string {
  return `case when ${of}.roles = '{}' then ${of}.scopes else ${of}.scopes || (${roleScopesSql(of)}) end`;
}

/** SQL for the columns that the view makes of the roles of a row `of`. */
export function roleColumns(of: string): string {
  return `case when ${of}.roles = '{}' then '{}'::text[] else array(
      select r.name from sallyport.roles r where r.id = any(${of}.roles) and r.state = 'ACTIVE' order by r.name
    ) end as role_names,
    ${roleScopesSql(of)} as role_scopes`;
}

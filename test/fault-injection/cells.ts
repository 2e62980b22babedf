import type pg from "pg";
import { jwtHint, signingInput, signJwt } from "../../src/domain/jwt-string.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import { newRoleId } from "../../src/domain/role.ts";
import { type SigningKey, SigningKeys, type SigningSettings } from "../../src/domain/signing-keys.ts";
import { mintTokenString, newTokenId } from "../../src/domain/token-string.ts";
import type { KeyringFile } from "../support/program.ts";
import { SCOPE } from "./askers.ts";
import { Subject } from "./history.ts";
import { question } from "./wire.ts";

/** The way in which a cell will end. Each kind takes another path through the product, and all promise the same. */
export type Kind =
  | "revoke"
  | "twice"
  | "bulk"
  | "filter"
  | "disable"
  | "suspend"
  | "cut"
  | "narrow"
  | "rotate"
  | "parent"
  | "sql"
  | "oauth"
  | "no-wait"
  | "role"
  | "role-deleted"
  | "detach"
  | "attached-suspend"
  | "attached-cut"
  | Toggle;

/** Taken and given back, before the token is revoked for good. */
export type Toggle = "enable" | "widen" | "resume" | "restore" | "role-again" | "attach-again";

/** Tokens that one change of authority ends together. */
export interface Cell {
  readonly kind: Kind;
  readonly tenant: string;
  readonly principal: string;
  /** The name of the role from which alone they have what is asked for. */
  readonly role?: string;
  /** The further tenant to which they are attached, and in which alone they are asked about. */
  readonly attached?: string;
  readonly subjects: readonly Subject[];
  /** The id of the token that the change names; for `parent` that is another token. */
  readonly target: string;
  /** Sent with a rotation, so that a repeat is recognized. */
  readonly requestId?: string;
}

/** The share of each kind, in cells of a hundred. The most frequent ones are what people do most. */
const SHARES: Readonly<Record<Kind, number>> = {
  revoke: 14,
  twice: 10,
  bulk: 5,
  filter: 3,
  disable: 4,
  suspend: 3,
  cut: 5,
  narrow: 4,
  rotate: 5,
  parent: 4,
  sql: 4,
  oauth: 6,
  "no-wait": 4,
  enable: 3,
  widen: 3,
  resume: 3,
  restore: 3,
  role: 3,
  "role-deleted": 2,
  "role-again": 3,
  detach: 3,
  "attached-suspend": 2,
  "attached-cut": 1,
  "attach-again": 3,
};
const SIZE: Readonly<Partial<Record<Kind, number>>> = {
  bulk: 4,
  filter: 3,
  disable: 2,
  suspend: 2,
  cut: 2,
  role: 2,
  "attached-cut": 2,
};

const ATTACHED: ReadonlySet<Kind> = new Set(["detach", "attached-suspend", "attached-cut", "attach-again"]);

/** The names of principals and tenants, which are never used twice. */
let made = 0;

interface NewRow {
  readonly id: string;
  readonly digest: string;
  readonly hint: string;
  readonly tenant: string;
  readonly principal: string;
  readonly scopes: string;
  readonly parent: string | null;
  /** Empty for an opaque string. */
  readonly signing_key: string;
  /** The name and the id of its role. */
  readonly role?: { readonly name: string; readonly id: string };
  readonly attached?: string;
  /** Milliseconds since 1970; a day from now if there is none. */
  readonly expires?: number;
}

type Owner = Pick<Cell, "tenant" | "principal">;

/** Mints cells by SQL, in one transaction: the end of tokens is under test, not their creation. */
export class Mint {
  readonly #sql: pg.ClientBase;
  readonly #keyring: Keyring;
  readonly #kid: string;

  constructor(sql: pg.ClientBase, keyring: KeyringFile, signing: SigningSettings) {
    this.#sql = sql;
    this.#keyring = new Keyring(keyring.current, keyring.keys, new SigningKeys(signing));
    this.#kid = keyring.current;
  }

  async cells(count: number, kinds: Readonly<Partial<Record<Kind, number>>> = SHARES): Promise<Cell[]> {
    const order = (Object.entries(kinds) as [Kind, number][]).flatMap(([kind, share]) => Array<Kind>(share).fill(kind));
    const rows: NewRow[] = [];
    const cells: Cell[] = [];
    for (let i = 0; i < count; i++) {
      // Spread by a stride that is coprime to a hundred, so that a few are as mixed as many.
      const kind = order[(i * 37) % order.length]!;
      cells.push(this.#cell(kind, rows));
    }
    await this.#store(rows);
    return cells;
  }

  /** One principal with this many tokens. */
  async many(count: number): Promise<Cell> {
    const rows: NewRow[] = [];
    const owner = { tenant: "default", principal: `user:many-${made++}` };
    const subjects = Array.from({ length: count }, () => this.#subject(rows, owner));
    await this.#store(rows);
    return { kind: "cut", ...owner, subjects, target: subjects[0]!.id };
  }

  /** Tokens that expire this soon by the database's clock, which is this host's. */
  async expiring(count: number, lifetimeMs: number): Promise<Subject[]> {
    const rows: NewRow[] = [];
    const owner = { tenant: "default", principal: `user:h-${made++}` };
    const expires = Date.now() + lifetimeMs;
    const subjects = Array.from({ length: count }, () => this.#subject(rows, owner));
    await this.#store(rows.map((row) => ({ ...row, expires })));
    const at = performance.now() + (expires - Date.now());
    for (const subject of subjects) subject.expires(at);
    return subjects;
  }

  /** Requests with well-formed tokens that do not exist: no cache answers them. */
  strangers(count: number): Buffer[] {
    return Array.from({ length: count }, () =>
      question(mintTokenString("sp_pat", this.#keyring.current).tokenString.reveal()),
    );
  }

  #cell(kind: Kind, rows: NewRow[]): Cell {
    const serial = made++;
    // A suspended tenant takes all of its tokens with it.
    const own = kind === "suspend" || kind === "resume";
    const owner = { tenant: own ? `h-${serial}` : "default", principal: `user:h-${serial}` };
    const scopes = kind === "narrow" || kind === "widen" ? SCOPE : "";
    if (kind === "role" || kind === "role-deleted" || kind === "role-again") {
      const role = { name: `h-${serial}`, id: newRoleId() };
      const subjects = Array.from({ length: SIZE[kind] ?? 1 }, () => this.#subject(rows, owner, { role }));
      return { kind, ...owner, role: role.name, subjects, target: subjects[0]!.id };
    }
    if (ATTACHED.has(kind)) {
      const attached = `h-${serial}`;
      const subjects = Array.from({ length: SIZE[kind] ?? 1 }, () => this.#subject(rows, owner, { attached }));
      return { kind, ...owner, attached, subjects, target: subjects[0]!.id };
    }
    if (kind === "parent") {
      const parent = this.#subject(rows, owner);
      const child = this.#subject(rows, owner, { parent: parent.id });
      return { kind, ...owner, subjects: [parent, child], target: parent.id };
    }
    const subjects = Array.from({ length: SIZE[kind] ?? 1 }, () => this.#subject(rows, owner, { scopes }));
    return { kind, ...owner, subjects, target: subjects[0]!.id };
  }

  #subject(
    rows: NewRow[],
    owner: Owner,
    {
      scopes = "",
      parent = null,
      role,
      attached,
    }: Partial<Pick<NewRow, "scopes" | "parent" | "role" | "attached">> = {},
  ): Subject {
    const id = newTokenId();
    const signedBy = rows.length % 2 === 0 ? undefined : this.#keyring.signing!.current("EdDSA")!;
    const { tokenString, digest, hint } = signedBy
      ? this.#jwt(id, owner, signedBy)
      : mintTokenString("sp_pat", this.#keyring.current);
    rows.push({
      signing_key: signedBy?.id ?? "",
      id,
      digest: Buffer.from(digest, "latin1").toString("hex"),
      hint,
      ...owner,
      scopes,
      parent,
      ...(role && { role }),
      ...(attached && { attached }),
    });
    const scope = scopes === "" && role === undefined ? undefined : SCOPE;
    return new Subject(id, tokenString.reveal(), { scope, tenant: attached });
  }

  /** Every second token has JWT form. */
  #jwt(id: string, owner: Owner, signedBy: SigningKey) {
    const keys = this.#keyring.current;
    const facts = { id, ...owner, profile: "pat", scopes: [], audiences: [], issueTime: Date.now() };
    const input = signingInput(facts, this.#keyring.signing!.issuer, signedBy, keys);
    return { ...signJwt(input, { signedBy, keys }), hint: jwtHint(id) };
  }

  async #store(rows: readonly NewRow[]): Promise<void> {
    const column = (name: keyof NewRow) => rows.map((row) => row[name]);
    await this.#sql.query("begin");
    await this.#sql.query(
      "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'history', 'history.mint', '')",
    );
    await this.#sql.query(
      `insert into sallyport.tenants (id) select distinct t from unnest($1::text[]) t on conflict do nothing`,
      [rows.flatMap(({ tenant, attached }) => (attached === undefined ? [tenant] : [tenant, attached]))],
    );
    await this.#sql.query(
      "insert into sallyport.principals (tenant, name) select distinct t, p from unnest($1::text[], $2::text[]) w (t, p)",
      [column("tenant"), column("principal")],
    );
    const roles = new Map(
      rows.flatMap(({ role, tenant }) => (role === undefined ? [] : [[role.id, { ...role, tenant }]])),
    );
    const given = [...roles.values()];
    await this.#sql.query(
      `insert into sallyport.roles (id, tenant, name, scopes)
       select id, tenant, name, array[$1] from unnest($2::text[], $3::text[], $4::text[]) w (id, tenant, name)`,
      [SCOPE, given.map(({ id }) => id), given.map(({ tenant }) => tenant), given.map(({ name }) => name)],
    );
    await this.#sql.query(
      `insert into sallyport.tokens
         (id, digest, kid, hint, tenant, profile, principal, scopes, roles, parent_id, created_by, family, expire_time,
          format, signing_key, tenants, tenants_n)
       select id, decode(digest, 'hex'), $1, hint, tenant, 'pat', principal,
         case when scopes = '' then '{}' else array[scopes] end,
         case when role is null then '{}' else array[role] end, parent, 'history', id,
         coalesce(to_timestamp(expires / 1000), clock_timestamp() + interval '1 day'),
         (case when signing_key = '' then 'opaque' else 'jwt' end)::sallyport.token_format, signing_key,
         case when attached is null then '{}' else array[attached] end, case when attached is null then '{}' else '{0}'::bigint[] end
       from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::float8[],
           $10::text[], $11::text[], $12::text[])
         w (id, digest, hint, tenant, principal, scopes, parent, expires, role, signing_key, attached)
       order by parent is not null`,
      [
        this.#kid,
        ...(["id", "digest", "hint", "tenant", "principal", "scopes", "parent", "expires"] as const).map(column),
        rows.map(({ role }) => role?.id ?? null),
        column("signing_key"),
        rows.map(({ attached }) => attached ?? null),
      ],
    );
    await this.#sql.query("commit");
  }
}

import type pg from "pg";
import { Keyring } from "../../src/domain/keyring.ts";
import { mintTokenString, newTokenId } from "../../src/domain/token-string.ts";
import type { KeyringFile } from "../support/program.ts";
import { Subject } from "./history.ts";
import { question } from "./wire.ts";

/** How a cell will end. Each kind is another way through the product, and all promise the same. */
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
  | "sql";

/** Tokens that one change of authority ends together. */
export interface Cell {
  readonly kind: Kind;
  readonly tenant: string;
  readonly principal: string;
  readonly subjects: readonly Subject[];
  /** Of the token that the change names; for `parent` it is another's. */
  readonly target: string;
}

/** Of how many cells of a hundred. Most are what people do most. */
const SHARES: Readonly<Record<Kind, number>> = {
  revoke: 43,
  twice: 12,
  bulk: 6,
  filter: 3,
  disable: 6,
  suspend: 4,
  cut: 6,
  narrow: 6,
  rotate: 6,
  parent: 4,
  sql: 4,
};
const SIZE: Readonly<Partial<Record<Kind, number>>> = { bulk: 4, filter: 3, disable: 2, suspend: 2, cut: 2 };
export const SCOPE = "history:read";

/** Of principals and tenants: names are never used twice. */
let made = 0;

interface NewRow {
  readonly id: string;
  readonly digest: string;
  readonly hint: string;
  readonly tenant: string;
  readonly principal: string;
  readonly scopes: string;
  readonly parent: string | null;
}

type Owner = Pick<Cell, "tenant" | "principal">;

/** Mints cells by SQL, a transaction for all of them: what is proven here is how tokens end, not how they begin. */
export class Mint {
  readonly #sql: pg.ClientBase;
  readonly #keyring: Keyring;
  readonly #kid: string;

  constructor(sql: pg.ClientBase, keyring: KeyringFile) {
    this.#sql = sql;
    this.#keyring = new Keyring(keyring.current, keyring.keys);
    this.#kid = keyring.current;
  }

  async cells(count: number, kinds: Readonly<Partial<Record<Kind, number>>> = SHARES): Promise<Cell[]> {
    const order = (Object.entries(kinds) as [Kind, number][]).flatMap(([kind, share]) => Array<Kind>(share).fill(kind));
    const rows: NewRow[] = [];
    const cells: Cell[] = [];
    for (let i = 0; i < count; i++) {
      // Spread by a stride that is coprime to a hundred, so that few are as mixed as many.
      const kind = order[(i * 37) % order.length]!;
      cells.push(this.#cell(kind, rows));
    }
    await this.#store(rows);
    return cells;
  }

  /** One principal with so many tokens. */
  async many(count: number): Promise<Cell> {
    const rows: NewRow[] = [];
    const owner = { tenant: "default", principal: `user:many-${made++}` };
    const subjects = Array.from({ length: count }, () => this.#subject(rows, owner));
    await this.#store(rows);
    return { kind: "cut", ...owner, subjects, target: subjects[0]!.id };
  }

  /** Questions about tokens that look right and that nobody has: no cache answers them. */
  strangers(count: number): Buffer[] {
    return Array.from({ length: count }, () =>
      question(mintTokenString("sp_pat", this.#keyring.current).tokenString.reveal()),
    );
  }

  #cell(kind: Kind, rows: NewRow[]): Cell {
    const serial = made++;
    // A tenant that is suspended takes all of its tokens with it.
    const owner = { tenant: kind === "suspend" ? `h-${serial}` : "default", principal: `user:h-${serial}` };
    const scopes = kind === "narrow" ? SCOPE : "";
    if (kind === "parent") {
      const parent = this.#subject(rows, owner);
      const child = this.#subject(rows, owner, "", parent.id);
      return { kind, ...owner, subjects: [parent, child], target: parent.id };
    }
    const subjects = Array.from({ length: SIZE[kind] ?? 1 }, () => this.#subject(rows, owner, scopes));
    return { kind, ...owner, subjects, target: subjects[0]!.id };
  }

  #subject(rows: NewRow[], owner: Owner, scopes = "", parent: string | null = null): Subject {
    const { tokenString, digest, hint } = mintTokenString("sp_pat", this.#keyring.current);
    const id = newTokenId();
    rows.push({ id, digest: Buffer.from(digest, "latin1").toString("hex"), hint, ...owner, scopes, parent });
    return new Subject(id, question(tokenString.reveal(), scopes === "" ? undefined : SCOPE));
  }

  async #store(rows: readonly NewRow[]): Promise<void> {
    const column = (name: keyof NewRow) => rows.map((row) => row[name]);
    await this.#sql.query("begin");
    await this.#sql.query(
      "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'history', 'history.mint', '')",
    );
    await this.#sql.query(
      `insert into sallyport.tenants (id) select distinct t from unnest($1::text[]) t on conflict do nothing`,
      [column("tenant")],
    );
    await this.#sql.query(
      "insert into sallyport.principals (tenant, name) select distinct t, p from unnest($1::text[], $2::text[]) w (t, p)",
      [column("tenant"), column("principal")],
    );
    await this.#sql.query(
      `insert into sallyport.tokens
         (id, digest, kid, hint, tenant, profile, principal, scopes, parent_id, created_by, family, expire_time)
       select id, decode(digest, 'hex'), $1, hint, tenant, 'pat', principal,
         case when scopes = '' then '{}' else array[scopes] end, parent, 'history', id,
         clock_timestamp() + interval '1 day'
       from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
         w (id, digest, hint, tenant, principal, scopes, parent)
       order by parent is not null`,
      [this.#kid, ...(["id", "digest", "hint", "tenant", "principal", "scopes", "parent"] as const).map(column)],
    );
    await this.#sql.query("commit");
  }
}

import type { TrustRule } from "../domain/trust-rule.ts";
import type { PageStart, Part, Patience, TrustRuleStore } from "../management/ports.ts";
import { committed } from "./committed.ts";
import { exchange } from "./exchanging.ts";
import type { ListReads } from "./list-reads.ts";
import { newestFirst } from "./newest-first.ts";
import type { Postgres } from "./pool.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";
import { createRule, deleteRule, updateRule } from "./rule-changes.ts";
import { RULE_COLUMNS, type RuleRow, ruleOf } from "./rule-rows.ts";

type Args<K extends keyof TrustRuleStore> = Parameters<TrustRuleStore[K]>;

const BY_ID = {
  name: "sallyport-rule",
  text: proving(`select ${RULE_COLUMNS} from sallyport.trust_rules where id = $1`),
};

/** Trust rules, and the exchanges by them. */
export class PostgresTrustRules implements TrustRuleStore {
  readonly #db: Postgres;
  readonly #lists: ListReads;
  readonly #proven: ProvenReads;

  constructor(db: Postgres, lists: ListReads, followed: Followed) {
    this.#db = db;
    this.#lists = lists;
    this.#proven = new ProvenReads(db, followed);
  }

  async byId(id: string): Promise<TrustRule | undefined> {
    const { rows } = await this.#proven.rows<RuleRow>(BY_ID, [id]);
    return rows[0] && ruleOf(rows[0]);
  }

  async byName(tenant: string, name: string): Promise<TrustRule | undefined> {
    const { rows } = await this.#proven.rows<RuleRow>(
      proving(`select ${RULE_COLUMNS} from sallyport.trust_rules where tenant = $1 and name = $2 and state = 'ACTIVE'`),
      [tenant, name],
    );
    return rows[0] && ruleOf(rows[0]);
  }

  async list(tenant: string, limit: number, start?: PageStart, patience?: Patience): Promise<Part<TrustRule>> {
    const { rows, rest } = await newestFirst<RuleRow>(
      this.#lists,
      {
        table: "sallyport.trust_rules",
        time: "create_time",
        key: "id",
        keyType: "text",
        narrowed: [["tenant = ?", tenant]],
        filters: [["state = ?", "ACTIVE"]],
        columns: RULE_COLUMNS,
        place: (row) => ({ time: row.create_time, key: row.id }),
      },
      limit,
      start,
      patience,
    );
    return { rows: rows.map(ruleOf), rest };
  }

  create(...args: Args<"create">) {
    return committed(this.#db, (tx) => createRule(tx, ...args));
  }

  update(...args: Args<"update">) {
    return committed(this.#db, (tx) => updateRule(tx, ...args));
  }

  delete(...args: Args<"delete">) {
    return committed(this.#db, (tx) => deleteRule(tx, ...args));
  }

  exchange(...args: Args<"exchange">) {
    return this.#db.transaction((tx) => exchange(tx, ...args));
  }
}

import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { PageStart, Part } from "../../src/management/ports.ts";
import { PostgresAuditLog } from "../../src/postgres/audit-log.ts";
import { EVIDENCE, HEAD } from "../../src/postgres/evidence.ts";
import { ListReads } from "../../src/postgres/list-reads.ts";
import { MOST_SCANNED } from "../../src/postgres/newest-first.ts";
import { Postgres, TYPES } from "../../src/postgres/pool.ts";
import { PostgresTokenStore } from "../../src/postgres/token-store.ts";
import { systemClock } from "../../src/sallyport.ts";
import type { Database } from "../support/postgres.ts";
import { auditRow, byHand, migrated } from "./migrated.ts";

const COUNT = 30_000;
const onTrouble = () => {};
const T0 = Date.UTC(2026, 0, 1);

let database: Database;
let client: pg.Client;
let db: Postgres;
let lists: Explained;
let store: PostgresTokenStore;
let audit: PostgresAuditLog;

/** Explains each statement before it runs it, and keeps the most rows that any part of a plan has looked at. */
class Explained extends ListReads {
  most = 0;

  override async read<R extends object>(text: string, values: readonly unknown[]): Promise<R[]> {
    await client.query("begin; set local enable_sort = off; set local jit = off");
    const plan = await client.query(`explain (analyze, timing off, format json) ${text}`, [...values]);
    await client.query("commit");
    this.most = Math.max(this.most, mostRows(plan.rows[0]["QUERY PLAN"][0].Plan));
    return super.read<R>(text, values);
  }
}

interface Plan {
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Rows Removed by Index Recheck"?: number;
  readonly Plans?: Plan[];
}

function mostRows(plan: Plan): number {
  const each =
    plan["Actual Rows"] + (plan["Rows Removed by Filter"] ?? 0) + (plan["Rows Removed by Index Recheck"] ?? 0);
  return Math.max(each * plan["Actual Loops"], ...(plan.Plans ?? []).map(mostRows));
}

// Never analyzed, as tables that have just grown are.
beforeAll(async () => {
  database = await migrated();
  client = new pg.Client({ connectionString: database.url, types: TYPES });
  await client.connect();
  await client.query("set synchronous_commit = off");
  await client.query(
    `insert into sallyport.audit (tenant, actor, action, target, owner, at)
     select 'default', case when n = 7 then 'token:rare' else 'token:often' end,
       case when n = 8 then 'rare.action' else 'token.create' end, 'token:' || n,
       case when n = 9 then 'user:rare' else 'user:often' end, to_timestamp($2::float8 / 1000) + n * interval '1 ms'
     from generate_series(1, $1::int) n`,
    [COUNT, T0],
  );
  await client.query("begin");
  await auditRow(client);
  await client.query(
    `insert into sallyport.principals (tenant, name, create_time)
     select 'default', 'user:u' || n, to_timestamp($2::float8 / 1000) + n * interval '1 ms' from generate_series(1, $1::int) n
     union all values ('default', 'bot:many', now()), ('default', 'bot:few', now())`,
    [COUNT, T0],
  );
  await client.query(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time, disabled)
     select id, sha256(id::bytea), '1', 'sp_' || n, 'default', case when n <= 3 then 'rare' else 'pat' end,
       case when n <= 5 then 'bot:few' else 'bot:many' end, case when n <= 6 then 'token:rare' else 'token:often' end, id,
       to_timestamp($2::float8 / 1000) + n * interval '1 ms', n <= 2
     from generate_series(1, $1::int) n cross join lateral (select 'tok_' || lpad(n::text, 22, '0') as id) i`,
    [COUNT, T0],
  );
  await client.query(`update sallyport.tokens set display_name = 'named it' where id = $1`, [
    `tok_${"3".padStart(22, "0")}`,
  ]);
  // The other role of that name is another tenant's; its tokens do not hold this one.
  await client.query(`insert into sallyport.tenants (id) values ('acme')`);
  await client.query(
    `insert into sallyport.roles (id, tenant, name, scopes) values ('rol_0000000000000000000001', 'default', 'deployer', '{}'),
       ('rol_0000000000000000000002', 'acme', 'deployer', '{}')`,
  );
  await client.query(`update sallyport.tokens set roles = '{rol_0000000000000000000001}' where id in ($1, $2)`, [
    oldestId(4),
    oldestId(5),
  ]);
  await client.query("insert into sallyport.tenants (id) values ('guest'), ('shared')");
  await client.query(`update sallyport.tokens set tenants = '{guest}', tenants_n = '{0}' where id = any($1)`, [
    [oldestId(11), oldestId(12)],
  ]);
  await client.query(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time, parent_id)
     select id, sha256(id::bytea), '1', 'sp_child', 'default', 'svc', 'bot:many', 'token:often', id,
       to_timestamp($1::float8 / 1000), 'tok_' || lpad('7', 22, '0')
     from generate_series(1, 3) n cross join lateral (select 'tok_' || lpad('9999999' || n, 22, '0') as id) i`,
    [T0 + 1000.5],
  );
  await client.query("commit");
  await client.query(
    "insert into sallyport.token_usage select id, now() from sallyport.tokens where create_time >= to_timestamp($1::float8 / 1000)",
    [T0 + 5],
  );
  db = new Postgres({ url: database.url, maxConnections: 2, applicationName: "test", onTrouble });
  lists = new Explained({ url: database.url, clock: systemClock, onTrouble });
  const { epoch } = (await client.query(`select ${EVIDENCE} from ${HEAD}`)).rows[0];
  store = new PostgresTokenStore(db, lists, {
    clock: systemClock,
    epoch: () => epoch,
    sawEpoch: () => 0,
    applied: () => -1,
    accounted: () => true,
    wake() {},
  });
  audit = new PostgresAuditLog(db, lists);
}, 120_000);
afterAll(async () => {
  await lists?.close();
  await db?.close();
  await client?.end();
  await database?.drop();
});

/** All rows of a list, page by page, the pages it took, and the most rows that a statement looked at. */
async function whole<T>(ask: (start: PageStart | undefined) => Promise<Part<T>>) {
  lists.most = 0;
  const rows: T[] = [];
  let pages = 0;
  for (let start: PageStart | undefined; ; ) {
    const part = await ask(start);
    pages++;
    rows.push(...part.rows);
    if (part.rest === undefined) return { rows, pages, most: lists.most };
    start = part.rest;
  }
}

const oldestId = (n: number) => `tok_${String(n).padStart(22, "0")}`;
const FEW = 600;
const tenant = "default";

describe("a filter of tokens with an index scans only the rows that it returns", () => {
  for (const [filter, count] of [
    [{ hint: "sp_17" }, 1],
    [{ hint: "none" }, 0],
    [{ principal: "bot:few" }, 5],
    [{ profile: "rare" }, 3],
    [{ profile: "none" }, 0],
    [{ createdBefore: T0 + 5 }, 4],
    [{ createdAfter: T0 + COUNT - 3 }, 4],
    [{ profile: "pat", createdBefore: T0 + 10 }, 6],
    [{ principal: "bot:few", profile: "rare", state: "DISABLED" as const }, 2],
    [{ hint: "sp_1", state: "DISABLED" as const }, 1],
    [{ ids: [oldestId(1), oldestId(9), oldestId(0)] }, 2],
    [{ ids: [oldestId(1), oldestId(4)], role: "deployer" }, 1],
    [{ ids: [oldestId(1), oldestId(9)], states: ["DISABLED" as const] }, 1],
    [{ familyOf: oldestId(1) }, 1],
    [{ familyOf: oldestId(0) }, 0],
    [{ parent: oldestId(1) }, 0],
    [{ parent: oldestId(7) }, 3],
    [{ tenant: undefined, createdBefore: T0 + 5 }, 4],
    [{ tenant: undefined, hint: "sp_17" }, 1],
    [{ tenant: "acme", role: "deployer" }, 0],
    [{ tenant: "guest", attached: true }, 2],
    [{ tenant: "guest", attached: true, principal: "bot:many" }, 2],
    [{ tenant: "guest", attached: true, hint: "sp_11" }, 1],
    [{ tenant: "guest", attached: true, createdBefore: T0 + 12 }, 1],
    [{ tenant: "acme", attached: true }, 0],
    [{ tenant: undefined, familyOf: oldestId(1) }, 1],
    [{ tenant: undefined, parent: oldestId(7) }, 3],
  ] as const) {
    test(JSON.stringify(filter), async () => {
      const found = await whole((start) => store.list({ tenant, ...filter }, 50, start));
      expect(found.rows).toHaveLength(count);
      expect(found.pages).toBe(1);
      expect(found.most).toBeLessThanOrEqual(FEW);
    });
  }

  test("the first page of all", async () => {
    lists.most = 0;
    expect((await store.list({ tenant }, 50)).rows).toHaveLength(50);
    expect(lists.most).toBeLessThanOrEqual(FEW);
  });
});

describe("a filter of tokens without an index ends a page after a limited scan, and the next pages find the rest", () => {
  const oldest = Array.from({ length: 5 }, (_, i) => `tok_${String(5 - i).padStart(22, "0")}`);
  for (const [filter, ids] of [
    [{ state: "DISABLED" as const }, oldest.slice(3)],
    [{ state: "REVOKED" as const }, []],
    [{ lastUsedBefore: T0 }, oldest.slice(1)],
    [{ principal: "bot:many", profile: "rare" }, []],
    [{ profile: "pat", state: "DISABLED" as const }, []],
    [{ states: ["DISABLED" as const, "REVOKED" as const] }, oldest.slice(3)],
    [{ createdBy: "token:rare", states: ["DISABLED" as const] }, oldest.slice(3)],
    [{ displayNamePrefix: "named" }, [oldest[2]!]],
    [{ displayNamePrefix: "NAMED" }, []],
    [{ role: "deployer" }, oldest.slice(0, 2)],
    [{ tenant: undefined, role: "deployer" }, oldest.slice(0, 2)],
    [{ role: "unknown" }, []],
    [{ expiresBefore: T0 }, []],
    [{ tenant: undefined, principal: "bot:few" }, oldest],
  ] as const) {
    test(JSON.stringify(filter), async () => {
      const found = await whole((start) => store.list({ tenant, ...filter }, 50, start));
      expect(found.rows.map(({ id }) => id)).toEqual(ids);
      expect(found.pages).toBeGreaterThanOrEqual(Math.floor(COUNT / MOST_SCANNED));
      expect(found.most).toBeLessThanOrEqual(MOST_SCANNED + FEW);
    });
  }

  test("a page ends as soon as it is full", async () => {
    lists.most = 0;
    const part = await store.list({ tenant, state: "ACTIVE" }, 50);
    expect(part.rows).toHaveLength(50);
    expect(part.rest?.key).toBe(part.rows[49]!.id);
  });
});

describe("a filter of the audit log scans only the rows that it returns", () => {
  for (const [filter, count] of [
    [{ actor: "token:rare" }, 1],
    [{ actor: "token:none" }, 0],
    [{ action: "rare.action" }, 1],
    [{ owner: "user:rare" }, 1],
    [{ target: "token:5" }, 1],
    [{ before: T0 + 5 }, 4],
    [{ actor: "token:often", before: T0 + 5 }, 4],
    [{ after: T0 + COUNT - 3, before: T0 + COUNT + 1 }, 4],
  ] as const) {
    test(JSON.stringify(filter), async () => {
      const found = await whole((start) => audit.list({ tenant, ...filter }, 50, start));
      expect(found.rows).toHaveLength(count);
      expect(found.pages).toBe(1);
      expect(found.most).toBeLessThanOrEqual(FEW);
    });
  }

  test("two filters together scan a limited number of rows", async () => {
    const found = await whole((start) =>
      audit.list({ tenant, actor: "token:often", action: "rare.action" }, 50, start),
    );
    expect(found.rows).toHaveLength(1);
    expect(found.pages).toBeGreaterThanOrEqual(Math.floor(COUNT / MOST_SCANNED));
    expect(found.most).toBeLessThanOrEqual(MOST_SCANNED + FEW);
  });
});

test("a filter by principal type scans a limited number of rows", async () => {
  const found = await whole((start) => store.listPrincipals({ tenant, type: "service" }, 50, start));
  expect(found.rows).toEqual([]);
  expect(found.most).toBeLessThanOrEqual(MOST_SCANNED + FEW);
  const all = await whole((start) => store.listPrincipals({ tenant }, 500, start));
  expect(new Set(all.rows.map(({ name }) => name)).size).toBe(COUNT + 2);
});

describe("the preview of a bulk revocation", () => {
  for (const [selection, count] of [
    [{ profile: "rare" }, 3],
    [{ createdBy: "token:rare" }, 6],
    [{ principal: "bot:few" }, 5],
    [{ createdBefore: T0 + 5 }, 4],
    [{ role: "deployer" }, 2],
    [{ hints: ["sp_1", "sp_2"], ids: ["tok_0000000000000000000003"], digests: [] }, 3],
  ] as const) {
    test(`scans only the rows that it returns: ${JSON.stringify(selection)}`, async () => {
      lists.most = 0;
      expect(await store.matched({ tenant, ...selection }, 1000)).toMatchObject({ count });
      expect(lists.most).toBeLessThanOrEqual(FEW);
    });
  }

  test("counts also the tokens whose ids it does not list", async () => {
    const { count, ids } = await store.matched({ tenant, profile: "pat" }, 1000);
    expect([count, ids.length]).toEqual([COUNT - 3, 1000]);
  });
});

// Last: rows that have moved make the planner choose otherwise in the tests above.
test("where more tokens are attached to a tenant than a statement scans, the pages have all of them", async () => {
  await client.query("begin");
  await auditRow(client);
  await client.query(
    `update sallyport.tokens set tenants = '{shared}', tenants_n = '{0}'
     where create_time >= to_timestamp($1::float8 / 1000) and create_time < to_timestamp($2::float8 / 1000)
       and parent_id is null`,
    [T0 + 100, T0 + 100 + MOST_SCANNED + 1],
  );
  await client.query("commit");
  const found = await whole((start) => store.list({ tenant: "shared", attached: true }, 500, start));
  expect(new Set(found.rows.map(({ id }) => id)).size).toBe(MOST_SCANNED + 1);
});

test("neither a revocation nor a use writes an index", async () => {
  const admin = await byHand(database.url);
  const { rows } = await admin.query(
    `select i.indexrelid::regclass as name from pg_index i, pg_attribute a
     where i.indrelid in ('sallyport.tokens'::regclass, 'sallyport.token_usage'::regclass) and a.attrelid = i.indrelid
       and a.attname in ('revoke_time', 'revoked_by', 'revoke_reason', 'revision',
         'last_use_time', 'last_use_address', 'use_count')
       and (a.attnum = any(i.indkey) or pg_get_expr(i.indpred, i.indrelid) ~ a.attname
         or pg_get_expr(i.indexprs, i.indrelid) ~ a.attname)`,
  );
  expect(rows).toEqual([]);
});

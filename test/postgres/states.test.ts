import { expect, onTestFinished, test } from "vitest";
import { type RefusalReason, refusal } from "../../src/domain/decide.ts";
import type { AppError } from "../../src/domain/errors.ts";
import type { TokenState } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresTokenReader } from "../../src/postgres/token-reader.ts";
import { systemClock } from "../../src/sallyport.ts";
import { auditRow, byHand, digestOf, makeTokens, migrated, tokenId } from "./migrated.ts";

const ADMIN = { actor: "user:admin", address: "", requestId: "r" };
const STATES: Record<RefusalReason | "live", TokenState | undefined> = {
  live: "ACTIVE",
  revoked: "REVOKED",
  principal_gone: "REVOKED",
  disabled: "DISABLED",
  expired: "EXPIRED",
  not_yet_valid: "NOT_YET_VALID",
  malformed: undefined,
  unknown: undefined,
};

/** What a token can be, each on its own, and how its row shows it. */
const CAN = {
  revoked: "revoke_time = now()",
  disabled: "disabled = true",
  expired: "expire_time = now() - interval '1 hour'",
  early: "not_before_time = now() + interval '1 hour'",
} as const;
const OWNERS = { "bot:on": "ACTIVE", "bot:off": "DISABLED", "bot:gone": "DELETED" } as const;
const PARENTS = ["none", "live", "over"] as const;

test("every combination has the same state in the view and in validation, and a dead token does not change", async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  const db = new Postgres({ url: database.url, maxConnections: 2, applicationName: "states", onTrouble: () => {} });
  onTestFinished(() => db.close());
  const store = new PostgresAuthorityStore(db);
  const reader = new PostgresTokenReader({
    url: database.url,
    connections: 1,
    clock: systemClock,
    onTrouble: () => {},
  });
  onTestFinished(() => reader.close());

  const facts = Object.keys(CAN) as (keyof typeof CAN)[];
  const sets = Array.from({ length: 1 << facts.length }, (_, bits) => facts.filter((_, i) => (bits >> i) & 1));
  const cases = Object.entries(OWNERS).flatMap(([owner, state]) =>
    PARENTS.flatMap((parent) => sets.map((is) => ({ owner, state, parent, is }))),
  );
  let made = 0;
  const tokens: ((typeof cases)[number] & { id: string; n: number })[] = [];
  for (const owner of Object.keys(OWNERS)) {
    const mine = cases.filter((one) => one.owner === owner);
    const [live, over] = await makeTokens(sql, 2, owner, made + 1);
    await sql.query("begin");
    await auditRow(sql);
    await sql.query("update sallyport.tokens set expire_time = now() - interval '1 hour' where id = $1", [over]);
    for (const [i, one] of mine.entries()) {
      const n = made + 3 + i;
      await sql.query(
        `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, parent_id)
         values ($1, $2, '1', 'h', 'default', 'bot', $3, 'user:a', $1, $4)`,
        [tokenId(n), Buffer.from(digestOf(n)), owner, { none: null, live, over }[one.parent]],
      );
      const set = ["display_name = 'x'", ...one.is.map((fact) => CAN[fact])].join(", ");
      await sql.query(`update sallyport.tokens set ${set} where id = $1`, [tokenId(n)]);
      tokens.push({ ...one, id: tokenId(n), n });
    }
    await sql.query("update sallyport.principals set state = $2 where name = $1", [owner, OWNERS[owner as "bot:on"]]);
    await sql.query("commit");
    made += mine.length + 2;
  }

  const { rows } = await sql.query<{ id: string; state: TokenState }>("select id, state from sallyport.token_view");
  const shown = new Map(rows.map(({ id, state }) => [id, state]));
  const now = { lower: Date.now(), upper: Date.now() };
  for (const token of tokens) {
    const { id, n, is } = token;
    const what = `${token.owner}, parent ${token.parent}, ${is.join("+") || "nothing"}`;
    const { snapshot } = await reader.read(digestOf(n), 5_000);
    const reason = refusal(snapshot!, now) ?? "live";
    expect([what, shown.get(id)]).toEqual([what, STATES[reason]]);
    const over = is.includes("expired") || shown.get(id) === "REVOKED";
    const told = await store.updateToken(id, { displayName: "y" }, "", { maxTtl: 1 }, { callerScopes: [] }, ADMIN).then(
      () => "changed",
      (error: AppError) => error.reason,
    );
    expect([what, told]).toEqual([what, over ? "TOKEN_REVOKED" : "changed"]);
  }
  expect(tokens).toHaveLength(3 * 3 * 16);
});

import { randomBytes, randomUUID } from "node:crypto";
import type pg from "pg";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import type { ChangeGuard, Idempotency, NewToken } from "../../src/revocation/authority-store.ts";
import { auditRow, byHand, migrated } from "./migrated.ts";

const ADMIN = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const CREATE = "sallyport.tokens.create";
const profile = BUILT_IN_PROFILES.find(({ name }) => name === "bot")!;

let url: string;
let sql: pg.Client;
let store: PostgresAuthorityStore;

beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  sql = await byHand(url);
  const db = new Postgres({ url, maxConnections: 4, applicationName: "rotation", onTrouble: () => {} });
  onTestFinished(() => db.close());
  store = new PostgresAuthorityStore(db);
});

const fresh = () => ({
  id: `tok_${randomBytes(11).toString("hex")}`,
  digest: randomBytes(32).toString("latin1"),
  kid: "1",
  hint: "sp_bot_1abcdefgh",
  createdBy: "user:admin",
});

async function created(principal: string, scopes: readonly string[] = []): Promise<NewToken> {
  const token = { ...NOTHING_GIVEN, ...fresh(), tenant: "default", profile: "bot", principal, scopes };
  await store.createToken(token, HOUR, { callerScopes: [], child: false, mustExist: false }, UNLIMITED, ADMIN);
  return token;
}

/** A token as caller, judged as the program judges one. */
function guardOf({ id, tenant, principal, scopes }: NewToken): ChangeGuard {
  const who = { provenance: "token:h", tenant, principal, scopes, tokenId: id, address: "", direct: true };
  const rights = { caller: { kind: "token" as const, ...who }, profile, rotationsPerDay: 0 };
  return { callerTokenId: id, callerScopes: scopes, rights };
}

const request = (caller: string): Idempotency => ({
  caller,
  requestId: randomUUID(),
  method: "RotateToken",
  body: new Uint8Array([1]),
  salt: randomBytes(16),
});

type Rotation = Awaited<ReturnType<PostgresAuthorityStore["rotateToken"]>>["value"];
function made(value: Rotation) {
  if (value instanceof AppError) throw value;
  return value;
}
const outcome = (work: Promise<{ value: unknown }>) =>
  work.then(
    ({ value }) => (value instanceof AppError ? value.reason : "ok"),
    ({ reason }: AppError) => reason as string,
  );
const requestsOf = async (caller: string) =>
  (await sql.query("select from sallyport.requests where caller = $1", [caller])).rowCount;
const blocked = () =>
  expect
    .poll(
      async () =>
        (
          await sql.query(
            `select from pg_stat_activity where datname = current_database() and application_name = 'rotation'
               and wait_event_type = 'Lock'`,
          )
        ).rowCount,
      { interval: 5 },
    )
    .toBe(1);

describe("a rotation that runs again, because its commit came through a failover", () => {
  test.each([
    ["by itself, without an overlap", 0, "itself"],
    ["by itself, with an overlap", 60_000, "itself"],
    ["by an administrator", 0, "admin"],
  ] as const)("is answered with the token that it made: %s", async (_, overlap, who) => {
    const old = await created("bot:ci");
    const guard = who === "itself" ? guardOf(old) : { callerScopes: [] };
    const next = fresh();
    const run = () => store.rotateToken(old.id, next, undefined, overlap, guard, ADMIN);
    const first = made((await run()).value);
    const again = made((await run()).value);
    expect(again).toEqual(first);
    expect(again).toMatchObject({ kind: "created", token: { id: next.id }, previous: { id: old.id } });
    const { rows } = await sql.query("select id from sallyport.tokens where family = $1 and id <> $1", [old.id]);
    expect(rows).toEqual([{ id: next.id }]);
    // It commits a row of its own, so that it waits for what confirms the first.
    const audited = await sql.query("select metadata from sallyport.audit where action = 'token.rotate' order by seq");
    expect(audited.rows).toMatchObject([{ metadata: { new_token: next.id } }, { metadata: { repeat: "true" } }]);
    // Another call is told by which it was replaced, or that its credential is over.
    const other = outcome(store.rotateToken(old.id, fresh(), undefined, overlap, guard, ADMIN));
    expect(await other).toBe(who === "itself" && overlap === 0 ? "CALLER_UNAUTHENTICATED" : "TOKEN_ROTATED");
  });

  test("cannot be repeated if its token was revoked in between", async () => {
    const old = await created("bot:ci");
    const same = request(old.id);
    const next = fresh();
    const run = () => store.rotateToken(old.id, next, undefined, 0, guardOf(old), ADMIN, same);
    made((await run()).value);
    await store.revokeToken(old.id, false, "stolen", ADMIN);
    expect(made((await run()).value).token.id).toBe(next.id);
    expect(await requestsOf(old.id)).toBe(0);
    const repeat = store.rotateToken(old.id, fresh(), undefined, 0, { ...guardOf(old), ended: true }, ADMIN, same);
    expect(await outcome(repeat)).toBe("CALLER_UNAUTHENTICATED");
  });
});

describe("a string that its rotation ended can repeat that request", () => {
  const REVOKED: Record<string, (id: string) => Promise<unknown>> = {
    "by itself": (id) => store.revokeToken(id, false, "", ADMIN),
    "with its family": (id) => store.revokeToken(id, true, "", ADMIN),
    "by row, with others": (id) => store.revokeChunk("default", [id], "", ADMIN),
  };

  test.each(Object.entries(REVOKED))("until it is revoked: %s", async (_, revoke) => {
    const old = await created("bot:ci");
    const same = request(old.id);
    const run = (guard: ChangeGuard) => store.rotateToken(old.id, fresh(), undefined, 0, guard, ADMIN, same);
    const { token } = made((await run(guardOf(old))).value);
    const ended = { ...guardOf(old), callerScopes: [], ended: true as const };
    expect(made((await run(ended)).value)).toMatchObject({ kind: "repeated", token: { id: token.id } });
    expect(await requestsOf(old.id)).toBe(1);
    await revoke(old.id);
    expect(await requestsOf(old.id)).toBe(0);
    expect(await outcome(run(ended))).toBe("CALLER_UNAUTHENTICATED");
    // The refusal takes back what it had noted.
    expect(await requestsOf(old.id)).toBe(0);
    const { rows } = await sql.query("select count(*) as n from sallyport.tokens where family = $1", [old.id]);
    expect(rows).toEqual([{ n: 2 }]);
  });

  test("a revocation that may not end it takes no request from it", async () => {
    const strong = await created("bot:strong", ["sallyport.operator"]);
    await store.createToken(
      { ...(await created("bot:made")), ...fresh() },
      HOUR,
      { callerScopes: [], child: false, mustExist: false },
      UNLIMITED,
      ADMIN,
      { ...request(strong.id), method: "CreateToken" },
    );
    const weak = { ...ADMIN, rank: "other" as const };
    expect(await outcome(store.revokeToken(strong.id, false, "", weak))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(store.revokeToken(strong.id, true, "", weak))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(store.revokeChunk("default", [strong.id], "", weak))).toBe("RIGHTS_EXCEEDED");
    expect(await requestsOf(strong.id)).toBe(1);
  });
});

describe("a caller that rotates another's token is judged by the locked rows:", () => {
  test.each([
    ["the caller's networks", "RIGHTS_EXCEEDED", "maker", "allowed_cidrs = '{127.0.0.0/8}'"],
    ["networks without the caller", "CALLER_UNAUTHENTICATED", "maker", "allowed_cidrs = '{10.0.0.0/8}'"],
    ["the caller's audiences", "CALLER_UNAUTHENTICATED", "maker", "audiences = '{https://a.example}'"],
    ["what it would be told the string of", "RIGHTS_EXCEEDED", "target", `scopes = '{${CREATE},repo:write}'`],
  ] as const)("%s", async (_, refusal, which, set) => {
    const rows = { maker: await created("bot:maker", [CREATE]), target: await created("bot:target") };
    const rotate = () => store.rotateToken(rows.target.id, fresh(), undefined, 60_000, guardOf(rows.maker), ADMIN);
    const holder = await byHand(url);
    await holder.query("begin");
    await auditRow(holder);
    await holder.query(`update sallyport.tokens set ${set} where id = $1`, [rows[which].id]);
    const waiting = outcome(rotate());
    await blocked();
    await holder.query("commit");
    expect(await waiting).toBe(refusal);
    const { rows: left } = await sql.query("select rotated_to from sallyport.tokens where id = $1", [rows.target.id]);
    expect(left).toEqual([{ rotated_to: "" }]);
  });
});

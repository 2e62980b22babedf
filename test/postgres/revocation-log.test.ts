import { randomUUID } from "node:crypto";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { migrate } from "../../src/postgres/migrate.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { type Database, startServer, type ThrowawayServer } from "../support/postgres.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";
import { auditRow, byHand, digestOf, LOCK_WAITS, makeTokens, migrated, tokenId } from "./migrated.ts";

let database: Database;
let sql: pg.Client;
/** Makes the present epoch a proven one. */
const PROVEN = "update sallyport.rev_state set proven = sallyport.rev_epoch()";
const NO_ANSWER = { reason: "STORE_UNAVAILABLE" };

async function fresh(): Promise<void> {
  database = await migrated();
  onTestFinished(() => database.drop());
  sql = await byHand(database.url);
}

function open(url = database.url, connections: 1 | 2 = 2) {
  const troubles: string[] = [];
  const log = new PostgresRevocationLog({
    url,
    connections,
    onTrouble: (what, error) => troubles.push(`${what}: ${error}`),
  });
  onTestFinished(() => log.close());
  return Object.assign(log, { troubles });
}

function entry(epoch: string, over: Partial<Parameters<PostgresRevocationLog["register"]>[0]> = {}) {
  return { old: undefined, me: randomUUID() as string, epoch, boundMs: 1500, readerVersion: 1, kids: ["1"], ...over };
}

/** What happens to a row that has been reaped for longer than its lease, without the wait. */
const reapedLongAgo = () =>
  sql.query("update sallyport.validators set reaped_at = reaped_at - interval '1 min' where reaped_at is not null");

/** A registered validator. */
async function joined(log: PostgresRevocationLog) {
  const { epoch } = await log.readEpoch();
  const own = entry(epoch);
  expect(await log.register(own)).toBe(true);
  return { me: own.me, epoch };
}

const namesOf = async (log: PostgresRevocationLog) => (await log.readEpoch()).names;
const revoke = (client: pg.Client, n: number) => client.query("select sallyport.revoke($1, 'test')", [tokenId(n)]);
const tokenKey = (n: number) => `t${digestOf(n)}`;
const row = async (id: string) => (await sql.query("select * from sallyport.validators where id = $1", [id])).rows[0];

/** A login that is a member of the role, on the same database. */
async function loginOf(role: string): Promise<string> {
  const name = `login_${randomUUID().replaceAll("-", "")}`;
  await sql.query(`create role ${name} login in role ${role}`);
  onTestFinished(async () => void (await sql.query(`drop role ${name}`)));
  const url = new URL(database.url);
  url.username = name;
  return url.href;
}

describe("the answer of a poll", () => {
  test("has no rows at first, then each change once, with growing positions", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    await makeTokens(sql, 3);
    const first = await log.poll(me, epoch, -1);
    expect(first).toMatchObject({
      inRecovery: false,
      epoch,
      ownRowLive: true,
      floorN: 0,
      full: false,
      maxBoundMs: 1500,
    });
    await revoke(sql, 1);
    await revoke(sql, 2);
    const second = await log.poll(me, epoch, first.position);
    expect(second.position).toBe(first.position + 2);
    expect(second.rows.toSorted((a, b) => a.position - b.position)).toMatchObject([
      { position: first.position + 1, key: tokenKey(1), kind: "revoked" },
      { position: first.position + 2, key: tokenKey(2), kind: "revoked" },
    ]);
    expect((await log.poll(me, epoch, second.position)).rows).toEqual([]);
    expect(Math.abs(second.dbTime - Date.now())).toBeLessThan(5000);
  });

  test("has at most the newest 5,000 rows, and says that older ones may be missing", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    await makeTokens(sql, 5200);
    const { position: n } = await log.readEpoch();
    await sql.query("insert into sallyport.rev_log (n, key) select $1::int + i, 'x' from generate_series(1, 5001) i", [
      n,
    ]);
    const page = await log.poll(me, epoch, n);
    expect(page.full).toBe(true);
    expect(page.rows).toHaveLength(5000);
    expect(Math.min(...page.rows.map((one) => one.position))).toBe(n + 2);
  });

  test("says that the process's row is of another epoch, reaped or gone", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    expect((await log.poll(me, "1/other/1", 0)).ownRowLive).toBe(false);
    expect((await log.poll(randomUUID(), epoch, 0)).ownRowLive).toBe(false);
    await log.reap([me]);
    expect((await log.poll(me, epoch, 0)).ownRowLive).toBe(false);
  });

  test("has keys byte for byte, with any bytes in a digest", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    const digest = Buffer.from([...Array(32).keys()].map((i) => (i * 37 + 128) % 256));
    await makeTokens(sql, 1);
    await sql.query("begin");
    await sql.query(
      `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
       values ($1, $2, '1', 'h', 'default', 'bot', 'bot:ci', 'user:a', $1)`,
      [tokenId(9), digest],
    );
    await sql.query("select sallyport.revoke($1)", [tokenId(9)]);
    await sql.query("commit");
    const { rows } = await log.poll(me, epoch, 0);
    expect(rows.map(({ key }) => key)).toContain(`t${digest.toString("latin1")}`);
  });

  test("is in commit order: a snapshot that shows a position shows every change up to it, with 16 concurrent writers", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    const writers = 16;
    const each = 15;
    await makeTokens(sql, writers * each);
    const clients = await Promise.all(Array.from({ length: writers }, () => byHand(database.url)));
    let running = true;
    const seen = new Map<string, number>();
    let applied = (await log.readEpoch()).position;
    const start = applied;
    const watching = (async () => {
      for (let last = false; ; last = !running) {
        const page = await log.poll(me, epoch, applied);
        // Were a position visible before an earlier one, its rows would come late: below `applied`, so never.
        for (const { position: n, key } of page.rows) if (key.startsWith("t")) seen.set(key, n);
        applied = page.position;
        if (last) return;
      }
    })();
    await Promise.all(
      clients.map(async (client, w) => {
        for (let i = 0; i < each; i++) await revoke(client, w * each + i + 1);
      }),
    );
    running = false;
    await watching;
    expect(seen.size).toBe(writers * each);
    expect(new Set(seen.values()).size).toBe(writers * each);
    expect(applied).toBe(start + writers * each);
  });

  test("NOTIFY wakes the process at the commit of a change, and a mint sends none", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    let woken = 0;
    const wake = Promise.withResolvers<void>();
    log.onWakeUp(() => {
      woken++;
      wake.resolve();
    });
    await makeTokens(sql, 1);
    // A notification comes before the answer to what its connection asks next.
    await log.poll(me, epoch, -1);
    expect(woken).toBe(0);
    await revoke(sql, 1);
    await wake.promise;
    expect(woken).toBe(1);
  });
});

describe("the registry", () => {
  test("a registration replaces the old row, and is refused if its bound is too long or its program too old", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    const next = entry(epoch, { old: me, kids: ["1", "2"] });
    expect(await log.register(next)).toBe(true);
    expect(await row(me)).toBeUndefined();
    expect(await row(next.me)).toMatchObject({
      epoch,
      applied_n: -1,
      bound_ms: 1500,
      reaped_at: null,
      kids: ["1", "2"],
    });
    expect(await log.register(entry(epoch, { boundMs: 1501 }))).toBe(false);
    await sql.query("update sallyport.rev_state set min_reader = 2");
    expect(await log.register(entry(epoch))).toBe(false);
    expect(await log.register(entry(epoch, { readerVersion: 2 }))).toBe(true);
  });

  test("a registration is flushed to disk although the server's default is off, and an acknowledgement is not", async () => {
    await fresh();
    await sql.query(`alter database ${new URL(database.url).pathname.slice(1)} set synchronous_commit = off`);
    await sql.query(
      `create table public.seen (what text, setting text);
       create function note() returns trigger language plpgsql security definer as $$
       begin insert into public.seen values (tg_op, current_setting('synchronous_commit')); return null; end $$;
       create constraint trigger seen after insert or update on sallyport.validators deferrable initially deferred
         for each row execute function note()`,
    );
    const log = open();
    const { me, epoch } = await joined(log);
    await log.ack(me, epoch, 0);
    await log.reap([me]);
    const { rows } = await sql.query({ text: "select what, setting from public.seen", rowMode: "array" });
    expect(rows).toEqual([
      ["INSERT", "local"],
      ["UPDATE", "local"],
      ["UPDATE", "off"],
      ["UPDATE", "local"],
    ]);
  });

  test("missing are rows behind the position or of another epoch, reaped or not; without a position, rows behind the head", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    const other = await joined(log);
    const stranger = entry("1/other/1", { boundMs: 900 });
    await log.register(stranger);
    await makeTokens(sql, 1);
    await revoke(sql, 1);
    const { position: n } = await log.readEpoch();
    await log.ack(me, epoch, n);
    await log.ack(other.me, epoch, n - 1);
    await log.reap([other.me]);
    const before = { id: other.me, boundMs: 1500, reaped: true, appliedN: n - 1, held: false };
    const foreign = { id: stranger.me, boundMs: 900, reaped: false, appliedN: -1, held: false };
    const told = await log.unacknowledged(epoch, undefined);
    expect(told).toMatchObject({ position: n, epoch, inRecovery: false, settled: undefined, maxBoundMs: 1500 });
    expect(new Set(told.missing)).toEqual(new Set([before, foreign]));
    expect((await log.unacknowledged(epoch, n - 1)).missing).toEqual([foreign]);
    expect((await log.unacknowledged(epoch, n + 1)).missing).toHaveLength(3);
  });

  test("an acknowledgement never decreases, and is refused for a reaped row or another epoch", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    await sql.query("update sallyport.rev_head set n = 9");
    await log.ack(me, epoch, 7);
    await log.ack(me, epoch, 5);
    expect(await row(me)).toMatchObject({ applied_n: 7 });
    await expect(log.ack(me, "1/other/1", 9)).rejects.toMatchObject(NO_ANSWER);
    await log.reap([me]);
    await log.ack(me, epoch, 9);
    expect(await row(me)).toMatchObject({ applied_n: 7 });
  });

  test("an acknowledgement is a sign of life; a reaped row stays reaped; only reaped rows of this epoch are deleted; deregistration deletes a row", async () => {
    await fresh();
    const log = open();
    const { me, epoch } = await joined(log);
    const other = await joined(log);
    await sql.query("update sallyport.validators set seen = seen - interval '1 min'");
    await log.ack(me, epoch, 0);
    const told = await log.validators();
    expect(told).toMatchObject({ epoch, inRecovery: false, settled: undefined });
    const silent = new Map(told.rows.map((one) => [one.id, one.silentMs]));
    expect(silent.get(me)).toBeLessThan(30_000);
    expect(silent.get(other.me)).toBeGreaterThan(59_000);
    await log.reap([other.me]);
    const { reaped_at } = await row(other.me);
    await log.reap([other.me]);
    await log.ack(other.me, epoch, 0);
    expect(await row(other.me)).toMatchObject({ reaped_at });
    await log.deleteReaped([me], epoch);
    await expect(log.deleteReaped([other.me], "1/other/1")).rejects.toMatchObject(NO_ANSWER);
    expect((await log.validators()).rows).toHaveLength(2);
    await log.deleteReaped([me, other.me], epoch);
    // A lease that it may still hold is not over by the database's clock.
    expect((await log.validators()).rows).toHaveLength(2);
    await reapedLongAgo();
    await log.deleteReaped([me, other.me], epoch);
    expect((await log.validators()).rows.map(({ id }) => id)).toEqual([me]);
    await log.deregister(me);
    expect((await log.validators()).rows).toEqual([]);
  });

  test("an epoch is settled for itself only", async () => {
    await fresh();
    const log = open();
    const { epoch } = await log.readEpoch();
    await expect(log.markSettled("1/other/1", await namesOf(log))).rejects.toMatchObject(NO_ANSWER);
    expect((await log.validators()).settled).toBeUndefined();
    await log.markSettled(epoch, await namesOf(log));
    expect((await log.unacknowledged(epoch, 0)).settled).toBe(epoch);
  });

  test("a process that joins while a change waits is missing until it has acknowledged the change or polled it first", async () => {
    await fresh();
    const [writer, late] = [open(), open()];
    const { me, epoch } = await joined(writer);
    await makeTokens(sql, 1);
    await revoke(sql, 1);
    const { position: n } = await writer.unacknowledged(epoch, undefined);
    await writer.ack(me, epoch, n);
    const joiner = await joined(late);
    expect((await writer.unacknowledged(epoch, n)).missing.map(({ id }) => id)).toEqual([joiner.me]);
    const page = await late.poll(joiner.me, epoch, -1);
    expect(page.position).toBe(n);
    expect(page.rows).toContainEqual(expect.objectContaining({ position: n, key: tokenKey(1) }));
    await late.ack(joiner.me, epoch, page.position);
    expect((await writer.unacknowledged(epoch, n)).missing).toEqual([]);
  });

  test("processes can reap the same rows at once", async () => {
    await fresh();
    const logs = Array.from({ length: 4 }, () => open());
    const { epoch } = await logs[0]!.readEpoch();
    const ids: string[] = [];
    for (let i = 0; i < 30; i++) {
      const own = entry(epoch);
      await logs[0]!.register(own);
      ids.push(own.me);
    }
    await Promise.all(logs.map((log, i) => log.reap(i % 2 ? ids : ids.toReversed())));
    expect((await logs[0]!.validators()).rows.every(({ reaped }) => reaped)).toBe(true);
  });
});

describe("with no more than its role's rights", () => {
  test("a reader follows the log and keeps its own row, on one connection", async () => {
    await fresh();
    const log = open(await loginOf("sallyport_reader"), 1);
    const { me, epoch } = await joined(log);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ ownRowLive: true });
    await log.ack(me, epoch, 0);
    expect((await log.unacknowledged(epoch, 0)).missing).toEqual([]);
    const { rows } = await sql.query("select from pg_stat_activity where usename like 'login_%'");
    expect(rows).toHaveLength(1);
    await log.deregister(me);
    await expect(log.markSettled(epoch, await namesOf(log))).rejects.toMatchObject(NO_ANSWER);
    expect(log.troubles).toEqual([]);
  });

  test("a stolen reader login cannot acknowledge, replace, keep or delete a row of another process", async () => {
    await fresh();
    const victim = open();
    const { me, epoch } = await joined(victim);
    await sql.query("update sallyport.rev_head set n = 9");
    await victim.ack(me, epoch, 3);
    await sql.query("update sallyport.validators set seen = seen - interval '1 min'");
    const before = await row(me);
    const url = await loginOf("sallyport_reader");
    const thief = open(url, 1);
    await thief.ack(me, epoch, 9);
    await thief.deregister(me);
    const own = entry(epoch, { old: me });
    expect(await thief.register(own)).toBe(true);
    expect(await row(me)).toEqual(before);
    const hand = await byHand(url);
    const hash = before.secret_hash;
    const tries = [
      "update sallyport.validators set applied_n = 9",
      "update sallyport.validators set reaped_at = now()",
      "delete from sallyport.validators",
      "insert into sallyport.validators select * from sallyport.validators",
      "select secret_hash from sallyport.validators",
      "select v from sallyport.validators v",
      "table sallyport.validators",
      `select sallyport.validators_reap('{${me}}')`,
      `select sallyport.validators_bury('{${me}}')`,
      "select sallyport.rev_settle('x')",
      "select sallyport.rev_raise_floor()",
      "select sallyport.rev_prune(1)",
      "select sallyport.canary_prune(1)",
      "select sallyport.audit_months()",
      "select sallyport.audit_keep('1 year')",
    ];
    for (const text of tries) await expect(hand.query(text), text).rejects.toMatchObject({ code: "42501" });
    // The hash is not the secret, and no secret is not one either.
    for (const secret of [hash, null, Buffer.alloc(0)]) {
      await hand.query("select sallyport.validator_ack($1, $2, $3, 9)", [me, secret, epoch]);
      await hand.query("select sallyport.validator_leave($1, $2)", [me, secret]);
    }
    // Functions of the attacker's own do not get into those of the schema.
    await hand.query("create function pg_temp.sha256(bytea) returns bytea language sql as $$ select $1 $$");
    await hand.query("set search_path = pg_temp, pg_catalog");
    await hand.query("select sallyport.validator_ack($1, $2, $3, 9)", [me, hash, epoch]);
    expect(await row(me)).toEqual(before);
    expect(await victim.poll(me, epoch, 3)).toMatchObject({ ownRowLive: true });
    expect((await victim.unacknowledged(epoch, 9)).missing.map(({ id }) => id)).toContain(me);
  });

  test("no acknowledgement is ahead of the log, and a registration adds one row only", async () => {
    await fresh();
    const log = open(await loginOf("sallyport_reader"), 1);
    const { me, epoch } = await joined(log);
    const { position: n } = await log.readEpoch();
    await expect(log.ack(me, epoch, n + 1)).rejects.toMatchObject(NO_ANSWER);
    expect(await row(me)).toMatchObject({ applied_n: -1 });
    await log.ack(me, epoch, n);
    expect(await row(me)).toMatchObject({ applied_n: n });
    await expect(log.register(entry("e".repeat(600)))).rejects.toMatchObject(NO_ANSWER);
    await expect(log.register(entry(epoch, { boundMs: 0 }))).rejects.toMatchObject(NO_ANSWER);
    await expect(log.register(entry(epoch, { kids: Array(2000).fill("kid") }))).rejects.toMatchObject(NO_ANSWER);
    await sql.query(
      `insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids, secret_hash)
       select gen_random_uuid(), 'x', 1, 1, '{}', '' from generate_series(1, 9999)`,
    );
    await expect(log.register(entry(epoch))).rejects.toMatchObject(NO_ANSWER);
    expect(await log.register(entry(epoch, { old: me }))).toBe(true);
  });

  test("a writer keeps the registry, prunes, and makes the audit's months", async () => {
    await fresh();
    const last = (await sql.query("select name from sallyport.audit_parts() order by until desc limit 1")).rows[0].name;
    await sql.query(`drop table sallyport.${last}`);
    const log = open(await loginOf("sallyport_writer"));
    const { me, epoch } = await joined(log);
    await sql.query("insert into sallyport.rev_log (n, key, at) values (0, 'x', now() - interval '11 min')");
    await sql.query("update sallyport.rev_head set n = 1000");
    await sql.query(PROVEN);
    await log.validators();
    await log.reap([me]);
    await reapedLongAgo();
    await log.deleteReaped([me], epoch);
    await log.markSettled(epoch, await namesOf(log));
    expect(await log.prune()).toEqual({ auditMonths: 12 });
    expect((await sql.query("select to_regclass($1) as made", [`sallyport.${last}`])).rows[0].made).not.toBeNull();
    expect((await sql.query("select from sallyport.rev_log")).rowCount).toBe(0);
    expect((await log.validators()).rows).toEqual([]);
  });
});

describe("pruning", () => {
  async function aged(count: number) {
    await fresh();
    await sql.query(
      "insert into sallyport.rev_log (n, key, at) select i, 'x', now() - interval '11 min' from generate_series(1, $1::int) i",
      [count],
    );
    await sql.query("update sallyport.rev_head set n = $1", [count + 1001]);
    await sql.query("insert into sallyport.rev_log (n, key) values ($1, 'y')", [count + 1]);
    await sql.query(PROVEN);
  }
  const left = async () => (await sql.query("select n from sallyport.rev_log order by n")).rows.map(({ n }) => n);
  const floor = async () => (await sql.query("select floor_n from sallyport.rev_state")).rows[0].floor_n;

  test("rows older than ten minutes are deleted and the floor rises; younger rows stay", async () => {
    await aged(12_000);
    const log = open();
    await log.prune();
    expect(await left()).toEqual([12_001]);
    const { me, epoch } = await joined(log);
    expect(await log.poll(me, epoch, 5)).toMatchObject({ floorN: 12_000, rows: [{ position: 12_001, key: "y" }] });
  });

  test("the floor is committed before the first row is deleted, and never decreases", async () => {
    await aged(3);
    // Deleting fails: what was committed before it stays.
    await sql.query(
      `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
       create trigger refuse before delete on sallyport.rev_log for each statement execute function refuse()`,
    );
    const log = open();
    await expect(log.prune()).rejects.toMatchObject(NO_ANSWER);
    expect(await floor()).toBe(3);
    expect(await left()).toEqual([1, 2, 3, 4]);
    await sql.query("drop trigger refuse on sallyport.rev_log");
    await sql.query("update sallyport.rev_state set floor_n = 9");
    await log.prune();
    expect(await floor()).toBe(9);
  });

  test("with 200,000 rows of the last ten minutes, pruning stays within the statement timeout", async () => {
    await aged(3);
    await sql.query("insert into sallyport.rev_log (n, key) select i, 'x' from generate_series(10, 200000) i");
    await sql.query("analyze sallyport.rev_log");
    await open().prune();
    expect(await floor()).toBe(3);
  });

  test("pruning deletes requests with their salts after ten minutes, and old counts of mints", async () => {
    await aged(0);
    const request = (id: string, age: string) =>
      sql.query(
        `insert into sallyport.requests (caller, request_id, method, body, salt, token_id, at)
         values ('c', $1, 'm', 'b', 's', 't', now() - $2::interval)`,
        [id, age],
      );
    const [old, young] = [randomUUID(), randomUUID()];
    await request(old, "11 min");
    await request(young, "9 min");
    await sql.query(
      "insert into sallyport.mint_counts values ('old', now() - interval '3 days', 1), ('young', now() - interval '1 day', 1)",
    );
    await open().prune();
    expect((await sql.query("select request_id from sallyport.requests")).rows).toEqual([{ request_id: young }]);
    expect((await sql.query("select key from sallyport.mint_counts")).rows).toEqual([{ key: "young" }]);
  });

  describe("the rows of the canary", () => {
    const CANARY = "user:sallyport-canary";
    /** Tokens as the canary leaves them, with the audit rows of their lives; of another maker, too. */
    async function flown(
      count: number,
      age: string,
      of: { principal?: string; maker?: string; revoked?: boolean } = {},
    ) {
      const { principal = CANARY, maker = "canary", revoked = true } = of;
      await sql.query("begin");
      await sql.query(
        `insert into sallyport.principals (tenant, name, create_time) values ('default', $1, now() - $2::interval)
         on conflict do nothing`,
        [principal, age],
      );
      const { rows } = await sql.query<{ id: string }>(
        `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time,
           revoke_time)
         select 'tok_' || left(md5(u), 22), sha256(convert_to(u, 'UTF8')), '1', 'h', 'default', 'pat', $3, $4, 'f',
           now() - $2::interval, case when $5 then now() - $2::interval end
         from (select gen_random_uuid()::text as u from generate_series(1, $1::int)) us returning id`,
        [count, age, principal, maker, revoked],
      );
      const ids = rows.map(({ id }) => id);
      await sql.query(
        `insert into sallyport.audit (at, tenant, actor, action, target, owner, request_id)
         select now() - $2::interval, 'default', $4, a, 'token:' || id, $3, $5
         from unnest($1::text[]) id, unnest('{token.create,token.revoke}'::text[]) a`,
        [ids, age, principal, maker === "canary" ? "sallyport" : maker, maker === "canary" ? "canary" : "r"],
      );
      await sql.query("insert into sallyport.token_usage select id, now() from unnest($1::text[]) id", [ids]);
      await auditRow(sql);
      await sql.query("commit");
      return ids;
    }
    const count = async (table: string, where = "true") =>
      (await sql.query(`select count(*) from sallyport.${table} where ${where}`)).rows[0].count as number;
    const tokensOf = async (principal: string) => count("tokens", `principal = '${principal}'`);

    test("are deleted one day after their token ended, by the writer's login, and no other row is", async () => {
      await fresh();
      await flown(450, "25 hours");
      await flown(3, "23 hours");
      const others = [
        ...(await flown(2, "25 hours", { maker: "token:h" })),
        ...(await flown(2, "25 hours", { principal: "user:eve" })),
        ...(await flown(2, "25 hours", { revoked: false })),
      ];
      const [head] = (await sql.query("select n from sallyport.rev_head")).rows;
      const log = open(await loginOf("sallyport_writer"));
      // Each time goes on from the one before: a slow machine may need several.
      await expect
        .poll(async () => {
          await log.prune();
          return tokensOf(CANARY);
        })
        .toBe(3 + 2 + 2);
      expect(await count("tokens", `id = any('{${others}}')`)).toBe(others.length);
      expect(await count("token_usage")).toBe(3 + others.length);
      await expect
        .poll(async () => {
          await log.prune();
          return count("audit", `owner = '${CANARY}' and at < now() - interval '1 day' and request_id = 'canary'`);
        })
        .toBe(0);
      expect(await count("audit", "request_id = 'r'")).toBe(4);
      expect(await count("audit", `owner = 'user:eve'`)).toBe(4);
      expect(await count("principals", `name = '${CANARY}'`)).toBe(1);
      // Each of them is noted: caches drop it.
      expect(await count("rev_log", `n > ${head.n} and key >= 't' and key < 'u'`)).toBe(450);
    });

    test("are deleted with their principal, unless somebody changed or cut the principal", async () => {
      await fresh();
      await flown(1, "25 hours");
      await open().prune();
      expect(await count("principals", `name = '${CANARY}'`)).toBe(0);
      await flown(1, "25 hours");
      await sql.query("begin");
      await auditRow(sql);
      await sql.query("update sallyport.principals set cut_time = now() where name = $1", [CANARY]);
      await sql.query("commit");
      await open().prune();
      expect(await tokensOf(CANARY)).toBe(0);
      expect(await count("principals", `name = '${CANARY}'`)).toBe(1);
    });

    test.each(["state = 'DISABLED'", "display_name = 'held'", "owner = 'user:eve'"])(
      "leaves a principal of its name that an administrator made: %s",
      async (made) => {
        await fresh();
        await sql.query("begin");
        const [column, value] = made.split(" = ");
        await sql.query(
          `insert into sallyport.principals (tenant, name, ${column}, create_time)
           values ('default', $1, ${value}, now() - interval '25 hours')`,
          [CANARY],
        );
        await auditRow(sql);
        await sql.query("commit");
        await open().prune();
        expect(await count("principals", `name = '${CANARY}'`)).toBe(1);
      },
    );

    test("stay while a mint for the principal is under way", async () => {
      await fresh();
      await flown(1, "25 hours");
      const minter = await byHand(database.url);
      const key = "sallyport.principal_key('default', 'user:sallyport-canary')";
      await minter.query(`begin; select sallyport.lock_shared(array[${key}])`);
      const waiting = await byHand(database.url);
      const pruned = waiting.query("select sallyport.canary_prune(10)");
      await expect.poll(async () => (await sql.query(LOCK_WAITS)).rowCount, { timeout: 10_000 }).toBe(1);
      await minter.query(
        `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
         values ($1, sha256('x'), '1', 'h', 'default', 'pat', $2, 'canary', 'f')`,
        [tokenId(77), CANARY],
      );
      await auditRow(minter);
      await minter.query("commit");
      await pruned;
      expect(await tokensOf(CANARY)).toBe(1);
      expect(await count("principals", `name = '${CANARY}'`)).toBe(1);
    });

    test("younger audit rows, and those of others, cannot be deleted by hand", async () => {
      await fresh();
      await flown(1, "23 hours");
      await flown(1, "25 hours", { maker: "token:h" });
      for (const { seq } of (await sql.query("select seq from sallyport.audit")).rows) {
        await expect(sql.query("delete from sallyport.audit where seq = $1", [seq])).rejects.toMatchObject({
          message: "audit rows are kept as they are",
        });
      }
    });
  });

  test("one process prunes at a time; the others do nothing", async () => {
    await aged(3);
    const log = open();
    await sql.query("select pg_advisory_lock(7400740175)");
    await log.prune();
    expect(await floor()).toBe(0);
    await sql.query("select pg_advisory_unlock(7400740175)");
    await log.prune();
    await log.prune();
    expect(await left()).toEqual([4]);
    await expect
      .poll(async () => (await sql.query("select from pg_locks where locktype = 'advisory'")).rowCount)
      .toBe(0);
  });
});

describe("a server that fails", () => {
  let server: ThrowawayServer;
  beforeAll(async () => {
    server = await startServer();
    await migrate(server.url);
  });
  afterAll(() => server?.remove());

  const pidOf = async (name: string) => {
    const { rows } = await sql.query("select pid from pg_stat_activity where application_name = $1", [name]);
    return rows.map(({ pid }) => pid as number);
  };
  const thaw = (pid: number) => {
    try {
      process.kill(pid, "SIGCONT");
    } catch {
      // It has ended meanwhile.
    }
  };
  const took = async (work: Promise<unknown>) => {
    const before = performance.now();
    await expect(work).rejects.toMatchObject(NO_ANSWER);
    return performance.now() - before;
  };

  test("a frozen backend costs 500 ms once; its late reply is ignored; the other connection is not affected", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { me, epoch } = await joined(log);
    await log.unacknowledged(epoch, 0);
    const [frozen] = await pidOf("sallyport-poll");
    process.kill(frozen!, "SIGSTOP");
    onTestFinished(() => thaw(frozen!));
    const failing = took(log.poll(me, epoch, 0));
    expect((await log.unacknowledged(epoch, 0)).epoch).toBe(epoch);
    const ms = await failing;
    expect(ms).toBeGreaterThan(450);
    expect(ms).toBeLessThan(700);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ ownRowLive: true });
    thaw(frozen!);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ ownRowLive: true });
    await expect.poll(() => pidOf("sallyport-poll")).not.toContain(frozen);
  });

  test("statements behind a frozen one fail in time, too, and the next statement gets a new connection", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { me, epoch } = await joined(log);
    const [frozen] = await pidOf("sallyport-poll");
    process.kill(frozen!, "SIGSTOP");
    onTestFinished(() => thaw(frozen!));
    const waits = await Promise.all([
      took(log.poll(me, epoch, 0)),
      took(log.ack(me, epoch, 0)),
      took(log.deregister(me)),
    ]);
    expect(Math.max(...waits)).toBeLessThan(700);
    await log.ack(me, epoch, 0);
  });

  test("a server that accepts and never answers costs 500 ms, and its connection is closed", async () => {
    const proxy = await startTcpProxy({ port: server.port });
    onTestFinished(() => proxy.stop());
    await proxy.set({ kind: "blackhole" });
    const url = new URL(server.url);
    url.port = String(proxy.port);
    const log = open(url.href);
    for (let i = 0; i < 2; i++) expect(await took(log.readEpoch())).toBeLessThan(700);
    await proxy.set({ kind: "pass" });
    await expect
      .poll(
        () =>
          log.readEpoch().then(
            () => true,
            () => false,
          ),
        { timeout: 3000 },
      )
      .toBe(true);
  });

  test("an ended backend costs at most one statement, wakes the poll, and never ends the process", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { me, epoch } = await joined(log);
    const woken = new Promise<void>((resolve) => log.onWakeUp(resolve));
    await sql.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sallyport-poll'");
    await woken;
    expect(log.troubles.join()).toMatch(/database_connection_lost/);
    expect(await log.poll(me, epoch, -1)).toMatchObject({ ownRowLive: true });
  });

  test("errors name class and state, never a value or a password", async () => {
    const url = new URL(server.url);
    url.username = "nobody";
    url.password = "very-secret";
    const log = open(url.href);
    const error = await log.readEpoch().catch((caught: unknown) => caught as Error);
    const lock = await open(server.url)
      .ack("not-a-uuid very-secret", "e", 0)
      .catch((caught: unknown) => caught as Error);
    for (const one of [error, lock]) {
      const text = `${one} ${one instanceof Error ? `${one.cause} ${JSON.stringify(one)} ${JSON.stringify(one.cause)}` : ""}`;
      expect(text).not.toContain("very-secret");
      expect(text).toMatch(/[0-9A-Z]{5}/);
    }
  });

  test("a restart is another epoch, in every statement", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { me, epoch } = await joined(log);
    await server.restart();
    const again = async () => {
      const page = await log.poll(me, epoch, -1).catch(() => undefined);
      return page?.epoch;
    };
    await expect.poll(again, { timeout: 5000 }).toBeDefined();
    const page = await log.poll(me, epoch, -1);
    expect(page.epoch).not.toBe(epoch);
    expect(page.epoch.split("/").slice(0, 2)).toEqual(epoch.split("/").slice(0, 2));
    expect(page.ownRowLive).toBe(true);
    let wakes = 0;
    log.onWakeUp(() => wakes++);
    expect((await log.unacknowledged(epoch, 0)).epoch).toBe(page.epoch);
    await expect(log.ack(me, epoch, 0)).rejects.toMatchObject(NO_ANSWER);
    await expect(log.markSettled(epoch, await namesOf(log))).rejects.toMatchObject(NO_ANSWER);
    await expect(log.deleteReaped([me], epoch)).rejects.toMatchObject(NO_ANSWER);
    expect(wakes).toBe(4);
    expect((await log.validators()).epoch).toBe(page.epoch);
    expect((await log.readEpoch()).epoch).toBe(page.epoch);
  });

  test("a standby says that it is in recovery, registers nobody, and is another epoch once promoted", async () => {
    const standby = await server.standby();
    onTestFinished(() => standby.remove());
    const log = open(standby.url);
    const seen = await log.readEpoch();
    expect(seen).toMatchObject({ inRecovery: true });
    expect(seen.epoch).toMatch(/^-\//);
    expect(await log.poll(randomUUID(), "e", 0)).toMatchObject({ inRecovery: true });
    await expect(log.register(entry("e"))).rejects.toMatchObject(NO_ANSWER);
    await server.stop();
    const client = await byHand(standby.url);
    await client.query("select pg_promote()");
    await expect
      .poll(async () => (await log.readEpoch().catch(() => undefined))?.inRecovery, { timeout: 5000 })
      .toBe(false);
    expect((await log.readEpoch()).epoch).toMatch(/^00000002\//);
    let notified = false;
    log.onWakeUp(() => (notified = true));
    log.reconnect();
    await log.readEpoch();
    await client.query("select pg_notify('sallyport_rev', '')");
    await expect.poll(() => notified).toBe(true);
    await client.end();
    await server.restart();
  });

  /** No commit that waits for a standby ends while this holds. */
  async function frozenStandby(): Promise<void> {
    await sql.query("alter system set synchronous_standby_names = 'nobody'");
    await sql.query("select pg_reload_conf()");
    onTestFinished(async () => {
      await sql.query("alter system reset synchronous_standby_names");
      await sql.query("select pg_reload_conf()");
    });
    await expect
      .poll(async () => (await sql.query("show synchronous_standby_names")).rows[0].synchronous_standby_names)
      .toBe("nobody");
  }
  const waitForStandby = async () =>
    (await sql.query("select from pg_stat_activity where wait_event = 'SyncRep'")).rowCount;

  test("no statement of the registry waits for a synchronous standby", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { epoch } = await log.readEpoch();
    // There is a month to be made, under locks that others would wait for.
    const last = (await sql.query("select name from sallyport.audit_parts() order by until desc limit 1")).rows[0].name;
    await sql.query(`drop table sallyport.${last}`);
    await frozenStandby();
    const own = entry(epoch);
    expect(await log.register(own)).toBe(true);
    const again = entry(epoch, { old: own.me });
    expect(await log.register(again)).toBe(true);
    await log.ack(again.me, epoch, 0);
    await log.markSettled(epoch, await namesOf(log));
    await log.reap([again.me]);
    await log.deleteReaped([again.me], epoch);
    await log.deregister(again.me);
    expect(await log.prune()).toEqual({ auditMonths: 12 });
    expect(await waitForStandby()).toBe(0);
    expect(log.troubles).toEqual([]);
  });

  test("an answer with a warning of class 01 is a failure, because the commit may not be replicated", async () => {
    sql = await byHand(server.url);
    await sql.query(
      `create function warn() returns trigger language plpgsql as $$ begin raise warning 'not confirmed'; return null; end $$;
       create trigger warn after insert on sallyport.validators for each row execute function warn()`,
    );
    onTestFinished(async () => void (await sql.query("drop function warn() cascade")));
    const log = open(server.url);
    const { epoch } = await log.readEpoch();
    const own = entry(epoch);
    const before = performance.now();
    await expect(log.register(own)).rejects.toMatchObject(NO_ANSWER);
    // By the warning, not by the clock.
    expect(performance.now() - before).toBeLessThan(450);
    // It is there all the same: which is why the caller lists it as one to be deleted.
    expect(await row(own.me)).toBeDefined();
    await log.deregister(own.me);
    expect(await row(own.me)).toBeUndefined();
  });

  test("a registration has 2 s, a poll after it 500 ms again, and the server gives up with the client", async () => {
    sql = await byHand(server.url);
    const log = open(server.url);
    const { me, epoch } = await joined(log);
    const lock = async (name: string) => {
      const holder = await byHand(server.url);
      await holder.query("begin");
      await holder.query(`lock table ${name}`);
      return () => holder.query("rollback");
    };
    const open1 = await lock("sallyport.validators");
    const next = entry(epoch, { old: me });
    const registering = log.register(next);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await open1();
    expect(await registering).toBe(true);
    const open2 = await lock("sallyport.rev_log");
    const ms = await took(log.poll(next.me, epoch, 0));
    expect(ms).toBeGreaterThan(400);
    expect(ms).toBeLessThan(900);
    await expect.poll(async () => (await pidOf("sallyport-poll")).length).toBeLessThan(2);
    await open2();
    expect(await log.poll(next.me, epoch, -1)).toMatchObject({ ownRowLive: true });
  });
});

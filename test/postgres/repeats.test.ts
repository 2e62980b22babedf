import { randomBytes, randomUUID } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { AuditActor } from "../../src/domain/audit-event.ts";
import { AppError } from "../../src/domain/errors.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import type { Access } from "../../src/management/access.ts";
import type { TokenStore } from "../../src/management/ports.ts";
import { PrincipalManager } from "../../src/management/principal-manager.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { Postgres, TYPES } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import type { AuthorityStore, Idempotency, NewToken } from "../../src/revocation/authority-store.ts";
import { ChangeAuthority } from "../../src/revocation/change-authority.ts";
import type { RevocationLog } from "../../src/revocation/ports.ts";
import { ReapedValidators } from "../../src/revocation/reaped-validators.ts";
import { systemClock, systemTimers } from "../../src/sallyport.ts";
import { recordedEvents } from "../support/hand-time.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { migrated, prove } from "./migrated.ts";

const ADMIN = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const NOBODY = { callerScopes: [] };
const FACTS = { displayName: "", email: "", owner: "", annotations: {} };

const fresh = () => ({
  id: `tok_${randomBytes(11).toString("hex")}`,
  digest: randomBytes(32).toString("latin1"),
  kid: "1",
  hint: "sp_bot_1abcdefgh",
  createdBy: "user:admin",
});
const newToken = (principal: string): NewToken => ({
  ...fresh(),
  tenant: "default",
  profile: "bot",
  principal,
  ...NOTHING_GIVEN,
  displayName: "n",
});
const request = (method: string): Idempotency => ({
  caller: "c",
  requestId: randomUUID(),
  method,
  body: new Uint8Array([1]),
  salt: randomBytes(16),
});

async function byHand(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, types: TYPES });
  client.on("error", () => {});
  await client.connect();
  return client;
}

function storeOf(url: string, finished: (close: () => Promise<void>) => void): PostgresAuthorityStore {
  const db = new Postgres({ url, maxConnections: 4, applicationName: "repeats", onTrouble: () => {} });
  finished(() => db.close());
  return new PostgresAuthorityStore(db);
}

/** How a call of the store ended; a refusal that is told after a commit, too. */
const told = (work: Promise<unknown>) =>
  work.then(
    (done) => {
      const value = (done as { value?: unknown }).value;
      return value instanceof AppError ? value.reason : "ok";
    },
    ({ reason }: AppError) => reason as string,
  );

async function created(store: AuthorityStore, principal = `bot:${randomUUID()}`): Promise<NewToken> {
  const token = newToken(principal);
  const limits = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
  await store.createToken(token, HOUR, { ...NOBODY, child: false, mustExist: false }, limits, ADMIN);
  return token;
}

type Repeat = { readonly answer: string; readonly call: (actor?: AuditActor) => Promise<unknown> };

/** Each call that can be repeated: done once, then what repeats it. */
const REPEATS: Record<string, (store: AuthorityStore) => Promise<Repeat>> = {
  "CreateToken with a request_id": async (store) => {
    const same = request("CreateToken");
    const guard = { ...NOBODY, child: false, mustExist: false };
    const limits = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
    const call = (actor: AuditActor = ADMIN) =>
      store.createToken(newToken("bot:again"), HOUR, guard, limits, actor, same);
    await call();
    return { answer: "ok", call };
  },
  "RotateToken with a request_id": async (store) => {
    const { id } = await created(store);
    const same = request("RotateToken");
    const call = (actor: AuditActor = ADMIN) => store.rotateToken(id, fresh(), HOUR, 0, NOBODY, actor, same);
    await call();
    return { answer: "ok", call };
  },
  "RotateToken without one": async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.rotateToken(id, fresh(), HOUR, 60_000, NOBODY, actor);
    await call();
    return { answer: "TOKEN_ROTATED", call };
  },
  "RotateToken with another request_id": async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) =>
      store.rotateToken(id, fresh(), HOUR, 60_000, NOBODY, actor, request("RotateToken"));
    await call();
    return { answer: "TOKEN_ROTATED", call };
  },
  UpdateToken: async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) =>
      store.updateToken(id, { disabled: true }, "", { maxTtl: 1e12 }, NOBODY, actor);
    await call();
    return { answer: "ok", call };
  },
  RevokeToken: async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.revokeToken(id, false, "", actor);
    await call();
    return { answer: "ok", call };
  },
  "RevokeToken of a family": async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.revokeToken(id, true, "", actor);
    await call();
    return { answer: "ok", call };
  },
  "RevokeTokens by row": async (store) => {
    const { id } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.revokeChunk("default", [id], "", actor);
    await call();
    return { answer: "ok", call };
  },
  "RevokeTokens that selects nothing": async (store) => ({
    answer: "ok",
    call: (actor = ADMIN) => store.revokeChunk("default", [], "", actor),
  }),
  "RevokeTokens of a principal": async (store) => {
    const { principal } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.cut("default", principal, true, "", actor);
    await call();
    return { answer: "ok", call };
  },
  DeletePrincipal: async (store) => {
    const { principal } = await created(store);
    const call = (actor: AuditActor = ADMIN) => store.deletePrincipal("default", principal, actor);
    await call();
    return { answer: "ok", call };
  },
  UpdatePrincipal: async (store) => {
    const { principal } = await created(store);
    const call = (actor: AuditActor = ADMIN) =>
      store.updatePrincipal("default", principal, { state: "DISABLED" }, "", NOBODY, actor);
    await call();
    return { answer: "ok", call };
  },
  CreatePrincipal: async (store) => {
    const principal = { tenant: "default", name: `bot:${randomUUID()}`, state: "DISABLED" as const, ...FACTS };
    const call = (actor: AuditActor = ADMIN) => store.createPrincipal(principal, NOBODY, actor);
    await call();
    return { answer: "PRINCIPAL_EXISTS", call };
  },
  CreateTenant: async (store) => {
    const tenant = { id: `t${randomBytes(5).toString("hex")}`, state: "SUSPENDED" as const, ...FACTS };
    const call = (actor: AuditActor = ADMIN) => store.createTenant(tenant, NOBODY, actor);
    await call();
    return { answer: "TENANT_EXISTS", call };
  },
  UpdateTenant: async (store) => {
    const id = `t${randomBytes(5).toString("hex")}`;
    await store.createTenant({ id, state: "ACTIVE", ...FACTS }, NOBODY, ADMIN);
    const call = (actor: AuditActor = ADMIN) => store.updateTenant(id, { state: "SUSPENDED" }, "", NOBODY, actor);
    await call();
    return { answer: "ok", call };
  },
};

/** Those that a token may call for itself: their rows can be merged. */
const OWN = Object.entries(REPEATS).filter(([name]) => /Token/.test(name) && !/of a principal|UpdateToken/.test(name));

describe("a repeat commits its own row or message", () => {
  let server: ThrowawayServer;
  let sql: pg.Client;
  let store: PostgresAuthorityStore;
  const open: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    // As quiet as a server can be: what moves its log is what the test does.
    server = await startServer({ fsync: false, settings: { autovacuum: "off", synchronous_commit: "local" } });
    await migrate(server.url);
    sql = await byHand(server.url);
    await prove(sql);
    store = storeOf(server.url, (close) => open.push(close));
  });
  afterAll(async () => {
    for (const close of open) await close();
    await sql?.end();
    await server?.remove();
  });

  const setStandby = async (names: string) => {
    await sql.query(`alter system set synchronous_standby_names = '${names}'`);
    await sql.query("select pg_reload_conf()");
    // Commits go by what the checkpointer has read: a commit of our own tells when it has.
    const probe = await byHand(server.url);
    let warned = false;
    probe.on("notice", () => (warned = true));
    await probe.query("set synchronous_commit = on");
    do {
      warned = false;
      let done = false;
      const commit = probe.query("select pg_logical_emit_message(true, 'probe', '')").finally(() => (done = true));
      while (!done) await cancelWaits();
      await commit;
    } while (warned !== (names !== ""));
    await probe.end();
  };
  const cancelWaits = () =>
    sql.query("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");

  const at = async () => (await sql.query("select pg_current_wal_lsn()::text as lsn")).rows[0].lsn as string;
  const rows = async () => (await sql.query("select count(*) as n from sallyport.audit")).rows[0].n as number;

  test.each(OWN)(
    "%s, also where its row is merged with others; where it may not, it does nothing",
    async (_, prepare) => {
      const { answer, call } = await prepare(store);
      const audited = await rows();
      let asked = 0;
      const refusal = new AppError("LIMIT_EXCEEDED", "often enough");
      const refuse = () => {
        asked++;
        throw refusal;
      };
      expect(await told(call({ ...ADMIN, repeats: refuse }))).toBe("LIMIT_EXCEEDED");
      expect(asked).toBe(1);

      const merged = () => told(call({ ...ADMIN, repeats: () => false }));
      const lsn = await at();
      expect(await merged()).toBe(answer);
      expect(await at()).not.toBe(lsn);
      expect(await rows()).toBe(audited);
      await setStandby("nobody");
      onTestFinished(() => setStandby(""));
      let ended: string | undefined;
      void merged().then((how) => (ended = how));
      await expect.poll(() => cancelWaits().then(() => ended), { interval: 5, timeout: 4000 }).toBe("OUTCOME_UNKNOWN");
      expect(await rows()).toBe(audited);
    },
  );

  test.each(Object.entries(REPEATS))("%s", async (_, prepare) => {
    const { answer, call } = await prepare(store);
    const [lsn, audited] = [await at(), await rows()];
    expect(await told(call())).toBe(answer);
    expect(await at()).not.toBe(lsn);
    expect(await rows()).toBe(audited + 1);

    // A standby that is away: the wait that is cancelled is answered with a warning, whatever the server's default is.
    await setStandby("nobody");
    onTestFinished(() => setStandby(""));
    let ended: string | undefined;
    void told(call()).then((how) => (ended = how));
    await expect.poll(() => cancelWaits().then(() => ended), { interval: 5, timeout: 4000 }).toBe("OUTCOME_UNKNOWN");
  });

  test("an object that never existed is NOT_FOUND at once, even while the standby is cut off", async () => {
    await setStandby("nobody");
    onTestFinished(() => setStandby(""));
    const none = `tok_${"0".repeat(22)}`;
    const answers = await Promise.all([
      told(store.revokeToken(none, false, "", ADMIN)),
      told(store.rotateToken(none, fresh(), HOUR, 0, NOBODY, ADMIN)),
      told(store.deletePrincipal("default", "bot:never", ADMIN)),
      told(store.updatePrincipal("default", "bot:never", { state: "DISABLED" }, "", NOBODY, ADMIN)),
    ]);
    expect(answers).toEqual(["TOKEN_NOT_FOUND", "TOKEN_NOT_FOUND", "PRINCIPAL_NOT_FOUND", "PRINCIPAL_NOT_FOUND"]);
  });

  test("a rotation that finds the token already rotated does not keep its request_id", async () => {
    const { id } = await created(store);
    await store.rotateToken(id, fresh(), HOUR, 60_000, NOBODY, ADMIN);
    const same = request("RotateToken");
    for (let i = 0; i < 2; i++) {
      expect(await told(store.rotateToken(id, fresh(), HOUR, 0, NOBODY, ADMIN, same))).toBe("TOKEN_ROTATED");
    }
  });
});

describe("a change that runs again because the epoch changed after its commit", () => {
  /** The path above a real store: the registry first shows another epoch, then that all have acknowledged. */
  async function managed(between: (sql: pg.Client) => Promise<unknown> = async () => {}) {
    const database = await migrated();
    onTestFinished(() => database.drop());
    const sql = await byHand(database.url);
    onTestFinished(() => sql.end());
    const log = new PostgresRevocationLog({ url: database.url, connections: 1, onTrouble: () => {} });
    onTestFinished(() => log.close());
    const { epoch, names } = await log.readEpoch();
    await log.markSettled(epoch, names);
    let asked = 0;
    const answers = async (of: string, position: number | undefined) => {
      const told = await log.unacknowledged(of, position);
      if (++asked > 1) return told;
      await between(sql);
      return { ...told, epoch: "another" };
    };
    const { events } = recordedEvents();
    const authority = new ChangeAuthority({
      store: storeOf(database.url, (close) => onTestFinished(close)),
      log: { unacknowledged: answers, reap: async () => {}, reconnect: () => {} } as unknown as RevocationLog,
      reaped: new ReapedValidators(),
      clock: systemClock,
      timers: systemTimers,
      events,
      wake: () => {},
    });
    const principals = new PrincipalManager({ store: {} as TokenStore, authority });
    return { sql, principals };
  }
  const OPERATOR: Access = {
    caller: { kind: "break-glass", provenance: "t", tenant: "", principal: "", scopes: [], address: "", direct: true },
    reach: "everywhere",
    requestId: "r",
  };
  const BOT = { tenant: "", name: "bot:new", ...FACTS, displayName: "one" };
  const SHOP = { id: "shop", displayName: "Shop", annotations: {} };
  const gone = (sql: pg.Client) =>
    sql.query(`begin; insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't');
      delete from sallyport.principals where name = 'bot:new'; delete from sallyport.tenants where id = 'shop'; commit`);

  test("returns OK for a principal and a tenant that its first run created", async () => {
    const one = await managed();
    expect(await one.principals.createPrincipal(OPERATOR, BOT)).toMatchObject({ name: "bot:new", displayName: "one" });
    const two = await managed();
    expect(await two.principals.createTenant(OPERATOR, SHOP)).toMatchObject(SHOP);
    for (const [{ sql }, action] of [
      [one, "principal.create"],
      [two, "tenant.create"],
    ] as const) {
      const { rows } = await sql.query(
        "select outcome, metadata from sallyport.audit where action = $1 and actor = 't' order by seq",
        [action],
      );
      expect(rows).toEqual([
        { outcome: "OK", metadata: {} },
        { outcome: "OK", metadata: { repeat: "true" } },
      ]);
    }
  });

  test("what others did to them since changes no answer", async () => {
    const changed = (sql: pg.Client) =>
      sql.query(`begin; insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't');
        update sallyport.principals set state = 'DELETED', display_name = 'two', cut_time = now() where name = 'bot:new';
        update sallyport.tenants set state = 'SUSPENDED', display_name = 'Two' where id = 'shop'; commit`);
    expect(await (await managed(changed)).principals.createPrincipal(OPERATOR, BOT)).toMatchObject({
      state: "ACTIVE",
      displayName: "one",
    });
    expect(await (await managed(changed)).principals.createTenant(OPERATOR, SHOP)).toMatchObject({
      state: "ACTIVE",
      displayName: "Shop",
    });
  });

  test("creates them if the failover lost them, and reports an object that another call created meanwhile", async () => {
    expect(await (await managed(gone)).principals.createPrincipal(OPERATOR, BOT)).toMatchObject({ name: "bot:new" });
    expect(await (await managed(gone)).principals.createTenant(OPERATOR, SHOP)).toMatchObject(SHOP);
    const another = async (sql: pg.Client) => {
      await gone(sql);
      await sql.query(`begin; insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 't', 't');
        insert into sallyport.principals (tenant, name, create_time) values ('default', 'bot:new', now() + interval '1 s');
        insert into sallyport.tenants (id, create_time) values ('shop', now() + interval '1 s'); commit`);
    };
    expect(await told((await managed(another)).principals.createPrincipal(OPERATOR, BOT))).toBe("PRINCIPAL_EXISTS");
    expect(await told((await managed(another)).principals.createTenant(OPERATOR, SHOP))).toBe("TENANT_EXISTS");
  });
});

describe("a synchronous standby that is cut off, and then takes over", () => {
  test("no repeat is answered before the standby has the change, and every answered change is on the standby", async () => {
    const primary = await startServer({ settings: { synchronous_commit: "local" } });
    onTestFinished(() => primary.remove());
    await migrate(primary.url);
    await prove(await byHand(primary.url));
    const store = storeOf(primary.url, (close) => onTestFinished(close));
    const [rotatedOne, revokedOne, lost] = [await created(store), await created(store), await created(store)];
    const standby = await primary.standby();
    onTestFinished(() => standby.remove());
    const sql = await byHand(primary.url);
    onTestFinished(() => sql.end());
    await prove(sql);
    await sql.query("alter system set synchronous_standby_names = '*'");
    await sql.query("select pg_reload_conf()");
    const replicating = async () => (await sql.query("select sync_state from pg_stat_replication")).rows[0]?.sync_state;
    await expect.poll(replicating, { timeout: 10_000 }).toBe("sync");

    await standby.stop();
    const same = request("RotateToken");
    const rotate = () => store.rotateToken(rotatedOne.id, fresh(), HOUR, 0, NOBODY, ADMIN, same);
    const revoke = () => store.revokeToken(revokedOne.id, false, "", ADMIN);
    const remove = () => store.deletePrincipal("default", lost.principal, ADMIN);
    for (const call of [rotate, revoke, remove]) {
      let ended: string | undefined;
      void told(call()).then((how) => (ended = how));
      const cancel = async () => {
        await sql.query("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
        return ended;
      };
      await expect.poll(cancel, { interval: 5, timeout: 4000 }).toBe("OUTCOME_UNKNOWN");
    }
    // It is all there, on this server alone: none of the repeats may say so.
    const repeats = [rotate(), revoke(), remove()];
    const waiting = async () => (await sql.query("select from pg_stat_activity where wait_event = 'SyncRep'")).rowCount;
    await expect.poll(waiting, { interval: 5 }).toBe(3);
    expect(await Promise.race([...repeats, "none is answered"])).toBe("none is answered");

    await standby.restart();
    expect(await Promise.all(repeats.map(told))).toEqual(["ok", "ok", "ok"]);
    await primary.kill9();
    const after = await byHand(standby.url);
    onTestFinished(() => after.end());
    await after.query("select pg_promote()");
    const states = await after.query("select id, state from sallyport.token_view");
    expect(Object.fromEntries(states.rows.map(({ id, state }) => [id, state]))).toMatchObject({
      [rotatedOne.id]: "REVOKED",
      [revokedOne.id]: "REVOKED",
      [lost.id]: "REVOKED",
    });
  }, 60_000);
});

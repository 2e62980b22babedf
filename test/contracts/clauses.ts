import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { principalKey, roleKey } from "../../src/domain/token-snapshot.ts";
import { READER_VERSION } from "../../src/postgres/migrate.ts";
import type { LogRecord, RevocationLog } from "../../src/revocation/ports.ts";
import {
  MAX_BOUND_MS,
  PARENT_PRINCIPAL,
  PRINCIPAL,
  ROLE,
  SCOPES,
  type Stores,
  TENANT,
  type TokenName,
} from "./stores.ts";

/*
 * What the protocol relies on, a clause each (docs/protocol.md §3). Each must hold on PostgreSQL and on the simulation's
 * doubles. A double may be weaker than PostgreSQL where the protocol does not rely on it: it buries a reaped row at
 * once, so that a program which asks too early is caught.
 */

const ACTOR = { actor: "test", address: "", requestId: "" };
const NOBODY = { callerScopes: [] };
const RULE = { maxTtl: 86_400_000 };

type Change = (stores: Stores) => Promise<unknown>;
const revoke =
  (name: TokenName): Change =>
  ({ authority, tokens }) =>
    authority.revokeToken(tokens[name].id, false, "", ACTOR);
/** A change that may widen rights: in a proven epoch only. */
const raising =
  (change: Change): Change =>
  async (stores) => {
    await stores.log.prove((await stores.log.readEpoch()).epoch, true);
    return change(stores);
  };
const update = (name: TokenName, change: { disabled?: boolean; scopes?: string[] }): Change =>
  raising(({ authority, tokens }) => authority.updateToken(tokens[name].id, change, "", RULE, NOBODY, ACTOR));
const principal = (state: "ACTIVE" | "DISABLED"): Change => {
  const change: Change = ({ authority }) => authority.updatePrincipal(TENANT, PRINCIPAL, { state }, "", NOBODY, ACTOR);
  return state === "ACTIVE" ? raising(change) : change;
};
const tenant = (state: "ACTIVE" | "SUSPENDED"): Change => {
  const change: Change = ({ authority }) => authority.updateTenant(TENANT, { state }, "", NOBODY, ACTOR);
  return state === "ACTIVE" ? raising(change) : change;
};
const role = (scopes: readonly string[]): Change =>
  raising(({ authority }) => authority.updateRole(TENANT, ROLE, { scopes }, "", () => {}, NOBODY, ACTOR));
const deleteRole: Change = ({ authority }) => authority.deleteRole(TENANT, ROLE, true, ACTOR);
const cut =
  (whose: string | undefined): Change =>
  ({ authority }) =>
    authority.cut(TENANT, whose, false, "", ACTOR);

const read = ({ reader, tokens }: Stores, name: TokenName) => reader.read(tokens[name].digest, 400);
const tokenKey = (stores: Stores, name: TokenName) => `t${stores.tokens[name].digest}`;

/** Registers a process of a log; the epoch is that of its database. */
async function registered(log: RevocationLog, old?: string, boundMs = MAX_BOUND_MS) {
  const { epoch } = await log.readEpoch();
  const me = randomUUID();
  const admitted = await log.register({ old, me, epoch, boundMs, readerVersion: READER_VERSION, kids: ["1"] });
  return { me, epoch, admitted };
}

const unacknowledged = async (log: RevocationLog, epoch: string, position?: number) =>
  (await log.unacknowledged(epoch, position)).missing.map(({ id }) => id);
/** Marks the epoch as settled under the names that the log's tables have now. */
async function settle(log: RevocationLog, epoch: string): Promise<void> {
  await log.markSettled(epoch, (await log.readEpoch()).names);
}
const rowOf = async (log: RevocationLog, id: string) => (await log.validators()).rows.find((row) => row.id === id);
/** A refusal is as good as no effect: the clause looks at the effect. */
const refusable = (promise: Promise<unknown>) => promise.catch(() => {});

/** A change and what the next read shows of whom. */
const EFFECTS: readonly (readonly [string, readonly Change[], TokenName, object])[] = [
  ["a revoked token is revoked", [revoke("a")], "a", { revoked: true }],
  ["another token than the revoked one is not", [revoke("a")], "b", { revoked: false }],
  ["a token that is revoked twice stays revoked", [revoke("a"), revoke("a")], "a", { revoked: true }],
  ["a revoked parent shows in its child", [revoke("parent")], "child", { revoked: false, parent: { revoked: true } }],
  ["a disabled token is disabled", [update("a", { disabled: true })], "a", { disabled: true }],
  [
    "a disabled parent shows in its child",
    [update("parent", { disabled: true })],
    "child",
    { parent: { disabled: true } },
  ],
  [
    "an enabled token is no longer disabled",
    [update("a", { disabled: true }), update("a", { disabled: false })],
    "a",
    { disabled: false },
  ],
  ["a narrowed token has its new scopes", [update("a", { scopes: ["t"] })], "a", { scopes: ["t"] }],
  ["a child has no scope that its parent lost", [update("parent", { scopes: ["t"] })], "child", { scopes: ["t"] }],
  ["a token has the scopes of its role", [], "holder", { scopes: SCOPES }],
  ["a role that is changed gives its new scopes", [role(["u"])], "holder", { scopes: ["u"] }],
  ["a child has no scope that its parent's role lost", [role(["t"])], "heir", { scopes: ["t"] }],
  ["a deleted role gives nothing", [deleteRole], "holder", { scopes: [] }],
  ["a deleted role gives the child of its holder nothing", [deleteRole], "heir", { scopes: [] }],
  ["a role gives nothing to those without it", [role(["u"])], "a", { scopes: SCOPES }],
  ["a disabled principal shows", [principal("DISABLED")], "a", { principalState: "DISABLED" }],
  [
    "a principal that is enabled again shows",
    [principal("DISABLED"), principal("ACTIVE")],
    "a",
    { principalState: "ACTIVE" },
  ],
  ["another's principal is not touched", [principal("DISABLED")], "child", { principalState: "ACTIVE" }],
  ["a suspended tenant shows", [tenant("SUSPENDED")], "a", { tenantState: "SUSPENDED" }],
  ["a tenant that is resumed shows", [tenant("SUSPENDED"), tenant("ACTIVE")], "a", { tenantState: "ACTIVE" }],
  ["a cut of the principal shows", [cut(PRINCIPAL)], "a", { cut: true }],
  ["a cut of the principal is not another's", [cut(PRINCIPAL)], "child", { cut: false, parent: { cut: false } }],
  ["a cut shows in the parent, too", [cut(PARENT_PRINCIPAL)], "child", { cut: true, parent: { cut: true } }],
  ["a cut of the tenant shows in all", [cut(undefined)], "child", { cut: true, parent: { cut: true } }],
];

/** A change, the keys that the log notes of it, and what it says of each. */
const KEYS: readonly (readonly [string, Change, (stores: Stores) => readonly string[], LogRecord["kind"]])[] = [
  ["a revocation", revoke("a"), (stores) => [tokenKey(stores, "a")], "revoked"],
  ["an update of a token", update("b", { disabled: true }), (stores) => [tokenKey(stores, "b")], "lowered"],
  ["a narrowed token", update("b", { scopes: ["t"] }), (stores) => [tokenKey(stores, "b")], "lowered"],
  ["an update of a principal", principal("DISABLED"), () => [principalKey(TENANT, PRINCIPAL)], "lowered"],
  ["an update of a tenant", tenant("SUSPENDED"), () => [`o${TENANT}`], "lowered"],
  ["a narrowed role", role(["t"]), (stores) => [roleKey(stores.role)], "lowered"],
  ["a widened role", role([...SCOPES, "u"]), (stores) => [roleKey(stores.role)], "other"],
  ["the deletion of a role", deleteRole, (stores) => [roleKey(stores.role)], "lowered"],
  ["a cut of a principal", cut(PRINCIPAL), () => [principalKey(TENANT, PRINCIPAL)], "cut"],
  ["a cut of a tenant", cut(undefined), () => [`o${TENANT}`], "cut"],
];

export interface Clause {
  readonly name: string;
  readonly holds: (stores: Stores) => Promise<void>;
}

const clause = (name: string, holds: Clause["holds"]): Clause => ({ name, holds });

export const CLAUSES: readonly Clause[] = [
  // -------------------------------------------------------------------------------------------------- reading
  clause("a read shows the token, and the version under which it was read", async (stores) => {
    const reading = await read(stores, "a");
    const { epoch, position, snapshot } = reading;
    expect(reading).toMatchObject({ inRecovery: false });
    expect(reading.received).toBeGreaterThanOrEqual(reading.sent);
    expect(snapshot).toMatchObject({ version: { epoch, position }, ...stores.tokens.a, tenant: TENANT });
    expect(snapshot).toMatchObject({
      principal: PRINCIPAL,
      scopes: SCOPES,
      revoked: false,
      disabled: false,
      cut: false,
    });
    expect(snapshot).toMatchObject({ principalState: "ACTIVE", tenantState: "ACTIVE" });
    expect(snapshot?.parent).toBeUndefined();
    expect((await read(stores, "child")).snapshot?.parent).toMatchObject({ digest: stores.tokens.parent.digest });
  }),
  clause("a read of an unknown token shows none, but position and epoch", async (stores) => {
    const known = await read(stores, "a");
    const { snapshot, epoch, position } = await stores.reader.read("?".repeat(32), 400);
    expect({ snapshot, epoch, position }).toEqual({
      snapshot: undefined,
      epoch: known.epoch,
      position: known.position,
    });
  }),
  ...EFFECTS.map(([name, changes, token, shown]) =>
    clause(`a read after the commit: ${name}`, async (stores) => {
      for (const change of changes) await change(stores);
      expect((await read(stores, token)).snapshot).toMatchObject(shown);
    }),
  ),

  // -------------------------------------------------------------------------------------------------- the log
  ...KEYS.map(([name, change, keys, kind]) =>
    clause(`${name} takes the next position, and the log notes what it touched under it`, async (stores) => {
      const { me, epoch } = await registered(stores.log);
      const before = await stores.log.poll(me, epoch, 0);
      await change(stores);
      const after = await stores.log.poll(me, epoch, before.position);
      expect(after.position).toBe(before.position + 1);
      expect(after.rows).toMatchObject(keys(stores).map((key) => ({ position: after.position, key, kind })));
      expect(await read(stores, "a")).toMatchObject({ epoch, position: after.position });
    }),
  ),
  clause("a commit tells the epoch of the log and the bound of the leases", async (stores) => {
    const { epoch, maxBoundMs } = await stores.log.readEpoch();
    const done = await stores.authority.revokeToken(stores.tokens.a.id, false, "", ACTOR);
    expect(done).toMatchObject({ epoch, maxBoundMs });
    expect(maxBoundMs).toBe(MAX_BOUND_MS);
  }),
  clause("a revocation of what is revoked takes no position", async (stores) => {
    await revoke("a")(stores);
    const before = await stores.log.readEpoch();
    await revoke("a")(stores);
    expect((await stores.log.readEpoch()).position).toBe(before.position);
  }),
  clause("a poll shows every row above the position, and no other", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    const start = (await stores.log.poll(me, epoch, 0)).position;
    for (const change of [revoke("a"), revoke("b"), principal("DISABLED")]) await change(stores);
    const all = await stores.log.poll(me, epoch, start);
    expect(all.rows.map(({ position }) => position).sort()).toEqual([start + 1, start + 2, start + 3]);
    expect(all.full).toBe(false);
    const last = await stores.log.poll(me, epoch, start + 2);
    expect(last.rows).toMatchObject([{ position: start + 3, key: principalKey(TENANT, PRINCIPAL) }]);
  }),
  clause("what the log lacks is redone once, and then the epoch can be proven", async (stores) => {
    const { log, other } = stores;
    const { me, epoch } = await registered(log);
    const start = (await log.poll(me, epoch, 0)).position;
    await revoke("a")(stores);
    const there = (await log.poll(me, epoch, start)).rows;
    const change = JSON.stringify({ id: stores.tokens.b.id });
    const record = {
      position: start + 40,
      key: tokenKey(stores, "b"),
      at: there[0]!.at + 1,
      kind: "revoked",
      change,
    } as const;
    await log.reportLost(epoch, [...there, record]);
    await other.reportLost(epoch, [record]);
    expect(await log.poll(me, epoch, start)).toMatchObject({ position: start + 1, pending: true });
    expect(await log.prove(epoch, true)).toBe(false);
    expect(await log.redoLost(epoch)).toEqual({ state: "applied", late: false });
    expect(await log.redoLost(epoch)).toBeUndefined();
    expect(await log.prove(epoch, true)).toBe(true);
    expect(await log.poll(me, epoch, start)).toMatchObject({ position: start + 2, pending: false, proven: true });
    expect(await read(stores, "b")).toMatchObject({ proven: true, snapshot: { revoked: true } });
  }),
  clause("no epoch is proven without a wait while others may remember more", async ({ log }) => {
    const { epoch } = await registered(log);
    const entry = { old: undefined, boundMs: MAX_BOUND_MS, readerVersion: READER_VERSION, kids: ["1"] };
    await log.register({ ...entry, me: randomUUID(), epoch: "an earlier one" });
    expect(await log.prove(epoch, false)).toBe(false);
    expect(await log.prove(epoch, true)).toBe(true);
  }),
  clause("a poll covers what was pruned by its floor", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    for (const change of [revoke("a"), revoke("b"), principal("DISABLED"), tenant("SUSPENDED")]) await change(stores);
    const before = await stores.log.poll(me, epoch, 0);
    expect(await stores.log.prove(epoch, true)).toBe(true);
    for (let i = 0; i < 4; i++) await stores.log.prune();
    const after = await stores.log.poll(me, epoch, 0);
    const above = before.rows.filter(({ position }) => position > after.floorN);
    expect(after.floorN).toBeGreaterThanOrEqual(before.floorN);
    expect(after.rows.filter(({ position }) => position > after.floorN)).toEqual(above);
  }),
  clause("whoever sees a position has seen every commit up to it, also while others commit", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    const start = (await stores.log.poll(me, epoch, 0)).position;
    let under = true;
    const each = async (name: TokenName) => {
      for (const disabled of [true, false, true, false]) await update(name, { disabled })(stores);
    };
    const changes = Promise.all([each("a"), each("b"), each("parent")]).finally(() => {
      under = false;
    });
    const pages = [];
    while (under) pages.push(await stores.log.poll(me, epoch, start));
    await changes;
    const all = (await stores.log.poll(me, epoch, start)).rows.map(({ position }) => position);
    expect(all.length).toBe(12);
    for (const { position, rows } of pages) {
      expect(rows.map((row) => row.position).sort()).toEqual(all.filter((one) => one <= position).sort());
    }
  }),
  clause("a process is woken after a commit", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    let woken = false;
    stores.log.onWakeUp(() => {
      woken = true;
    });
    await stores.log.poll(me, epoch, 0);
    await revoke("a")(stores);
    // A poll more: in virtual time a wake-up arrives while a call is under way.
    const polled = () => stores.log.poll(me, epoch, 0).then(() => woken);
    await expect.poll(polled, { timeout: 5000 }).toBe(true);
  }),

  // -------------------------------------------------------------------------------------------------- the registry
  clause("a process is live from its registration on, in that epoch", async ({ log }) => {
    const stranger = randomUUID();
    const { epoch } = await log.readEpoch();
    expect((await log.poll(stranger, epoch, 0)).ownRowLive).toBe(false);
    const { me, admitted } = await registered(log);
    expect(admitted).toBe(true);
    expect((await log.poll(me, epoch, 0)).ownRowLive).toBe(true);
    expect((await log.poll(me, "another", 0)).ownRowLive).toBe(false);
    expect(await rowOf(log, me)).toMatchObject({ boundMs: MAX_BOUND_MS, reaped: false });
  }),
  clause("a longer lease than the database admits is not registered", async ({ log }) => {
    const { me, admitted } = await registered(log, undefined, MAX_BOUND_MS + 1);
    expect(admitted).toBe(false);
    expect(await rowOf(log, me)).toBeUndefined();
  }),
  clause("a registration replaces the process's own row, and deregistration deletes it", async ({ log }) => {
    const first = await registered(log);
    const second = await registered(log, first.me);
    expect(await rowOf(log, first.me)).toBeUndefined();
    expect(await rowOf(log, second.me)).toBeDefined();
    await log.deregister(second.me);
    expect(await rowOf(log, second.me)).toBeUndefined();
  }),
  clause("a registration may leave the process's own row marked as reaped", async ({ log }) => {
    const { me: old, epoch } = await registered(log);
    const me = randomUUID();
    const entry = { old, mark: true, me, epoch, boundMs: MAX_BOUND_MS, readerVersion: READER_VERSION, kids: ["1"] };
    expect(await log.register(entry)).toBe(true);
    expect(await rowOf(log, old)).toMatchObject({ reaped: true });
    expect(await rowOf(log, me)).toMatchObject({ reaped: false });
    expect(await log.poll(me, epoch, -1)).toMatchObject({ ownRowLive: true });
  }),
  clause("a process that waits for caches which it feeds is held, until it feeds none", async (stores) => {
    const { log } = stores;
    const { me, epoch } = await registered(log);
    await revoke("a")(stores);
    const { position } = await log.readEpoch();
    const missing = async () => (await log.unacknowledged(epoch, position)).missing;
    await log.ack(me, epoch, position - 1, 2);
    expect(await missing()).toMatchObject([{ id: me, held: true }]);
    await log.ack(me, epoch, position - 1, 0);
    expect(await missing()).toMatchObject([{ id: me, held: false }]);
  }),
  clause("a change waits for every registered process until it acknowledges that position", async (stores) => {
    const { log, other } = stores;
    const [one, two] = [await registered(log), await registered(other)];
    const { epoch } = one;
    await revoke("a")(stores);
    const { position } = await log.readEpoch();
    expect((await unacknowledged(log, epoch, position)).sort()).toEqual([one.me, two.me].sort());
    await log.ack(one.me, epoch, position);
    expect(await unacknowledged(log, epoch, position)).toEqual([two.me]);
    await other.ack(two.me, epoch, position - 1);
    expect(await unacknowledged(log, epoch, position)).toEqual([two.me]);
    await other.ack(two.me, epoch, position);
    expect(await unacknowledged(log, epoch, position)).toEqual([]);
    expect(await unacknowledged(log, epoch)).toEqual([]);
    await revoke("b")(stores);
    expect((await unacknowledged(log, epoch)).sort()).toEqual([one.me, two.me].sort());
  }),
  clause("an acknowledgement never falls", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    await revoke("a")(stores);
    const { position } = await stores.log.readEpoch();
    await stores.log.ack(me, epoch, position);
    await stores.log.ack(me, epoch, position - 1);
    expect(await unacknowledged(stores.log, epoch, position)).toEqual([]);
  }),
  clause("a position that does not exist cannot be acknowledged", async (stores) => {
    const { me, epoch } = await registered(stores.log);
    const { position } = await stores.log.readEpoch();
    await refusable(stores.log.ack(me, epoch, position + 1));
    await revoke("a")(stores);
    expect(await unacknowledged(stores.log, epoch, position + 1)).toEqual([me]);
  }),
  clause("an acknowledgement in another epoch does not count, nor does a row of another epoch", async ({ log }) => {
    const { me, epoch } = await registered(log);
    const { position } = await log.readEpoch();
    await refusable(log.ack(me, "another", position));
    expect(await unacknowledged(log, epoch, position)).toEqual([me]);
    await log.ack(me, epoch, position);
    const { missing } = await log.unacknowledged("another", position);
    expect(missing).toMatchObject([{ id: me, appliedN: -1 }]);
  }),
  clause("a process's row is written by itself alone", async ({ log, other }) => {
    const { me, epoch } = await registered(log);
    const { position } = await log.readEpoch();
    await refusable(other.ack(me, epoch, position));
    await refusable(other.deregister(me));
    await registered(other, me);
    expect(await unacknowledged(log, epoch, position)).toContain(me);
    expect((await log.poll(me, epoch, 0)).ownRowLive).toBe(true);
  }),
  clause("a reaped row is not live, does not acknowledge, and says that it is reaped", async ({ log, other }) => {
    const { me, epoch } = await registered(log);
    const { position } = await log.readEpoch();
    await other.reap([me]);
    expect((await log.poll(me, epoch, 0)).ownRowLive).toBe(false);
    await refusable(log.ack(me, epoch, position));
    expect((await log.unacknowledged(epoch, position)).missing).toMatchObject([{ id: me, reaped: true, appliedN: -1 }]);
    expect(await rowOf(log, me)).toMatchObject({ reaped: true });
  }),
  clause("only a reaped row is deleted, and only in the epoch that is meant", async ({ log, other }) => {
    const { me, epoch } = await registered(log, undefined, 1);
    await other.deleteReaped([me], epoch);
    expect(await rowOf(log, me)).toBeDefined();
    await other.reap([me]);
    await refusable(other.deleteReaped([me], "another"));
    expect(await rowOf(log, me)).toBeDefined();
    await expect
      .poll(async () => {
        await other.deleteReaped([me], epoch);
        return rowOf(log, me);
      })
      .toBeUndefined();
  }),
  clause("an epoch is not settled under other names than the log's tables have", async ({ log }) => {
    const { me, epoch } = await registered(log);
    const { names } = await log.readEpoch();
    await refusable(log.markSettled(epoch, `${names}0`));
    expect(await log.poll(me, epoch, 0)).toMatchObject({ names });
    expect((await log.poll(me, epoch, 0)).settled).not.toBe(epoch);
  }),
  clause("an epoch is settled once that is marked, and no other is", async ({ log, other }) => {
    const { me, epoch } = await registered(log);
    await refusable(settle(log, "another"));
    expect((await log.poll(me, epoch, 0)).settled).not.toBe("another");
    expect((await log.unacknowledged(epoch, 0)).settled).not.toBe(epoch);
    await settle(other, epoch);
    expect((await log.poll(me, epoch, 0)).settled).toBe(epoch);
    expect((await log.unacknowledged(epoch, 0)).settled).toBe(epoch);
    expect((await log.validators()).settled).toBe(epoch);
  }),
  clause(
    "of those who draw a new incarnation of one epoch, one does; no row is live in the new epoch",
    async (stores) => {
      const { log, other } = stores;
      const { me, epoch } = await registered(log);
      await settle(log, epoch);
      await log.draw(epoch);
      const { epoch: drawn } = await log.readEpoch();
      expect(drawn).not.toBe(epoch);
      await refusable(other.draw(epoch));
      expect((await log.readEpoch()).epoch).toBe(drawn);
      const page = await log.poll(me, drawn, 0);
      expect(page).toMatchObject({ epoch: drawn, ownRowLive: false });
      expect(page.settled).not.toBe(drawn);
      expect((await read(stores, "a")).epoch).toBe(drawn);
    },
  ),
];

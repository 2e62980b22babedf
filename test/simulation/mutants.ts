import type { ClientFaults } from "../support/feed-cache.ts";
import type { DatabaseFaults } from "./model-database.ts";
import type { Patch } from "./product.ts";

/** A faulty version of the protocol. */
export interface Mutant {
  readonly name: string;
  readonly patches?: readonly Patch[];
  readonly databaseFaults?: DatabaseFaults;
  /** Mistakes of the programs with client caches. */
  readonly clientFaults?: ClientFaults;
}

const FRESHNESS = "domain/freshness.ts";
const LOOKUP = "validation/lookup.ts";
const ENTRIES = "validation/l1-cache.ts";
const FOLLOWER = "revocation/follower.ts";
const PROVING = "revocation/proving.ts";
const WAIT = "revocation/ack-wait.ts";
const CHANGE = "revocation/change-authority.ts";

function mutant(
  name: string,
  ...patches: readonly (readonly [file: string, from: string, to: string, times?: number])[]
): Mutant {
  return { name, patches: patches.map(([file, from, to, times]) => ({ file, from, to, times })) };
}

/** A snapshot counts although it was taken before this process saw the epoch. */
const BEFORE_EPOCH = [LOOKUP, "reading.sent >= freshness.sawEpoch && reading.position >= applied", "true"] as const;

/** The simulation must catch all of them. The numbers identify them in test output only. */
export const MUTANTS: readonly Mutant[] = [
  mutant("M1 no lease check", [FRESHNESS, "|| !(mono < this.#leaseUntil) ||", "||"]),
  mutant("M2 lease from receipt", [
    FOLLOWER,
    "freshness.apply(page, sent, received)",
    "freshness.apply(page, received, received)",
  ]),
  mutant("M3 no wait", [
    WAIT,
    "if (!this.#running) void this.#run();",
    'waiter.settle({ mode: "ACKED", position: 0 });',
  ]),
  mutant("M4 fast retry", [
    CHANGE,
    "const outcome = await withDeadline(",
    'const outcome = (done.commit.value as any).already ? { mode: "ACKED", position: 0 } as const : await withDeadline(',
  ]),
  mutant("M5 no deny check on L2", [
    LOOKUP,
    "if (kept !== undefined && freshness.usable(kept, now)) {",
    "if (kept !== undefined && kept.snapshot.version.epoch === freshness.epoch && freshness.holdsLease(now)) {",
  ]),
  mutant(
    "M6 no deny check on fill",
    [
      FRESHNESS,
      "  usable(cached: Cached, mono: number): boolean {",
      "  trust(cached: Cached) { cached.checked = this.#gen; }\n  usable(cached: Cached, mono: number): boolean {",
    ],
    [
      LOOKUP,
      "if (freshness.usable(cached, clock.mono())) {",
      "freshness.trust(cached);\n      if (freshness.holdsLease(clock.mono())) {",
    ],
  ),
  mutant("M7 replica read", [
    LOOKUP,
    "return !reading.inRecovery && reading.epoch === this.#deps.freshness.epoch;",
    "return true;",
  ]),
  mutant(
    "M8 timer-cleared lease",
    [FRESHNESS, "|| !(mono < this.#leaseUntil) ||", "|| !this.held ||"],
    [FRESHNESS, "  readonly #leaseMs: number;", "  held = false;\n  readonly #leaseMs: number;"],
    [FRESHNESS, "    this.#leaseUntil = Number.NEGATIVE_INFINITY;\n", "    this.held = false;\n"],
    [
      FOLLOWER,
      "      this.#lastGrant = sent;",
      "      this.#lastGrant = sent;\n        freshness.held = true;\n        (this as any).off?.();\n        (this as any).off = this.#deps.timers.after(sent + this.#options.leaseMs - received, () => { freshness.held = false; });",
    ],
  ),
  mutant("M9 no margin for clock rates", [FRESHNESS, "return boundMs * 1.2 + 50;", "return boundMs;"]),
  mutant("M10 ack before apply", [
    FOLLOWER,
    "    const received = clock.mono();\n",
    "    const received = clock.mono();\n    await log.ack(this.#me!, freshness.epoch!, page.position).catch(() => {});\n",
  ]),
  mutant("M11 lease before registration", [FRESHNESS, "if (!page.ownRowLive) {", "if (false) {"]),
  mutant("M12 acks believed before settled", [
    WAIT,
    "const settled = answer.settled === waiter.epoch;",
    "const settled = true;",
  ]),
  mutant("M13 reaped row ignored at once", [
    WAIT,
    "return row.reaped && this.#deps.reaped.reapedFor(row.id, now) >= leaseOver(row.boundMs);",
    "return row.reaped;",
  ]),
  mutant("M15 old-epoch entry used", [FRESHNESS, "if (epoch !== this.#epoch || !(mono", "if (!(mono"]),
  mutant("M18 pruned rows without their floor", [FRESHNESS, "Math.max(this.#floor, page.floorN)", "this.#floor"]),
  { name: "M18 prune without floor", databaseFaults: { pruneWithoutFloor: true } },
  mutant("M19 join without use rule", [LOOKUP, "} else if (!shared || this.#proven(arrival)) {", "} else {"]),
  { name: "M20 sequence for the counter", databaseFaults: { sequence: true } },
  mutant("M25 sliding lifetime", [
    ENTRIES,
    "entry.used = true;",
    "entry.until = Math.floor((now + 60_000) / TICK_MS);",
  ]),
  mutant(
    "M26 wall clock in the lease",
    [FOLLOWER, "const sent = clock.mono();", "const sent = clock.wall();"],
    [FOLLOWER, "const received = clock.mono();", "const received = clock.wall();"],
    [LOOKUP, "const now = clock.mono();", "const now = clock.wall();", 2],
    [LOOKUP, "freshness.usable(cached, clock.mono())", "freshness.usable(cached, clock.wall())", 2],
    [LOOKUP, "freshness.holdsLease(clock.mono())", "freshness.holdsLease(clock.wall())"],
  ),
  { name: "M27 epoch without start time", databaseFaults: { epochWithoutStart: true } },
  { name: "M56 epoch without file nodes", databaseFaults: { epochWithoutFiles: true } },
  mutant("M57 begins again under the same incarnation", [
    FOLLOWER,
    'await this.#leaveHistory("head_behind", page);',
    "this.#newEpoch(page, received);",
  ]),
  mutant("M57 no incarnation is drawn", [FOLLOWER, "await log.draw(seen.epoch);", ""]),
  mutant("M51 positions are compared, not contents", [
    "revocation/remembered-changes.ts",
    "const lost = reached.filter((record) => !here.has(identity(record)));",
    "const lost = reached.filter(({ position }) => position > (page as any).position);",
  ]),
  mutant("M52 a reading allows before the epoch is proven", [
    LOOKUP,
    "const allowing = reading.proven && freshness.accounted;",
    "const allowing = true;",
  ]),
  mutant("M52 a lease before the epoch is proven", [
    FRESHNESS,
    "this.#unproven = !page.proven || !this.#accounted;",
    "this.#unproven = false;",
  ]),
  mutant("M53 the own records are not awaited", [
    PROVING,
    "if (this.#reported ? page.pending : this.#missing.length > 0) return;",
    "if (!this.#reported && this.#missing.length > 0) return;",
  ]),
  mutant("M53 the own records are not told", [
    PROVING,
    "freshness.begin(epoch, now, !this.#remembered.doubtful);",
    "freshness.begin(epoch, now);",
  ]),
  { name: "M54 redone twice", databaseFaults: { redoneTwice: true } },
  {
    name: "M52 an epoch proven between a process's registration and its report",
    databaseFaults: { unreportedIgnored: true },
  },
  { name: "M55 pruned before the epoch is proven", databaseFaults: { pruneUnproven: true } },
  mutant("M58 a snapshot from before the epoch is believed, and allows", BEFORE_EPOCH, [
    LOOKUP,
    "const allowing = reading.proven && freshness.accounted;",
    "const allowing = true;",
  ]),
  mutant("M29 the principal is no dependency", [
    "domain/token-snapshot.ts",
    "principalKey(of.tenant, of.principal), tenantKey",
    "tenantKey",
  ]),
  mutant("M29 the tenant is no dependency", [
    "domain/token-snapshot.ts",
    "return keys;",
    'return keys.filter((key) => !key.startsWith("o"));',
  ]),
  mutant("M29 the parent is no dependency", [
    "domain/token-snapshot.ts",
    "if (of.parent !== undefined) keys.push(",
    "if (false) keys.push(",
  ]),
  mutant("M29 the role is no dependency", [
    "domain/token-snapshot.ts",
    "for (const id of of.roles) keys.push(roleKey(id));",
    "",
  ]),
  mutant("M29 a further tenant is no dependency", [
    "domain/token-snapshot.ts",
    "for (const { tenant } of of.attachments) keys.push(tenantKey(tenant));",
    "",
  ]),
  mutant("the position of an attachment is not compared with the tenant's cut", [
    "domain/decide.ts",
    'return tenantState === "ACTIVE" && !cut;',
    'return tenantState === "ACTIVE";',
  ]),
  mutant("the state of a further tenant is not judged", [
    "domain/decide.ts",
    'return tenantState === "ACTIVE" && !cut;',
    "return !cut;",
  ]),
  mutant("M30 a cached verdict", [
    "validation/validate.ts",
    "const { verdict, reason, missingScopes, snapshot: shown } = decide(snapshot, requirement, context, time);",
    "const { verdict, reason, missingScopes, snapshot: shown } = ((snapshot as any).kept ??= decide(snapshot, requirement, context, time));",
  ]),
  mutant("M31 L2 filled by the writer", [
    CHANGE,
    '      if (outcome === "again") continue;',
    '      if (outcome === "again") continue;\n      (this.#deps.store as any).fillByWriter(done.commit, outcome.position);',
  ]),
  { name: "M32 asynchronous registration", databaseFaults: { asyncRegistration: true } },
  { name: "rows of the registry are anybody's", databaseFaults: { rowsOfAnybody: true } },
  mutant("a fault in following the log keeps the lease", [
    FOLLOWER,
    "        this.#registered = false;\n        this.#deps.freshness.dropLease();\n",
    "",
  ]),
  mutant("a fault ends following the log", [FOLLOWER, "        await this.#pause(pauseMs);", "        return;"]),
  mutant("M33 grant after stop", [FRESHNESS, 'if (this.#stopped) return "stopped";', ""]),
  mutant(
    "M34 shortcut by applied",
    [FRESHNESS, "if (cached.checked === this.#gen) return true;", "if (cached.checked === this.#applied) return true;"],
    [FRESHNESS, "cached.checked = this.#gen;", "cached.checked = this.#applied;"],
  ),
  mutant(
    "M35 floor lowered",
    [FRESHNESS, "let floor = Math.max(this.#floor, page.floorN);", "let floor = page.floorN;"],
    [FRESHNESS, "if (floor <= this.#floor) return;", "if (floor === this.#floor) return;"],
  ),
  mutant("a change of everything sets no floor", [
    FRESHNESS,
    "if (key === EVERYTHING) floor = Math.max(floor, n);",
    "if (key === EVERYTHING) continue;",
  ]),
  mutant("a full page sets no floor", [FRESHNESS, "if (page.full) floor", "if (false) floor"]),
  mutant("own refusals are forgotten", [LOOKUP, "if (refusal(snapshot, TIMELESS) === undefined) return;", "return;"]),
  mutant("the oldest denials are dropped without a floor", [
    FRESHNESS,
    "      this.#deny.delete(key);\n      floor = Math.max(floor, n);",
    "      this.#deny.delete(key);",
  ]),
  mutant("the epoch of the waiting change is not checked", [
    WAIT,
    "if (answer.epoch !== waiter.epoch) {",
    "if (false) {",
  ]),
  mutant("settled at once", ["revocation/housekeeping.ts", "now - since >= leaseOver(longest)", "true"]),
  mutant("buried at once", ["revocation/housekeeping.ts", ">= 2 * row.boundMs", ">= 0"]),
];

const FEED = "feed/server.ts";
const MEMBERS = "feed/members.ts";

/**
 * Faulty versions of the change feed, which the histories with client caches must catch. `test/feed/` covers the margin for
 * clock rates and the floor of a full page, and `test/model/feed.pml` the epoch check of the cache: histories meet them too
 * rarely.
 */
export const FEED_MUTANTS: readonly Mutant[] = [
  { name: "M36 lease from receipt", clientFaults: { leaseFromReceipt: true } },
  mutant("M37 age omitted", [FEED, "this.#options.feedLeaseMs - age;", "this.#options.feedLeaseMs;"]),
  mutant("M38 acknowledged without the caches", [
    "revocation/acknowledger.ts",
    "feed === undefined ? applied : feed.acknowledged(applied, now)",
    "applied",
  ]),
  mutant("M39 an answer counts as acknowledged", [
    MEMBERS,
    "    member.shown = shown;",
    "    member.shown = shown;\n    member.ack = shown;",
  ]),
  { name: "M40 acknowledged before it is applied", clientFaults: { ackBeforeApply: true } },
  mutant("M42 a cache is forgotten when its connection breaks", [
    FEED,
    "      giveUp: () => held.answer(this.#nothingNew(poll)),",
    "      giveUp: () => { this.#members.left(cacheId); held.answer(this.#nothingNew(poll)); },",
  ]),
  mutant("M43 the row is deleted at a new registration", [FOLLOWER, "feed.leased(clock.mono()) > 0;", "false;"]),
  mutant("M44 the row is deleted at once by a stop", [
    FOLLOWER,
    "(end = feed?.nextEnd(clock.mono())) !== undefined;",
    "false;",
  ]),
  mutant("M45 a page without its floor", ["feed/recent.ts", "floor: position, tags: []", "floor: 0, tags: []"]),
  { name: "M46 a refusal is reused across a change", clientFaults: { refusalReused: true } },
  mutant("M47 an entry gets the later position without the use rule", [
    "feed/entries.ts",
    "if (!freshness.usable(new Cached(snapshot), now)) return undefined;",
    "",
  ]),
  mutant("a change of everything sets no floor for client caches", [
    "feed/recent.ts",
    "this.#base = Math.max(this.#base, position);",
    "continue;",
  ]),
  mutant("pruned rows set no floor for client caches", [
    "feed/recent.ts",
    "this.#base = Math.max(this.#base, page.floorN);",
    "",
  ]),
];

/** A variant that must pass, because the proof allows it (R12). */
export const HARMLESS: readonly Mutant[] = [
  mutant("R12 lease checked before the I/O", [
    LOOKUP,
    "    const kept = await this.#outside(digest, deadline);\n    const now = clock.mono();\n",
    "    const now = clock.mono();\n    const kept = await this.#outside(digest, deadline);\n",
  ]),
  // Such a snapshot does not show its epoch as proven, so it allows nothing.
  mutant("M58 a snapshot from before the epoch is believed", BEFORE_EPOCH),
];

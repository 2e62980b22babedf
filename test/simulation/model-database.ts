import type { Evidence } from "../../src/domain/evidence.ts";
import type { PrincipalState, TenantState } from "../../src/domain/principal.ts";
import { union, withinParent } from "../../src/domain/rights.ts";
import {
  type Attachment,
  EVERYTHING,
  type Liveness,
  principalKey,
  type TokenSnapshot,
} from "../../src/domain/token-snapshot.ts";
import type {
  Committed,
  LogRecord,
  PollResult,
  Redone,
  RevocationLog,
  Unacknowledged,
} from "../../src/revocation/ports.ts";
import type { Reading } from "../../src/validation/ports.ts";
import type { World } from "./world.ts";

/** Faults that the database itself can have: mutants of the schema and the adapters. */
export interface DatabaseFaults {
  /** M20: positions from a sequence, taken before the commit. */
  readonly sequence?: boolean;
  /** M27: the epoch does not distinguish two lives of a server. */
  readonly epochWithoutStart?: boolean;
  /** M56: the epoch does not distinguish a restored dump from its original. */
  readonly epochWithoutFiles?: boolean;
  /** M32: a backend's crash can lose a registration inside an epoch. */
  readonly asyncRegistration?: boolean;
  /** M18: pruning without raising the floor first. */
  readonly pruneWithoutFloor?: boolean;
  /** M54: a lost change is redone for each process that tells of it. */
  readonly redoneTwice?: boolean;
  /** M55: pruning in an epoch that is not proven. */
  readonly pruneUnproven?: boolean;
  /** An epoch is proven although a registered process has not reported yet. */
  readonly unreportedIgnored?: boolean;
  /** Anyone who knows the id of a registry row can write it, not only its process. */
  readonly rowsOfAnybody?: boolean;
}

export interface TokenRow {
  readonly digest: string;
  readonly id: string;
  readonly tenant: string;
  readonly principal: string;
  readonly parent?: string;
  revoked: boolean;
  disabled: boolean;
  scopes: readonly string[];
  /** A token holds at most one here. */
  readonly role?: string;
  /** A token is attached to at most one further tenant here. */
  attached?: string | undefined;
  readonly notBefore?: number;
  readonly expire?: number;
}

export interface RoleRow {
  scopes: readonly string[];
  deleted: boolean;
}

interface Owner<S> {
  state: S;
  cut: boolean;
}

interface Validator {
  /** The process that registered it, in place of the row's secret. */
  readonly owner: unknown;
  readonly epoch: string;
  readonly boundMs: number;
  appliedN: number;
  reaped: boolean;
  seen: number;
  clients: number;
}

/** What a transaction did. `kind`: what the log says of it. */
export interface Change<T> {
  readonly keys: readonly string[];
  readonly value: T;
  readonly kind?: LogRecord["kind"];
}

/** The state of the database at one moment. Each visible change of authority adds one. */
export interface Version {
  readonly time: number;
  readonly n: number;
  readonly rows: ReadonlyMap<string, TokenSnapshot>;
  readonly roles: ReadonlyMap<string, RoleRow>;
}

export const DB_EPOCH_MS = 1.7e12;
const MAX_BOUND_MS = 1500;
/** Nobody renames anything here. */
export const NAMES = "as they are";

/** The one primary: rows, the commit-ordered log and the registry, with the behaviour of `docs/protocol.md` §3. */
export class ModelDatabase {
  readonly tokens = new Map<string, TokenRow>();
  readonly principals = new Map<string, Owner<PrincipalState>>();
  readonly tenants = new Map<string, Owner<TenantState>>();
  readonly roles = new Map<string, RoleRow>();
  /** Every state that was ever visible, in order, over all epochs. */
  readonly versions: Version[] = [];
  readonly validators = new Map<string, Validator>();
  up = true;
  /** The number of lost changes that were done again. */
  redone = 0;
  #world: World;
  #faults: DatabaseFaults;
  #n = 0;
  #sequence = 0;
  #floorN = 0;
  #settled: string | undefined;
  #timeline = 1;
  #start = 1;
  #incarnation = 1;
  #files = 1;
  #log: LogRecord[] = [];
  #serial = 0;
  #proven: string | undefined;
  #lost = new Map<string, { readonly record: LogRecord; readonly late: boolean; state: "pending" | Redone["state"] }>();
  readonly #pageSize: number;

  constructor(world: World, faults: DatabaseFaults, pageSize: number) {
    this.#world = world;
    this.#faults = faults;
    this.#pageSize = pageSize;
  }

  get epoch(): string {
    const { epochWithoutStart, epochWithoutFiles } = this.#faults;
    const start = epochWithoutStart ? "" : `/${this.#start}`;
    return `${this.#timeline}/${this.#incarnation}${start}${epochWithoutFiles ? "" : `/${this.#files}`}`;
  }

  get dbTime(): number {
    return DB_EPOCH_MS + this.#world.now;
  }

  /** Makes the present state the latest visible one. */
  publish(): void {
    const rows = new Map<string, TokenSnapshot>();
    for (const row of this.tokens.values()) rows.set(row.digest, this.#snapshotOf(row));
    const roles = new Map([...this.roles].map(([id, role]) => [id, { ...role }]));
    this.versions.push({ time: this.#world.now, n: this.#n, rows, roles });
  }

  // ------------------------------------------------------------------------------------------------ changes

  /** Takes the position of a transaction before its commit. Only a faulty database does it so early. */
  begin(): number | undefined {
    return this.#faults.sequence ? ++this.#sequence : undefined;
  }

  /** A transaction of its own: the change becomes visible, with its log rows. Returns the result of the commit. */
  commit<T>(change: () => Change<T>, early?: number): Committed<T> & { version: number } {
    const { keys, value, kind = "other" } = change();
    if (keys.length > 0) {
      const n = early ?? this.#n + 1;
      this.#n = Math.max(this.#n, n);
      const at = Math.round(this.dbTime * 1000) + ++this.#serial;
      for (const key of keys) this.#log.push({ position: n, key, at, kind, change: undefined });
      this.publish();
    }
    const version = this.versions.length - 1;
    return { value, epoch: this.epoch, maxBoundMs: MAX_BOUND_MS, dbTime: this.dbTime, version };
  }

  /** Like a change of more rows than a transaction names: the log says that everything changed. Returns the version. */
  revokeByHand(digest: string): number {
    const change = () => {
      this.tokens.get(digest)!.revoked = true;
      return { keys: [EVERYTHING], value: undefined };
    };
    return this.commit(change, this.begin()).version;
  }

  // ------------------------------------------------------------------------------------------------ statements

  evidence(): Evidence {
    return { inRecovery: false, epoch: this.epoch, position: this.#n, dbTime: this.dbTime };
  }

  read(digest: string): Omit<Reading, "sent" | "received"> {
    const evidence = { ...this.evidence(), proven: this.proven };
    return { ...evidence, snapshot: this.#labelled(this.versions.length - 1, digest, evidence) };
  }

  /** The answer of a server that took its snapshot at this version as a standby, and is the primary by now. */
  readBound(digest: string, version: number): Omit<Reading, "sent" | "received"> {
    const evidence = { ...this.evidence(), proven: this.proven, position: this.versions[version]!.n };
    return { ...evidence, snapshot: this.#labelled(version, digest, evidence) };
  }

  /** The answer of a standby that is `behind` versions behind. */
  readOfStandby(digest: string, behind: number): Omit<Reading, "sent" | "received"> {
    const at = Math.max(0, this.versions.length - 1 - behind);
    const { n: position } = this.versions[at]!;
    const evidence = { inRecovery: true, epoch: "-/i/77", proven: false, position, dbTime: this.dbTime };
    return { ...evidence, snapshot: this.#labelled(at, digest, evidence) };
  }

  poll(me: string, epoch: string, applied: number): PollResult {
    const rows = this.#log.filter((row) => row.position > applied).sort((a, b) => b.position - a.position);
    const page = rows.slice(0, this.#pageSize);
    const own = this.validators.get(me);
    return {
      ...this.evidence(),
      ownRowLive: own !== undefined && own.epoch === epoch && !own.reaped,
      floorN: this.#floorN,
      maxBoundMs: MAX_BOUND_MS,
      names: NAMES,
      settled: this.#settled,
      proven: this.proven,
      regressed: false,
      pending: this.#pending() !== undefined,
      rows: page,
      full: page.length === this.#pageSize,
    };
  }

  register({ old, mark, me, epoch, boundMs }: Parameters<RevocationLog["register"]>[0], owner: unknown): boolean {
    if (old !== undefined && !mark) this.leave(old, owner);
    const before = old === undefined ? undefined : this.#owned(old, owner);
    if (before !== undefined) before.reaped = true;
    if (boundMs > MAX_BOUND_MS) return false;
    const fresh = { appliedN: -1, reaped: false, seen: this.#world.now, clients: 0 };
    this.validators.set(me, { owner, epoch, boundMs, ...fresh });
    return true;
  }

  leave(me: string, owner: unknown): void {
    if (this.#owned(me, owner) !== undefined) this.validators.delete(me);
  }

  ack(me: string, epoch: string, applied: number, owner: unknown, clients?: number): void {
    const row = this.#owned(me, owner);
    // A position that does not exist is refused.
    if (applied > this.#n) return;
    if (row === undefined || row.epoch !== epoch || row.reaped) return;
    row.appliedN = Math.max(row.appliedN, applied);
    row.seen = this.#world.now;
    row.clients = clients ?? row.clients;
  }

  #owned(id: string, owner: unknown): Validator | undefined {
    const row = this.validators.get(id);
    return row?.owner === owner || this.#faults.rowsOfAnybody ? row : undefined;
  }

  missing(epoch: string, position: number | undefined): Unacknowledged {
    const rows = [...this.validators].map(([id, row]) => ({
      id,
      boundMs: row.boundMs,
      reaped: row.reaped,
      appliedN: row.epoch === epoch ? row.appliedN : -1,
      held: row.clients > 0 && row.seen > this.#world.now - 500,
    }));
    const least = position ?? this.#n;
    const missing = rows.filter((row) => row.appliedN < least);
    return { ...this.evidence(), settled: this.#settled, maxBoundMs: MAX_BOUND_MS, validators: rows.length, missing };
  }

  registry(): Awaited<ReturnType<RevocationLog["validators"]>> {
    const rows = [...this.validators].map(([id, { boundMs, reaped, seen }]) => ({
      id,
      boundMs,
      reaped,
      silentMs: this.#world.now - seen,
    }));
    return { ...this.evidence(), settled: this.#settled, rows };
  }

  reap(ids: readonly string[]): void {
    for (const id of ids) {
      const row = this.validators.get(id);
      if (row !== undefined) row.reaped = true;
    }
  }

  bury(ids: readonly string[], epoch: string): void {
    for (const id of ids) if (epoch === this.epoch && this.validators.get(id)?.reaped) this.validators.delete(id);
  }

  settle(epoch: string, names = NAMES): void {
    if (epoch === this.epoch && names === NAMES) this.#settled = epoch;
  }

  get proven(): boolean {
    return this.#proven === this.epoch;
  }

  #pending() {
    return [...this.#lost.values()].find(({ state }) => state === "pending");
  }

  reportLost(epoch: string, records: readonly LogRecord[]): void {
    if (epoch !== this.epoch) return;
    const identity = ({ position, key, at }: LogRecord) => `${position} ${key} ${at}`;
    const here = new Set(this.#log.map(identity));
    for (const record of records) {
      const name = identity(record);
      if (this.#lost.has(name) && !this.#faults.redoneTwice) continue;
      if (record.position > this.#floorN ? here.has(name) : this.#shows(record)) continue;
      this.#lost.set(this.#lost.has(name) ? `${name} ${++this.#serial}` : name, {
        record,
        late: this.proven,
        state: "pending",
      });
    }
  }

  redoLost(epoch: string): Redone | undefined {
    const lost = this.#pending();
    if (epoch !== this.epoch || lost === undefined) return undefined;
    lost.state = "noted";
    const { key, kind } = lost.record;
    if (kind !== "other") {
      lost.state = "applied";
      this.redone++;
      this.commit(() => ({ keys: [key], value: this.#redo(key, kind), kind }));
    }
    return { state: lost.state, late: lost.late };
  }

  /** Below the floor, only a final change counts as missing, and only if its row does not show it. */
  #shows({ key, kind }: LogRecord): boolean {
    if (kind === "revoked") return this.tokens.get(key.slice(1))?.revoked ?? true;
    if (kind === "cut") return (this.principals.get(key) ?? this.tenants.get(key.slice(1)))?.cut ?? true;
    return true;
  }

  #redo(key: string, kind: LogRecord["kind"]): void {
    const token = this.tokens.get(key.slice(1));
    const principal = this.principals.get(key);
    const tenant = this.tenants.get(key.slice(1));
    if (key.startsWith("t")) {
      if (kind === "revoked") token!.revoked = true;
      else token!.disabled = true;
      return;
    }
    const role = this.roles.get(key.slice(1));
    if (kind === "cut") (principal ?? tenant)!.cut = true;
    else if (key.startsWith("r")) role!.scopes = [];
    else if (principal !== undefined) principal.state = "DISABLED";
    else tenant!.state = "SUSPENDED";
  }

  prove(epoch: string, waited: boolean): boolean {
    const others = [...this.validators.values()].some(
      (row) => !row.reaped && (row.epoch !== epoch || (row.appliedN < 0 && !this.#faults.unreportedIgnored)),
    );
    if (epoch !== this.epoch || (others && !waited) || this.#pending() !== undefined) return this.proven;
    this.#proven = epoch;
    return true;
  }

  draw(epoch: string): void {
    if (epoch === this.epoch) this.#incarnation++;
  }

  prune(): void {
    if (!this.proven && !this.#faults.pruneUnproven) return;
    const upTo = this.#n - Math.floor(this.#world.random.between(0, 3));
    if (!this.#faults.pruneWithoutFloor) this.#floorN = Math.max(this.#floorN, upTo);
    this.#log = this.#log.filter((row) => row.position > upTo);
  }

  // ------------------------------------------------------------------------------------------------ its own faults

  /** The same server again: committed rows are there, acknowledgements may be lost. */
  restart(): void {
    this.#start++;
    this.#loseAcks();
  }

  /**
   * A standby takes over, or a copy of the volume returns: registrations may be lost. `keep` is the last version that
   * must survive: every acknowledged commit.
   */
  takeOver(sameTimeline: boolean, keep: number): void {
    if (!sameTimeline) this.#timeline++;
    this.#start++;
    for (const id of this.validators.keys()) if (this.#world.random.chance(0.6)) this.validators.delete(id);
    this.#loseAcks();
    if (!sameTimeline && keep < this.versions.length - 1) this.#goBackTo(this.versions[keep]!);
  }

  /** A dump of this version is restored in place, while the server runs: new tables with the old rows. */
  restore(version: number): void {
    this.#files++;
    this.validators.clear();
    this.goBack(version);
  }

  /** The rows are the old ones, and nothing else shows it. */
  goBack(version: number): void {
    this.#goBackTo(this.versions[version]!);
  }

  /** One backend crashes and loses its asynchronous commits. The epoch stays. */
  crashBackend(): void {
    this.#loseAcks();
    if (!this.#faults.asyncRegistration) return;
    for (const id of this.validators.keys()) if (this.#world.random.chance(0.5)) this.validators.delete(id);
  }

  #loseAcks(): void {
    for (const row of this.validators.values()) if (this.#world.random.chance(0.5)) row.appliedN = -1;
  }

  #goBackTo(version: Version): void {
    this.#n = version.n;
    this.#floorN = Math.min(this.#floorN, version.n);
    this.#lost.clear();
    this.#log = this.#log.filter((row) => row.position <= version.n);
    for (const [digest, was] of version.rows) {
      const row = this.tokens.get(digest)!;
      row.revoked = was.revoked;
      row.disabled = was.disabled;
      row.attached = was.attachments[0]?.tenant;
      for (const { tenant, tenantState, cut } of was.attachments) {
        const further = this.tenants.get(tenant)!;
        further.state = tenantState;
        if (!cut) further.cut = false;
      }
      // Nothing changes what a token with a role is given itself.
      if (row.role === undefined) row.scopes = was.scopes;
      const principal = this.principals.get(principalKey(row.tenant, row.principal))!;
      principal.state = was.principalState;
      this.tenants.get(row.tenant)!.state = was.tenantState;
      if (!was.cut) {
        principal.cut = false;
        this.tenants.get(row.tenant)!.cut = false;
      }
    }
    for (const [id, role] of version.roles) this.roles.set(id, { ...role });
    this.publish();
  }

  #labelled(index: number, digest: string, version: { epoch: string; position: number }): TokenSnapshot | undefined {
    const snapshot = this.versions[index]?.rows.get(digest);
    const annotations = { at: String(this.#world.now) };
    return snapshot && { ...snapshot, annotations, version: { epoch: version.epoch, position: version.position } };
  }

  #snapshotOf(row: TokenRow): TokenSnapshot {
    const parent = row.parent === undefined ? undefined : this.tokens.get(row.parent)!;
    return {
      version: { epoch: "", position: this.#n },
      id: row.id,
      digest: row.digest,
      tenant: row.tenant,
      profile: "bot",
      principal: row.principal,
      scopes: withinParent(this.#granted(row), parent && this.#granted(parent)),
      attachments: this.#attachmentsOf(row, parent),
      roles: [row.role, parent?.role].filter((role) => role !== undefined),
      audiences: [],
      allowedCidrs: [],
      annotations: {},
      hint: "",
      rotated: false,
      principalState: this.principals.get(principalKey(row.tenant, row.principal))!.state,
      tenantState: this.tenants.get(row.tenant)!.state,
      ...this.#livenessOf(row),
      parent: parent && { digest: parent.digest, audiences: [], allowedCidrs: [], ...this.#livenessOf(parent) },
    };
  }

  #attachmentsOf({ attached }: TokenRow, parent: TokenRow | undefined): Attachment[] {
    if (attached === undefined) return [];
    const { state, cut } = this.tenants.get(attached)!;
    return [
      { tenant: attached, tenantState: state, cut: cut || (parent !== undefined && parent.attached !== attached) },
    ];
  }

  #granted({ scopes, role }: TokenRow): readonly string[] {
    const held = role === undefined ? undefined : this.roles.get(role);
    return held === undefined || held.deleted ? scopes : union(scopes, held.scopes);
  }

  #livenessOf(row: TokenRow): Liveness {
    const cut = this.principals.get(principalKey(row.tenant, row.principal))!.cut || this.tenants.get(row.tenant)!.cut;
    return { revoked: row.revoked, disabled: row.disabled, cut, notBefore: row.notBefore, expire: row.expire };
  }
}

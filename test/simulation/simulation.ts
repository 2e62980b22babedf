import { NO_REQUIREMENT, type Requirement } from "../../src/domain/decide.ts";
import { principalKey } from "../../src/domain/token-snapshot.ts";
import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import type { Committed } from "../../src/revocation/ports.ts";
import type { Events, Tier } from "../../src/telemetry/events.ts";
import { Adversary } from "./adversary.ts";
import { Checker } from "./checker.ts";
import { type DatabaseFaults, DB_EPOCH_MS, ModelDatabase } from "./model-database.ts";
import { type Changed, Network } from "./network.ts";
import type { Product } from "./product.ts";
import { Random } from "./random.ts";
import { Machine, World } from "./world.ts";

export interface Settings {
  readonly seed: number;
  /** The drift of the machines' clocks; 1 by default. */
  readonly rates?: readonly number[];
  readonly databaseFaults?: DatabaseFaults;
  readonly pageSize?: number;
  readonly denyLimit?: number;
  readonly l1Entries?: number;
  readonly l1TtlMs?: number;
  /** True if the instances have an L2 cache. */
  readonly cache?: boolean;
  /** The places of processes that may not redo what the database lost. */
  readonly readers?: readonly number[];
  /** The first epoch is settled from the start. */
  readonly settled?: boolean;
  /** True if the instances feed client caches. */
  readonly feed?: boolean;
}

export type TokenName =
  | "a"
  | "b"
  | "c"
  | "parent"
  | "child"
  | "ends"
  | "begins"
  | "still"
  | "holder"
  | "heir"
  | "guest"
  | "ward";

/** One running process: the program's own code on a machine. */
export interface Instance {
  readonly name: string;
  readonly machine: Machine;
  readonly lookup: InstanceType<Product["Lookup"]>;
  readonly freshness: InstanceType<Product["Freshness"]>;
  readonly follower: InstanceType<Product["Follower"]>;
  readonly housekeeping: InstanceType<Product["Housekeeping"]>;
  readonly authority: InstanceType<Product["ChangeAuthority"]>;
  readonly validate: ReturnType<Product["validateWith"]>;
  readonly validateKnown: ReturnType<Product["validateKnownWith"]>;
  readonly validateWithEntry: ReturnType<Product["validateWith"]>;
  readonly feed: InstanceType<Product["Feed"]> | undefined;
  ready: boolean;
}

export type Work = (store: AuthorityStore) => Promise<Committed<unknown>>;

const LEASE_MS = 1500;
const PEPPER = Buffer.alloc(32, 7).toString("base64");

/**
 * The real code of domain and application of several processes in one virtual world, with the checker of their answers.
 */
export class Simulation {
  readonly world: World;
  readonly db: ModelDatabase;
  readonly network: Network;
  readonly adversary: Adversary;
  readonly checker: Checker;
  readonly instances: Instance[] = [];
  /** Counts of events: proof that a run did more than pass. */
  readonly counts: Record<string, number> = {};
  /** A race makes the code throw, so that its error reports are exercised. */
  faultsMade = false;
  readonly settings: Settings;
  readonly product: Product;
  readonly #keyring: InstanceType<Product["Keyring"]>;
  readonly #texts = new Map<TokenName, string>();
  #asked = 0;
  #booted = 0;

  constructor(product: Product, settings: Settings) {
    this.product = product;
    this.settings = settings;
    this.world = new World(new Random(settings.seed));
    this.db = new ModelDatabase(this.world, settings.databaseFaults ?? {}, settings.pageSize ?? 5000);
    this.network = new Network(this.world, this.db, product);
    this.adversary = new Adversary(this.world);
    this.checker = new Checker(this.db, settings.rates === undefined ? 0 : 250);
    this.#keyring = new product.Keyring("1", { "1": PEPPER });
    this.#fill();
    if (settings.settled ?? true) this.db.settle(this.db.epoch);
    this.db.prove(this.db.epoch, true);
  }

  /** Starts a process in this place of the fleet. */
  boot(place: number): Instance {
    const { product, world, network, settings } = this;
    const machine = new Machine(world, settings.rates?.[place] ?? 1);
    const { clock, timers } = machine;
    const log = network.log(machine);
    const reader = network.reader(machine);
    const events = this.#events();
    const freshness = new product.Freshness(LEASE_MS, settings.denyLimit);
    let wake = () => {};
    const lookup = new product.Lookup(
      {
        freshness,
        reader,
        cache: settings.cache === false ? undefined : this.adversary.at(machine),
        clock,
        timers,
        events,
        wake: () => wake(),
      },
      {
        l1Entries: settings.l1Entries ?? 100,
        l1Bytes: 1e6,
        l1TtlMs: settings.l1TtlMs ?? 60_000,
        l1DeadTtlMs: 5_000,
        maxReads: 16,
        maxQueuedReads: 100,
        maxCacheReads: 100,
        readTimeoutMs: 400,
      },
    );
    const name = `#${place}.${++this.#booted}`;
    let ids = 0;
    const names = new product.FeedNames();
    const later = (run: () => void) => void world.after(0.05, run, machine);
    const feed = !settings.feed
      ? undefined
      : new product.Feed(
          { freshness, names, follower: () => follower, clock, timers, later, mayLease: () => true, instanceId: name },
          { leaseMs: LEASE_MS, feedLeaseMs: 1300, maxClients: 10 },
        );
    const follower: InstanceType<Product["Follower"]> = new product.Follower(
      {
        log,
        freshness,
        lookup,
        reader,
        clock,
        timers,
        events,
        newId: () => `${name}.${++ids}`,
        random: () => world.random.next(),
        ...(feed && { feed }),
      },
      {
        leaseMs: LEASE_MS,
        pollMs: 400,
        readerVersion: 1,
        redoes: !settings.readers?.includes(place),
        kids: () => ["1"],
      },
    );
    wake = () => follower.wake();
    const reaped = new product.ReapedValidators();
    const store = { ...network.store(machine, () => {}), fillByWriter: this.#fillByWriter };
    const instance: Instance = {
      name,
      machine,
      lookup,
      freshness,
      follower,
      housekeeping: new product.Housekeeping(
        { log, freshness, follower, reaped, clock, timers, events },
        { mode: "full", leaseMs: LEASE_MS },
      ),
      authority: new product.ChangeAuthority({ store, log, reaped, clock, timers, events, wake }),
      validate: product.validateWith({ keyring: this.#keyring, lookup, clock, events }),
      validateKnown: product.validateKnownWith({ keyring: this.#keyring, lookup, freshness, clock, events }),
      validateWithEntry: product.validateWith({
        ...{ keyring: this.#keyring, lookup, clock, events },
        entryOf: (found, verdict) => product.entryOf({ freshness, names, clock }, found, verdict),
      }),
      feed,
      ready: false,
    };
    void follower.start().then(() => {
      instance.ready = true;
    });
    instance.housekeeping.start();
    this.instances[place] = instance;
    return instance;
  }

  advance(ms: number): Promise<void> {
    return this.world.runUntil(this.world.now + ms);
  }

  digest(name: TokenName): string {
    return this.product.parseTokenString(this.#texts.get(name)!, this.#keyring)!.digest;
  }

  text(name: TokenName): string {
    return this.#texts.get(name)!;
  }

  id(name: TokenName): string {
    return this.db.tokens.get(this.digest(name))!.id;
  }

  /** Asks a process about a token and has the answer judged. Resolves to the verdict. */
  async ask(instance: Instance, name: TokenName, requirement: Requirement = NO_REQUIREMENT, withinMs = 1000) {
    const { world, checker } = this;
    const question = checker.ask(instance.name, this.digest(name), requirement, world.now);
    const wasReady = instance.ready;
    const deadline = instance.machine.clock.mono() + withinMs;
    const text = this.#texts.get(name)!;
    const context = { clientAddress: "" };
    // Some callers try the fast path first, some never do.
    const bytes = Buffer.from(text);
    const known =
      this.#asked++ % 2 === 0 ? instance.validateKnown(bytes, 0, bytes.length, requirement, context) : undefined;
    const given = known ?? instance.validate(text, requirement, context, deadline);
    // Not through a promise if it is a value, because the answer belongs to this very moment.
    const answer = given instanceof Promise ? await given : given;
    const at = Number(answer.snapshot?.annotations["at"] ?? Number.NaN);
    checker.answered(question, answer.verdict, world.now, `${name} by ${answer.tier}, read at ${at}`);
    this.#count(`${answer.verdict} ${answer.tier}`);
    if (!wasReady) this.#count("asked before ready");
    this.#checkLifetime(instance, answer.tier, at);
    return answer.verdict;
  }

  /** Changes authority through a process. Once it returns, the checker requires every answer to show the change. */
  async change(instance: Instance, work: Work, { noWait = false, withinMs = 10_000 } = {}): Promise<string> {
    const { network, checker, world } = this;
    let version = 0;
    const store = network.store(instance.machine, (committed) => {
      version = committed;
    });
    const deadline = instance.machine.clock.mono() + withinMs;
    const vouchAt = (dbTime: number, of: number) =>
      world.at(Math.max(world.now, dbTime - DB_EPOCH_MS), () => checker.vouch(of));
    try {
      const { effect } = await instance.authority.change(() => work(store), { noWait, deadline });
      if (effect.mode === "ACCEPTED") vouchAt(effect.effectiveBy, version);
      else checker.vouch(version);
      this.#count(effect.mode);
      return effect.mode;
    } catch (error) {
      if (!(error instanceof this.product.AppError)) throw error;
      // The answer has it in whole milliseconds.
      if (error.reason === "EFFECT_PENDING") vouchAt(Date.parse(error.metadata["effective_by"]!) + 1, version);
      this.#count(error.reason);
      return error.reason;
    }
  }

  revoke(instance: Instance, name: TokenName, options?: { noWait?: boolean; withinMs?: number }): Promise<string> {
    const actor = { actor: "", address: "", requestId: "" };
    return this.change(instance, (store) => store.revokeToken(this.id(name), false, "", actor), options);
  }

  /** Stops a process as a signal would: it still answers calls until it is gone. */
  stop(instance: Instance): void {
    void instance.follower.stop();
    void instance.housekeeping.stop();
    this.world.after(instance.feed === undefined ? 1500 : 3300, () => {
      instance.machine.dead = true;
    });
  }

  #checkLifetime(instance: Instance, tier: Tier, readAt: number): void {
    const { l1TtlMs, cache } = this.settings;
    if (tier !== "l1" || cache !== false || l1TtlMs === undefined || Number.isNaN(readAt)) return;
    // Counted from the storing, because a process may pause between the read and the storing.
    if (this.world.now - readAt > l1TtlMs / instance.machine.rate + 3000) {
      this.checker.violations.push(`(T) ${instance.name} used an entry beyond its lifetime`);
    }
  }

  #fill(): void {
    const { db, product } = this;
    for (const tenant of ["x", "y", "z"]) db.tenants.set(tenant, { state: "ACTIVE", cut: false });
    const token = (name: TokenName, principal: string, tenant: string, over: object = {}) => {
      const secret = Buffer.alloc(32, name);
      const { tokenString, digest } = product.mintTokenString("sp_bot", this.#keyring.current, secret);
      this.#texts.set(name, tokenString.reveal());
      db.principals.set(principalKey(tenant, principal), { state: "ACTIVE", cut: false });
      const row = { digest, id: name, tenant, principal, revoked: false, disabled: false, scopes: ["s"], ...over };
      db.tokens.set(digest, row);
      return digest;
    };
    token("a", "bot:a", "x");
    token("b", "bot:a", "x");
    token("c", "bot:b", "x");
    const parent = token("parent", "bot:b", "x");
    token("child", "bot:b", "x", { parent });
    token("ends", "bot:a", "x", { expire: DB_EPOCH_MS + 4500 });
    token("begins", "bot:a", "x", { notBefore: DB_EPOCH_MS + 3500 });
    token("still", "bot:s", "y");
    db.roles.set("r", { scopes: ["s"], deleted: false });
    const holder = token("holder", "bot:r", "x", { scopes: [], role: "r" });
    token("heir", "bot:r", "x", { parent: holder });
    const guest = token("guest", "bot:g", "y", { attached: "z" });
    token("ward", "bot:g", "y", { attached: "z", parent: guest });
    db.publish();
  }

  #events(): Events {
    const none = () => {};
    return {
      validated: none,
      tokenReused: none,
      authorityChanged: none,
      audited: none,
      lease: none,
      validators: none,
      reaped: none,
      guard: none,
      journalLag: () => {},
      lostChanges: none,
      cacheEntries: none,
      feedClients: none,
      feedHeld: none,
      canary: none,
      accessDropped: none,
      shed: () => this.#count("shed"),
      trouble: (what, error) => {
        if (this.faultsMade) return this.#count(what);
        // The model refuses with an AppError; any other error is a fault of the code under test.
        if (!(error instanceof this.product.AppError)) throw error;
        this.#count(what);
      },
      alarm: (what) => {
        // A loop continues after an error. Here the error must be reported, unless the test caused it.
        if (what.endsWith("_failed") && !this.faultsMade) this.checker.violations.push(`(F) ${what}`);
        this.#count(`alarm: ${what}`);
      },
      note: (what) => this.#count(what),
    };
  }

  /** Only mutants call this: a row of the writer's own transaction goes to the cache under a later position. */
  readonly #fillByWriter = ({ value, version, epoch }: Committed<Changed> & { version: number }, n: number) => {
    const snapshot = value.digest === undefined ? undefined : this.db.versions[version]!.rows.get(value.digest);
    if (snapshot !== undefined) this.adversary.fill({ ...snapshot, version: { epoch, position: n } });
  };

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}

import { NO_REQUIREMENT, type Requirement } from "../../src/domain/decide.ts";
import type { ClientFaults } from "../support/feed-cache.ts";
import { FeedClient } from "./feed-client.ts";
import type { DatabaseFaults } from "./model-database.ts";
import type { Product } from "./product.ts";
import { Random } from "./random.ts";
import { type Instance, Simulation, type TokenName, type Work } from "./simulation.ts";

const TOKENS: readonly TokenName[] = [
  "a",
  "b",
  "c",
  "parent",
  "child",
  "ends",
  "begins",
  "still",
  "holder",
  "heir",
  "guest",
  "ward",
];
const WITH_SCOPE: Requirement = { ...NO_REQUIREMENT, scopes: ["s"] };
const IN_TENANT: Requirement = { ...NO_REQUIREMENT, tenant: "z" };
const END = 8000;

export interface Report {
  readonly violations: readonly string[];
  readonly counts: Readonly<Record<string, number>>;
}

/**
 * One run of random changes, requests and faults, determined by its seed. With `clients`, programs with client caches
 * follow the instances.
 */
export async function runScenario(
  product: Product,
  seed: number,
  databaseFaults: DatabaseFaults = {},
  clients?: ClientFaults,
): Promise<Report> {
  const random = new Random(seed + 0x5eed);
  const maybe = <T>(probability: number, value: T): T | undefined => (random.chance(probability) ? value : undefined);
  const sim = new Simulation(product, {
    seed,
    databaseFaults,
    rates: maybe(0.5, random.chance(0.5) ? [0.92, 1.09, 1] : [1.09, 0.92, 0.92]),
    pageSize: maybe(0.3, random.chance(0.5) ? 1 : 3),
    denyLimit: maybe(0.3, 3),
    l1Entries: maybe(0.5, 3),
    l1TtlMs: maybe(0.3, 900),
    cache: maybe(0.3, false),
    settled: random.chance(0.8),
    feed: clients !== undefined,
  });
  new Scenario(sim, random, clients).plan();
  await sim.world.runUntil(END);
  return { violations: sim.checker.violations, counts: sim.counts };
}

class Scenario {
  readonly #sim: Simulation;
  readonly #random: Random;
  readonly #clientFaults: ClientFaults | undefined;
  readonly #clients: FeedClient[] = [];

  constructor(sim: Simulation, random: Random, clientFaults?: ClientFaults) {
    this.#sim = sim;
    this.#random = random;
    this.#clientFaults = clientFaults;
  }

  plan(): void {
    const { world, network, adversary } = this.#sim;
    const random = this.#random;
    for (let place = 0; place < 3; place++) this.#sim.boot(place);
    adversary.hostile = random.chance(0.8);
    if (random.chance(0.3)) network.weather.slow = random.between(0.02, 0.3);
    network.weather.lostWakeUps = random.pick([0, 0.5, 1]);
    if (random.chance(0.25)) network.weather.standby = 0.1;
    if (random.chance(0.3)) network.weather.longCommits = 0.5;
    for (let time = 50; time < END; time += random.between(5, 50))
      world.at(time, () => this.#question(random.pick(TOKENS)));
    for (let time = 300; time < END - 2200; time += random.between(100, 1200)) world.at(time, () => this.#change());
    this.#faults();
    if (this.#clientFaults !== undefined) this.#planClients(this.#clientFaults);
  }

  #planClients(faults: ClientFaults): void {
    const random = this.#random;
    const { world } = this.#sim;
    for (let i = 0; i < 3; i++) this.#startClient(Math.floor(random.between(0, 3)), faults);
    for (const client of this.#clients) {
      for (let time = 250; time < END; time += random.between(5, 60)) {
        const name = random.pick(TOKENS);
        world.at(time, () => this.#askAs(client, name));
      }
      const often = (probability: number, every: number, fault: () => void) => {
        if (!random.chance(probability)) return;
        for (let time = random.between(0, every); time < END; time += random.between(0.5, 1.5) * every)
          world.at(time, fault);
      };
      often(0.3, 2000, () => {
        client.machine.pausedUntil = Math.max(client.machine.pausedUntil, world.now + random.between(100, 2500));
        for (const name of TOKENS) this.#askAs(client, name);
      });
      often(0.4, 800, () => client.disconnect());
      often(0.3, 1000, () => client.move(Math.floor(random.between(0, 3))));
      often(0.1, 3000, () => {
        client.machine.dead = true;
      });
      // A keyring was reloaded.
      often(0.2, 1500, () => client.server.follower.renew());
    }
  }

  #startClient(place: number, faults: ClientFaults): FeedClient {
    const { rates } = this.#sim.settings;
    const rate = rates === undefined ? 1 : this.#random.pick(rates);
    const client = new FeedClient(this.#sim, `cache${this.#clients.length}`, place, rate, faults);
    this.#clients.push(client);
    return client;
  }

  /** A cache joins an instance that has lost its database: it may have only what is left of the instance's last poll. */
  #joinCutOff(instance: Instance, name: TokenName, faults: ClientFaults): void {
    const { world, instances } = this.#sim;
    const place = instances.indexOf(instance);
    this.#cutOff(instance, this.#random.between(1000, 2500));
    world.after(this.#random.between(50, 1200), () => {
      const client = this.#startClient(place, faults);
      for (let delay = 5; delay < 2500; delay += this.#random.between(5, 100))
        world.after(delay, () => this.#askAs(client, name));
    });
  }

  #askAs(client: FeedClient, name: TokenName): void {
    const requirement = this.#random.chance(0.3) ? WITH_SCOPE : undefined;
    this.#sim.world.after(0, () => void client.ask(name, requirement), client.machine);
  }

  /** Each run has a few kinds of faults, so that each kind occurs without the noise of all others. */
  #faults(): void {
    const random = this.#random;
    const { world, db, network } = this.#sim;
    const often = (probability: number, every: number, fault: () => void) => {
      if (!random.chance(probability)) return;
      for (let time = random.between(0, every); time < END; time += random.between(0.5, 1.5) * every)
        world.at(time, fault);
    };
    const someone = (act: (instance: Instance) => void) => () => act(random.pick(this.#sim.instances));
    often(
      0.35,
      2000,
      someone((one) => this.#pause(one, random.between(100, 2500))),
    );
    often(
      0.3,
      2500,
      someone((one) => this.#cutOff(one, random.between(300, 2500))),
    );
    often(
      0.2,
      2500,
      someone((one) => this.#crash(one)),
    );
    often(
      0.2,
      2500,
      someone((one) => this.#leave(one)),
    );
    often(0.2, 3000, () => this.#outage(() => db.restart()));
    often(0.2, 3000, () => this.#outage(() => this.#takeOver(false)));
    often(0.15, 3000, () => this.#outage(() => this.#takeOver(true)));
    often(0.2, 1500, () => db.crashBackend());
    often(0.25, 700, () => db.prune());
    often(0.15, 2000, () => this.#byHand(random.pick<TokenName>(["a", "b", "c", "parent", "ends"])));
    often(0.2, 1500, () => db.reap([random.pick([...db.validators.keys(), ""])]));
    often(
      0.2,
      900,
      someone((one) => (one.machine.wallStep += random.between(-3000, 3000))),
    );
    often(0.15, 1500, () => {
      network.weather.lostWakeUps = random.pick([0, 1]);
    });
  }

  #question(name: TokenName, instance: Instance = this.#random.pick(this.#sim.instances)): void {
    // A role decides about scopes alone.
    const often = name === "holder" || name === "heir" ? 0.9 : 0.3;
    const guest = name === "guest" || name === "ward";
    const requirement = guest ? IN_TENANT : this.#random.chance(often) ? WITH_SCOPE : undefined;
    // As an event of that machine: it starts when the machine runs.
    this.#sim.world.after(0, () => void this.#sim.ask(instance, name, requirement), instance.machine);
  }

  #change(): void {
    const random = this.#random;
    const { world } = this.#sim;
    const instance = random.pick(this.#sim.instances);
    const [names, work] = this.#pickWork();
    // Caches the row that is about to change, so that a stale one exists.
    for (const name of names) for (const one of this.#sim.instances) this.#question(name, one);
    const options = { noWait: random.chance(0.1), withinMs: random.chance(0.15) ? random.between(100, 1500) : 10_000 };
    for (const name of names) for (const client of this.#clients) this.#askAs(client, name);
    const afterwards = () => {
      for (const client of this.#clients) {
        for (const delay of [0, 0, 1, 5, 20, 60, 200, 400, 700, 1000, 1300]) {
          world.after(delay * random.between(0.8, 1.2), () => this.#askAs(client, random.pick(names)));
        }
      }
      for (const one of this.#sim.instances) {
        for (const delay of [0, 0, 1, 10, 60, 200, 400, 700, 1000, 1300]) {
          world.after(delay * random.between(0.8, 1.2), () => this.#question(random.pick(names), one));
        }
      }
    };
    world.after(
      random.between(0, 40),
      () => void this.#sim.change(instance, work, options).then(afterwards),
      instance.machine,
    );
    if (random.chance(0.2)) {
      const other = random.pick(this.#sim.instances);
      const same = random.chance(0.5);
      const change = () => (same ? this.#sim.change(other, work) : this.#sim.revoke(other, names[0]!));
      world.after(random.between(0, same ? 300 : 30), () => void change().then(afterwards), other.machine);
    }
    this.#disturb(names[0]!);
  }

  /** The worst conditions for a change, all at once. */
  #disturb(name: TokenName): void {
    const random = this.#random;
    const { world, network, db } = this.#sim;
    const victim = random.pick(this.#sim.instances);
    if (random.chance(0.15)) this.#pause(victim, random.between(200, 2500));
    if (random.chance(0.2)) this.#cutOff(victim, random.between(1000, 2500));
    if (random.chance(0.15)) {
      // A poll that comes back late, to a process that has paused meanwhile.
      network.hold(victim.machine, "poll", 0.5, random.between(60, 480));
      victim.follower.wake();
      if (random.chance(0.7))
        world.after(random.between(25, 60), () => this.#pause(victim, random.between(1400, 2500)));
    }
    if (random.chance(0.25)) {
      // A row that is read before the change and comes back after it, with other calls waiting for it.
      victim.lookup.forget();
      network.hold(victim.machine, "read", 0.5, random.between(20, 300));
      this.#question(name, victim);
      const joins = random.between(0, 4);
      for (let i = 0; i < joins; i++) world.after(random.between(0, 250), () => this.#question(name, victim));
    }
    for (const client of this.#clients) {
      if (random.chance(0.15)) world.after(random.between(0, 60), () => client.disconnect());
      // The answer that brings the change comes late.
      if (random.chance(0.15)) client.hold(random.between(50, 400));
    }
    if (this.#clientFaults !== undefined && random.chance(0.1)) this.#joinCutOff(victim, name, this.#clientFaults);
    if (random.chance(0.05))
      world.after(random.between(0, 60), () => this.#outage(() => this.#takeOver(random.chance(0.5))));
    if (random.chance(0.05)) world.after(random.between(0, 200), () => this.#leave(victim));
    if (random.chance(0.1)) world.after(random.between(0, 100), () => db.prune());
  }

  #pickWork(): [names: TokenName[], work: Work] {
    const random = this.#random;
    const actor = { actor: "", address: "", requestId: "" };
    const guard = { callerScopes: [] };
    const token = random.pick<TokenName>(["a", "b", "c", "parent", "child", "ends", "begins"]);
    const hit: TokenName[] = token === "parent" ? ["parent", "child", "child"] : [token];
    const principal = random.pick(["bot:a", "bot:b"]);
    const held: TokenName[] = principal === "bot:a" ? ["a", "b"] : ["c", "parent", "child"];
    const state = random.pick(["ACTIVE", "DISABLED"] as const);
    const guests: TokenName[] = ["guest", "ward"];
    const guest = random.pick(guests);
    const update = (change: object, of = token): Work => {
      const rule = { maxTtl: 0 };
      return (store) => store.updateToken(this.#sim.id(of), change, "", rule, guard, actor);
    };
    return random.pick<[TokenName[], Work]>([
      [hit, (store) => store.revokeToken(this.#sim.id(token), false, "", actor)],
      [hit, update({ disabled: true })],
      [hit, update({ disabled: false })],
      [hit, update({ scopes: [random.pick(["s", "t"])] })],
      [held, (store) => store.updatePrincipal("x", principal, { state }, "", guard, actor)],
      [held, (store) => store.updatePrincipal("x", principal, { state: "DISABLED" }, "", guard, actor)],
      [held, (store) => store.updatePrincipal("x", principal, { state: "ACTIVE" }, "", guard, actor)],
      [
        ["holder", "heir"],
        (store) => store.updateRole("x", "r", { scopes: random.pick([["s"], ["t"], []]) }, "", () => {}, guard, actor),
      ],
      [guests, (store) => store.updateTenant("z", { state: "SUSPENDED" }, "", guard, actor)],
      [guests, (store) => store.updateTenant("z", { state: "ACTIVE" }, "", guard, actor)],
      random.chance(0.3)
        ? [guests, (store) => store.cut("z", undefined, false, "", actor)]
        : [guests, (store) => store.detachTenant("z", this.#sim.id(guest), actor)],
      [guests, update({ attached: "z" }, guest)],
      [["a", "c", "child"], (store) => store.updateTenant("x", { state: "SUSPENDED" }, "", guard, actor)],
      [["a", "c", "child"], (store) => store.updateTenant("x", { state: "ACTIVE" }, "", guard, actor)],
      random.chance(0.3)
        ? [held, (store) => store.cut("x", principal, false, "", actor)]
        : [hit, update({ disabled: random.chance(0.5) })],
    ]);
  }

  /** When a paused process continues, it finds its timers, its messages and new calls in any order. */
  #pause(instance: Instance, ms: number): void {
    const { machine } = instance;
    machine.pausedUntil = Math.max(machine.pausedUntil, this.#sim.world.now + ms);
    for (const name of TOKENS) if (this.#random.chance(0.6)) this.#question(name, instance);
  }

  #cutOff({ machine }: Instance, ms: number): void {
    machine.cutOff = true;
    this.#sim.world.after(ms, () => {
      machine.cutOff = false;
    });
  }

  #crash(instance: Instance): void {
    instance.machine.dead = true;
    this.#replace(instance);
  }

  #leave(instance: Instance): void {
    if (!instance.ready) return;
    if (this.#random.chance(0.5)) {
      this.#sim.network.hold(instance.machine, "poll", 0.5, this.#random.between(30, 400));
      instance.follower.wake();
    }
    this.#sim.world.after(this.#random.between(0, 40), () => this.#sim.stop(instance), instance.machine);
    const replace = () => {
      instance.machine.dead = true;
      this.#replace(instance);
    };
    this.#sim.world.after(this.#clientFaults === undefined ? 1400 : 3200, replace);
    for (const name of TOKENS) {
      this.#sim.world.after(this.#random.between(0, 1200), () => this.#question(name, instance));
    }
  }

  #replace(instance: Instance): void {
    const place = this.#sim.instances.indexOf(instance);
    if (place >= 0)
      this.#sim.world.after(this.#random.between(0, 800), () => {
        if (this.#sim.instances[place] === instance) this.#sim.boot(place);
      });
  }

  #outage(change: () => void): void {
    const { db, world } = this.#sim;
    if (!db.up) return;
    db.up = false;
    change();
    world.after(this.#random.pick([0, this.#random.between(0, 200), this.#random.between(200, 2000)]), () => {
      db.up = true;
    });
  }

  /** A change by SQL, of too many rows to name them. It gets no answer, and time alone puts it in force. */
  #byHand(name: TokenName): void {
    const { db, network, checker, world } = this.#sim;
    if (!db.up) return;
    const version = db.revokeByHand(this.#sim.digest(name));
    network.acknowledged = Math.max(network.acknowledged, version);
    network.wakeUp();
    world.after(1850, () => checker.vouch(version));
  }

  #takeOver(sameTimeline: boolean): void {
    const { db, network } = this.#sim;
    const last = db.versions.length - 1;
    if (!sameTimeline && network.acknowledged < last) network.lost.push({ from: network.acknowledged + 1, to: last });
    db.takeOver(sameTimeline, network.acknowledged);
  }
}

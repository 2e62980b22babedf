import { NO_REQUIREMENT } from "../../src/domain/decide.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import { DB_EPOCH_MS } from "./model-database.ts";
import type { Instance, Settings, Simulation, TokenName } from "./simulation.ts";

/** One interleaving, step by step. It throws if an answer breaks the promise of the protocol. */
export interface Race {
  readonly title: string;
  readonly settings?: Omit<Settings, "seed">;
  readonly run: (sim: Simulation) => Promise<void>;
}

const ACTOR = { actor: "", address: "", requestId: "" };

function equal<T>(is: T, promised: T, of = "the answer"): void {
  if (is !== promised) throw new Error(`${of} is ${String(is)}, promised is ${String(promised)}`);
}

/** Lets time pass until the promise settles. */
async function settled<T>(sim: Simulation, promise: Promise<T>): Promise<T> {
  let result: { value: T } | undefined;
  void promise.then((value) => {
    result = { value };
  });
  await until(sim, () => result !== undefined);
  return result!.value;
}

/** Lets time pass until the condition holds. */
async function until(sim: Simulation, so: () => boolean): Promise<void> {
  for (let ms = 0; !so(); ms++) {
    if (ms > 20_000) throw new Error("it never comes");
    await sim.advance(1);
  }
}

const ask = (sim: Simulation, one: Instance, name: TokenName) => settled(sim, sim.ask(one, name));
const revoke = (sim: Simulation, by: Instance, name: TokenName) => settled(sim, sim.revoke(by, name));

async function fleet(sim: Simulation): Promise<[Instance, Instance, Instance]> {
  const booted = [0, 1, 2].map((place) => sim.boot(place)) as [Instance, Instance, Instance];
  await sim.advance(200);
  for (const one of booted) equal(one.ready, true, "ready");
  return booted;
}

/** Every process has the token's row in L1. */
async function warm(sim: Simulation, names: readonly TokenName[] = ["a"]): Promise<void> {
  for (const name of names) for (const one of sim.instances) equal(await ask(sim, one, name), "ALLOW");
}

function rowOf(sim: Simulation, name: TokenName): TokenSnapshot {
  return sim.db.read(sim.digest(name)).snapshot!;
}

/** A row that allows the token, as it was sealed into the L2 cache before the change. */
async function staleCache(sim: Simulation, bring: () => void): Promise<void> {
  const [one, two] = await fleet(sim);
  const positive = rowOf(sim, "a");
  await warm(sim);
  equal(await revoke(sim, two, "a"), "ACKED");
  sim.adversary.fill(positive);
  bring();
  for (const who of sim.instances) who.lookup.forget();
  for (let i = 0; i < 20; i++) equal(await ask(sim, one, "a"), "INVALID_TOKEN");
}

/** Changes of another token that nobody announced. */
function unseenChanges(sim: Simulation, count: number): void {
  for (let i = 0; i < count; i++) {
    sim.db.commit(() => {
      const row = sim.db.tokens.get(sim.digest("b"))!;
      row.disabled = !row.disabled;
      return { keys: [`t${row.digest}`], value: undefined };
    });
  }
}

/** The L2 cache holds only `positive`, with a position that the revocation will not reach. */
async function refusedOnceRevoked(
  sim: Simulation,
  positive: TokenSnapshot,
  [one, two]: readonly [Instance, Instance, Instance],
): Promise<void> {
  await sim.advance(3500);
  equal(await ask(sim, one, "a"), "ALLOW");
  equal(await revoke(sim, two, "a"), "ACKED");
  for (let i = 0; i < 10; i++) {
    sim.adversary.empty();
    sim.adversary.fill(positive);
    one.lookup.forget();
    equal(await ask(sim, one, "a"), "INVALID_TOKEN");
  }
}

/** Nobody allows `a` for some time, then nobody has to wait any more, and still nobody allows it. */
async function neverAllowed(sim: Simulation, from: readonly Instance[]): Promise<void> {
  let allowed = 0;
  for (let i = 0; i < 400; i++) {
    await sim.advance(3);
    for (const one of from) void sim.ask(one, "a").then((verdict) => (allowed += Number(verdict === "ALLOW")));
  }
  equal(allowed, 0, "the number of answers that allow what was lost");
  await sim.advance(3000);
  for (const one of sim.instances) {
    equal(await ask(sim, one, "still"), "ALLOW");
    equal(await ask(sim, one, "a"), "INVALID_TOKEN");
  }
}

export const RACES: readonly Race[] = [
  {
    title: "R1 a row read before a revocation and stored after it is not used",
    settings: { cache: false },
    async run(sim) {
      const [one, two] = await fleet(sim);
      sim.network.hold(one.machine, "read", 0.5, 300);
      const early = sim.ask(one, "a");
      await sim.advance(5);
      equal(await revoke(sim, two, "a"), "ACKED");
      await settled(sim, early);
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R2 a late fill of the L2 cache cannot make a revoked token live",
    run: (sim) => staleCache(sim, () => {}),
  },
  {
    title: "R3 fills in the wrong order cannot make a revoked token live",
    run: (sim) => staleCache(sim, () => sim.adversary.fill(rowOf(sim, "a"))),
  },
  {
    title: "R4 an answer of a standby or another server behind a pooler is not used",
    async run(sim) {
      const [one] = await fleet(sim);
      await warm(sim);
      sim.network.weather.standby = 1;
      await sim.advance(600);
      equal(await ask(sim, one, "a"), "UNDETERMINED");
      sim.network.weather.standby = 0;
      await sim.advance(600);
      equal(await ask(sim, one, "a"), "ALLOW");
    },
  },
  ...(["failover", "split brain", "partition", "flush", "eviction or expiry of the entry that refuses"] as const).map(
    (what, index): Race => ({
      title: `R${5 + index} ${what} of the L2 cache makes no revoked token live`,
      run: (sim) =>
        staleCache(sim, () => {
          // For the program all of these are equal: an entry that was written once, or none.
          if (what === "flush") sim.adversary.empty();
          if (what === "partition") sim.instances[1]!.machine.cutOff = true;
        }),
    }),
  ),
  {
    title: "R10 lost wake-ups cost only a poll interval",
    async run(sim) {
      await fleet(sim);
      await warm(sim);
      sim.network.weather.lostWakeUps = 1;
      const begun = sim.world.now;
      equal(await revoke(sim, sim.instances[1]!, "a"), "ACKED");
      if (sim.world.now - begun > 600) throw new Error("it took longer than a poll interval");
      for (const one of sim.instances) equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R11 a revoker that dies right after its commit leaves nobody stale",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      sim.network.weather.lostWakeUps = 1;
      void sim.revoke(two, "a");
      await sim.advance(2);
      two.machine.dead = true;
      await sim.advance(600);
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R13 a process that paused longer than its lease answers nothing from its cache",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.pausedUntil = sim.world.now + 4000;
      equal(await revoke(sim, two, "a"), "LEASE_EXPIRED");
      const first = new Promise<string>((resolve) => {
        sim.world.after(0, () => void sim.ask(one, "a").then(resolve), one.machine);
      });
      equal(await settled(sim, first), "INVALID_TOKEN");
    },
  },
  {
    title: "R14 a poll that comes back late gives only the rest of its lease",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      await sim.advance(400);
      sim.network.hold(one.machine, "poll", 0.5, 470);
      one.follower.wake();
      await sim.advance(40);
      one.machine.cutOff = true;
      const revoked = sim.revoke(two, "a");
      await sim.advance(5);
      one.machine.cutOff = false;
      await sim.advance(470);
      one.machine.cutOff = true;
      await settled(sim, revoked);
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "R15 a repeat of a revocation that still waits waits as long",
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      await warm(sim);
      one.machine.cutOff = true;
      void sim.revoke(two, "a");
      await sim.advance(20);
      const begun = sim.world.now;
      equal(await revoke(sim, three, "a"), "LEASE_EXPIRED");
      if (sim.world.now - begun < 1800) throw new Error("it returned early");
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "R16 a process that joins while a revocation waits is fresh from its first answer",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.cutOff = true;
      const revoked = sim.revoke(two, "a");
      await sim.advance(100);
      const four = sim.boot(3);
      await settled(sim, revoked);
      equal(await ask(sim, four, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R17 a position is acknowledged only when it is applied",
    async run(sim) {
      await fleet(sim);
      await warm(sim);
      equal(await revoke(sim, sim.instances[1]!, "a"), "ACKED");
      for (const one of sim.instances) void sim.ask(one, "a");
      await sim.advance(50);
    },
  },
  {
    title: "R18 a call that joins a read already sent does not get an older answer",
    settings: { cache: false },
    async run(sim) {
      const [one, two] = await fleet(sim);
      sim.network.hold(one.machine, "read", 0.5, 300);
      void sim.ask(one, "a");
      await sim.advance(5);
      equal(await revoke(sim, two, "a"), "ACKED");
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R20 steps of the wall clock change nothing",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.wallStep = -3 * 86_400_000;
      two.machine.wallStep = 3 * 86_400_000;
      await sim.advance(500);
      await warm(sim);
      one.machine.cutOff = true;
      one.machine.wallStep -= 5000;
      equal(await revoke(sim, two, "a"), "LEASE_EXPIRED");
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "R21 the lifetime of an entry is absolute, however often it is used",
    settings: { cache: false, l1TtlMs: 900 },
    async run(sim) {
      const [one] = await fleet(sim);
      for (let i = 0; i < 30; i++) {
        equal(await ask(sim, one, "a"), "ALLOW");
        await sim.advance(200);
      }
    },
  },
  {
    title: "R22 a change by plain SQL is in force everywhere 1.85 s after its commit",
    async run(sim) {
      const [one] = await fleet(sim);
      await warm(sim);
      sim.network.weather.lostWakeUps = 1;
      one.machine.cutOff = true;
      sim.checker.vouch(sim.db.revokeByHand(sim.digest("a")));
      await sim.advance(1850);
      for (const who of sim.instances) if ((await ask(sim, who, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  ...[false, true].map(
    (sameTimeline): Race => ({
      title: sameTimeline
        ? "R36 a volume brought back on the same timeline is another epoch"
        : "R29 acknowledgements are not believed while a failover may have lost a registration",
      async run(sim) {
        const [one, two] = await fleet(sim);
        await warm(sim);
        await sim.advance(400);
        one.machine.cutOff = true;
        sim.db.takeOver(sameTimeline, sim.db.versions.length - 1);
        sim.db.validators.clear();
        two.follower.wake();
        sim.instances[2]!.follower.wake();
        await sim.advance(60);
        await revoke(sim, two, "a");
        if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
      },
    }),
  ),
  {
    title: "R31 rows of another epoch are not used, whatever their positions",
    async run(sim) {
      const [one, two] = await fleet(sim);
      // A history that a failover takes away: no answer reported it.
      const { tokens } = sim.db;
      for (let i = 0; i < 6; i++) {
        sim.db.commit(() => {
          const row = tokens.get(sim.digest("b"))!;
          row.disabled = !row.disabled;
          return { keys: [`t${row.digest}`], value: undefined };
        });
      }
      sim.adversary.fill(rowOf(sim, "a"));
      sim.db.takeOver(false, 0);
      await sim.advance(3500);
      equal(await revoke(sim, two, "a"), "ACKED");
      for (let i = 0; i < 10; i++) {
        equal(await ask(sim, one, "a"), "INVALID_TOKEN");
        one.lookup.forget();
      }
    },
  },
  {
    title:
      "R46 a row that was read before a restore is not used after it, by processes that do not know of the restore",
    async run(sim) {
      const before = await fleet(sim);
      const dump = sim.db.versions.length - 1;
      unseenChanges(sim, 6);
      const positive = rowOf(sim, "a");
      for (const { machine } of before) machine.dead = true;
      sim.db.restore(dump);
      await refusedOnceRevoked(sim, positive, await fleet(sim));
    },
  },
  {
    title:
      "R47 every process leaves a history that goes backwards inside an epoch, under a new incarnation and without a restart",
    async run(sim) {
      const all = await fleet(sim);
      await warm(sim);
      const dump = sim.db.versions.length - 1;
      unseenChanges(sim, 6);
      const positive = rowOf(sim, "a");
      await sim.advance(600);
      sim.db.goBack(dump);
      await sim.advance(1000);
      for (const one of all) equal(one.freshness.halted, false, "halted");
      equal(new Set(all.map(({ freshness }) => freshness.epoch)).size, 1, "the number of epochs");
      await refusedOnceRevoked(sim, positive, all);
    },
  },
  {
    title: "R48 a look-up that was bound on a standby and runs after its promotion shows old rows, so it runs again",
    settings: { cache: false },
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      const behind = sim.db.versions.length - 1;
      equal(await revoke(sim, two, "a"), "ACKED");
      one.lookup.forget();
      sim.network.bind(one.machine, behind);
      sim.network.hold(one.machine, "read", 250, 1);
      const asked = sim.ask(one, "a");
      await sim.advance(20);
      sim.db.takeOver(false, sim.db.versions.length - 1);
      one.follower.wake();
      await sim.advance(100);
      equal(one.freshness.epoch, sim.db.epoch, "its epoch");
      if ((await settled(sim, asked)) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title:
      "R33 a token that was refused by its process's own read stays refused after an eviction, whatever the L2 cache returns",
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      const positive = rowOf(sim, "a");
      sim.network.weather.lostWakeUps = 1;
      three.machine.cutOff = true;
      await sim.advance(500);
      void sim.revoke(two, "a");
      await sim.advance(3);
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
      one.lookup.forget();
      sim.adversary.fill(positive);
      for (let i = 0; i < 10; i++) {
        equal(await ask(sim, one, "a"), "INVALID_TOKEN");
        one.lookup.forget();
      }
    },
  },
  {
    title: "R34 a commit without a plain acknowledgement is unknown, and its repeat waits like any other change",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.cutOff = true;
      sim.network.hold(two.machine, "change", 0.5, 5000);
      const begun = sim.world.now;
      equal(await revoke(sim, two, "a"), "OUTCOME_UNKNOWN");
      const ended = sim.world.now;
      if (ended - begun < 1900) throw new Error("it gave up early");
      equal(await revoke(sim, two, "a"), "LEASE_EXPIRED");
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "R35 the row of a silent process is kept until no lease can be left",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      const row = one.follower.me!;
      one.machine.pausedUntil = sim.world.now + 9000;
      equal(await revoke(sim, two, "a"), "LEASE_EXPIRED");
      const reaped = sim.world.now;
      await until(sim, () => !sim.db.validators.has(row));
      if (sim.world.now - reaped < 1500) throw new Error("buried early");
      // It is reaped for long enough, so it delays nobody.
      equal(await revoke(sim, two, "b"), "ACKED");
      await sim.advance(9000);
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R37 a change whose epoch ends while it waits is made again, and waits again",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.cutOff = true;
      const revoked = sim.revoke(two, "a");
      await sim.advance(300);
      sim.db.restart();
      const restarted = sim.world.now;
      equal(await settled(sim, revoked), "LEASE_EXPIRED");
      if (sim.world.now - restarted < 1800) throw new Error("it did not wait again");
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  ...(
    [
      [
        "principal",
        ["a", "b"],
        () => (store) => store.updatePrincipal("x", "bot:a", { state: "DISABLED" }, "", { callerScopes: [] }, ACTOR),
      ],
      [
        "tenant",
        ["a", "c", "child"],
        () => (store) => store.updateTenant("x", { state: "SUSPENDED" }, "", { callerScopes: [] }, ACTOR),
      ],
      ["parent token", ["parent", "child"], (sim) => (store) => store.revokeToken(sim.id("parent"), false, "", ACTOR)],
      ["cut of a principal", ["a", "b"], () => (store) => store.cut("x", "bot:a", false, "", ACTOR)],
    ] as [string, TokenName[], (sim: Simulation) => Parameters<Simulation["change"]>[1]][]
  ).map(
    ([what, names, work]): Race => ({
      title: `R39 a change of the ${what} reaches every token that rests on it`,
      async run(sim) {
        await fleet(sim);
        await warm(sim, names);
        equal(await settled(sim, sim.change(sim.instances[1]!, work(sim))), "ACKED");
        for (const one of sim.instances) {
          for (const name of names) equal(await ask(sim, one, name), "INVALID_TOKEN", name);
        }
        equal(await ask(sim, sim.instances[0]!, "still"), "ALLOW");
      },
    }),
  ),
  {
    title: "R39 a right that a parent loses is lost to its children, cached or not",
    async run(sim) {
      await fleet(sim);
      await warm(sim, ["parent", "child"]);
      const narrow = sim.change(sim.instances[1]!, (store) =>
        store.updateToken(sim.id("parent"), { scopes: ["t"] }, "", { maxTtl: 0 }, { callerScopes: [] }, ACTOR),
      );
      equal(await settled(sim, narrow), "ACKED");
      for (const one of sim.instances) {
        equal(await settled(sim, sim.ask(one, "child", { ...NO_REQUIREMENT, scopes: ["s"] })), "INSUFFICIENT_SCOPE");
        equal(await ask(sim, one, "child"), "ALLOW");
      }
    },
  },
  ...(["narrowed", "deleted"] as const).map(
    (how): Race => ({
      title: `R39 what a role gives is lost once it is ${how}, to its holders and their children, cached or not`,
      async run(sim) {
        await fleet(sim);
        await warm(sim, ["holder", "heir"]);
        const change = sim.change(sim.instances[1]!, (store) =>
          how === "deleted"
            ? store.deleteRole("x", "r", true, ACTOR)
            : store.updateRole("x", "r", { scopes: ["t"] }, "", () => {}, { callerScopes: [] }, ACTOR),
        );
        equal(await settled(sim, change), "ACKED");
        for (const one of sim.instances) {
          for (const name of ["holder", "heir"] as const) {
            equal(
              await settled(sim, sim.ask(one, name, { ...NO_REQUIREMENT, scopes: ["s"] })),
              "INSUFFICIENT_SCOPE",
              name,
            );
            equal(await ask(sim, one, name), "ALLOW", name);
          }
        }
      },
    }),
  ),
  ...(
    [
      ["suspended", (store) => store.updateTenant("z", { state: "SUSPENDED" }, "", { callerScopes: [] }, ACTOR)],
      ["cut", (store) => store.cut("z", undefined, false, "", ACTOR)],
      ["left", (store, sim) => store.detachTenant("z", sim.id("guest"), ACTOR)],
    ] as [string, (store: AuthorityStore, sim: Simulation) => ReturnType<Parameters<Simulation["change"]>[1]>][]
  ).map(
    ([how, work]): Race => ({
      title: `R39 a further tenant that is ${how} is lost to its tokens and their children, cached or not`,
      async run(sim) {
        await fleet(sim);
        const inTenant = { ...NO_REQUIREMENT, tenant: "z" };
        const both = ["guest", "ward"] as const;
        for (const one of sim.instances) {
          for (const name of both) equal(await settled(sim, sim.ask(one, name, inTenant)), "ALLOW", name);
        }
        equal(
          await settled(
            sim,
            sim.change(sim.instances[1]!, (store) => work(store, sim)),
          ),
          "ACKED",
        );
        for (const one of sim.instances) {
          for (const name of both) {
            equal(await settled(sim, sim.ask(one, name, inTenant)), "WRONG_TENANT", name);
            equal(await ask(sim, one, name), "ALLOW", name);
          }
        }
      },
    }),
  ),
  {
    title: "R40 a cached row holds no verdict: limits of time are judged at each use",
    settings: { cache: false },
    async run(sim) {
      const [one] = await fleet(sim);
      const at = async (time: number, name: TokenName) => {
        await sim.advance(Math.max(0, time - sim.world.now));
        return ask(sim, one, name);
      };
      equal(await at(3000, "begins"), "INVALID_TOKEN");
      equal(await at(3490, "begins"), "INVALID_TOKEN");
      equal(await at(3600, "begins"), "ALLOW");
      equal(await at(4000, "ends"), "ALLOW");
      equal(await at(4480, "ends"), "ALLOW");
      equal(await at(4500, "ends"), "INVALID_TOKEN");
      equal(sim.db.dbTime > DB_EPOCH_MS, true);
    },
  },
  {
    title: "R41 a writer fills no cache with rows of its own transaction",
    async run(sim) {
      const [one, two] = await fleet(sim);
      const filled = sim.adversary.filled;
      const widen = sim.change(one, (store) =>
        store.updateToken(sim.id("a"), { scopes: ["s", "t"] }, "", { maxTtl: 0 }, { callerScopes: [] }, ACTOR),
      );
      await sim.advance(2);
      await revoke(sim, two, "a");
      await settled(sim, widen);
      equal(sim.adversary.filled, filled, "the number of fills");
      for (const who of sim.instances) equal(await ask(sim, who, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R42 a backend's crash that loses acknowledgements costs a wait, never freshness",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      one.machine.cutOff = true;
      sim.db.crashBackend();
      await revoke(sim, two, "a");
      if ((await ask(sim, one, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "a stolen login acknowledges, keeps and deletes no row but its own",
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      await warm(sim);
      const thief = {};
      const rows = [...sim.db.validators.keys()];
      three.machine.cutOff = true;
      const revoked = sim.revoke(two, "a");
      await sim.advance(50);
      const { epoch, position: n } = sim.db.evidence();
      for (const row of rows) sim.db.ack(row, epoch, n, thief);
      for (const row of rows) sim.db.leave(row, thief);
      equal(await settled(sim, revoked), "LEASE_EXPIRED");
      for (const who of [one, three]) if ((await ask(sim, who, "a")) === "ALLOW") throw new Error("stale");
    },
  },
  {
    title: "an error in the follower costs the lease at once, and a new registration repairs it",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      sim.faultsMade = true;
      const apply = one.freshness.apply;
      const row = one.follower.me;
      const lease = one.freshness.leaseUntil;
      one.freshness.apply = () => {
        one.freshness.apply = apply;
        throw new TypeError("a fault of the program");
      };
      await until(sim, () => sim.counts["alarm: follower_failed"] === 1);
      const now = one.machine.clock.mono();
      equal(now < lease, true, "the fault came before the end of the lease");
      equal(one.freshness.holdsLease(now), false, "the lease");
      await until(sim, () => one.freshness.holdsLease(one.machine.clock.mono()));
      equal(one.follower.me !== row, true, "a new row");
      equal(await revoke(sim, two, "a"), "ACKED");
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R44 a poll in flight gives no lease to a process that stops",
    async run(sim) {
      const [one, two] = await fleet(sim);
      await warm(sim);
      await sim.advance(400);
      sim.network.hold(one.machine, "poll", 0.5, 300);
      one.follower.wake();
      await sim.advance(50);
      sim.stop(one);
      await sim.advance(320);
      equal(await revoke(sim, two, "a"), "ACKED");
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  {
    title: "R45 a refusal by a process's own read counts although no poll has applied anything since",
    settings: { cache: false },
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      await warm(sim);
      three.machine.cutOff = true;
      sim.network.weather.lostWakeUps = 1;
      const position = one.freshness.applied;
      // Two polls are lost, and the third comes back when the lease is over. It was answered before the revocation.
      for (const back of [600, 600, 450]) sim.network.hold(one.machine, "poll", 0.1, back);
      await until(sim, () => !one.freshness.holdsLease(one.machine.clock.mono()));
      void sim.revoke(two, "a");
      await sim.advance(3);
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
      await until(sim, () => one.freshness.holdsLease(one.machine.clock.mono()));
      equal(one.freshness.applied, position, "the applied position");
      equal(await ask(sim, one, "a"), "INVALID_TOKEN");
    },
  },
  ...([true, false] as const).map(
    (cache): Race => ({
      title: `R50 a revocation that a restore loses is done again before anything is allowed${cache ? ", with an L2 cache" : ""}`,
      settings: { cache },
      async run(sim) {
        const [, two] = await fleet(sim);
        await warm(sim, ["a", "still"]);
        const dump = sim.db.versions.length - 1;
        equal(await revoke(sim, two, "a"), "ACKED");
        sim.db.restore(dump);
        // The head climbs above the lost position, and another change has it.
        unseenChanges(sim, 3);
        await neverAllowed(sim, sim.instances);
        equal(sim.db.redone, 1, "the number of changes that were done again");
      },
    }),
  ),
  {
    title: "R51 a disabled token that a restore loses is disabled again, although the log is to be pruned at once",
    settings: { cache: false },
    async run(sim) {
      const [one] = await fleet(sim);
      await warm(sim, ["a", "still"]);
      const dump = sim.db.versions.length - 1;
      const guard = { callerScopes: [] };
      const disable = (store: AuthorityStore) =>
        store.updateToken(sim.id("a"), { disabled: true }, "", { maxTtl: 0 }, guard, ACTOR);
      equal(await settled(sim, sim.change(one, disable)), "ACKED");
      sim.db.restore(dump);
      unseenChanges(sim, 20);
      for (let i = 0; i < 5; i++) sim.db.prune();
      await neverAllowed(sim, sim.instances);
    },
  },
  {
    title: "R52 a late survivor allows nothing that only it knows to be revoked, and its knowledge comes into force",
    settings: { cache: false, readers: [0] },
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      await warm(sim, ["a", "still"]);
      const dump = sim.db.versions.length - 1;
      for (const other of [two, three]) other.machine.cutOff = true;
      equal(await revoke(sim, one, "a"), "LEASE_EXPIRED");
      one.machine.cutOff = true;
      sim.db.restore(dump);
      for (const other of [two, three]) other.machine.cutOff = false;
      await sim.advance(1500);
      for (const other of [two, three]) equal(await ask(sim, other, "still"), "ALLOW");
      one.machine.cutOff = false;
      // Nobody redoes it for a while.
      for (const other of [two, three]) other.machine.pausedUntil = sim.world.now + 1500;
      await neverAllowed(sim, [one]);
      equal(sim.db.redone, 1, "the number of changes that were done again");
    },
  },
  {
    title: "R53 no epoch is proven while a registered process has not yet reported what it remembers",
    settings: { cache: false },
    async run(sim) {
      const [one, two, three] = await fleet(sim);
      await warm(sim, ["a", "still"]);
      const dump = sim.db.versions.length - 1;
      for (const other of [two, three]) other.machine.cutOff = true;
      equal(await revoke(sim, one, "a"), "LEASE_EXPIRED");
      sim.db.restore(dump);
      // Its row is there, and it does not know that yet.
      sim.network.hold(one.machine, "register", 1, 1000);
      await until(sim, () => [...sim.db.validators.values()].some(({ epoch }) => epoch === sim.db.epoch));
      for (const other of [two, three]) other.machine.cutOff = false;
      await neverAllowed(sim, sim.instances);
      equal(sim.db.redone, 1, "the number of changes that were done again");
    },
  },
];

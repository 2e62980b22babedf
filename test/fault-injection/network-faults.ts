import { setTimeout as delay } from "node:timers/promises";
import { until } from "./bounded.ts";
import { end } from "./changes.ts";
import type { Instance } from "./instance.ts";
import { fresh, revocable, victim } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { UNDETERMINED } from "./wire.ts";

const POLL = /^sallyport-poll$/;
const READ = /^sallyport-read$/;

/** Longer than any lease: an answer after this time has a proof. */
const longer = (seconds: number) => Math.max(2_300, seconds * 1000);

function partition(name: string, weather: { hole: true } | { holeDown: true }): Fault {
  return {
    name,
    async run(world, seconds) {
      const instance = victim(world);
      instance.pg.set(weather);
      await delay(longer(seconds));
      const [verdict] = await ask(world.history, instance, fresh(world).subjects.slice(0, 1));
      world.probe("the instance that is cut off knows nothing", verdict === UNDETERMINED);
      instance.pg.clear();
      await delay(300);
    },
  };
}

const cutOff: Fault = {
  name: "connections-reset",
  async run(world, seconds) {
    const until = performance.now() + seconds * 1000;
    let resets = 0;
    while (performance.now() < until) {
      for (const instance of world.instances) resets += instance.pg.reset();
      await delay(100 + Math.random() * 300);
    }
    world.probe("connections were reset", resets > 10);
  },
};

const pollSlow: Fault = {
  name: "poll-slow",
  async run(world, seconds) {
    const instance = victim(world);
    instance.pg.set({ downMs: 250 }, POLL);
    await delay(500);
    const { returned = 0, invoked, detail } = await end(await revocable(world), world.changers()[0]!, world);
    const took = returned - invoked;
    world.probe(`a change waits for the slow one, not ${took.toFixed(0)} ms (${detail})`, took > 150);
    // Beyond the poll's own bound: it is abandoned, again and again.
    instance.pg.set({ downMs: 480 }, POLL);
    await delay(seconds * 1000);
    instance.pg.clear();
  },
};

/** The answer of a poll comes as late as possible, and is the last one. The lease counts from the send. */
const lastPollLate: Fault = {
  name: "last-poll-late",
  load: { revokers: 12, changeRestMs: 5 },
  async run(world, seconds) {
    const instance = victim(world);
    const until = performance.now() + seconds * 1000;
    let held = 0;
    do {
      instance.pg.set({ downMs: 440 }, POLL);
      await delay(1_100 + Math.random() * 300);
      instance.pg.set({ hole: true });
      await delay(2_000);
      const [verdict] = await ask(world.history, instance, fresh(world).subjects.slice(0, 1));
      if (verdict === UNDETERMINED) held++;
      instance.pg.clear();
      await delay(300);
    } while (performance.now() < until);
    world.probe("nothing came after it", held > 0);
  },
};

/** Paused until the others reap it, back again, and then without wake-ups: it must have registered anew. */
const comeBack: Fault = {
  name: "come-back",
  needs: "redis",
  async run(world, seconds) {
    const instance = victim(world);
    const reaped = () => world.rows("select from sallyport.validators where reaped_at is not null");
    instance.signal("SIGSTOP");
    await delay(1_300);
    world.probe("it was taken for dead", (await reaped()).length > 0);
    instance.signal("SIGCONT");
    await delay(2_500);
    await world.redis?.cli("ACL", "SETUSER", "default", "-publish");
    instance.pg.set({ deaf: true }, POLL);
    await delay(seconds * 700);
    instance.pg.clear();
    await world.redis?.cli("ACL", "SETUSER", "default", "+publish");
  },
};

const pollHalfOpen: Fault = {
  name: "poll-half-open",
  async run(world, seconds) {
    const instance = victim(world);
    const before = instance.pg.seen.connections;
    world.probe("its poll was left alone", instance.pg.freeze(POLL) > 0);
    await delay(longer(seconds));
    world.probe("it opened another", instance.pg.seen.connections > before);
  },
};

/** Reads whose answers are in transit while their token ends. They arrive, and would be cached, after the OK. */
const fillRace: Fault = {
  name: "fill-race",
  async run(world, seconds) {
    const instance = victim(world);
    instance.pg.set({ downMs: 320 }, READ);
    const over = performance.now() + seconds * 1000;
    let late = 0;
    // On a loaded machine few changes are that fast.
    while (performance.now() < over || (late === 0 && performance.now() < over + 20_000)) {
      const cell = fresh(world);
      let arrived = Number.POSITIVE_INFINITY;
      const read = ask(world.history, instance, cell.subjects).then(() => (arrived = performance.now()));
      await delay(10);
      const { returned, outcome } = await end(cell, world.changers()[0]!, world);
      await read;
      if (outcome === "OK" && arrived > returned!) late++;
      for (const rest of [0, 30]) {
        await delay(rest);
        await ask(world.history, instance, cell.subjects);
      }
    }
    world.probe("reads came back after the OK", late > 0);
    instance.pg.clear();
  },
};

const wakeUpsCut: Fault = {
  name: "wake-ups-cut",
  needs: "redis",
  async run(world, seconds) {
    await world.redis!.cli("ACL", "SETUSER", "default", "-publish");
    for (const instance of world.instances) instance.pg.set({ deaf: true }, POLL);
    await delay(seconds * 1000);
    const dropped = world.instances.reduce((sum, { pg }) => sum + pg.seen.notifications, 0);
    world.probe("notifications were left out", dropped > 0);
    for (const instance of world.instances) instance.pg.clear();
    await world.redis!.cli("ACL", "SETUSER", "default", "+publish");
  },
};

/** The one instance that Redis does not hear makes every change. It wakes nobody, and marks nothing there. */
const revokerCutFromRedis: Fault = {
  name: "revoker-partition",
  needs: "redis",
  async run(world, seconds) {
    for (const { name } of world.instances.slice(1)) world.spared.add(name);
    const [{ redis, name: revoker }] = world.instances as [Instance];
    const published = async () =>
      Number(/cmdstat_publish:calls=(\d+)/.exec(String(await world.redis!.cli("INFO", "commandstats")))?.[1]);
    const first = await published();
    world.probe("changes were published", await until(async () => (await published()) > first));
    await redis!.set({ kind: "blackhole" });
    // The changes that the others had begun are over then, and so are their wake-ups.
    const begun = () =>
      world.history.attempts.some(({ at, returned }) => returned === undefined && at !== revoker && at !== "sql");
    world.probe("the others change nothing", await until(() => !begun()));
    await delay(seconds * 500);
    const middle = await published();
    await delay(seconds * 500);
    world.probe("then it woke nobody", (await published()) === middle);
    // Swallowed bytes stay lost, so such a connection must not continue.
    await redis!.set({ kind: "reset" });
    await redis!.set({ kind: "pass" });
  },
};

export const NETWORK_FAULTS: readonly Fault[] = [
  partition("partition", { hole: true }),
  partition("partition-one-way", { holeDown: true }),
  cutOff,
  pollSlow,
  lastPollLate,
  comeBack,
  pollHalfOpen,
  fillRace,
  wakeUpsCut,
  revokerCutFromRedis,
];

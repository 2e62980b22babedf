import { setTimeout as delay } from "node:timers/promises";
import { revocable, victim } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW, UNDETERMINED } from "./wire.ts";

const HOUR = 3_600_000;

/** The wall clock of one instance, an hour ahead, an hour behind while it is cut off from the database, and back. */
const clockStep: Fault = {
  name: "clock-step",
  async run(world, seconds) {
    const instance = victim(world);
    const cell = await revocable(world);
    const says = async () => (await ask(world.history, instance, cell.subjects))[0];
    const isOff = (by: number) => {
      const told = Number(/.*the wall clock says (\d+)/s.exec(instance.log)?.[1]);
      return Math.abs(told - Date.now() - by) < 60_000;
    };
    const step = async (by: number) => {
      const verdict = await says();
      instance.signal("SIGUSR2");
      for (let wait = 0; wait < 50 && !isOff(by); wait++) await delay(20);
      world.probe(`its wall clock is ${by / HOUR} h off`, isOff(by));
      world.probe("a step changes no answer", verdict === ALLOW && (await says()) === ALLOW);
    };
    await step(HOUR);
    await delay(seconds * 500);
    await step(-HOUR);
    instance.pg.set({ hole: true });
    await delay(2_300);
    world.probe("a lease ends in its own time", (await says()) === UNDETERMINED);
    instance.pg.clear();
    await world.calm(5_000);
    await step(0);
    await delay(seconds * 300);
  },
};

const READ = /^sallyport-read$/;
const READ_MS = 220;
const BEFORE_MS = 90;

/**
 * Tokens whose time runs out while a read of them is on its way back. Who asks after that joins the read: what it says
 * was true when the database said so, and is judged by the time at which it answers.
 */
const expiryRace: Fault = {
  name: "expiry-race",
  async run(world, seconds) {
    const instance = victim(world);
    instance.pg.set({ downMs: READ_MS }, READ);
    const until = performance.now() + seconds * 1000;
    let joined = 0;
    do {
      const subjects = await world.mint((mint) => mint.expiring(6, 300));
      await Promise.all(
        subjects.map(async (subject) => {
          const { deadFrom } = subject;
          await delay(Math.max(0, deadFrom - BEFORE_MS - performance.now()));
          let arrived = Number.POSITIVE_INFINITY;
          const read = ask(world.history, instance, [subject]).then(() => (arrived = performance.now()));
          await delay(Math.max(0, deadFrom + 5 - performance.now()));
          const late = ask(world.history, instance, [subject]);
          if (performance.now() < arrived) joined++;
          await Promise.all([read, late]);
          await ask(world.history, instance, [subject]);
        }),
      );
    } while (performance.now() < until);
    world.probe("reads were on their way when the time ran out", joined > 0);
    instance.pg.clear();
  },
};

export const CLOCK_FAULTS: readonly Fault[] = [clockStep, expiryRace];

import { setTimeout as delay } from "node:timers/promises";
import { until } from "./bounded.ts";
import { revocable, victim } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW, UNDETERMINED } from "./wire.ts";

const HOUR = 3_600_000;
/** In the order in which `clocks.ts` applies them. */
const STEPS = [HOUR, -HOUR, 0];

const TURNS = 3;

/** The steps between one turn and the next. */
function around(by: number): number[] {
  const at = STEPS.indexOf(by);
  return [...STEPS.slice(at + 1), ...STEPS.slice(0, at)];
}

/** Steps the wall clock of one instance an hour ahead, an hour back while it is cut off from the database, and back. */
const clockStep: Fault = {
  name: "clock-step",
  async run(world, seconds) {
    const instance = victim(world);
    const cell = await revocable(world);
    const says = async () => (await ask(world.history, instance, cell.subjects))[0];
    const always = (instance.options.clock?.wallDays ?? 0) * 24 * HOUR;
    const isOff = (by: number) => {
      const shown = Number(/.*the wall clock says (\d+)/s.exec(instance.log)?.[1]);
      return Math.abs(shown - Date.now() - always - by) < 60_000;
    };
    const go = async (by: number) => {
      instance.signal("SIGUSR2");
      world.probe(`its wall clock is ${by / HOUR} h off`, await until(() => isOff(by), 3_000));
    };
    // A lease may end by itself on a loaded machine. Then the whole turn is repeated, and a step that broke something
    // breaks it again.
    const step = async (by: number) => {
      for (let turn = 1; ; turn++) {
        const before = await until(async () => (await says()) === ALLOW, 2_500);
        await go(by);
        if (before && (await says()) === ALLOW) return;
        if (turn === TURNS) return world.probe("a step changes no answer", false);
        for (const other of around(by)) await go(other);
      }
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
/** Extended by the time that the machine was too slow. */
const MORE_MS = 15_000;

/**
 * Tokens that expire while a read of them is on its way back. A caller that asks after that joins the read. The read
 * was true at the time of the database, and is judged by the time of the answer.
 */
const expiryRace: Fault = {
  name: "expiry-race",
  async run(world, seconds) {
    const instance = victim(world);
    instance.pg.set({ downMs: READ_MS }, READ);
    const over = performance.now() + seconds * 1000;
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
    } while (performance.now() < over || (joined === 0 && performance.now() < over + MORE_MS));
    world.probe("reads were on their way when the time ran out", joined > 0);
    instance.pg.clear();
  },
};

export const CLOCK_FAULTS: readonly Fault[] = [clockStep, expiryRace];

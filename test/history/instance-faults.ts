import { setTimeout as delay } from "node:timers/promises";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import type { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import type { World } from "./world.ts";

/** Which of the instances a fault is for; changes are then made by the others. */
export function victim(world: World, index = 1) {
  const instance = world.instances[index]!;
  world.spared.add(instance.name);
  return instance;
}

/** A living cell that the load does not know: in no cache yet. */
export function fresh(world: World): Cell {
  const cell = world.nextCell();
  if (cell === undefined) throw new Error("the stock of tokens is used up");
  return cell;
}

const none: Fault = {
  name: "none",
  async run(_world, seconds) {
    await delay(seconds * 1000);
  },
};

/** Stops a process in the middle of its work, which it goes on with before it looks at a timer. Gives the answers. */
async function stopAtWork(world: World, instance: Instance, subject: Subject): Promise<Promise<unknown>[]> {
  for (let attempt = 1; ; attempt++) {
    let answered = 0;
    const work = Array.from({ length: 48 }, () =>
      ask(world.history, instance, Array(100).fill(subject)).finally(() => answered++),
    );
    await Promise.race(work);
    instance.signal("SIGSTOP");
    await delay(50);
    if (answered < work.length - 4 || attempt === 20) return work;
    instance.signal("SIGCONT");
    await Promise.all(work);
  }
}

function pause(name: string, ms: (seconds: number) => number): Fault {
  return {
    name,
    async run(world, seconds) {
      const instance = victim(world);
      const cell = fresh(world);
      await ask(world.history, instance, cell.subjects);
      const work = await stopAtWork(world, instance, cell.subjects[0]!);
      world.probe("the process stood still", instance.state === "T");
      const held = delay(ms(seconds));
      // Ended while it stands still, and asked about on each of its connections before it goes on.
      await end(cell, world.changers()[0]!, world);
      const late = Array.from({ length: 12 }, () => ask(world.history, instance, cell.subjects));
      await held;
      instance.signal("SIGCONT");
      await delay(50);
      world.probe("the process went on", instance.state !== "T" && instance.state !== "");
      await Promise.all([...work, ...late]);
      await delay(200);
    },
  };
}

/** Pauses that are shorter than a lease: what is cached may still be used afterwards. */
const stalls: Fault = {
  name: "stalls",
  async run(world, seconds) {
    const until = performance.now() + seconds * 1000;
    let stopped = 0;
    while (performance.now() < until) {
      const instance = world.instances[Math.floor(Math.random() * world.instances.length)]!;
      instance.signal("SIGSTOP");
      await delay(100 + Math.random() * 900);
      if (instance.state === "T") stopped++;
      instance.signal("SIGCONT");
      await delay(150);
    }
    world.probe("processes stood still", stopped > 1);
  },
};

const kill: Fault = {
  name: "kill",
  async run(world, seconds) {
    const instance = world.instances[1]!;
    const how = await world.leave(instance, "SIGKILL");
    world.probe(`it was killed, not ${how}`, how === "SIGKILL");
    await delay(seconds * 500);
    const begun = performance.now();
    await world.join(1);
    world.probe("it was ready again in time", performance.now() - begun < 10_000);
    await delay(500);
  },
};

const joinLeave: Fault = {
  name: "join-leave",
  async run(world) {
    const rows = () => world.rows<{ n: number }>("select count(*)::int as n from sallyport.validators");
    const joined = await world.join(3);
    await delay(400);
    world.probe("it is registered", (await rows())[0]!.n >= 4);
    const how = await world.leave(joined, "SIGTERM");
    world.probe(`it ended well, not by ${how}`, how === "0");
    await delay(400);
  },
};

export const INSTANCE_FAULTS: readonly Fault[] = [
  none,
  pause("pause", (seconds) => Math.max(2_300, seconds * 1000)),
  pause("pause-10s", () => 10_000),
  stalls,
  kill,
  joinLeave,
];

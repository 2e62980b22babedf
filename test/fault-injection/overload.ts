import { setTimeout as delay } from "node:timers/promises";
import { until } from "./bounded.ts";
import { end } from "./changes.ts";
import { revocable } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW } from "./wire.ts";
import type { World } from "./world.ts";

const TIMES = 20;
/** The reads that a process has in progress and in its queue. */
const ROOM = 64 + 512;
const BATCH = 100;
const ANSWER_MS = 10_000;

/**
 * A loaded machine may end a lease by itself, and then cached rows are not used. A fault of the product would happen
 * again.
 */
const TURNS = 3;

/** Sends one instance requests that no cache answers: each time twenty times as many as its queue holds. */
export const OVERLOAD: Fault = {
  name: "overload",
  async run(world, seconds) {
    const strangers = await world.mint(async (mint) => mint.strangers(TIMES * ROOM));
    let problems: readonly string[] = [];
    for (let turn = 1; turn <= TURNS; turn++) {
      problems = await flooded(world, strangers, seconds);
      if (problems.length === 0) break;
    }
    for (const problem of problems) world.probe(problem, false);
  },
};

/** The unexpected outcomes. */
async function flooded(world: World, strangers: readonly Buffer[], seconds: number): Promise<string[]> {
  const instance = world.instances[1]!;
  const cell = await revocable(world);
  await until(async () => (await ask(world.history, instance, cell.subjects))[0] === ALLOW);
  const clients = Array.from({ length: 5 }, () => instance.connect());
  const [own, ...crowd] = clients;
  const over = performance.now() + Math.max(2, seconds) * 1000;
  const before = await instance.metric("sallyport_shed_total");

  const flood = async () => {
    while (performance.now() < over) {
      const calls: Promise<number[]>[] = [];
      for (let at = 0; at < strangers.length; at += BATCH) {
        const client = crowd[(at / BATCH) % crowd.length]!;
        calls.push(client.batch(strangers.slice(at, at + BATCH), ANSWER_MS).catch(() => []));
      }
      world.probe("a stranger is never let in", !(await Promise.all(calls)).flat().includes(ALLOW));
    }
  };
  const hits: (number | undefined)[] = [];
  const hit = async () => {
    for (; performance.now() < over || hits.length <= 10; await delay(5))
      hits.push((await ask(world.history, instance, cell.subjects, own))[0]);
  };
  let done = 0;
  const change = async () => {
    while (performance.now() < over) {
      if ((await end(await revocable(world), instance, world)).outcome === "OK") done++;
    }
  };
  await Promise.all([flood(), hit(), change()]);
  for (const client of clients) client.close();
  const shed = (await instance.metric("sallyport_shed_total")) - before;
  return [
    ...(shed > ROOM ? [] : [`questions were shed, ${shed}`]),
    ...(hits.every((verdict) => verdict === ALLOW) ? [] : [`what is cached is answered, ${hits}`]),
    ...(done > 0 ? [] : ["changes are made"]),
  ];
}

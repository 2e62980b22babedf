import { setTimeout as delay } from "node:timers/promises";
import { end } from "./changes.ts";
import { revocable } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW } from "./wire.ts";

const TIMES = 20;
/** Reads that a process has under way and lets wait. */
const ROOM = 64 + 512;
const BATCH = 100;
const ANSWER_MS = 10_000;

/** At one instance, questions that no cache answers: each time twenty times as many as it lets wait. */
export const OVERLOAD: Fault = {
  name: "overload",
  async run(world, seconds) {
    const instance = world.instances[1]!;
    const cell = await revocable(world);
    await ask(world.history, instance, cell.subjects);
    const strangers = await world.mint(async (mint) => mint.strangers(TIMES * ROOM));
    const clients = Array.from({ length: 5 }, () => instance.connect());
    const [own, ...crowd] = clients;
    const until = performance.now() + Math.max(2, seconds) * 1000;
    const before = await instance.metric("sallyport_shed_total");

    const flood = async () => {
      while (performance.now() < until) {
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
      for (; performance.now() < until; await delay(5))
        hits.push((await ask(world.history, instance, cell.subjects, own))[0]);
    };
    let done = 0;
    const change = async () => {
      while (performance.now() < until) {
        if ((await end(await revocable(world), instance, world)).outcome === "OK") done++;
      }
    };
    await Promise.all([flood(), hit(), change()]);
    for (const client of clients) client.close();
    world.probe("questions were shed", (await instance.metric("sallyport_shed_total")) - before > ROOM);
    world.probe(`what is cached is answered, ${hits}`, hits.length > 10 && hits.every((verdict) => verdict === ALLOW));
    world.probe("changes are made", done > 0);
  },
};

import { setTimeout as delay } from "node:timers/promises";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import { ask } from "./load.ts";
import { wasRedone } from "./redone.ts";
import type { Fault } from "./round.ts";
import { ALLOW } from "./wire.ts";
import type { World } from "./world.ts";

const ALARM = 'sallyport_alarms_total{what="history_regressed_new_server"}';
const BACK_MS = 10_000;

/**
 * A copy of the volume comes back on the same timeline. Revocations since are lost, which is reported, and the instances
 * redo them: no token that they ended is allowed even once. Positions are used a second time, and no row of the other life
 * passes for one of this life.
 */
export const VOLUME_COPY: Fault = {
  name: "volume-copy",
  newEpoch: true,
  async run(world, seconds) {
    const { history } = world;
    const [there, cached, ...lost] = await world.mint((mint) => mint.cells(5, { revoke: 1 }));
    const putBack = await world.copyOfVolume();
    world.probe("all are back", await allAllow(world, there!));
    for (const cell of lost) world.probe("it was ended", await untilOk(world, cell));
    // All read it with the position of the last one, which another change will get.
    world.probe("all have it", await allAllow(world, cached!));
    const before = await alarms(world);
    await putBack();
    for (const cell of lost) history.lost(cell.subjects);
    world.probe("a change is made in the new life", await untilOk(world, cached!));
    await Promise.all(world.instances.map((instance) => ask(history, instance, cached!.subjects)));
    world.probe("all are back", await allAllow(world, there!));
    for (const cell of lost) world.probe("it was redone", await wasRedone(world, cell));
    const after = await alarms(world);
    world.probe(
      "the alarm was raised",
      after.some((count, i) => count > before[i]!),
    );
    for (const cell of lost) world.probe("it was ended again", await untilOk(world, cell));
    await Promise.all(lost.flatMap((cell) => world.instances.map((instance) => ask(history, instance, cell.subjects))));
    world.release();
    await delay(seconds * 500);
  },
};

const alarms = (world: World) => Promise.all(world.instances.map((instance) => instance.metric(ALARM)));

/** As soon as any instance can: others may not know of the new life yet. */
async function untilOk(world: World, cell: Cell): Promise<boolean> {
  for (const until = performance.now() + BACK_MS; performance.now() < until; await delay(20)) {
    if ((await end(cell, world.instances[0]!, world)).outcome === "OK") return true;
  }
  return false;
}

async function allAllow(world: World, cell: Cell): Promise<boolean> {
  for (const until = performance.now() + BACK_MS; performance.now() < until; await delay(50)) {
    const answers = await Promise.all(world.instances.map((at) => ask(world.history, at, cell.subjects)));
    if (answers.every(([verdict]) => verdict === ALLOW)) return true;
  }
  return false;
}

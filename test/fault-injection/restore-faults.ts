import { setTimeout as delay } from "node:timers/promises";
import { startServer } from "../support/postgres.ts";
import { redisProgram } from "../support/redis.ts";
import { type Place, WAYS, type Way } from "../support/restore.ts";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import { ask } from "./load.ts";
import { wasRedone } from "./redone.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";
import { ALLOW } from "./wire.ts";
import type { World } from "./world.ts";

const BACK_MS = 15_000;

/**
 * Restores an older state while the instances run and are asked. They redo the revocations since: no token that was
 * revoked is allowed even once. Positions are used a second time, and no row of the other history passes for one of this
 * history.
 */
function restored(name: string, way: Way): Fault {
  return {
    name,
    newEpoch: true,
    async run(world, seconds) {
      const { history } = world;
      const place: Place = { port: world.server.port, database: world.database, binDir: world.server.binDir };
      const [there, cached, ...lost] = await world.mint((mint) => mint.cells(5, { revoke: 1 }));
      world.probe("all are there", await allAllow(world, there!));
      await world.hold();
      const restore = await way.keep(place);
      for (const cell of lost) world.probe("it was ended", await untilOk(world, cell));
      // All read it for the first time, and it is cached outside, with a position that another change will get.
      world.probe("all have it with the last position", await allAllow(world, cached!));
      for (const cell of lost) history.lost(cell.subjects);
      // Not in one transaction: tables come back one by one.
      await (way.programs ? history.emptied(restore) : restore());
      world.probe("all allow again", await allAllow(world, there!));
      for (const cell of lost) world.probe("it was redone", await wasRedone(world, cell));
      world.probe("a change is made in the restored state", await untilOk(world, cached!));
      await Promise.all(world.instances.map((instance) => ask(history, instance, cached!.subjects)));
      for (const cell of lost) world.probe("it was ended again", await untilOk(world, cell));
      await Promise.all(
        lost.flatMap((cell) => world.instances.map((instance) => ask(history, instance, cell.subjects))),
      );
      world.release();
      await delay(seconds * 500);
    },
  };
}

const nameOf = ({ name }: Way) => `restore-${name.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;

const faultOf = (way: Way) => restored(nameOf(way), way);

export const RESTORE_FAULTS: readonly Fault[] = WAYS.filter(({ programs }) => !programs).map(faultOf);

/** The client programs of pg_dump's version, on a server of the system: other packages lack client programs. */
export const DUMP_FAULTS: readonly Fault[] = WAYS.filter(({ programs }) => programs).map(faultOf);

export async function dumps(): Promise<Topology> {
  const server = await startServer({ major: 15, settings: { max_connections: "80" } });
  const redis = await redisProgram().then(
    () => "own" as const,
    () => undefined,
  );
  return { world: { server, redis }, faults: DUMP_FAULTS, stop: () => server.remove() };
}

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

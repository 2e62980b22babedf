import { setTimeout as delay } from "node:timers/promises";
import { until } from "./bounded.ts";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import type { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW, type DataClient } from "./wire.ts";
import type { World } from "./world.ts";

/** The instances that a fault affects. The others make the changes then. */
export function victim(world: World, index = 1) {
  const instance = world.instances[index]!;
  world.spared.add(instance.name);
  return instance;
}

/** A live cell that the load does not know, so that no cache has it. */
export function fresh(world: World): Cell {
  const cell = world.nextCell();
  if (cell === undefined) throw new Error("the stock of tokens is used up");
  return cell;
}

/** Another one that the load does not know. One API call ends it, and waits for everybody. */
export async function revocable(world: World): Promise<Cell> {
  return (await world.mint((mint) => mint.cells(1, { revoke: 1 })))[0]!;
}

const none: Fault = {
  name: "none",
  async run(_world, seconds) {
    await delay(seconds * 1000);
  },
};

/** Kept short: a lease continues meanwhile, and a process that is often late sheds its calls. */
const PILE_MS = 25;

/**
 * Connections of one process that is stopped before it reads them. When it continues, its kernel has data for them, and
 * it reads that, with everything newer, before it looks at any timer.
 */
class Unread {
  readonly #world: World;
  readonly #at: Instance;
  readonly #first: DataClient;
  readonly #heaps: readonly DataClient[];
  readonly #last: readonly DataClient[];
  #asked: Promise<unknown>[] = [];

  private constructor(world: World, at: Instance) {
    this.#world = world;
    this.#at = at;
    this.#first = at.connect();
    this.#heaps = Array.from({ length: 6 }, () => at.connect());
    this.#last = Array.from({ length: 4 }, () => at.connect());
  }

  /**
   * Leaves the process stopped. Sockets are read in the order of their data: the last one comes after a lot of work.
   */
  static async stop(world: World, at: Instance, subject: Subject): Promise<Unread> {
    const unread = new Unread(world, at);
    await Promise.all(unread.#all.map((client) => unread.#ask([subject], client)));
    for (let attempt = 1; attempt <= 20; attempt++) {
      if (await unread.#caught(subject)) return unread;
      at.signal("SIGCONT");
      await unread.end();
    }
    at.signal("SIGSTOP");
    world.probe("the process was stopped in the middle of its work", false);
    return unread;
  }

  /** Asks behind the unread data. */
  ask(subjects: readonly Subject[]): void {
    for (const client of this.#last) void this.#ask(subjects, client);
  }

  /** When the process continues: every request is answered, or never will be. */
  async end(): Promise<void> {
    await Promise.all(this.#asked.splice(0));
  }

  close(): void {
    for (const client of this.#all) client.close();
  }

  get #all(): DataClient[] {
    return [this.#first, ...this.#heaps, ...this.#last];
  }

  #ask(subjects: readonly Subject[], client: DataClient): Promise<unknown> {
    const answer = ask(this.#world.history, this.#at, subjects, client);
    this.#asked.push(answer);
    return answer;
  }

  async #caught(subject: Subject): Promise<boolean> {
    this.#at.signal("SIGSTOP");
    await delay(5);
    const begun = this.#ask([subject], this.#first);
    await delay(5);
    for (const client of this.#heaps) for (let i = 0; i < 5; i++) void this.#ask(Array(100).fill(subject), client);
    await delay(PILE_MS);
    let tooLate = false;
    for (const client of this.#last) void this.#ask([subject], client).then(() => (tooLate = true));
    await delay(5);
    this.#at.signal("SIGCONT");
    await begun;
    this.#at.signal("SIGSTOP");
    await delay(50);
    return !tooLate;
  }
}

function pause(name: string, ms: (seconds: number) => number): Fault {
  return {
    name,
    async run(world, seconds) {
      const instance = victim(world);
      const cell = await revocable(world);
      const unread = await Unread.stop(world, instance, cell.subjects[0]!);
      world.probe("the process stood still", instance.state === "T");
      const held = delay(ms(seconds));
      await end(cell, world.changers()[0]!, world);
      unread.ask(cell.subjects);
      await held;
      instance.signal("SIGCONT");
      await delay(50);
      world.probe("the process went on", instance.state !== "T" && instance.state !== "");
      await unread.end();
      unread.close();
      await delay(200);
    },
  };
}

/** Pauses that are shorter than a lease: cached rows may still be used afterwards. */
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
    const again = await world.join(1);
    // The duration of a start depends on the machine. Another instance's death must not make it longer.
    const most = Math.max(10_000, 4 * instance.startMs);
    world.probe(`it was ready again in time, not after ${again.startMs.toFixed(0)} ms`, again.startMs < most);
    await delay(500);
  },
};

const joinLeave: Fault = {
  name: "join-leave",
  async run(world) {
    const rows = () => world.rows<{ n: number }>("select count(*)::int as n from sallyport.validators");
    const joined = await world.join(3);
    world.probe("it is registered", await until(async () => (await rows())[0]!.n >= 4, 5_000));
    const how = await world.leave(joined, "SIGTERM");
    world.probe(`it ended well, not by ${how}`, how === "0");
    await delay(400);
  },
};

const POLL = /^sallyport-poll$/;

/**
 * Reaped although it lives, again and again. Each time it has another id, and a writer must wait for that one, too. It
 * receives no wake-ups, so an id that a writer does not wait for is detected.
 */
const takenForDead: Fault = {
  name: "taken-for-dead",
  async run(world, seconds) {
    const instance = victim(world);
    const until = performance.now() + seconds * 1000;
    let ids = 0;
    do {
      const cell = await revocable(world);
      const before = await world.rows<{ id: string }>("select id from sallyport.validators");
      instance.pg.clear();
      // As its peers do with a silent one. The notification makes it look at once.
      await world.rows("update sallyport.validators set reaped_at = clock_timestamp() where reaped_at is null");
      await world.rows("notify sallyport_rev");
      if (!(await registeredAnew(world, before.length))) continue;
      ids++;
      await warm(world, instance, cell);
      instance.pg.set({ deaf: true }, POLL);
      await end(cell, world.changers()[0]!, world);
      await ask(world.history, instance, cell.subjects);
    } while (performance.now() < until);
    instance.pg.clear();
    world.probe("there were new ids", ids > 0);
  },
};

/** Until there are as many live rows as instances. */
async function registeredAnew(world: World, count: number): Promise<boolean> {
  const live = "select count(*)::int as n from sallyport.validators where reaped_at is null";
  for (let attempt = 0; attempt < 200; attempt++) {
    if ((await world.rows<{ n: number }>(live))[0]!.n >= Math.min(count, world.instances.length)) return true;
    await delay(5);
  }
  return false;
}

/** Until it answers, and has the token in its cache. */
async function warm(world: World, at: Instance, cell: Cell): Promise<void> {
  for (let attempt = 0; attempt < 40; attempt++) {
    if ((await ask(world.history, at, cell.subjects))[0] === ALLOW) break;
    await delay(10);
  }
  await ask(world.history, at, cell.subjects);
}

export const INSTANCE_FAULTS: readonly Fault[] = [
  none,
  pause("pause", (seconds) => Math.max(2_300, seconds * 1000)),
  pause("pause-10s", () => 10_000),
  stalls,
  kill,
  joinLeave,
  takenForDead,
];

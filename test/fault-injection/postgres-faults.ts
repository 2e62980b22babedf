import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { fresh, victim } from "./instance-faults.ts";
import { ask } from "./load.ts";
import type { Fault } from "./round.ts";
import { ALLOW } from "./wire.ts";
import { onServer, urlOf, type World } from "./world.ts";

interface Backend {
  readonly pid: number;
  readonly app: string;
}

const backends = (world: World) =>
  world.rows<Backend>(
    `select pid, application_name as app from pg_stat_activity
     where datname = current_database() and application_name like 'sallyport%'`,
  );

const started = async (world: World) =>
  (await world.rows<{ at: string }>("select pg_postmaster_start_time()::text as at"))[0]!.at;

function stopped(pid: number): boolean {
  try {
    return /\) T/.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}

/** Another life of the server: a restart, or a crash and a restart. */
function restart(name: string, how: (world: World) => Promise<void>): Fault {
  return {
    name,
    newEpoch: true,
    async run(world, seconds) {
      const before = await started(world);
      await how(world);
      await world.moveTo(world.server.port);
      world.probe("it is another life of the server", (await started(world)) !== before);
      await delay(seconds * 1000);
    },
  };
}

const restarted = restart("pg-restart", (world) => world.server.restart());
const killed = restart("pg-kill", async (world) => {
  await world.server.kill9();
  await delay(200);
  await world.server.restart();
});

/** A registration that the new server never had. Its process still holds a lease of the server before. */
const lostRegistration = restart("lost-registration", async (world) => {
  const instance = victim(world);
  const links = world.instances.map(({ pg }) => pg);
  // The server that loses them must not show that: in its own life no registration is ever lost.
  for (const link of links) link.set({ hole: true });
  const gone = await world.rows("delete from sallyport.validators returning id");
  world.probe("registrations were lost", gone.length > 0);
  await world.server.kill9();
  for (const link of links) {
    if (link === instance.pg) continue;
    link.reset();
    link.clear();
  }
  await world.server.restart();
  await delay(2_000);
  instance.pg.clear();
});

const postmasterFrozen: Fault = {
  name: "postmaster-freeze",
  async run(world, seconds) {
    world.server.signal("SIGSTOP");
    await delay(20);
    world.probe("the postmaster stood still", stopped(world.server.pid()));
    // Existing connections continue; new ones are refused.
    world.instances[1]!.pg.reset();
    await delay(seconds * 700);
    world.server.signal("SIGCONT");
    await delay(300);
  },
};

const allFrozen: Fault = {
  name: "pg-freeze",
  async run(world, seconds) {
    const all = await backends(world);
    for (const { pid } of all) signal(pid, "SIGSTOP");
    await delay(20);
    world.probe(
      "backends stood still",
      all.some(({ pid }) => stopped(pid)),
    );
    await delay(Math.max(2_000, seconds * 1000));
    for (const { pid } of all) signal(pid, "SIGCONT");
    await delay(300);
  },
};

/** One of each kind, each at a time when it may hold any lock. */
const backendFrozen: Fault = {
  name: "backend-freeze",
  async run(world, seconds) {
    const kinds = ["sallyport-poll", "sallyport-read", "sallyport-wait", "sallyport"];
    let stood = 0;
    for (const kind of kinds) {
      const one = (await backends(world)).find(({ app }) => app === kind);
      if (one === undefined) continue;
      signal(one.pid, "SIGSTOP");
      await delay((seconds * 1500) / kinds.length);
      if (stopped(one.pid)) stood++;
      signal(one.pid, "SIGCONT");
    }
    world.probe("backends stood still", stood >= 3);
    await delay(200);
  },
};

const backendKilled: Fault = {
  name: "backend-kill",
  async run(world, seconds) {
    const one = (await backends(world)).find(({ app }) => app === "sallyport");
    world.probe("there was one to kill", one !== undefined);
    if (one !== undefined) signal(one.pid, "SIGKILL");
    await delay(seconds * 1000);
    await world.back(10_000);
    world.probe("all were ended with it", !(await backends(world)).some(({ pid }) => pid === one?.pid));
  },
};

const terminated: Fault = {
  name: "terminate",
  async run(world, seconds) {
    const until = performance.now() + seconds * 1000;
    let ended = 0;
    while (performance.now() < until) {
      const [row] = await world.rows<{ n: number }>(
        `select count(pg_terminate_backend(pid))::int as n from pg_stat_activity
         where datname = current_database() and application_name like 'sallyport%' and random() < 0.5`,
      );
      ended += row!.n;
      await delay(250);
    }
    world.probe("backends were ended", ended > 5);
  },
};

const tooMany: Fault = {
  name: "connections",
  async run(world, seconds) {
    const instance = victim(world);
    const held: pg.Client[] = [];
    const url = urlOf(world.server.port, "postgres");
    let full = false;
    instance.pg.reset();
    for (let i = 0; i < 150 && !full; i++) {
      const client = new pg.Client(url);
      client.on("error", () => {});
      await client.connect().then(
        () => held.push(client),
        (error: { code?: string }) => (full = error.code === "53300"),
      );
    }
    world.probe("the server was full", full);
    instance.pg.reset();
    await delay(seconds * 1000);
    await Promise.all(held.map((client) => client.end().catch(() => {})));
    await delay(300);
  },
};

/** Like a psql that was left open: on a token's row, then on the row that every change must lock. */
const locked: Fault = {
  name: "locks",
  async run(world, seconds) {
    const cell = fresh(world);
    // Not by the connection that also revokes by hand: it may be one of the blocked ones.
    const waiting = () =>
      onServer(world.server.port, world.database, async (sql) => {
        const { rowCount } = await sql.query(
          "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
        );
        return rowCount !== 0;
      });
    await onServer(world.server.port, world.database, async (sql) => {
      await sql.query("begin");
      await sql.query("select from sallyport.tokens where id = $1 for update", [cell.target]);
      await delay(seconds * 300);
      const [verdict] = await ask(world.history, world.instances[0]!, cell.subjects);
      world.probe("a held row is still read", verdict === ALLOW);
      await sql.query("select from sallyport.rev_head for update");
      await delay(seconds * 400);
      world.probe("changes waited", await waiting());
      await delay(seconds * 700);
      await sql.query("rollback");
    });
    await delay(200);
  },
};

/** Leads reads, then polls of one instance to a standby that stands still: its rows are all outdated. */
const replica: Fault = {
  name: "replica",
  newEpoch: true,
  async run(world, seconds) {
    const standby = await world.standby();
    const instance = victim(world);
    // It must have the rows that the instance asks for, and receive no more.
    await caughtUp(world, standby.port);
    await onServer(standby.port, "postgres", (sql) => sql.query("select pg_wal_replay_pause()"));
    for (const app of [/^sallyport-read$/, /^sallyport-poll$/]) {
      const before = instance.pg.seen.connections;
      instance.pg.set({ port: standby.port }, app);
      instance.pg.reset(app);
      await delay(seconds * 800);
      world.probe("it was led to the standby", instance.pg.seen.connections > before);
      instance.pg.clear();
      instance.pg.reset(app);
    }
    await onServer(standby.port, "postgres", (sql) => sql.query("select pg_wal_replay_resume()"));
  },
};

/** The primary ends in order, so the standby has everything and becomes the primary. */
const promoted: Fault = {
  name: "promote",
  newEpoch: true,
  async run(world, seconds) {
    const standby = await world.standby();
    await caughtUp(world, standby.port);
    await delay(300);
    await world.server.stop();
    await onServer(standby.port, "postgres", async (sql) => {
      const { rows } = await sql.query<{ done: boolean }>("select pg_promote(true, 20) as done");
      world.probe("the standby was promoted", rows[0]!.done);
    });
    await world.promoted();
    await delay(seconds * 1000);
  },
};

/** Until the server there has the primary's present rows. */
export async function caughtUp(world: World, port: number): Promise<void> {
  const [head] = await world.rows<{ n: number }>("select n::int from sallyport.rev_head");
  for (let attempt = 0; attempt < 100; attempt++) {
    const n = await onServer(port, world.database, async (sql) => {
      return (await sql.query<{ n: number }>("select n::int from sallyport.rev_head")).rows[0]!.n;
    }).catch(() => -1);
    if (n >= head!.n) return;
    await delay(50);
  }
  throw new Error("the standby does not follow");
}

export const POSTGRES_FAULTS: readonly Fault[] = [
  restarted,
  killed,
  lostRegistration,
  postmasterFrozen,
  allFrozen,
  backendFrozen,
  backendKilled,
  terminated,
  tooMany,
  locked,
  replica,
  promoted,
];

import { setTimeout as delay } from "node:timers/promises";
import { builtClients, ClientProgram } from "./client-program.ts";
import { victim } from "./instance-faults.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";

/*
 * Services that check tokens by the client libraries, with caches: the promise reaches them, too (`docs/protocol.md` §4.8).
 */

/** ALLOWs of each client for one second of the given length: with five clients, some 10^5 in the gate's run. */
const ALLOWS_A_SECOND = 13_000;
const LONGEST_MS = 240_000;
const LONGEST_MS_A_SECOND = 150_000;
/** The lease of a client cache is over by then. */
const LEASE_OVER_MS = 1_700;
const FOLLOW_MS = 50;

const healthy: Fault = {
  name: "clients",
  boundMs: 3_600_000,
  load: { changeRestMs: 150, batchRestMs: 300 },
  async run(world, seconds) {
    const allows = ({ name }: ClientProgram) => world.history.tally.byAsker.get(name)?.allows ?? 0;
    const over = performance.now() + LONGEST_MS + seconds * LONGEST_MS_A_SECOND;
    while (performance.now() < over && world.clients.some((one) => allows(one) < seconds * ALLOWS_A_SECOND)) {
      if (world.left < 400) await world.stock(400);
      await delay(100);
    }
    for (const client of world.clients) {
      world.probe(`${client.name} was asked often enough`, allows(client) >= seconds * ALLOWS_A_SECOND);
      const seen = await client.seen();
      const [cached = 0, asked = 0] = [seen["cache ALLOW"], seen["server ALLOW"]];
      world.probe(`${client.name} mostly answers by its cache`, cached > 2 * asked);
    }
  },
};

/** The clients reach no server: their leases end, and they refuse. */
const cut = (name: string, kind: "reset" | "blackhole"): Fault => ({
  name,
  async run(world, seconds) {
    await Promise.all(world.clients.map(({ link }) => link.set({ kind })));
    for (const { link } of world.clients) for (const socket of link.connections()) socket.resetAndDestroy();
    await delay(Math.max(LEASE_OVER_MS + 300, seconds * 1000));
    const answers = world.clients.map((client) => client.seen());
    for (const [i, seen] of (await Promise.all(answers)).entries())
      world.probe(`${world.clients[i]!.name} has refused meanwhile`, (seen["server UNDETERMINED"] ?? 0) > 0);
    await Promise.all(world.clients.map(({ link }) => link.set({ kind: "pass" })));
    await delay(500);
  },
});

/** A load balancer moves each connection to the other server. */
const moved: Fault = {
  name: "clients-move",
  async run(world, seconds) {
    for (let turn = 0; turn < Math.max(4, seconds * 3); turn++) {
      for (const client of world.clients) {
        client.turn++;
        client.follow(world.instances);
        for (const socket of client.link.connections()) socket.resetAndDestroy();
      }
      await delay(300);
    }
  },
};

/** The server of a feed crashes, and the clients join another one. */
const killed: Fault = {
  name: "clients-server-kill",
  async run(world, seconds) {
    const instance = victim(world, 0);
    await world.leave(instance, "SIGKILL");
    await delay(seconds * 1000);
    await world.join(0);
    await delay(500);
  },
};

/** The server of a feed stands still for longer than a lease. */
const frozen: Fault = {
  name: "clients-server-stop",
  async run(world, seconds) {
    const instance = victim(world, 0);
    instance.signal("SIGSTOP");
    await delay(Math.max(2_500, seconds * 1000));
    instance.signal("SIGCONT");
    await delay(500);
  },
};

/** The clients stand still, shorter and longer than a lease; a change waits for their leases. */
const paused: Fault = {
  name: "clients-pause",
  async run(world, seconds) {
    for (const ms of [400, LEASE_OVER_MS, Math.max(2_500, seconds * 1000)]) {
      for (const client of world.clients) client.signal("SIGSTOP");
      await delay(ms);
      for (const client of world.clients) client.signal("SIGCONT");
      await delay(300);
    }
  },
};

/** Another life of the database: a client cache starts empty. */
const epoch: Fault = {
  name: "clients-epoch",
  newEpoch: true,
  async run(world, seconds) {
    await world.server.restart();
    await world.moveTo(world.server.port);
    await delay(Math.max(2_000, seconds * 1000));
  },
};

const CLIENT_FAULTS = [
  healthy,
  cut("clients-cut", "reset"),
  cut("clients-blackhole", "blackhole"),
  moved,
  killed,
  frozen,
  paused,
  epoch,
];
export const CLIENT_FAULT_NAMES = CLIENT_FAULTS.map(({ name }) => name);

/** Two instances, and a service for each client library. */
export async function clients(): Promise<Topology> {
  let follows: NodeJS.Timeout | undefined;
  const { names, lacking } = await builtClients();
  return {
    world: {},
    faults: CLIENT_FAULTS,
    lacking,
    async join(world) {
      world.clients = await Promise.all(names.map((name, i) => ClientProgram.start(name, world.instances, i)));
      // A server that starts again has another port.
      follows = setInterval(() => {
        for (const client of world.clients) client.follow(world.instances);
      }, FOLLOW_MS);
    },
    async stop() {
      clearInterval(follows);
    },
  };
}

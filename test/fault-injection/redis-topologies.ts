import { setTimeout as delay } from "node:timers/promises";
import { startCluster, startSentinel } from "../support/redis.ts";
import { until } from "./bounded.ts";
import type { Fault } from "./round.ts";
import type { Topology } from "./topologies.ts";

export async function cluster(): Promise<Topology> {
  const { nodes, stop } = await startCluster(3);
  const sizes = () => Promise.all(nodes.slice(0, 2).map(async (node) => Number(await node.cli("DBSIZE"))));
  const healthy: Fault = {
    name: "cluster",
    async run(world, seconds) {
      await delay(seconds * 1000);
      world.probe("entries lie on several nodes", await until(async () => (await sizes()).every((size) => size > 0)));
    },
  };
  const nodeKilled: Fault = {
    name: "cluster-node-kill",
    async run(world, seconds) {
      await nodes[2]!.kill9();
      await delay(seconds * 1000);
      const missed = async () => {
        const states = await Promise.all(nodes.slice(0, 2).map((node) => node.cli("CLUSTER", "NODES")));
        return states.some((text) => /fail|disconnected/.test(String(text)));
      };
      world.probe("the others miss it", await until(missed));
    },
  };
  const url = `redis-cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(",")}`;
  return { world: { redis: url }, faults: [healthy, nodeKilled], stop };
}

/**
 * The replica pauses first, so that its data is old when it takes over. Then the old primary continues and knows
 * nothing of that.
 */
export async function sentinel(): Promise<Topology> {
  const { primary, replica, sentinel: watcher, name, stop } = await startSentinel();
  const failover: Fault = {
    name: "sentinel-failover",
    async run(world, seconds) {
      replica.sigstop();
      await delay(seconds * 400);
      primary.sigstop();
      replica.sigcont();
      const primaryNow = async () => String(await watcher.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name));
      let moved = false;
      for (let i = 0; i < 200 && !moved; i++) {
        await delay(100);
        moved = (await primaryNow()).endsWith(String(replica.port));
      }
      world.probe("the replica took over", moved);
      primary.sigcont();
      await delay(seconds * 700);
      world.probe("it is used", await until(async () => Number(await replica.cli("DBSIZE")) > 0));
    },
  };
  return { world: { redis: `redis-sentinel://127.0.0.1:${watcher.port}/${name}` }, faults: [failover], stop };
}

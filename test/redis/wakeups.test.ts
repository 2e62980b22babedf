import { expect, onTestFinished, test } from "vitest";
import { RedisWakeUps } from "../../src/redis/wakeups.ts";
import { startCluster, startRedis } from "../support/redis.ts";
import { connect, PATIENT } from "./fixture.ts";

async function open(url: string) {
  const { redis, journal } = connect(url, PATIENT);
  const wakeUps = new RedisWakeUps({ redis, url, events: journal });
  onTestFinished(() => wakeUps.close());
  let woken = 0;
  wakeUps.onWakeUp(() => woken++);
  return { wakeUps, redis, journal, woken: () => woken };
}

/** Publishes until the other hears it. */
async function hears(from: RedisWakeUps, woken: () => number, timeout = 3000) {
  const before = woken();
  await expect
    .poll(
      () => {
        from.publish();
        return woken();
      },
      { timeout, interval: 20 },
    )
    .toBeGreaterThan(before);
}

test("a wake-up reaches the other processes and this one; a burst is few messages, and its last is not lost", async () => {
  const server = await startRedis();
  onTestFinished(() => server.stop());
  const [one, two] = [await open(server.url), await open(server.url)];
  await expect.poll(() => server.cli("PUBSUB", "NUMSUB", "sallyport:rev")).toEqual(["sallyport:rev", 2]);
  one.wakeUps.publish();
  await expect.poll(() => [one.woken(), two.woken()]).toEqual([1, 1]);
  // Answered after the first.
  await one.redis.ask((commands) => commands.publish("other", ""));
  for (let i = 0; i < 100; i++) one.wakeUps.publish();
  await expect.poll(() => [one.woken(), two.woken()]).toEqual([3, 3]);
});

test("it subscribes again after Redis was away, and no call fails meanwhile", async () => {
  const server = await startRedis();
  onTestFinished(() => server.stop());
  const [one, two] = [await open(server.url), await open(server.url)];
  await hears(one.wakeUps, two.woken);
  await server.kill9();
  for (let i = 0; i < 10; i++) one.wakeUps.publish();
  const again = await startRedis({ port: server.port });
  onTestFinished(() => again.stop());
  await hears(one.wakeUps, two.woken, 4000);
});

test("wake-ups work in a cluster, too", async () => {
  const cluster = await startCluster(3);
  onTestFinished(() => cluster.stop());
  const urls = cluster.nodes.map(({ port }) => `redis-cluster://127.0.0.1:${port}`);
  const [one, two] = [await open(urls[0]!), await open(urls[1]!)];
  await hears(one.wakeUps, two.woken, 5000);
});

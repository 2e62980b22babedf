import { Cluster, Redis } from "ioredis";
import { afterEach, describe, expect, test } from "vitest";
import { startCluster, startRedis, startSentinel } from "./redis.ts";

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function redis(options?: Parameters<typeof startRedis>[0]) {
  const server = await startRedis(options);
  stops.push(server.stop);
  return server;
}

describe("startRedis", () => {
  test("it answers, keeps nothing, and allows DEBUG", async () => {
    const server = await redis();
    expect(await server.cli("PING")).toBe("PONG");
    expect(await server.cli("CONFIG", "GET", "save")).toEqual(["save", ""]);
    expect(await server.cli("DEBUG", "SLEEP", 0)).toBe("OK");
  });

  test("it comes back empty on the same port after kill -9", async () => {
    const first = await redis();
    await first.cli("SET", "k", "v");
    await first.kill9();
    await expect(first.cli("PING")).rejects.toThrow();
    const second = await redis({ port: first.port });
    expect(second.url).toBe(first.url);
    expect(await second.cli("GET", "k")).toBeNull();
  });

  test("frozen it answers nothing, and thawed it answers the requests that came meanwhile", async () => {
    const server = await redis();
    const client = new Redis(server.url);
    stops.push(async () => client.disconnect());
    await client.ping();
    server.sigstop();
    let answered = false;
    const late = client.ping().then(() => (answered = true));
    // A second round trip through another, living server bounds the wait without a clock.
    await (await redis()).cli("PING");
    expect(answered).toBe(false);
    server.sigcont();
    expect(await late).toBe(true);
  });

  test("a port that is taken is an error with the reason", async () => {
    const server = await redis();
    await expect(startRedis({ port: server.port })).rejects.toThrow(/in use/i);
  });
});

test("startCluster makes one cluster whose client reaches every slot", async () => {
  const cluster = await startCluster(3);
  stops.push(cluster.stop);
  const client = new Cluster([...cluster.urls]);
  stops.push(async () => client.disconnect());
  for (const key of ["a", "b", "c", "d", "e", "f"]) await client.set(key, key);
  const sizes = await Promise.all(cluster.nodes.map((node) => node.cli("DBSIZE")));
  expect(sizes.every((size) => Number(size) > 0)).toBe(true);
});

test("startSentinel fails over to the replica when the primary dies", async () => {
  const { primary, replica, sentinel, name, stop } = await startSentinel();
  stops.push(stop);
  const listener = new Redis(sentinel.url);
  stops.push(async () => listener.disconnect());
  const switched = new Promise<string>((resolve) => listener.on("message", (_, text) => resolve(text)));
  await listener.subscribe("+switch-master");
  await primary.kill9();
  expect(await switched).toBe(`${name} 127.0.0.1 ${primary.port} 127.0.0.1 ${replica.port}`);
});

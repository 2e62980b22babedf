import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { Redis } from "ioredis";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until } from "./bounded.ts";
import type { Fault } from "./round.ts";
import type { World } from "./world.ts";

type Run = (world: World, redis: RedisServer, seconds: number) => Promise<void>;

const fault = (name: string, run: Run): Fault => ({
  name,
  needs: "redis",
  run: (world, seconds) => run(world, world.redis!, seconds),
});

/** Repeats an action for that time; returns the number of repeats. */
async function repeatedly(seconds: number, restMs: number, act: () => Promise<unknown>): Promise<number> {
  const until = performance.now() + seconds * 1000;
  let times = 0;
  for (; performance.now() < until; times++) {
    await act();
    await delay(restMs);
  }
  return times;
}

const entries = async (redis: RedisServer) => Number(await redis.cli("DBSIZE"));
const info = async (redis: RedisServer, field: string) =>
  Number(new RegExp(`${field}:(\\d+)`).exec(String(await redis.cli("INFO")))?.[1]);

const killed = fault("redis-kill", async (world, redis, seconds) => {
  world.probe("there was something in it", await until(async () => (await entries(redis)) > 0));
  await redis.kill9();
  await delay(seconds * 600);
  world.redis = await startRedis({ port: redis.port });
  // Clients wait up to a second before they reconnect.
  await delay(1_200);
  const { redis: again } = world;
  world.probe("it is used again", await until(async () => (await entries(again)) > 0));
});

const frozen = fault("redis-freeze", async (world, redis, seconds) => {
  redis.sigstop();
  await delay(20);
  world.probe("it stood still", /\) T/.test(readFileSync(`/proc/${redis.pid}/stat`, "latin1")));
  await delay(seconds * 1000);
  redis.sigcont();
  await delay(300);
});

const clientKill = fault("redis-client-kill", async (world, redis, seconds) => {
  let killed = 0;
  await repeatedly(seconds, 150, async () => {
    for (const kind of ["normal", "pubsub"]) killed += Number(await redis.cli("CLIENT", "KILL", "TYPE", kind));
  });
  world.probe("clients were cut off", killed > 0);
});

const clientPause = fault("redis-client-pause", async (world, redis, seconds) => {
  const hold = () => redis.cli("CLIENT", "PAUSE", 350, "ALL");
  let times = await repeatedly(seconds, 500, hold);
  // Delays everybody who asks for it, too.
  while (times < 2) times += await repeatedly(0.6, 500, hold);
  world.probe("clients were held", times > 1);
});

const sleep = fault("redis-sleep", async (world, redis, seconds) => {
  const begun = performance.now();
  const times = await repeatedly(seconds, 200, () => redis.cli("DEBUG", "SLEEP", 0.4));
  world.probe("it slept", performance.now() - begun > times * 400);
});

const flush = fault("redis-flush", async (world, redis, seconds) => {
  let dropped = 0;
  const empty = async () => {
    dropped += await entries(redis);
    await redis.cli("FLUSHALL");
  };
  await repeatedly(seconds, 60, empty);
  for (let more = 0; more < 20 && dropped === 0; more++) await repeatedly(0.3, 60, empty);
  world.probe("entries were lost", dropped > 0);
});

const oom = fault("redis-oom", async (world, redis, seconds) => {
  const before = await info(redis, "total_error_replies");
  await redis.cli("CONFIG", "SET", "maxmemory-policy", "noeviction");
  await redis.cli("CONFIG", "SET", "maxmemory", 1);
  await delay(seconds * 1000);
  world.probe("fills were refused", await until(async () => (await info(redis, "total_error_replies")) > before));
  await redis.cli("CONFIG", "SET", "maxmemory", 0);
});

const readOnly = fault("redis-readonly", async (world, redis, seconds) => {
  const before = await info(redis, "total_error_replies");
  // A primary that became a replica of an unreachable one: it serves old data and accepts no writes.
  await redis.cli("REPLICAOF", "127.0.0.1", 1);
  await delay(seconds * 800);
  world.probe("writes were refused", await until(async () => (await info(redis, "total_error_replies")) > before));
  await redis.cli("REPLICAOF", "NO", "ONE");
  await delay(500);
});

const password = fault("redis-password", async (world, redis, seconds) => {
  const before = await info(redis, "total_error_replies");
  await redis.cli("CONFIG", "SET", "requirepass", "another");
  const admin = new Redis(redis.url, { password: "another", protocol: 2, retryStrategy: () => null });
  await admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await delay(seconds * 1000);
  const refused = async () => Number(/total_error_replies:(\d+)/.exec(await admin.info())?.[1]) > before;
  world.probe("nobody was let in", await until(refused));
  await admin.config("SET", "requirepass", "");
  admin.disconnect();
});

/** An attacker with write access: invents entries, exchanges them, and puts old ones back. */
const adversary = fault("redis-adversary", async (world, redis, seconds) => {
  const db = new Redis(redis.url, { protocol: 2, retryStrategy: () => null, connectionName: "adversary" });
  db.on("error", () => {});
  const first = new Map<string, Buffer>();
  let replayed = 0;
  await repeatedly(seconds + 1, 20, async () => {
    const keys = await db.keys("sallyport:*");
    if (keys.length < 2) return;
    const values = await db.mgetBuffer(keys);
    for (const [i, key] of keys.entries()) {
      const value = values[i];
      if (value && !first.has(key)) first.set(key, value);
    }
    const write = db.pipeline();
    for (const [i, key] of keys.entries()) {
      const old = first.get(key)!;
      const other = values[(i + 1) % keys.length];
      const dice = Math.random();
      if (dice < 0.7) replayed += values[i]?.equals(old) === false ? 1 : 0;
      if (dice < 0.7) write.set(key, old);
      else if (dice < 0.8 && other) write.set(key, other);
      else if (dice < 0.9) write.set(key, garbled(old));
      else if (dice < 0.95) write.set(key, Buffer.concat([Buffer.from("9".repeat(16)), old.subarray(16)]));
    }
    await write.exec();
  });
  world.probe("old entries were put back", first.size > 10 && replayed > 0);
  await db.flushall();
  db.disconnect();
});

function garbled(value: Buffer): Buffer {
  const copy = Buffer.from(value);
  copy[Math.floor(Math.random() * copy.length)]! ^= 1 + Math.floor(Math.random() * 255);
  return copy;
}

const slow = fault("redis-slow", async (world, _redis, seconds) => {
  const FAILED = 'sallyport_troubles_total{what="redis_failed"}';
  const failures = () => Promise.all(world.instances.map((instance) => instance.metric(FAILED)));
  const before = await failures();
  for (const ms of [20, 200]) {
    await Promise.all(world.instances.map(({ redis }) => redis!.set({ kind: "latency", ms })));
    await delay(seconds * 500);
  }
  // First within the time bound of a command, then beyond it.
  const more = async () => (await failures()).some((count, i) => count > before[i]!);
  world.probe("commands took too long", await until(more));
  await Promise.all(world.instances.map(({ redis }) => redis!.set({ kind: "pass" })));
});

const partition = fault("redis-partition", async (world, _redis, seconds) => {
  const { redis } = world.instances[1]!;
  await redis!.set({ kind: "blackhole" });
  await delay(seconds * 700);
  await redis!.set({ kind: "refuse" });
  world.probe("it was cut off", await until(() => redis!.connections().length === 0, 3_000));
  await delay(seconds * 500);
  await redis!.set({ kind: "pass" });
});

export const REDIS_FAULTS: readonly Fault[] = [
  killed,
  frozen,
  clientKill,
  clientPause,
  sleep,
  flush,
  oom,
  readOnly,
  password,
  adversary,
  slow,
  partition,
];

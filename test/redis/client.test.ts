import { createHash } from "node:crypto";
import { createServer } from "node:net";
import { Cluster, type Redis } from "ioredis";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { openRedis, RedisConnection } from "../../src/redis/client.ts";
import { RedisWakeUps } from "../../src/redis/wakeups.ts";
import { startCluster, startRedis, startSentinel } from "../support/redis.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";
import { clock, connect, Journal, openCache, PATIENT } from "./fixture.ts";

const digest = (i: number) => createHash("sha256").update(String(i)).digest("binary");
const m = snapshot(7, { digest: digest(1) });

/** 50 ms, plus a margin for a busy machine. */
const LIMIT = 150;
/** Tests about time are repeated on a machine that is too busy. */
const TIMED = { retry: 3 };

type Opened = ReturnType<typeof openCache>;

async function started(options?: Parameters<typeof startRedis>[0]) {
  const server = await startRedis(options);
  onTestFinished(() => server.stop());
  return server;
}

/** A working cache that holds `m`. */
async function warm(opened: Opened): Promise<Opened> {
  await opened.ready;
  await heals(opened);
  return opened;
}

/** Fills and gets until it works; returns the time that took, in milliseconds. */
async function heals({ cache }: Opened, within = 3000): Promise<number> {
  const before = performance.now();
  const works = async () => {
    cache.fill(m);
    return (await cache.get(m.digest, EPOCH))?.id;
  };
  await expect.poll(works, { timeout: within, interval: 10 }).toBe(m.id);
  return performance.now() - before;
}

/** Asks `count` times, one after the other. All must miss. Returns durations in milliseconds. */
async function misses({ cache }: Opened, count: number): Promise<number[]> {
  const took: number[] = [];
  for (let i = 0; i < count; i++) {
    const before = performance.now();
    expect(await cache.get(m.digest, EPOCH)).toBeUndefined();
    took.push(performance.now() - before);
  }
  return took;
}

/** The number of commands that were waited for in vain. */
const timeouts = ({ journal }: Opened) => journal.lines.filter((line) => line.endsWith("timeout")).length;

describe("the cache with a Redis that fails", TIMED, () => {
  test("misses at once if Redis is killed, and heals within 2 s of its return", async () => {
    const server = await started();
    const opened = await warm(openCache(server.url));
    await server.kill9();
    const took = await misses(opened, 50);
    expect(Math.max(...took)).toBeLessThan(LIMIT);
    const again = await startRedis({ port: server.port });
    onTestFinished(() => again.stop());
    expect(await heals(opened)).toBeLessThan(2000);
  });

  test("waits 50 ms in one call a second if Redis is frozen, not at all in others, and heals within 2 s", async () => {
    const server = await started();
    const opened = await warm(openCache(server.url));
    server.sigstop();
    const took = await misses(opened, 200);
    expect(took[0]).toBeGreaterThan(40);
    expect(took[0]).toBeLessThan(LIMIT);
    // Judged by the reports, not by the clock of a busy machine.
    expect(timeouts(opened)).toBe(1);
    expect(opened.cache.ready).toBe(false);
    server.sigcont();
    expect(await heals(opened)).toBeLessThan(2000);
  });

  test("waits at most 50 ms a second if Redis is frozen for seconds, also over reconnections", async () => {
    const server = await started();
    const opened = await warm(openCache(server.url));
    server.sigstop();
    const end = performance.now() + 3500;
    while (performance.now() < end) {
      if (opened.cache.ready) expect(await opened.cache.get(m.digest, EPOCH)).toBeUndefined();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(timeouts(opened)).toBeGreaterThan(1);
    expect(timeouts(opened)).toBeLessThanOrEqual(4);
    server.sigcont();
    expect(await heals(opened)).toBeLessThan(2000);
  });

  test("abandons a connection that carries nothing any more, though nobody closes it", async () => {
    const server = await started();
    const proxy = await startTcpProxy({ port: server.port });
    onTestFinished(() => proxy.stop());
    const opened = await warm(openCache(`redis://127.0.0.1:${proxy.port}`));
    await proxy.set({ kind: "blackhole" });
    const [old] = proxy.connections();
    const closed = new Promise((resolve) => old!.once("end", resolve));
    await misses(opened, 1);
    await closed;
    await proxy.set({ kind: "pass" });
    expect(await heals(opened, 5000)).toBeLessThan(3500);
  });

  test("waits at most 50 ms in any call if Redis is slow", async () => {
    const server = await started();
    const proxy = await startTcpProxy({ port: server.port });
    onTestFinished(() => proxy.stop());
    const opened = await warm(openCache(`redis://127.0.0.1:${proxy.port}`));
    await proxy.set({ kind: "latency", ms: 200 });
    const took = await misses(opened, 100);
    expect(Math.max(...took)).toBeLessThan(LIMIT);
    expect(timeouts(opened)).toBe(1);
  });

  test("reports fills that fail because Redis is out of memory, and still reads entries", async () => {
    const server = await started({ args: ["--maxmemory-policy", "noeviction"] });
    const opened = await warm(openCache(server.url, PATIENT));
    await server.cli("CONFIG", "SET", "maxmemory", 1);
    opened.cache.fill(snapshot(8, { digest: digest(2) }));
    await expect.poll(() => opened.journal.lines).toEqual(["redis_failed: RedisError: ReplyError OOM"]);
    expect(await opened.cache.get(m.digest, EPOCH)).toEqual(m);
    expect(await opened.cache.get(digest(2), EPOCH)).toBeUndefined();
    await server.cli("CONFIG", "SET", "maxmemory", 0);
    opened.cache.fill(snapshot(8, { digest: digest(2) }));
    await expect.poll(() => opened.cache.get(digest(2), EPOCH)).toBeDefined();
  });

  test("drops the connection at the first fill that a read-only Redis refuses, comes back and heals", async () => {
    const primary = await started();
    const server = await started();
    const opened = await warm(openCache(server.url, PATIENT));
    const clients = async () => String(await server.cli("CLIENT", "LIST", "TYPE", "normal"));
    const [, before] = /\bid=(\d+) /.exec(await clients())!;
    await server.cli("REPLICAOF", "127.0.0.1", primary.port);
    opened.cache.fill(snapshot(8, { digest: digest(1) }));
    await expect.poll(clients).not.toContain(`id=${before} `);
    await server.cli("REPLICAOF", "NO", "ONE");
    expect(await heals(opened)).toBeLessThan(2000);
    expect(opened.journal.lines.join()).toContain("READONLY");
  });

  test("misses at once with a wrong password, tries once a second, and never reports the password", async () => {
    const server = await started({ args: ["--requirepass", "right-one"] });
    const opened = openCache(`redis://:hunter2-secret@127.0.0.1:${server.port}`);
    const end = performance.now() + 2500;
    while (performance.now() < end) {
      for (const ms of await misses(opened, 1)) expect(ms).toBeLessThan(LIMIT);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(opened.cache.ready).toBe(false);
    expect(opened.journal.lines.length).toBeGreaterThan(0);
    expect(opened.journal.lines.length).toBeLessThanOrEqual(6);
    expect(opened.journal.lines.join()).toContain("WRONGPASS");
    expect(opened.journal.lines.join()).not.toContain("hunter2");
    const { redis } = connect(`redis://:right-one@127.0.0.1:${server.port}`, PATIENT);
    await new Promise<void>((resolve) => redis.onReady(resolve));
    const config = (...words: string[]) =>
      redis.ask((commands) => (commands as unknown as Redis).call(...(words as [string])));
    const stats = String(await config("INFO", "stats"));
    expect(Number(/total_connections_received:(\d+)/.exec(stats)![1])).toBeLessThanOrEqual(7);
    expect(await config("CONFIG", "SET", "requirepass", "hunter2-secret")).toBe("OK");
    expect(await heals(opened)).toBeLessThan(2000);
  });

  test("misses quietly without a server, and tries about once a second", async () => {
    const spare = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => spare.once("listening", resolve));
    const { port } = spare.address() as { port: number };
    await new Promise((resolve) => spare.close(resolve));
    const opened = openCache(`redis://127.0.0.1:${port}`);
    expect(Math.max(...(await misses(opened, 100)))).toBeLessThan(LIMIT);
    await expect.poll(() => opened.journal.lines.length, { timeout: 4000 }).toBeGreaterThan(2);
    expect(opened.journal.lines.join()).toContain("ECONNREFUSED");
  });
});

test("errors name class and code, never a command's arguments", async () => {
  const server = await started();
  const { redis, journal } = connect(server.url, PATIENT);
  await new Promise<void>((resolve) => redis.onReady(resolve));
  expect(await redis.ask((commands) => commands.set("hunter2-key", "hunter2-value", "PX", -1))).toBeUndefined();
  expect(await redis.ask((commands) => commands.eval("hunter2(", 0))).toBeUndefined();
  expect(journal.lines).toHaveLength(2);
  expect(journal.lines.join()).not.toContain("hunter2");
});

test("a URL that cannot be parsed is refused at once", () => {
  expect(() => new RedisConnection({ url: "http://h", clock, events: new Journal() })).toThrow(/redis\.url/);
});

test(
  "a cluster keeps entries on all its nodes, and the loss of one causes misses only for its part",
  TIMED,
  async () => {
    const cluster = await startCluster(3);
    onTestFinished(() => cluster.stop());
    const opened = openCache(`redis-cluster://${cluster.nodes.map(({ port }) => `127.0.0.1:${port}`).join(",")}`);
    await opened.ready;
    const digests = Array.from({ length: 60 }, (_, i) => digest(i));
    for (const d of digests) opened.cache.fill(snapshot(7, { digest: d }));
    const found = async () => {
      let count = 0;
      for (const d of digests) if ((await opened.cache.get(d, EPOCH)) !== undefined) count++;
      return count;
    };
    await expect.poll(found).toBe(60);
    for (const d of digests) opened.cache.fill(snapshot(8, { digest: d }));
    for (const d of digests) opened.cache.fill(snapshot(6, { digest: d }));
    await expect.poll(async () => (await opened.cache.get(digests[59]!, EPOCH))?.version.position).toBe(8);
    const sizes = await Promise.all(cluster.nodes.map((node) => node.cli("DBSIZE")));
    expect(Math.min(...sizes.map(Number))).toBeGreaterThan(5);
    expect(sizes.map(Number).reduce((a, b) => a + b)).toBe(60);
    await cluster.nodes[2]!.kill9();
    for (const d of digests.slice(0, 20)) {
      const before = performance.now();
      await opened.cache.get(d, EPOCH);
      expect(performance.now() - before).toBeLessThan(LIMIT);
    }
  },
);

test("by sentinels it follows the primary to the replica within seconds", TIMED, async () => {
  const { primary, sentinel, name, stop } = await startSentinel();
  onTestFinished(stop);
  const opened = await warm(openCache(`redis-sentinel://127.0.0.1:${sentinel.port}/${name}`));
  await primary.kill9();
  expect(Math.max(...(await misses(opened, 20)))).toBeLessThan(LIMIT);
  await heals(opened, 15_000);
});

test("a sentinel that drops its connections is no error that the driver prints by itself", async () => {
  const printed = vi.spyOn(console, "error").mockImplementation(() => {});
  onTestFinished(() => printed.mockRestore());
  const redis = await started();
  const bulk = (text: string) => `$${text.length}\r\n${text}\r\n`;
  const state = { dropped: 0 };
  const sentinel = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      // Each command is an array of bulk strings.
      for (const command of chunk
        .toString("latin1")
        .toLowerCase()
        .split(/(?=\*\d+\r\n)/)) {
        if (command.includes("subscribe")) {
          socket.resetAndDestroy();
          state.dropped++;
        } else if (!command.includes("get-master")) socket.write("+OK\r\n");
        else socket.write(`*2\r\n${bulk("127.0.0.1")}${bulk(String(redis.port))}`);
      }
    });
  });
  await new Promise<void>((resolve) => sentinel.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void sentinel.close());
  const { port } = sentinel.address() as { port: number };
  const opened = await warm(openCache(`redis-sentinel://127.0.0.1:${port}/main`));
  await expect.poll(() => state.dropped).toBeGreaterThanOrEqual(1);
  await heals(opened);
  // The driver hears of the reset in the same turn of the loop at the latest.
  await new Promise((resolve) => setImmediate(resolve));
  expect(printed.mock.calls).toEqual([]);
});

describe("a reply above the size limit", () => {
  /** A server that answers the first command of each connection with this, and counts the bytes that it sends. */
  async function hostile(reply: (write: (bytes: Buffer | string) => Promise<boolean>) => Promise<unknown>) {
    const state = { sent: 0, connections: 0 };
    const server = createServer((socket) => {
      state.connections++;
      socket.on("error", () => {});
      const write = (bytes: Buffer | string) =>
        new Promise<boolean>((resolve) => {
          if (socket.destroyed) return resolve(false);
          socket.once("close", () => resolve(false));
          socket.write(bytes, () => {
            state.sent += bytes.length;
            resolve(!socket.destroyed);
          });
        });
      socket.once("data", () => void reply(write));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    return { state, url: `redis://127.0.0.1:${(server.address() as { port: number }).port}` };
  }

  test("of 256 MB ends its connection early: it is a miss, and memory does not grow", async () => {
    const { state, url } = await hostile(async (write) => {
      await write(`$${256 << 20}\r\n`);
      for (let i = 0; i < 4096 && (await write(piece)); i++);
    });
    const opened = openCache(url, PATIENT);
    await opened.ready;
    const before = process.memoryUsage.rss();
    expect(await opened.cache.get(m.digest, EPOCH)).toBeUndefined();
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
    expect(state.sent).toBeLessThan(32 << 20);
    expect(opened.journal.lines.join()).toContain("RangeError");
  });

  const piece = Buffer.alloc(1 << 16, "x");

  /**
   * A server that speaks RESP: a command that `answers` knows gets its reply, `vast` is answered with 256 MB. `ended`
   * counts the connections that were closed on it meanwhile.
   */
  async function scripted(answers: Readonly<Record<string, string>>, vast: string) {
    const state = { sent: 0, ended: 0 };
    const server = createServer((socket) => {
      socket.on("error", () => {});
      const flood = () => {
        const more = () => {
          while (!socket.destroyed && socket.write(piece)) state.sent += piece.length;
          state.sent += piece.length;
        };
        socket.write(`$${256 << 20}\r\n`);
        socket.on("drain", more);
        socket.once("close", () => state.ended++);
        more();
      };
      socket.on("data", (chunk) => {
        // Each command is an array of bulk strings.
        for (const command of chunk
          .toString("latin1")
          .toLowerCase()
          .split(/(?=\*\d+\r\n)/)) {
          const words = command.split("\r\n").filter((_, i) => i > 0 && i % 2 === 0);
          const name = Object.keys(answers).find((known) => words.join(" ").startsWith(known));
          if (words.join(" ").startsWith(vast)) flood();
          else socket.write(name === undefined ? "+OK\r\n" : answers[name]!);
        }
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    return { state, port: (server.address() as { port: number }).port };
  }
  const bulk = (text: string) => `$${text.length}\r\n${text}\r\n`;
  const place = (port: number) => `*2\r\n${bulk("127.0.0.1")}${bulk(String(port))}`;

  /** After so many floods neither the memory nor what was taken of them is large. */
  async function survives({ state }: { state: { sent: number; ended: number } }, before: number, floods = 2) {
    await expect.poll(() => state.ended, { timeout: 15_000 }).toBeGreaterThanOrEqual(floods);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
    expect(state.sent / state.ended).toBeLessThan(32 << 20);
  }

  test("of a sentinel that is asked for the primary ends its connection", async () => {
    const sentinel = await scripted({}, "sentinel get-master-addr-by-name");
    const before = process.memoryUsage.rss();
    const { journal } = openCache(`redis-sentinel://127.0.0.1:${sentinel.port}/main`);
    await survives(sentinel, before);
    expect(journal.lines.join()).toContain("RangeError");
  });

  test("of a sentinel that should tell of failovers does, and the primary goes on answering", async () => {
    const server = await started();
    const sentinel = await scripted({ "sentinel get-master": place(server.port) }, "subscribe");
    const before = process.memoryUsage.rss();
    const opened = await warm(openCache(`redis-sentinel://127.0.0.1:${sentinel.port}/main`));
    // The driver does not come back to a sentinel that it listened to.
    await survives(sentinel, before, 1);
    await heals(opened);
    expect(opened.journal.lines.join()).toContain("RangeError");
  });

  test("of a cluster that is asked for its slots does", async () => {
    const node = await scripted({}, "cluster slots");
    const before = process.memoryUsage.rss();
    const { journal } = openCache(`redis-cluster://127.0.0.1:${node.port}`);
    await survives(node, before);
    expect(journal.lines.join()).toContain("RangeError");
  });

  test("of a cluster that should send wake-ups does", async () => {
    const answers = { "cluster slots": "" };
    const node = await scripted(answers, "subscribe");
    answers["cluster slots"] = `*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n${bulk("127.0.0.1")}:${node.port}\r\n`;
    const before = process.memoryUsage.rss();
    const url = `redis-cluster://127.0.0.1:${node.port}`;
    const { redis, journal } = connect(url);
    const wakeUps = new RedisWakeUps({ redis, url, events: journal });
    onTestFinished(() => wakeUps.close());
    await survives(node, before);
    expect(journal.lines.join()).toContain("RangeError");
  });

  const announced = (port: number) => `*2\r\n${bulk("127.0.0.1")}:${port}\r\n`;
  const range = (first: number | string, last: number | string, ...places: string[]) =>
    `*${2 + places.length}\r\n:${first}\r\n:${last}\r\n${places.join("")}`;

  function openCluster(port: number) {
    const errors: string[] = [];
    const cluster = openRedis(`redis-cluster://127.0.0.1:${port}`, 1000, (error) => errors.push(String(error)));
    if (!(cluster instanceof Cluster)) throw new TypeError("not a cluster");
    onTestFinished(() => cluster.disconnect());
    return { cluster, errors };
  }

  test.each([
    ["20,000 nodes", [range(0, 16_383, ...Array.from({ length: 20_000 }, (_, i) => announced(10_000 + i)))]],
    ["slots without an end", [range(0, "9007199254740991", announced(1))]],
    ["a slot below 0", [range("-9007199254740991", 0, announced(1))]],
    ["each slot 20,000 times", Array.from({ length: 20_000 }, () => range(0, 16_383, announced(1)))],
    ["ranges that are no lists", [":7\r\n"]],
  ])("a cluster that announces %s is not believed", async (_, ranges) => {
    const answers = { "cluster slots": `*${ranges.length}\r\n${ranges.join("")}` };
    const node = await scripted(answers, "vast");
    const before = process.memoryUsage.rss();
    const { cluster, errors } = openCluster(node.port);
    await expect.poll(() => errors.join(), { timeout: 15_000 }).toContain("RangeError");
    expect(cluster.nodes().length).toBeLessThanOrEqual(1);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
  });

  test.each([
    ["a list", "*90000000\r\n"],
    ["a list in a list", "*1\r\n*90000000\r\n"],
    ["many lists in each other", "*99999\r\n".repeat(400)],
  ])("that only announces %s ends its connection", async (_, header) => {
    const { url } = await hostile(async (write) => {
      await write(header.slice(0, 5));
      await new Promise((resolve) => setTimeout(resolve, 20));
      await write(header.slice(5));
    });
    const opened = openCache(url, PATIENT);
    await opened.ready;
    const before = process.memoryUsage.rss();
    expect(await opened.cache.get(m.digest, EPOCH)).toBeUndefined();
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
    expect(opened.journal.lines.join()).toContain("RangeError");
  });
});

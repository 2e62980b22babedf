import { spawn } from "node:child_process";
import { loadavg } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { startServer } from "../support/postgres.ts";
import type { Cell } from "./cells.ts";
import { end } from "./changes.ts";
import type { Attempt } from "./history.ts";
import { ms, print, quantile } from "./report.ts";
import { World } from "./world.ts";

const REVOKES = 150;

/**
 * Latencies of healthy deployments beside their goals. They are printed and not judged, except for those that must
 * never occur.
 */
export async function figures(): Promise<{ passed: number; failed: number; skipped: number }> {
  print(`load of the machine before: ${loadavg()[0]!.toFixed(1)}`);
  const server = await startServer({ settings: { max_connections: "250" } });
  let accepted = 0;
  const inWorld = async (instances: number, cells: number, work: (world: World) => Promise<void>) => {
    const world = await World.start({ instances, cells, server });
    try {
      await world.calm(20_000);
      await work(world);
      accepted += world.history.turn().violations.length;
    } finally {
      await world.stop();
    }
  };
  try {
    await inWorld(1, 1_000, (world) => revokes(world, 1));
    await inWorld(3, 6_000, async (world) => {
      await revokes(world, 3);
      await pausedPeer(world);
      await throughput(world);
      await bulk(world);
      await lapses(world);
    });
    await inWorld(10, 1_000, (world) => revokes(world, 10));
  } finally {
    await server.remove();
  }
  return { passed: accepted === 0 ? 1 : 0, failed: accepted === 0 ? 0 : 1, skipped: 0 };
}

function tell(what: string, attempts: readonly Attempt[], goal = ""): void {
  const took = attempts.map(({ returned, invoked }) => returned! - invoked).sort((a, b) => a - b);
  const modes = Object.entries(Object.groupBy(attempts, ({ detail }) => detail ?? "")).map(
    ([mode, some]) => `${mode} ${some!.length}`,
  );
  const text = `p50 ${ms(quantile(took, 0.5))}, p99 ${ms(quantile(took, 0.99))} (${modes.join(", ")})`;
  print(`${what.padEnd(44)} ${text}${goal && `; goal ${goal}`}`);
}

function next(world: World): Cell {
  const cell = world.nextCell();
  if (cell === undefined) throw new Error("the stock of tokens is used up");
  return cell;
}

/** One revocation after the other, by the first instance; `rest` is the pause between, in milliseconds. */
async function inTurn(world: World, count: number, rest = () => 0): Promise<Attempt[]> {
  const attempts: Attempt[] = [];
  while (attempts.length < count) {
    const cell = next(world);
    if (cell.kind !== "revoke") continue;
    await delay(rest());
    attempts.push(await end(cell, world.instances[0]!, world));
  }
  return attempts;
}

/**
 * Back to back, each one meets the pause of 20 ms that a poll takes after the one before. People's revocations come at
 * random.
 */
async function revokes(world: World, instances: number): Promise<void> {
  const what = instances === 1 ? "1 instance" : `${instances} instances`;
  await inTurn(world, 30);
  const goal = instances === 1 ? "p50 15 ms, p99 100 ms" : "p50 30 ms, p99 100 ms";
  tell(`revoke, ${what}, at random`, await inTurn(world, REVOKES, () => 40 + Math.random() * 120), goal);
  tell(`revoke, ${what}, back to back`, await inTurn(world, REVOKES));
}

async function pausedPeer(world: World): Promise<void> {
  const peer = world.instances[2]!;
  peer.signal("SIGSTOP");
  const begun = performance.now();
  tell("revoke, a peer paused, the first", await inTurn(world, 1));
  await delay(Math.max(0, 2_600 - (performance.now() - begun)));
  tell("revoke, a peer paused, after 2.6 s", await inTurn(world, 50));
  peer.signal("SIGCONT");
  await world.calm(10_000);
}

async function throughput(world: World): Promise<void> {
  const before = await head(world);
  const begun = performance.now();
  let done = 0;
  const worker = async (at: number) => {
    while (performance.now() - begun < 3_000) {
      const cell = next(world);
      if (cell.kind !== "revoke") continue;
      const { outcome } = await end(cell, world.instances[at % 3]!, world);
      if (outcome === "OK") done++;
    }
  };
  await Promise.all(Array.from({ length: 48 }, (_, at) => worker(at)));
  const seconds = (performance.now() - begun) / 1000;
  const transactions = (await head(world)) - before;
  print(
    `48 revokers at once: ${Math.round(done / seconds)} revocations/s in ${Math.round(transactions / seconds)} transactions/s; goal 500`,
  );
  for (const callers of [1, 4]) await byIds(world, callers);
  await byFilter(world, 20_000);
}

async function byIds(world: World, callers: number): Promise<void> {
  const many = await world.mint((mint) => mint.many(8_000));
  const lists = Array.from({ length: 8 }, (_, i) => many.subjects.slice(i * 1000, (i + 1) * 1000));
  const from = performance.now();
  const caller = async () => {
    for (let list = lists.pop(); list !== undefined; list = lists.pop()) {
      await end({ ...many, kind: "bulk", subjects: list }, world.instances[0]!, world);
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  const perSecond = Math.round((many.subjects.length / (performance.now() - from)) * 1000);
  print(`RevokeTokens by 1000 ids, ${callers} at a time: ${perSecond} tokens/s; goal 5000`);
}

/** All tokens of a principal that were created until now: not the whole principal, therefore each by its row. */
async function byFilter(world: World, count: number): Promise<void> {
  const cell = await world.mint((mint) => mint.many(count));
  const attempt = await end({ ...cell, kind: "filter" }, world.instances[0]!, world);
  const seconds = (attempt.returned! - attempt.invoked) / 1000;
  print(
    `RevokeTokens by a filter: ${attempt.outcome}, ${count} in ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} tokens/s; goal 5000`,
  );
}

async function head(world: World): Promise<number> {
  return (await world.rows<{ n: number }>("select n::int from sallyport.rev_head"))[0]!.n;
}

async function bulk(world: World): Promise<void> {
  for (const count of [1, 100_000, 1, 100_000]) {
    const cell = await world.mint((mint) => mint.many(count));
    await world.calm(10_000);
    const attempt = await end(cell, world.instances[0]!, world);
    tell(`all of a principal with ${count} tokens`, [attempt], count === 1 ? "" : "as for one");
  }
}

/** One of two cores is busy with other work. An age beyond the lease, by the instance's own metric, is a lapse. */
async function lapses(world: World): Promise<void> {
  const spin =
    "setTimeout(() => process.exit(), 20000); const f = () => { for (let i = 0; i < 1e8; i++); setImmediate(f); }; f();";
  const busy = spawn(process.execPath, ["-e", spin], { stdio: "ignore" });
  const ages: number[] = [];
  for (const until = performance.now() + 8_000; performance.now() < until; await delay(100)) {
    for (const { ops } of world.instances) {
      const text = await (await fetch(`${ops}/metrics`)).text();
      ages.push(Number(/^sallyport_lease_age_seconds (\S+)/m.exec(text)?.[1]));
    }
  }
  busy.kill("SIGKILL");
  const oldest = Math.max(...ages);
  print(
    `leases while a core is busy, 8 s: ${ages.filter((age) => !(age < 1.5)).length} lapses in ${ages.length} looks, oldest ${ms(oldest * 1000)}`,
  );
}

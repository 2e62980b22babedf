// `npm run -s bench:restart`: no request fails while one of two authorizers behind an Envoy is restarted under load.
//   --seconds S   of load, 60 by default; the restart comes at a third of it
// Afterwards one of them is killed: that must lose requests, or the count of none was worth nothing.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type Envoy, startEnvoy } from "./envoy.ts";
import { h2load, type LoadResult } from "./h2load.ts";
import { Product } from "./product.ts";
import { digits } from "./report.ts";
import { throughProxy } from "./request.ts";
import type { Subject } from "./subject.ts";

const SHARE = 0.7;
const LEAST = 500;
const SHAPE = { connections: 64, streams: 1 };

const { values } = parseArgs({ options: { seconds: { type: "string", default: "60" } } });
const seconds = Math.min(Math.max(Number(values.seconds), 6), 600);
let [passed, failed] = [0, 0];

const folder = mkdtempSync(join(tmpdir(), "sallyport-restart-"));
const product = await Product.start(folder);
try {
  const first = await product.instance("first", "tcp");
  const { live } = await product.mint(1);
  const second = await product.instance("second", "tcp");
  const envoy = await startEnvoy([portOf(first), portOf(second)], true);
  if (typeof envoy === "string") {
    console.log(`skipped: no Envoy here: ${envoy}\n0 passed, 0 failed, 1 skipped`);
  } else {
    try {
      await run(envoy, live, first, second);
    } finally {
      await envoy.stop();
    }
    console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  }
} finally {
  await product.stop();
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed > 0 ? 1 : 0;

async function run(envoy: Envoy, token: string, first: Subject, second: Subject): Promise<void> {
  const load = (time: number, rate?: number) =>
    h2load(envoy.address, throughProxy(token), SHAPE, {
      folder,
      seconds: time,
      counted: true,
      ...(rate !== undefined && { rate: rate / SHAPE.connections, latencies: true }),
    });
  await load(2);
  const most = await load(3);
  const rate = SHARE * (most.calls / most.seconds);
  say(`at most ${round(most.calls / most.seconds)} requests/s, ${most.lost} failed`);

  const under = load(seconds, rate);
  await delay((seconds * 1000) / 3);
  const before = await answered(first);
  const code = await second.stop();
  const away = performance.now();
  await delay(500);
  const again = await product.instance("second, again", "tcp", portOf(second));
  const back = performance.now();
  const result = await under;
  tell(`restarted, away for ${((back - away) / 1000).toFixed(1)} s`, result);
  check("no request failed", result.lost === 0);
  say(`${Math.round((100 * result.calls) / (rate * seconds))} % of the load that was asked for`);
  // A shared machine varies. Below this rate there was no real load.
  check(`at least ${LEAST} requests/s`, result.calls > LEAST * seconds);
  check("it stopped in good order", code === 0);
  check("the other answered", (await answered(first)) > before);
  // Envoy uses it again when its health check passes: after a few seconds, or more on a busy machine.
  for (let tries = 0; tries < 30 && (await answered(again)) <= 100; tries++) await load(1, rate);
  check("it answers again", (await answered(again)) > 100);

  const broken = load(4, rate);
  await delay(1500);
  process.kill(again.pid, "SIGKILL");
  const lossy = await broken;
  tell("killed", lossy);
  check("what is lost is counted", lossy.lost > 0);
}

function tell(what: string, { calls, lost, seconds: time, p50, p99 }: LoadResult): void {
  const rate = `${round(calls / time)} requests/s for ${time.toFixed(0)} s`;
  say(`${what}: ${calls} requests, ${lost} failed, ${rate}, p50 ${digits(p50!)} ms, p99 ${digits(p99!)} ms`);
}

function check(what: string, holds: boolean): void {
  if (holds) passed++;
  else failed++;
  say(`${holds ? "passed" : "FAILED"}: ${what}`);
}

async function answered({ tiers }: Subject): Promise<number> {
  return Object.values(await tiers!()).reduce((sum, count) => sum + count, 0);
}

function portOf({ address }: Subject): number {
  return Number(address.split(":")[1]);
}

function round(value: number): string {
  return Math.round(value).toLocaleString("en");
}

function say(text: string): void {
  console.log(text);
}

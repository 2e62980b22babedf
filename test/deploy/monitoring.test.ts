import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ALERTS } from "../../deploy/monitoring/alerts.ts";
import { fetchProgram } from "../../scripts/fetch.ts";
import { ALARMS } from "../../src/telemetry/events.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";
import { freePort } from "../proxies/edge.ts";
import { folder } from "../support/program.ts";
import { migratedDatabase, TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";

const ROOT = join(import.meta.dirname, "../..");
const RULES = join(ROOT, "deploy/monitoring/sallyport.rules.yaml");
const TESTS = join(ROOT, "deploy/monitoring/sallyport.rules.test.yaml");
const run = promisify(execFile);
const place = folder();
afterAll(() => place.remove());

test("rules, their tests, the runbook and the dashboards are those of their tables", async () => {
  await expect(run(process.execPath, ["scripts/monitoring.ts", "--check"], { cwd: ROOT })).resolves.toBeDefined();
});

test("each metric in an alert is one of the program's, and each alarm has an alert", () => {
  const names = createTelemetry("fatal", { write() {} })
    .registry.getMetricsAsArray()
    .map(({ name }) => name);
  const text = ALERTS.map(({ expr }) => expr).join("\n");
  const used = (text.match(/sallyport_\w+/g) ?? []).map((name) => name.replace(/_bucket$/, ""));
  expect(used.filter((name) => !names.includes(name))).toEqual([]);
  const woken = (text.match(/alarms_total\{what=~"([^"]+)/g) ?? []).flatMap((part) => part.split('"')[1]!.split("|"));
  expect(woken.sort()).toEqual(Object.keys(ALARMS).sort());
});

const prometheus = await fetchProgram("prometheus").catch((error: Error) => error);
const missing = prometheus instanceof Error ? ` (skipped: ${prometheus.message})` : "";
const bin = prometheus instanceof Error ? "" : dirname(prometheus);
const promtool = (args: readonly string[], input = "") =>
  execFileSync(join(bin, "promtool"), args, { input, encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });

describe.skipIf(missing !== "")(`Prometheus${missing}`, () => {
  test("takes the rules; each alert is silent before its fault, fires in it, and ends", () => {
    expect(promtool(["check", "rules", RULES])).toContain(`${ALERTS.length} rules found`);
    expect(promtool(["test", "rules", TESTS])).toContain("SUCCESS");
  }, 180_000);

  test("wrong rules fail the test of every alert", () => {
    const wrong = readFileSync(RULES, "utf8").replace(/^( +expr: )(.*)$/gm, "$1($2) and vector(0) > 1");
    writeFileSync(join(place.path, "sallyport.rules.yaml"), wrong);
    writeFileSync(join(place.path, "test.yaml"), readFileSync(TESTS));
    const { stdout, stderr } = spawnSync(join(bin, "promtool"), ["test", "rules", "test.yaml"], {
      cwd: place.path,
      encoding: "utf8",
    });
    const failed = ALERTS.filter(({ name }) => `${stdout}${stderr}`.includes(`alertname=\\"Sallyport${name}\\"`));
    expect(failed.map(({ name }) => name)).toEqual(ALERTS.map(({ name }) => name));
  }, 180_000);

  describe("on a real Sallyport whose database goes away", () => {
    let sallyport: TestSallyport;
    let weather: Awaited<ReturnType<typeof startTcpProxy>>;
    let server: ReturnType<typeof spawn>;
    let url: string;
    beforeAll(async () => {
      const database = await migratedDatabase();
      const target = new URL(database.url);
      weather = await startTcpProxy({ host: target.hostname, port: Number(target.port) });
      target.host = `127.0.0.1:${weather.port}`;
      sallyport = await TestSallyport.start({ database: { ...database, url: target.href } });
      const port = await freePort();
      url = `http://127.0.0.1:${port}`;
      const ops = new URL(sallyport.listeners.ops).host;
      writeFileSync(
        join(place.path, "prometheus.yaml"),
        `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [${JSON.stringify(RULES)}]
scrape_configs: [{ job_name: sallyport, static_configs: [{ targets: [${JSON.stringify(ops)}] }] }]
`,
      );
      const data = join(place.path, "prometheus");
      const argv = [`--config.file=${join(place.path, "prometheus.yaml")}`, `--storage.tsdb.path=${data}`];
      server = spawn(join(bin, "prometheus"), [...argv, `--web.listen-address=127.0.0.1:${port}`], { stdio: "ignore" });
    }, 90_000);
    afterAll(async () => {
      server?.kill("SIGTERM");
      await sallyport?.stop();
      await weather?.stop();
    });

    const firing = async (): Promise<string[]> => {
      const response = await fetch(`${url}/api/v1/alerts`).catch(() => undefined);
      if (response === undefined || !response.ok) return ["Prometheus does not answer"];
      const { data } = (await response.json()) as {
        data: { alerts: { state: string; labels: { alertname: string } }[] };
      };
      return data.alerts.filter(({ state }) => state === "firing").map(({ labels }) => labels.alertname);
    };
    const until = async (good: (names: readonly string[]) => boolean) => {
      let names = await firing();
      for (const end = performance.now() + 90_000; !good(names) && performance.now() < end; names = await firing())
        await delay(500);
      return names;
    };

    test("promtool finds no fault in the metrics", async () => {
      const text = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
      expect(promtool(["check", "metrics"], text)).toBe("");
    });

    test("SallyportNoLease fires, and ends when the database is back", async () => {
      expect(await until((names) => names.length === 0)).toEqual([]);
      await weather.set({ kind: "refuse" });
      expect(await until((names) => names.includes("SallyportNoLease"))).toContain("SallyportNoLease");
      await weather.set({ kind: "pass" });
      expect(await until((names) => !names.includes("SallyportNoLease"))).not.toContain("SallyportNoLease");
    }, 300_000);
  });
});

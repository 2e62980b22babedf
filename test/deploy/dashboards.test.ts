import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as units from "@grafana/grafana-foundation-sdk/units";
import { afterAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { DASHBOARDS } from "../../deploy/monitoring/dashboards.ts";
import { fetchProgram } from "../../scripts/fetch.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";
import { folder, ROOT } from "../support/program.ts";

const place = folder();
afterAll(() => place.remove());

interface Panel {
  readonly title: string;
  readonly description: string;
  readonly fieldConfig: { readonly defaults: { readonly unit?: string } };
  readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[];
}
const panels = DASHBOARDS.flatMap(({ name }) => {
  const file = join(ROOT, `deploy/monitoring/sallyport-${name}.json`);
  return (JSON.parse(readFileSync(file, "utf8")) as { panels: Panel[] }).panels;
});
const targets = panels.flatMap((panel) => panel.targets);

test("each panel has a title of its own, a description and a unit of Grafana", () => {
  const known = Object.values(units) as unknown[];
  for (const { title, description, fieldConfig } of panels) {
    expect(description, title).toMatch(/\.$/);
    expect(known, title).toContain(fieldConfig.defaults.unit);
  }
  expect(new Set(panels.map(({ title }) => title)).size).toBe(panels.length);
  expect(panels.length).toBe(DASHBOARDS.flatMap((dashboard) => dashboard.panels).length);
});

test("each metric is one of the program's, and each label is one of its metric", () => {
  const names = createTelemetry("fatal", { write() {} })
    .registry.getMetricsAsArray()
    .map(({ name }) => name);
  // The table there is compared with the program by a test of its own.
  const documented = readFileSync(join(ROOT, "docs/monitoring.md"), "utf8").matchAll(
    /^\| `(sallyport_\w+)(?:\{(.+?)\})?`/gm,
  );
  const labelsOf = new Map([...documented].map(([, name, labels = ""]) => [name!, labels.split(",")]));
  for (const { expr, legendFormat } of targets) {
    const used = [...expr.matchAll(/\b(?:sallyport|process|nodejs)_\w+/g)].map(([name]) =>
      name.replace(/_bucket$/, ""),
    );
    expect(used.length, expr).toBeGreaterThan(0);
    expect(used.filter((name) => !names.includes(name))).toEqual([]);
    const labels = ["le", "job", "instance", ...used.flatMap((name) => labelsOf.get(name) ?? [])];
    const named = [...expr.matchAll(/by \(([^)]*)\)|(\w+)=~?"/g)].flatMap(([, by, matched]) =>
      (by ?? matched!).split(", ").filter(Boolean),
    );
    const shown = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label!);
    expect(
      [...named, ...shown].filter((label) => !labels.includes(label)),
      expr,
    ).toEqual([]);
    // A label that the sum has dropped would show as nothing.
    const kept = [...expr.matchAll(/by \(([^)]*)\)/g)].flatMap(([, by]) => by!.split(", "));
    if (kept.length > 0)
      expect(
        shown.filter((label) => !kept.includes(label)),
        expr,
      ).toEqual([]);
  }
});

const prometheus = await fetchProgram("prometheus").catch((error: Error) => error);
const missing = prometheus instanceof Error ? ` (skipped: ${prometheus.message})` : "";

describe.skipIf(missing !== "")(`promtool${missing}`, () => {
  const parses = (expressions: readonly string[]) => {
    const rules = expressions.map((expr, i) => ({
      record: `panel:${i}`,
      expr: expr.replaceAll("$__rate_interval", "5m"),
    }));
    const file = join(place.path, "rules.yaml");
    writeFileSync(file, stringify({ groups: [{ name: "panels", rules }] }, { lineWidth: 0 }));
    const { stdout, stderr } = spawnSync(join(dirname(String(prometheus)), "promtool"), ["check", "rules", file], {
      encoding: "utf8",
    });
    return `${stdout}${stderr}`;
  };

  test("each expression parses; a broken one does not", () => {
    const expressions = targets.map(({ expr }) => expr);
    expect(parses(expressions)).toContain(`SUCCESS: ${expressions.length} rules found`);
    expect(parses([...expressions, `${expressions[0]} by by`])).toContain("FAILED");
  });
});

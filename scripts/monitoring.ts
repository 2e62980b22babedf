// `npm run monitoring`: writes the Prometheus rules, their tests for promtool and docs/runbook.md from
// deploy/monitoring/alerts.ts, and Grafana's dashboards from dashboards.ts. `-- --check` writes nothing, and fails if a file
// differs from what it would write.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { ALERTS, type Alert } from "../deploy/monitoring/alerts.ts";
import { DASHBOARDS, dashboardJson } from "../deploy/monitoring/dashboards.ts";

const ROOT = join(import.meta.dirname, "..");
const MADE = "Made by `npm run monitoring` from deploy/monitoring/alerts.ts.";
const yaml = (value: unknown) => `# ${MADE}\n${stringify(value, { lineWidth: 0 })}`;

const alertName = ({ name }: Alert) => `Sallyport${name}`;
const annotations = (alert: Alert) => ({
  summary: alert.summary,
  action: alert.action,
  runbook: `docs/runbook.md#${alertName(alert).toLowerCase()}`,
});

function rules(): string {
  return yaml({
    groups: [
      {
        name: "sallyport",
        rules: ALERTS.map((alert) => ({
          alert: alertName(alert),
          expr: alert.expr,
          for: alert.for,
          labels: { severity: alert.severity },
          annotations: annotations(alert),
        })),
      },
    ],
  });
}

/** Per alert: silent before the fault, firing in it, silent when it is long over. */
function tests(): string {
  return yaml({
    rule_files: ["sallyport.rules.yaml"],
    evaluation_interval: "30s",
    tests: ALERTS.map((alert) => ({
      name: alertName(alert),
      interval: "30s",
      input_series: Object.entries(alert.fires).map(([series, values]) => ({ series, values })),
      // promtool names the alert and expects nothing where `exp_alerts` is empty; that it fires is a count, since its
      // labels are those of the series.
      alert_rule_test: ["4m", "45m"].map((at) => ({ eval_time: at, alertname: alertName(alert), exp_alerts: [] })),
      promql_expr_test: [
        {
          expr: `count(ALERTS{alertname="${alertName(alert)}", alertstate="firing", severity="${alert.severity}"})`,
          eval_time: "12m",
          exp_samples: [{ labels: "{}", value: 1 }],
        },
      ],
    })),
  });
}

function runbook(): string {
  const lines = [
    "# Runbook",
    "",
    "For the person on call. One section per alert of [sallyport.rules.yaml](../deploy/monitoring/sallyport.rules.yaml).",
    `${MADE} Alarms, troubles and metrics: [monitoring](monitoring.md).`,
    "",
    "Load the rules with `rule_files` of Prometheus and scrape the ops listener (7402) as job `sallyport`. Severity `page` wakes",
    "somebody; `ticket` can wait until the morning.",
    "",
    "| alert | severity | fires when |",
    "|---|---|---|",
    ...ALERTS.map(
      (alert) => `| [${alertName(alert)}](#${alertName(alert).toLowerCase()}) | ${alert.severity} | ${alert.summary} |`,
    ),
  ];
  for (const alert of ALERTS) {
    const held = alert.for === "0s" ? "" : `, for ${alert.for}`;
    lines.push(
      "",
      `## ${alertName(alert)}`,
      alert.summary,
      "",
      `**Do.** ${alert.action}`,
      "",
      `\`${alert.expr}\`${held}.`,
    );
  }
  return `${lines.join("\n")}\n`;
}

const files: Record<string, string> = {
  "deploy/monitoring/sallyport.rules.yaml": rules(),
  "deploy/helm/sallyport/files/sallyport.rules.yaml": rules(),
  "deploy/monitoring/sallyport.rules.test.yaml": tests(),
  "docs/runbook.md": runbook(),
};
for (const dashboard of DASHBOARDS) {
  const text = dashboardJson(dashboard);
  for (const folder of ["deploy/monitoring", "deploy/helm/sallyport/files"]) {
    files[`${folder}/sallyport-${dashboard.name}.json`] = text;
  }
}
for (const [path, text] of Object.entries(files)) {
  if (!process.argv.includes("--check")) writeFileSync(join(ROOT, path), text);
  else if (readFileSync(join(ROOT, path), "utf8") !== text) {
    console.error(`${path} is out of date: npm run monitoring`);
    process.exitCode = 1;
  }
}

/*
 * The one table of dashboards. `npm run monitoring` writes sallyport-service.json, sallyport-revocation.json and
 * sallyport-security.json from it, here and in the chart. A test checks that each expression parses, that each metric exists
 * in the program, and that each panel has a unit.
 */
import { DashboardBuilder, DatasourceVariableBuilder, QueryVariableBuilder } from "@grafana/grafana-foundation-sdk/dashboard";
import { DataqueryBuilder } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder } from "@grafana/grafana-foundation-sdk/timeseries";

interface Panel {
  readonly title: string;
  /** One sentence: what the panel shows, and what is bad. */
  readonly description: string;
  /** One of Grafana's. */
  readonly unit: string;
  /** An expression by its legend. */
  readonly lines: Readonly<Record<string, string>>;
}

interface Dashboard {
  /** After `sallyport-`. */
  readonly name: "service" | "revocation" | "security";
  readonly title: string;
  readonly panels: readonly Panel[];
}

const OF = '{job="sallyport", instance=~"$instance"}';
/** The rate of a counter, by labels. */
const rate = (metric: string, by = "", only = "") =>
  `sum by (${by}) (rate(${metric}{job="sallyport", instance=~"$instance"${only}}[$__rate_interval]))`;
/** How many events of a counter there were in an hour, by labels. */
const hour = (metric: string, by: string) => `sum by (${by}) (increase(${metric}${OF}[1h]))`;
/** A line for each value of a label. */
const rates = (metric: string, label: string) => ({ [`{{${label}}}`]: rate(metric, label) });
const hours = (metric: string, label: string) => ({ [`{{${label}}}`]: hour(metric, label) });
const quantile = (part: number, metric: string, by = "") =>
  `histogram_quantile(${part}, ${rate(`${metric}_bucket`, by === "" ? "le" : `le, ${by}`)})`;

export const DASHBOARDS: readonly Dashboard[] = [
  {
    name: "service",
    title: "Sallyport: service",
    panels: [
      {
        title: "Instances",
        description: "Instances that Prometheus reaches, by version. Two versions for long: an upgrade stands still.",
        unit: "short",
        lines: { "{{version}}": `count by (version) (sallyport_build_info${OF})` },
      },
      {
        title: "Validations",
        description: "Answers of the data listener by verdict. UNDETERMINED is a refusal without a proof: see the runbook.",
        unit: "reqps",
        lines: rates("sallyport_validations_total", "verdict"),
      },
      {
        title: "Source of the row",
        description: "The share of answers from memory (l1), Redis (l2), PostgreSQL (store), or without a row (none).",
        unit: "percentunit",
        lines: {
          "{{tier}}": `${rate("sallyport_validations_total", "tier")} / scalar(${rate("sallyport_validations_total")})`,
        },
      },
      {
        title: "Time of a validation, p99",
        description: "By source of the row. `store` is a read of PostgreSQL.",
        unit: "s",
        lines: { "{{tier}}": quantile(0.99, "sallyport_validation_seconds", "tier") },
      },
      {
        title: "Calls by status",
        description: "Calls of all listeners by gRPC status.",
        unit: "reqps",
        lines: rates("sallyport_rpc_total", "code"),
      },
      {
        title: "Time of an admin call, p99",
        description: "By method. A change waits until it is in force everywhere.",
        unit: "s",
        lines: { "{{method}}": quantile(0.99, "sallyport_rpc_seconds", "method") },
      },
      {
        title: "Calls refused because of load",
        description: "By class. Above 0 for long: add instances.",
        unit: "reqps",
        lines: rates("sallyport_shed_total", "class"),
      },
      {
        title: "Troubles",
        description: "Failures of something that an instance depends on. docs/monitoring.md has a row for each.",
        unit: "cps",
        lines: rates("sallyport_troubles_total", "what"),
      },
      {
        title: "CPU",
        description: "Cores in use. One process uses at most about one; an instance with `workers` is several.",
        unit: "percentunit",
        lines: rates("process_cpu_seconds_total", "instance"),
      },
      {
        title: "Memory",
        description: "Resident memory of the process.",
        unit: "bytes",
        lines: { "{{instance}}": `process_resident_memory_bytes${OF}` },
      },
      {
        title: "Event loop, p99 of its delay",
        description: "Above 0.1 s the instance is short of CPU, and may lose its lease.",
        unit: "s",
        lines: { "{{instance}}": `nodejs_eventloop_lag_p99_seconds${OF}` },
      },
      {
        title: "Rows in caches",
        description: "By cache.",
        unit: "short",
        lines: { "{{instance}} {{tier}}": `sallyport_cache_entries${OF}` },
      },
    ],
  },
  {
    name: "revocation",
    title: "Sallyport: revocation",
    panels: [
      {
        title: "Changes of authority",
        description: "By the reason for the OK. LEASE_EXPIRED: an instance did not answer, and its lease had to end.",
        unit: "cps",
        lines: rates("sallyport_revocations_total", "mode"),
      },
      {
        title: "Time until a change is in force everywhere",
        description: "About 10 ms while all instances answer; at most 1.85 s with the default lease.",
        unit: "s",
        lines: {
          p50: quantile(0.5, "sallyport_revocation_wait_seconds"),
          p99: quantile(0.99, "sallyport_revocation_wait_seconds"),
        },
      },
      {
        title: "Age of the lease",
        description: "Above the limit the instance uses no cached row, and answers UNDETERMINED if it cannot read the database.",
        unit: "s",
        lines: { "{{instance}}": `sallyport_lease_age_seconds${OF}`, limit: `min(sallyport_lease_seconds${OF})` },
      },
      {
        title: "Registered instances",
        description: "As the instances see the registry. Reaped: fell silent without leaving.",
        unit: "short",
        lines: { "{{state}}": `max by (state) (sallyport_validators${OF})` },
      },
      {
        title: "Instances that fell silent",
        description: "In an hour. Look for killed pods and for instances without CPU.",
        unit: "short",
        lines: hours("sallyport_validators_reaped_total", "instance"),
      },
      {
        title: "State of the database's epoch",
        description: "How many instances see it so. Anything but `ok`: no token is allowed; docs/backup-and-failover.md.",
        unit: "short",
        lines: { "{{state}}": `sum by (state) (sallyport_guard${OF})` },
      },
      {
        title: "Changes that the database had lost",
        description: "In an hour, by what became of them. `held` ones wait for a decision: sallyport reconcile.",
        unit: "short",
        lines: hours("sallyport_lost_changes_total", "what"),
      },
      {
        title: "Canary",
        description: "Instances that were asked about a revoked token, in an hour. One `accepted` is a broken promise.",
        unit: "short",
        lines: hours("sallyport_canary_total", "outcome"),
      },
      {
        title: "Client caches",
        description: "Caches of clients that may hold a lease from an instance.",
        unit: "short",
        lines: { "{{instance}}": `sallyport_feed_clients${OF}` },
      },
      {
        title: "Acknowledgements held back by client caches, p99",
        description: "Above a second client caches die without leaving.",
        unit: "s",
        lines: { p99: quantile(0.99, "sallyport_feed_held_seconds") },
      },
    ],
  },
  {
    name: "security",
    title: "Sallyport: security",
    panels: [
      {
        title: "Alarms",
        description: "In an hour. Each has a section in docs/runbook.md.",
        unit: "short",
        lines: hours("sallyport_alarms_total", "what"),
      },
      {
        title: "Refused tokens by true reason",
        description: "Callers see only INVALID_TOKEN. Many `unknown` from one moment on: somebody guesses, or uses old strings.",
        unit: "reqps",
        lines: rates("sallyport_refusals_total", "reason"),
      },
      {
        title: "Strings used after their rotation",
        description: "In an hour: a forgotten client, or a thief.",
        unit: "short",
        lines: hours("sallyport_token_reuses_total", "instance"),
      },
      {
        title: "Callers without a right",
        description: "Calls without a good credential, and calls that a caller's permissions do not allow.",
        unit: "reqps",
        lines: { "{{code}}": rate("sallyport_rpc_total", "code", ', code=~"UNAUTHENTICATED|PERMISSION_DENIED"') },
      },
      {
        title: "Refused sessions by true reason",
        description: "Session JWTs of your identity providers.",
        unit: "reqps",
        lines: rates("sallyport_session_refusals_total", "reason"),
      },
      {
        title: "Age of the issuers' keys",
        description: "Renewed each 600 s while sessions come. At 86400 s sessions end.",
        unit: "s",
        lines: { "{{issuer}}": `max by (issuer) (sallyport_jwks_age_seconds${OF})` },
      },
      {
        title: "Audit rows by action",
        description: "The rows themselves: sallyport audit list.",
        unit: "cps",
        lines: rates("sallyport_audit_events_total", "action"),
      },
      {
        title: "Failed TLS handshakes",
        description: "By listener. Log lines give address and cause.",
        unit: "cps",
        lines: rates("sallyport_tls_handshake_failures_total", "listener"),
      },
      {
        title: "Life left of certificates",
        description: "By listener. An alert comes at 14 days.",
        unit: "s",
        lines: { "{{listener}}": `min by (listener) (sallyport_certificate_expire_time_seconds${OF}) - time()` },
      },
    ],
  },
];

const PROMETHEUS = { type: "prometheus", uid: "${datasource}" };

/** The JSON that Grafana imports. */
export function dashboardJson({ name, title, panels }: Dashboard): string {
  const dashboard = new DashboardBuilder(title)
    .uid(`sallyport-${name}`)
    .description("Made by `npm run monitoring` from deploy/monitoring/dashboards.ts.")
    .tags(["sallyport"])
    .refresh("30s")
    .time({ from: "now-3h", to: "now" })
    .withVariable(new DatasourceVariableBuilder("datasource").label("Prometheus").type("prometheus"))
    .withVariable(
      new QueryVariableBuilder("instance")
        .label("Instance")
        .datasource(PROMETHEUS)
        .query('label_values(sallyport_build_info{job="sallyport"}, instance)')
        .refresh(2) // when the time range changes
        .multi(true)
        .includeAll(true)
        .allValue(".*"),
    );
  for (const { title: heading, description, unit, lines } of panels) {
    const panel = new PanelBuilder().title(heading).description(description).unit(unit).span(8).height(8);
    panel.datasource(PROMETHEUS);
    for (const [index, [legend, expr]] of Object.entries(lines).entries()) {
      const target = new DataqueryBuilder().refId("ABC"[index]!).expr(expr).legendFormat(legend);
      panel.withTarget(target.datasource(PROMETHEUS));
    }
    dashboard.withPanel(panel);
  }
  return `${JSON.stringify(dashboard.build(), undefined, 2)}\n`;
}

import type { Judgement, Outcome } from "./budget.ts";
import { median, type Sample } from "./measure.ts";
import { ENVOY } from "./rows.ts";

/** The tables of a run as Markdown. */
export function tables(outcomes: readonly Outcome[]): string {
  const names = [...new Set(outcomes.map(({ row }) => row.table))];
  return names
    .map((name) =>
      table(
        name,
        outcomes.filter(({ row }) => row.table === name),
      ),
    )
    .join("\n\n");
}

function table(name: string, outcomes: readonly Outcome[]): string {
  const proxy = name === ENVOY;
  const lines = outcomes.map(({ row, samples, missing, failures }) => {
    const start = `| ${row.title} | ${row.subject} |`;
    const good = samples.filter((sample) => sample !== undefined);
    if (good.length === 0) return `${start} ${missing ?? `failed: ${failures[0] ?? "no round"}`} | | | | |`;
    const of = (pick: (sample: Sample) => number) => median(good.map(pick));
    const cpus = good.map(({ cpu }) => cpu);
    const lost = failures.length === 0 ? "" : `; ${failures.length} of ${samples.length} rounds failed: ${failures[0]}`;
    const cpu = `**${digits(median(cpus))}** (${digits(Math.min(...cpus))}–${digits(Math.max(...cpus))})${lost}`;
    const proxied = good.every(({ proxyCpu }) => proxyCpu !== undefined);
    // An Envoy alone is its own server.
    const used = !proxy ? `${cpu} |` : proxied ? `${cpu} | ${digits(of((s) => s.proxyCpu!))} |` : `| ${cpu} |`;
    const perSecond = Math.round(of((s) => s.perSecond)).toLocaleString("en");
    const core = proxy ? "" : ` ${of((s) => s.core).toFixed(2)} |`;
    return `${start} ${used} ${perSecond} |${core} ${digits(of((s) => s.p50))} | ${digits(of((s) => s.p99))} |`;
  });
  return [
    `## ${name}`,
    "",
    ...(proxy
      ? [
          "Envoy runs on the same core as the authorizer, and sends the answer to the client.",
          "",
          "| | authorizer | its CPU µs per request (least–most) | Envoy's | requests/s | p50 ms | p99 ms |",
        ]
      : ["| | server | CPU µs per call (least–most) | calls/s | cores | p50 ms | p99 ms |"]),
    "|---|---|---|---|---|---|---|",
    ...lines,
  ].join("\n");
}

export function judgements(judged: readonly Judgement[]): string {
  const lines = judged.map(({ budget, ratio, spread, missing }) => {
    const what = budget.what === undefined ? "" : `, added ${budget.what}`;
    const start = `| ${budget.table}, ${budget.title}${what} | ${budget.peers.join(" or ")} | ≤ ${budget.most} |`;
    if (ratio === undefined) return `${start} ${missing} | |`;
    return `${start} **${ratio.toFixed(3)}** (${spread![0].toFixed(3)}–${spread![1].toFixed(3)}) | ${ratio <= budget.most ? "met" : "not met"} |`;
  });
  return [
    "## Budget",
    "",
    "CPU per call, or where it says so the time added, over the best of the peers' in the same round; median of the rounds (least–most).",
    "",
    "| Sallyport | against | budget | ratio | |",
    "|---|---|---|---|---|",
    ...lines,
  ].join("\n");
}

/** Three significant digits. */
export function digits(value: number): string {
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(value < 1 ? 2 : 3);
}

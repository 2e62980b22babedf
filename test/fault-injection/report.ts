import type { Row } from "./round.ts";

const COLUMNS = [
  "fault",
  "accepted after OK",
  "revoke p50",
  "     p99",
  "     max",
  "ALLOWs",
  "UNDETERMINED",
  "OK/not/unknown",
  "    heal",
];

export function print(line = ""): void {
  process.stdout.write(`${line}\n`);
}

export function header(): void {
  print(layout(COLUMNS));
}

export function printRow(row: Row): void {
  const { tally, times, changes, healedMs, problems } = row;
  const sorted = times
    .filter(({ mode }) => mode !== "BY_HAND" && mode !== "ACCEPTED")
    .map(({ ms }) => ms)
    .sort((a, b) => a - b);
  const cells = [
    row.name,
    String(tally.afterOk),
    ms(quantile(sorted, 0.5)),
    ms(quantile(sorted, 0.99)),
    ms(sorted.at(-1)),
    String(tally.allows),
    String(tally.undetermined),
    `${changes.ok}/${changes.notDone}/${changes.unknown}`,
    ms(healedMs),
  ];
  print(`${layout(cells)}${problems.length > 0 ? "  FAILED" : ""}`);
}

export function quantile(sorted: readonly number[], q: number): number | undefined {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

export function ms(value: number | undefined): string {
  return value === undefined ? "-" : `${Math.round(value)} ms`;
}

function layout(cells: readonly string[]): string {
  return cells.map((cell, i) => (i === 0 ? cell.padEnd(20) : cell.padStart(COLUMNS[i]!.length + 2))).join("");
}

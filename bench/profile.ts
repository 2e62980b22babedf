import { readFileSync } from "node:fs";

interface Profile {
  /** Microseconds of the monotonic clock. */
  readonly startTime: number;
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** The monotonic clock in microseconds, as a profile shows it. */
export function profileClock(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/** The functions of a CPU profile since `from`, by their own share of the non-idle time. */
export function hottest(file: string, from: number, count: number): string {
  const { nodes, samples, timeDeltas, startTime } = JSON.parse(readFileSync(file, "utf8")) as Profile;
  const frames = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const own = new Map<string, number>();
  let all = 0;
  let now = startTime;
  for (const [i, id] of samples.entries()) {
    const { functionName, url, lineNumber } = frames.get(id)!;
    now += timeDeltas[i]!;
    if (now < from || functionName === "(idle)" || functionName === "(root)") continue;
    const place = url === "" ? "" : ` ${url.replace(/^.*\/(src|node_modules)\//, "$1/")}:${lineNumber + 1}`;
    const name = `${functionName || "(anonymous)"}${place}`;
    own.set(name, (own.get(name) ?? 0) + timeDeltas[i]!);
    all += timeDeltas[i]!;
  }
  return [...own]
    .sort((a, b) => b[1] - a[1])
    .slice(0, count)
    .map(([name, time]) => `${((100 * time) / all).toFixed(1).padStart(5)} %  ${name}`)
    .join("\n");
}

import { readFileSync } from "node:fs";

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

const ASIDE = /^\((root|program|idle)\)$/;

/** Where a CPU profile's time was spent: functions by their own share of what was not idle. */
export function hottest(file: string, count: number): string {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, "utf8")) as Profile;
  const frames = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const own = new Map<string, number>();
  let all = 0;
  for (const [i, id] of samples.entries()) {
    const { functionName, url, lineNumber } = frames.get(id)!;
    if (ASIDE.test(functionName) && functionName !== "(program)") continue;
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

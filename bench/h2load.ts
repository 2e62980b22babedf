import { execFile as execFileWithCallback } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { fetchProgram } from "../scripts/fetch.ts";
import type { Request } from "./request.ts";

const execFile = promisify(execFileWithCallback);

export interface Shape {
  readonly connections: number;
  /** Requests in progress on each connection. */
  readonly streams: number;
}

export interface LoadResult {
  readonly calls: number;
  /** Requests without an answer, or with another status than 2xx. */
  readonly lost: number;
  readonly seconds: number;
  /** Milliseconds; only if requested. */
  readonly p50?: number;
  readonly p99?: number;
}

export interface LoadOptions {
  readonly seconds: number;
  readonly folder: string;
  /** Logs the time of each request, which costs the generator more than the request. */
  readonly latencies?: boolean;
  /** The most requests a second on each connection. */
  readonly rate?: number;
  /** Counts failures instead of rejecting. */
  readonly counted?: boolean;
}

/** Sends one request repeatedly for some seconds. Rejects if any request failed. `address`: host:port or unix:/path. */
export async function h2load(
  address: string,
  request: Request,
  shape: Shape,
  options: LoadOptions,
): Promise<LoadResult> {
  const program = await fetchProgram("h2load");
  const file = (name: string) => join(options.folder, `${name}-${randomUUID()}`);
  const body = file("body");
  const log = file("latencies");
  const unix = address.startsWith("unix:");
  const args = [
    ...["-c", String(shape.connections), "-m", String(shape.streams), "-t", "1"],
    ...["-D", `${Math.round(options.seconds * 1000)}ms`],
    ...(request.http1 ? ["--h1"] : []),
    ...(unix ? ["-B", address] : []),
    ...(options.rate === undefined ? [] : [`--rps=${options.rate.toFixed(2)}`]),
    ...Object.entries(request.headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]),
    ...(request.body.length > 0 ? ["-d", body] : []),
    ...(options.latencies ? [`--log-file=${log}`] : []),
    `http://${unix ? "localhost" : address}${request.path}`,
  ];
  writeFileSync(body, request.body);
  try {
    const { stdout } = await execFile(program, args, { timeout: options.seconds * 1000 + 20_000 });
    const counted = /requests: \d+ total, \d+ started, (\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored/.exec(
      stdout,
    );
    const finished = /finished in ([\d.]+)(s|ms|us)/.exec(stdout);
    if (counted === null || finished === null) throw new Error(`h2load said something else:\n${stdout}`);
    const calls = Number(counted[1]);
    const lost = Number(counted[2]) + Number(counted[3]);
    if (calls === 0 || (lost > 0 && !options.counted)) throw new Error(`${lost} of ${calls} calls failed`);
    const seconds = Number(finished[1]) / { s: 1, ms: 1e3, us: 1e6 }[finished[2] as "s"];
    return { calls, lost, seconds, ...(options.latencies && percentiles(timesIn(log))) };
  } finally {
    rmSync(body, { force: true });
    rmSync(log, { force: true });
  }
}

/** The milliseconds of each request: the third column of the log, in microseconds there. */
function timesIn(log: string): number[] {
  const times: number[] = [];
  for (const line of readFileSync(log, "latin1").split("\n")) {
    const at = line.lastIndexOf("\t");
    if (at > 0) times.push(Number(line.slice(at + 1)) / 1000);
  }
  return times;
}

export function percentiles(times: readonly number[]): { p50: number; p99: number } {
  const sorted = Float64Array.from(times).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!;
  return { p50: at(0.5), p99: at(0.99) };
}

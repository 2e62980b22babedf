// The kernel's accounting, and the core that a process may use.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";

const TICK_US = 1_000_000 / Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

/** The core of the servers, and the core of everything else: load generator, database, this program. */
export const SERVER_CORE = 1;
export const OTHER_CORE = 0;

/** CPU time that a process has used, user and system, all threads, in microseconds: utime + stime of /proc/PID/stat. */
export function cpuMicros(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/** Resident memory of a process in KiB. */
export function residentKiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

/** The reason why processes cannot be pinned to cores here; undefined if they can. */
export const whyUnpinned: string | undefined = lookWhy();

function lookWhy(): string | undefined {
  if (cpus().length < 2) return "one core only: server and load generator share it";
  try {
    execFileSync("taskset", ["-p", String(process.pid)]);
    return undefined;
  } catch {
    return "no taskset: servers and load generator share all cores";
  }
}

/** Pins all threads of a process, and its later children, to one core. */
export function pin(pid: number, core: number): void {
  if (whyUnpinned === undefined) execFileSync("taskset", ["-acp", String(core), String(pid)]);
}

/** Keeps this process and all its children off the servers' core. */
export function stayAside(): void {
  pin(process.pid, OTHER_CORE);
}

/** The machine that the numbers were measured on. */
export function machine(): string {
  return `${cpus()[0]?.model.trim()}, ${cpus().length} cores, Linux ${execFileSync("uname", ["-r"], { encoding: "utf8" }).trim()}, Node ${process.version}`;
}

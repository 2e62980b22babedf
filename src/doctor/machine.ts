import { readFileSync } from "node:fs";
import { get } from "node:http";
import { totalmem } from "node:os";
import { getHeapStatistics } from "node:v8";
import { isLocal } from "../config/checks.ts";
import type { Config } from "../config/schema.ts";
import { type Finding, finding } from "../domain/finding.ts";
import { StartError } from "../domain/start-error.ts";
import { assertFree, parseBind } from "../listen/bind.ts";
import { listenerLimits } from "../listen/limits.ts";
import { certificateEnd, isChain, loadTls, tlsProblems } from "../listen/tls.ts";

/* The checks of this machine: Node, limits, memory, ports, certificates. */

const TESTED_NODE = 24;
const MIB = 1024 ** 2;
/** Beside the cache: the program itself, connections, and what a burst holds. */
const OWN_MEMORY = 192 * MIB;
/** Connections to the database and Redis, logs, modules. */
const OWN_FILES = 64;
/** The alert on certificates has the same time. */
const SOON_MS = 14 * 86_400_000;
const ASK_MS = 1_000;

export function checkNode(version: string): Finding {
  const newer = Number.parseInt(version.slice(1), 10) > TESTED_NODE;
  return newer
    ? finding("node", "warn", `${version}: Sallyport is tested with Node ${TESTED_NODE}: use that`)
    : finding("node", "ok", version);
}

export function checkLimits({ listeners }: Config): Finding {
  const line = limitsFile()
    .split("\n")
    .find((one) => one.startsWith("Max open files "));
  const text = line?.slice("Max open files ".length).trim().split(" ")[0];
  if (text === undefined) return finding("limits", "ok", "this system does not tell the limit of open files");
  const most = text === "unlimited" ? Number.POSITIVE_INFINITY : Number(text);
  const needed =
    listeners.data.max_connections + listenerLimits("admin").maxSockets + listenerLimits("ops").maxSockets + OWN_FILES;
  if (most >= needed) return finding("limits", "ok", `${text} open files`);
  const advice = "raise ulimit -n (systemd: LimitNOFILE), or lower listeners.data.max_connections";
  return finding("limits", "fail", `${text} open files, and full listeners need ${needed}: ${advice}`);
}

function limitsFile(): string {
  try {
    return readFileSync("/proc/self/limits", "utf8");
  } catch {
    return ""; // not Linux
  }
}

export function checkMemory({ cache, workers }: Config): Finding {
  const most = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  const heap = getHeapStatistics().heap_size_limit;
  const mib = (bytes: number) => `${Math.round(bytes / MIB)} MiB`;
  // Of a program with workers, each process has its own part of the cache.
  const processes = workers > 1 ? workers + 1 : 1;
  const needed = cache.l1.bytes + processes * OWN_MEMORY;
  const lower = workers > 1 ? "lower cache.l1.bytes or workers" : "lower cache.l1.bytes";
  if (needed > most) {
    const text = `a full cache and the program need ${mib(needed)}, and there are ${mib(most)}`;
    return finding("memory", "fail", `${text}: ${lower}, or give this machine or container more`);
  }
  if (cache.l1.bytes / workers + OWN_MEMORY / 2 > heap) {
    const text = `a full cache needs ${mib(cache.l1.bytes)}, and Node's heap ends at ${mib(heap)}`;
    return finding("memory", "warn", `${text}: ${lower}, or raise --max-old-space-size`);
  }
  return finding("memory", "ok", `${mib(most)}, Node's heap up to ${mib(heap)}`);
}

/** Each listener's address is free, or a running Sallyport has it. */
export async function checkPorts(config: Config): Promise<Finding[]> {
  const names = config.mode === "full" ? (["data", "admin", "ops"] as const) : (["data", "ops"] as const);
  const taken: string[] = [];
  const problems: string[] = [];
  for (const name of names) {
    try {
      await assertFree(parseBind(config.listeners[name].bind));
    } catch (error) {
      if (!(error instanceof StartError)) throw error;
      const text = `listeners.${name}.bind: ${error.problems.join("; ")}`;
      (error.kind === "address_in_use" ? taken : problems).push(text);
    }
  }
  // An instance that runs already has all of them. Another program can have any.
  const runs = taken.length === names.length && (await isSallyport(config.listeners.ops.bind));
  if (!runs) problems.push(...taken.map((text) => `${text}: end it, or choose another address`));
  if (problems.length > 0) return problems.map((text) => finding("ports", "fail", text));
  return [finding("ports", "ok", runs ? "a running Sallyport has them" : "free")];
}

/** True if the ops listener of a Sallyport answers there. */
function isSallyport(bind: string): Promise<boolean> {
  const at = parseBind(bind);
  const where = "path" in at ? { socketPath: at.path } : { host: hostOf(at.host), port: at.port };
  return new Promise((resolve) => {
    const request = get({ ...where, path: "/metrics", agent: false, signal: AbortSignal.timeout(ASK_MS) });
    request.on("error", () => resolve(false));
    request.on("response", (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (more: string) => {
        text += more;
        if (text.length > MIB) request.destroy();
      });
      response.on("error", () => resolve(false));
      response.on("close", () => resolve(/^sallyport_build_info\{/m.test(text)));
    });
  });
}

function hostOf(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  return host === "::" ? "::1" : host;
}

/** The certificates of the listeners, and a listener that needs some. */
export function checkTls(config: Config, now: number): Finding[] {
  const names = config.mode === "full" ? (["data", "admin"] as const) : (["data"] as const);
  const found = names.flatMap((name): Finding[] => {
    const { tls, bind } = config.listeners[name];
    const key = `listeners.${name}`;
    if (tls === undefined) {
      const text = `${key}.bind: other machines reach it without TLS, so credentials cross the network readable: set ${key}.tls`;
      return isLocal(bind) ? [] : [finding("tls.chain", "warn", text)];
    }
    const files = { certFile: tls.cert_file, keyFile: tls.key_file, clientCaFile: tls.client_ca_file };
    const wrong = tlsProblems(files, undefined);
    const worded = (problems: typeof wrong) =>
      problems.map(({ key: file, file: path, problem }) => `${key}.tls.${file}: ${path}: ${problem}`);
    if (wrong.length > 0) return worded(wrong).map((text) => finding("tls.chain", "fail", text));
    const options = loadTls(files);
    const order = "a certificate in it is not issued by the one after it: put the intermediate ones after the server's";
    const chain = isChain(options)
      ? finding("tls.chain", "ok", `${key}.tls`)
      : finding("tls.chain", "fail", `${key}.tls.cert_file: ${tls.cert_file}: ${order}`);
    const ended = worded(tlsProblems(files, now));
    if (ended.length > 0) return [chain, ...ended.map((text) => finding("tls.expiry", "fail", `${text}: renew it`))];
    const end = certificateEnd(options) * 1000;
    const at = new Date(end).toISOString();
    const soon = `${key}.tls.cert_file: ${tls.cert_file}: ends on ${at}: renew it`;
    return [
      chain,
      end - now < SOON_MS ? finding("tls.expiry", "warn", soon) : finding("tls.expiry", "ok", `${key}.tls until ${at}`),
    ];
  });
  return found.length > 0 ? found : [finding("tls.chain", "ok", "no listener that other machines reach")];
}

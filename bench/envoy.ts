import { fetchProgram } from "../scripts/fetch.ts";
import { deployed, freePort, startEdge } from "../test/proxies/edge.ts";
import { pin, SERVER_CORE } from "./machine.ts";
import { probe } from "./probe.ts";
import { throughProxy } from "./request.ts";
import type { Maybe, Subject } from "./subject.ts";

export interface Envoy {
  readonly address: string;
  readonly pid: number;
  stop(): Promise<void>;
}

const ENDPOINT = "- { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 7400 } } } }";
const POLICY = "check_settings: { context_extensions: { policy: bench } }";
const ANSWER = 'direct_response: { status: 200, body: { inline_string: "through" } }';

/**
 * A real Envoy with the file of `deploy/`. It asks the authorizers at these ports about every request, or nobody. It
 * answers itself, so that no service behind it takes part, and writes no access log. Returns the reason if it cannot
 * run here.
 */
export async function startEnvoy(ports: readonly number[], healthChecks: boolean): Promise<Envoy | string> {
  const program = await fetchProgram("envoy").catch((error: Error) => error);
  if (program instanceof Error) return program.message;
  const [port, admin] = [await freePort(), await freePort()];
  const endpoints = (ports.length === 0 ? [port] : ports).map((at) => ENDPOINT.replace("7400", String(at)));
  const text = deployed("envoy-grpc.yaml", [
    ["port_value: 8000", `port_value: ${port}`],
    ["port_value: 9901", `port_value: ${admin}`],
    [ENDPOINT, endpoints.join("\n        ")],
    [
      /check_settings:\n\s+context_extensions: \{ policy: default \}.*/g,
      ports.length === 0 ? "disabled: true" : POLICY,
    ],
    // The form that hand-written authorizers read.
    ["encode_raw_headers: true", "encode_raw_headers: false"],
    [/ {10}access_log:\n(?: {10}[ -].*\n)+/g, ""],
    ...(healthChecks ? [] : [[/ {4}health_checks:\n(?: {4}[ -].*\n)+/g, ""] as const]),
    [/(match: \{ prefix: \/ \}\n\s+)route: \{ cluster: upstream \}/g, `$1${ANSWER}`],
  ]);
  const edge = await startEdge({
    program,
    argv: ["-c", "envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
    files: { "envoy.yaml": text },
    port,
  });
  return { address: `127.0.0.1:${port}`, pid: edge.pid, stop: edge.stop };
}

/**
 * An authorizer, or nobody, behind an Envoy on the servers' core. The difference is the cost of the hop. Rejects if a
 * request without a token gets through.
 */
export async function behindEnvoy(name: string, authorizer: Subject | undefined): Promise<Maybe> {
  const ports = authorizer === undefined ? [] : [Number(authorizer.address.split(":")[1])];
  // The peers answer no health checks.
  const envoy = await startEnvoy(ports, false);
  if (typeof envoy === "string") return { name, missing: envoy };
  pin(envoy.pid, SERVER_CORE);
  if (authorizer === undefined) return { name, ...envoy };
  const open = await probe(envoy.address, throughProxy("nobody's")).catch(() => "refused");
  if (open === "refused") return { ...envoy, name, pid: authorizer.pid, proxy: envoy.pid, tiers: authorizer.tiers };
  await envoy.stop();
  throw new Error(`${name}: a request without a token gets through`);
}

import { fetchProgram } from "../scripts/fetch.ts";
import { deployed, freePort, startEdge } from "../test/proxies/edge.ts";
import { pin, SERVER_CORE } from "./machine.ts";
import { probe } from "./probe.ts";
import { throughProxy } from "./request.ts";
import type { Maybe, Subject } from "./subject.ts";

/**
 * A real Envoy with the file of `deploy/`, on the servers' core, that asks this authorizer about every request; without
 * one, it asks nobody: what the hop costs is the difference. It answers itself: no service behind it takes a part.
 * Rejects where a request without a token gets through.
 */
export async function behindEnvoy(name: string, authorizer: Subject | undefined): Promise<Maybe> {
  const program = await fetchProgram("envoy").catch((error: Error) => error);
  if (program instanceof Error) return { name, missing: program.message };
  const [port, admin] = [await freePort(), await freePort()];
  const [, dataPort] = authorizer?.address.split(":") ?? [];
  const text = deployed("envoy-grpc.yaml", [
    ["port_value: 8000", `port_value: ${port}`],
    ["port_value: 9901", `port_value: ${admin}`],
    ["port_value: 7400", `port_value: ${dataPort ?? port}`],
    [
      /check_settings:\n\s+context_extensions: \{ policy: default \}.*/g,
      authorizer === undefined ? "disabled: true" : POLICY,
    ],
    // As the hand-written peers read them.
    ["encode_raw_headers: true", "encode_raw_headers: false"],
    // The same for all: no line a request, no health checks, which the peers do not answer.
    [/ {10}access_log:\n(?: {10}[ -].*\n)+/g, ""],
    [/ {4}health_checks:\n(?: {4}[ -].*\n)+/g, ""],
    [
      "match: { prefix: / }\n                route: { cluster: upstream }",
      `match: { prefix: / }\n                ${ANSWER}`,
    ],
  ]);
  const edge = await startEdge({
    program,
    argv: ["-c", "envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
    files: { "envoy.yaml": text },
    port,
  });
  pin(edge.pid, SERVER_CORE);
  const address = `127.0.0.1:${port}`;
  const subject = {
    name,
    address,
    pid: authorizer?.pid ?? edge.pid,
    ...(authorizer !== undefined && { proxy: edge.pid, tiers: authorizer.tiers }),
    stop: edge.stop,
  };
  if (authorizer === undefined) return subject;
  const open = await probe(address, throughProxy("nobody's")).catch(() => "refused");
  if (open === "refused") return subject;
  await edge.stop();
  throw new Error(`${name}: a request without a token gets through`);
}

const POLICY = "check_settings: { context_extensions: { policy: bench } }";
const ANSWER = 'direct_response: { status: 200, body: { inline_string: "through" } }';

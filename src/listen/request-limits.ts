import type { ByteBudget } from "../http2/server/limits.ts";
import { parseConnectTimeout, parseGrpcTimeout } from "../http2/unary/timeout.ts";
import type { RpcLimits } from "../rpc/methods.ts";
import type { CallState, TransportFailure } from "../rpc/transport-errors.ts";
import type { HttpRequest } from "./peers.ts";

const LONGEST_STREAM_MS = 86_400_000;

/** True for gRPC and gRPC-Web, by the content type. */
export function speaksGrpc(header: Headers): boolean {
  return header.get("content-type")?.toLowerCase().startsWith("application/grpc") ?? false;
}

/**
 * The headers of a request with every occurrence: a repeated one is joined by a comma, never dropped, so that two
 * credentials are seen as two. Undefined if a name or value is invalid (RFC 9110 §5).
 */
export function headersOf(req: HttpRequest): Headers | undefined {
  const header = new Headers();
  try {
    for (let i = 0; i < req.rawHeaders.length; i += 2)
      if (!req.rawHeaders[i]!.startsWith(":")) header.append(req.rawHeaders[i]!, req.rawHeaders[i + 1]!);
    return header;
  } catch {
    return undefined;
  }
}

/**
 * Reads the client's timeout (gRPC `grpc-timeout`, Connect `connect-timeout-ms`), takes the smaller of it and ours, and
 * writes that back into the header. Returns milliseconds, 0 for a stream without deadline, or the fault of a bad or expired timeout.
 */
export function clampDeadline(header: Headers, limits: RpcLimits): number | TransportFailure {
  const grpc = speaksGrpc(header);
  const name = grpc ? "grpc-timeout" : "connect-timeout-ms";
  const asked = header.get(name);
  const wish = asked === null ? undefined : grpc ? parseGrpcTimeout(asked) : parseConnectTimeout(asked);
  if (Number.isNaN(wish)) return "timeout_value";
  if (wish === 0) return "deadline";
  if (wish === undefined && limits.deadlineMs === 0) return 0;
  const effective = Math.max(
    1,
    Math.ceil(Math.min(wish ?? Number.POSITIVE_INFINITY, limits.deadlineMs || LONGEST_STREAM_MS)),
  );
  header.set(name, grpc ? `${effective}m` : String(effective));
  return effective;
}

const ENCODING_HEADERS = ["content-encoding", "grpc-encoding", "connect-content-encoding"];

/** The encoding of a request; `other` if its method does not accept it. */
export function encodingOf(header: Headers, query: string, gzip: boolean): "identity" | "gzip" | "other" {
  const named = ENCODING_HEADERS.map((name) => header.get(name));
  named.push(/(?:^|&)compression=([^&]*)/.exec(query)?.[1] ?? null);
  const encodings = named.filter((value) => value !== null && value !== "" && value !== "identity");
  if (encodings.length === 0) return "identity";
  return gzip && encodings.every((value) => value === "gzip") ? "gzip" : "other";
}

export interface BodyRules {
  readonly limits: RpcLimits;
  readonly budget: ByteBudget;
  readonly grpc: boolean;
  readonly stream: boolean;
  readonly state: CallState;
  /**
   * Aborted when the client has disconnected, or when the listener drains a stream: the body ends, as if the client had
   * ended it.
   */
  readonly stop: AbortSignal;
  /** The bytes that we return when the call is over. */
  held: number;
}

const ENVELOPE = 5;

/**
 * The body of a request under its limits. If it exceeds one, `state.fault` names the fault and the iteration throws.
 * Bytes beyond a limit are never kept.
 */
export async function* limitedBody(req: HttpRequest, rules: BodyRules): AsyncGenerator<Uint8Array> {
  const fail = (fault: CallState["fault"]): never => {
    rules.state.fault = fault;
    throw new Error(fault);
  };
  let total = 0;
  const chunks = req.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer, undefined>;
  let end = (): void => {};
  rules.stop.addEventListener("abort", () => end());
  for (;;) {
    const next = await new Promise<IteratorResult<Buffer, undefined>>((resolve, reject) => {
      end = () => resolve({ done: true, value: undefined });
      if (rules.stop.aborted) end();
      else chunks.next().then(resolve, reject);
    });
    if (next.done) return;
    const chunk = next.value;
    if (total === 0 && rules.grpc && !rules.limits.gzip && (chunk[0]! & 1) === 1) fail("compressed");
    total += chunk.length;
    if (!rules.stream && total > rules.limits.readMaxBytes + ENVELOPE) fail("oversized");
    if (!rules.budget.take(chunk.length)) fail("overloaded");
    rules.held += chunk.length;
    yield chunk;
    if (rules.stream) release(rules);
  }
}

/** Returns the bytes that a call held. */
export function release(rules: BodyRules): void {
  rules.budget.give(rules.held);
  rules.held = 0;
}

import { Code, ConnectError, type ContextKey, createContextKey, type Interceptor } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { AppError, type FieldViolation, type Reason } from "../domain/errors.ts";
import { toConnectError } from "./errors.ts";

/**
 * The failures that end a call before its handler, or beside it. The HTTP/2 server of the data listener uses the same
 * names; each is one reason of the error table.
 */
export type TransportFailure =
  | "undecodable"
  | "overfull"
  | "cardinality"
  | "oversized"
  | "compressed"
  | "timeout_value"
  | "deadline"
  | "overloaded"
  | "too_many_streams"
  | "unknown_method"
  | "wrong_method"
  | "wrong_type"
  | "unknown_service"
  | "cross_origin"
  | "internal";

const FAILURES: Readonly<Record<TransportFailure, { readonly reason: Reason; readonly message: string }>> = {
  undecodable: {
    reason: "UNDECODABLE",
    message: "the request cannot be decoded: it is malformed, or has a field that the method does not know",
  },
  overfull: { reason: "INVALID_FIELD", message: "a list of the request has more entries than it may have" },
  cardinality: { reason: "UNIMPLEMENTED", message: "the method takes exactly one message" },
  oversized: { reason: "LIMIT_EXCEEDED", message: "the request is larger than the method allows" },
  compressed: { reason: "UNIMPLEMENTED", message: "the request's encoding is not supported by this method" },
  timeout_value: { reason: "UNDECODABLE", message: "the timeout header is malformed" },
  deadline: { reason: "DEADLINE", message: "the deadline of the call has passed" },
  overloaded: { reason: "OVERLOADED", message: "the server is overloaded; nothing was done" },
  too_many_streams: { reason: "LIMIT_EXCEEDED", message: "too many open streams on this connection" },
  unknown_method: { reason: "UNIMPLEMENTED", message: "no such method" },
  wrong_method: {
    reason: "UNIMPLEMENTED",
    message: "this HTTP method is not allowed; the allow header names the others",
  },
  wrong_type: {
    reason: "UNIMPLEMENTED",
    message: "content-type must be application/json or application/proto, or application/grpc over HTTP/2",
  },
  unknown_service: { reason: "SERVICE_UNKNOWN", message: "no such service at this listener" },
  cross_origin: { reason: "CROSS_ORIGIN", message: "a page of another site may not call this listener" },
  internal: { reason: "INTERNAL", message: "internal error" },
};

/** Every transport failure with its reason. */
export function transportFailures(): { failure: TransportFailure; reason: Reason }[] {
  return (Object.keys(FAILURES) as TransportFailure[]).map((failure) => ({ failure, reason: reasonOf(failure) }));
}

/**
 * The error for a transport failure. Its text is fixed and holds nothing of the request, because undecodable bytes may
 * be a misplaced secret.
 */
export function wireError(failure: TransportFailure, { message, violation, requestId }: WireMore = {}): ConnectError {
  const { reason, message: fixed } = FAILURES[failure];
  const about = failure === "overfull" ? violation?.field : UNDECODABLE;
  const text = message ?? (violation === undefined ? fixed : `${about}: ${violation.description}`);
  const error = new AppError(reason, text, {
    violations: violation === undefined ? [] : [violation],
    ...(failure === "overloaded" && { retryAfterMs: 1_000 }),
  });
  return toConnectError(error, requestId);
}

/** Additions to an error besides its reason. */
export interface WireMore {
  /** Replaces the fixed text. It must hold no byte of the request. */
  readonly message?: string;
  readonly violation?: FieldViolation;
  readonly requestId?: string;
}

const UNDECODABLE = "the request cannot be decoded";
// A name in the form of a field name. Any other word may be a misplaced secret.
const NAME = /^[a-z]+(?:_[a-z]+|[A-Z][a-z]+)*$/;
const UNKNOWN = [': key "', '" is unknown'] as const;
const LONGEST_NAME = 32;
const FIELD = "cannot decode field ";

/**
 * The field that a JSON decoder rejects, from its message. Undefined if naming it could repeat a secret. Values are
 * never repeated.
 */
export function violationOf(text: string): FieldViolation | undefined {
  const [before, after] = UNKNOWN;
  const unknown = text.endsWith(after) ? text.slice(text.lastIndexOf(before) + before.length, -after.length) : "";
  if (unknown.length <= LONGEST_NAME && NAME.test(unknown))
    return { field: unknown, description: `the method has no field "${unknown}"` };
  if (!text.startsWith(FIELD)) return undefined;
  const name = text.slice(FIELD.length).split(" ", 1)[0]!;
  const field = name.slice(name.lastIndexOf(".") + 1);
  return { field, description: `the value of "${field}" is none of its type` };
}

/** The error for a JSON request that a decoder rejected. */
export function undecodable(thrown: unknown): AppError {
  const violation = thrown instanceof Error ? violationOf(thrown.message) : undefined;
  if (violation === undefined) return new AppError("UNDECODABLE", FAILURES.undecodable.message);
  return new AppError("UNDECODABLE", `${UNDECODABLE}: ${violation.description}`, { violations: [violation] });
}

/** The reason of a transport failure in the error table. */
export function reasonOf(failure: TransportFailure): Reason {
  return FAILURES[failure].reason;
}

/** The transport's facts about one call, from its first byte to its answer. */
export interface CallState {
  /** Its request is decoded and handed to the interceptors. Later errors are our own answers. */
  decoded: boolean;
  /** The request gate let it in. */
  admitted: boolean;
  /** The reason why the transport ended the body early. */
  fault?: TransportFailure;
  /** The list or map that has more entries than it may have. */
  excess?: FieldViolation;
}

/** The message in an error of Connect's JSON, as connect made it; "" if it has none. Reads the body. */
export async function messageOf(response: UniversalServerResponse): Promise<string> {
  const chunks: Uint8Array[] = [];
  try {
    for await (const chunk of response.body ?? []) chunks.push(chunk);
    const { message } = JSON.parse(Buffer.concat(chunks).toString("utf8")) as { message?: unknown };
    return typeof message === "string" ? message : "";
  } catch {
    return "";
  }
}

export const callStateKey: ContextKey<CallState> = createContextKey<CallState>(
  { decoded: false, admitted: true },
  { description: "call state" },
);

/**
 * The failure that stands for an error that connect made while it read a request. Connect's own texts echo the input,
 * and it says `internal` for undecodable bytes.
 */
export function faultOf(code: Code): TransportFailure | undefined {
  switch (code) {
    case Code.ResourceExhausted:
      return "oversized";
    case Code.Unimplemented:
      return "cardinality"; // encodings are checked before
    case Code.DeadlineExceeded:
      return "deadline";
    case Code.Canceled:
    case Code.Aborted:
      return undefined; // no client is left to get an answer
    default:
      return "undecodable";
  }
}

/**
 * The outermost interceptor. It marks the call as decoded, turns every inner error into one of ours, and does for the
 * messages of a stream what the transport does for those of a unary call.
 */
export const decodeGuard: Interceptor = (next) => async (req) => {
  req.contextValues.get(callStateKey).decoded = true;
  try {
    if (!req.stream) return await next(req);
    const res = await next({ ...req, message: decodable(req.message) });
    return res.stream ? { ...res, message: translated(res.message) } : res;
  } catch (error) {
    throw toConnectError(error);
  }
};

async function* decodable<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    const fault = faultOf(ConnectError.from(error).code);
    throw fault === undefined ? error : wireError(fault);
  }
}

async function* translated<T>(messages: AsyncIterable<T>) {
  try {
    yield* messages;
  } catch (error) {
    throw toConnectError(error);
  }
}

/** The code of a response that connect made, in any protocol. Reads the body only of an error in gRPC-Web. */
export async function codeOf(response: UniversalServerResponse): Promise<Code | undefined> {
  if (response.status !== 200) return codeOfStatus[response.status] ?? Code.InvalidArgument;
  const status = response.trailer?.get("grpc-status");
  if (status) return status === "0" ? undefined : (Number(status) as Code);
  let text = "";
  for await (const chunk of response.body ?? []) text += Buffer.from(chunk).toString("latin1");
  return Number(/grpc-status: ?(\d+)/.exec(text)?.[1] ?? Code.InvalidArgument) as Code;
}

const codeOfStatus: Readonly<Record<number, Code>> = {
  409: Code.Aborted,
  429: Code.ResourceExhausted,
  499: Code.Canceled,
  501: Code.Unimplemented,
  504: Code.DeadlineExceeded,
};

import { Code, ConnectError, type ContextKey, createContextKey, type Interceptor } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { AppError, type FieldViolation } from "../domain/errors.ts";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";

/** Why a call ends before, or beside, its handler. Each has one answer, the same for everybody. */
export type WireFault =
  | "undecodable"
  | "cardinality"
  | "too_large"
  | "encoding"
  | "timeout_value"
  | "deadline"
  | "overloaded"
  | "too_many_streams"
  | "unknown_method"
  | "unknown_service"
  | "internal";

const answers: Readonly<Record<WireFault, { code: Code; reason: string; message: string }>> = {
  undecodable: {
    code: Code.InvalidArgument,
    reason: "UNDECODABLE",
    message: "the request cannot be decoded: it is malformed, or has a field that the method does not know",
  },
  cardinality: { code: Code.Unimplemented, reason: "UNDECODABLE", message: "the method takes exactly one message" },
  too_large: {
    code: Code.ResourceExhausted,
    reason: "LIMIT_EXCEEDED",
    message: "the request is larger than the method allows",
  },
  encoding: {
    code: Code.Unimplemented,
    reason: "UNIMPLEMENTED",
    message: "the request's encoding is not supported by this method",
  },
  timeout_value: { code: Code.InvalidArgument, reason: "UNDECODABLE", message: "the timeout header is malformed" },
  deadline: { code: Code.DeadlineExceeded, reason: "DEADLINE", message: "the deadline of the call has passed" },
  overloaded: {
    code: Code.ResourceExhausted,
    reason: "OVERLOADED",
    message: "the server is overloaded; nothing was done",
  },
  too_many_streams: {
    code: Code.ResourceExhausted,
    reason: "LIMIT_EXCEEDED",
    message: "too many open streams on this connection",
  },
  unknown_method: { code: Code.Unimplemented, reason: "UNIMPLEMENTED", message: "no such method" },
  unknown_service: { code: Code.NotFound, reason: "SERVICE_UNKNOWN", message: "no such service at this listener" },
  internal: { code: Code.Internal, reason: "INTERNAL", message: "internal error" },
};

/**
 * The answer to a fault (AIP-193): one ErrorInfo of the domain `sallyport`, BadRequest or RetryInfo where they help. The
 * text is fixed: nothing of the request is in it, because what cannot be decoded may be a secret in the wrong place.
 */
export function wireError(fault: WireFault, more: WireMore = {}): ConnectError {
  const { code, reason, message } = answers[fault];
  const { violation, requestId } = more;
  const text = more.message ?? (violation === undefined ? message : `${UNDECODABLE}: ${violation.description}`);
  const error = new ConnectError(text, code);
  const metadata = requestId === undefined ? {} : { request_id: requestId };
  error.details.push({ desc: ErrorInfoSchema, value: { reason, domain: "sallyport", metadata } });
  if (code === Code.InvalidArgument) {
    const fieldViolations = violation === undefined ? [] : [violation];
    error.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  if (fault === "overloaded")
    error.details.push({ desc: RetryInfoSchema, value: { retryDelay: { seconds: 1n, nanos: 0 } } });
  if (requestId !== undefined) error.metadata.set("x-request-id", requestId);
  return error;
}

/** What an answer to a fault says besides its kind. */
export interface WireMore {
  /** In the place of the fixed text; no byte of the request may be in it. */
  readonly message?: string;
  readonly violation?: FieldViolation;
  readonly requestId?: string;
}

const UNDECODABLE = "the request cannot be decoded";
// Words as names of fields are made of them; anything else may be a secret in the wrong place.
const NAME = /^[a-z]+(?:_[a-z]+|[A-Z][a-z]+)*$/;
const UNKNOWN = [': key "', '" is unknown'] as const;
const LONGEST_NAME = 32;
const FIELD = "cannot decode field ";

/**
 * Which field a decoder of JSON complains of, from its text. Undefined where that cannot be told without repeating what
 * may be a secret: values never are.
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

/** The error for a request in JSON that a decoder threw at. */
export function undecodable(thrown: unknown): AppError {
  const violation = thrown instanceof Error ? violationOf(thrown.message) : undefined;
  if (violation === undefined) return new AppError("UNDECODABLE", answers.undecodable.message);
  return new AppError("UNDECODABLE", `${UNDECODABLE}: ${violation.description}`, { violations: [violation] });
}

/** The reason by which a fault is counted. */
export function reasonOf(fault: WireFault): string {
  return answers[fault].reason;
}

/** What the transport knows about one call, from its first byte to its answer. */
export interface CallState {
  /** Its request was decoded and handed to the interceptors; errors from here on are answers of ours. */
  decoded: boolean;
  /** The request gate let it in. */
  admitted: boolean;
  /** Why the transport ended the body early. */
  fault?: WireFault;
}

/** The message in an error of Connect's JSON, made by connect; "" where it has none. Reads the body. */
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
 * Which fault stands for an error that connect made while it read a request. Its own texts echo the input, and it says
 * `internal` for bytes that cannot be decoded.
 */
export function faultOf(code: Code): WireFault | undefined {
  switch (code) {
    case Code.ResourceExhausted:
      return "too_large";
    case Code.Unimplemented:
      return "cardinality"; // encodings are checked before
    case Code.DeadlineExceeded:
      return "deadline";
    case Code.Canceled:
    case Code.Aborted:
      return undefined; // nobody is there to be answered
    default:
      return "undecodable";
  }
}

/**
 * The outermost interceptor: marks the call as decoded, turns whatever comes from inside into an error of ours, and does
 * for the messages of a stream what the transport does for those of a unary call.
 */
export function decodeGuard(toConnectError: (error: unknown) => ConnectError): Interceptor {
  return (next) => async (req) => {
    req.contextValues.get(callStateKey).decoded = true;
    try {
      if (!req.stream) return await next(req);
      const res = await next({ ...req, message: decodable(req.message) });
      return res.stream ? { ...res, message: translated(res.message, toConnectError) } : res;
    } catch (error) {
      throw toConnectError(error);
    }
  };
}

async function* decodable<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    const fault = faultOf(ConnectError.from(error).code);
    throw fault === undefined ? error : wireError(fault);
  }
}

async function* translated<T>(messages: AsyncIterable<T>, toConnectError: (e: unknown) => ConnectError) {
  try {
    yield* messages;
  } catch (error) {
    throw toConnectError(error);
  }
}

/** The code of a response that connect made, in whichever protocol. Reads the body only of an error in gRPC-Web. */
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

/** A translation of whatever is thrown: errors of connect pass as they are; without `inner` all others are INTERNAL. */
export function translation(inner?: (error: unknown) => ConnectError): (error: unknown) => ConnectError {
  return (error) => (error instanceof ConnectError ? error : (inner?.(error) ?? wireError("internal")));
}

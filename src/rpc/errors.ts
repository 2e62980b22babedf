import { create, type DescMessage, type Message, type MessageInitShape, toBinary, toJson } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { AppError, type Reason } from "../domain/errors.ts";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../gen/google/rpc/status_pb.ts";
import type { StatusName } from "../telemetry/events.ts";

type Level = "debug" | "info" | "warn" | "error";

/**
 * The prospect of the same request later. `no`: it fails again until the caller changes something. `yes`: a repeat is
 * safe. `same id`: the call may have happened, so a repeat that creates needs the `request_id` of the first.
 */
type Retry = "no" | "yes" | "same id";
/** The side that must act: the caller, the operator of the server, or nobody, because two calls met. */
type Fault = "caller" | "server" | "nobody";

/** Reason → gRPC code, log level, retry, fault. The Connect protocol maps the code to an HTTP status. */
const TABLE = {
  INVALID_FIELD: [Code.InvalidArgument, "info", "no", "caller"],
  INVALID_PAGE_TOKEN: [Code.InvalidArgument, "info", "no", "caller"],
  UNDECODABLE: [Code.InvalidArgument, "info", "no", "caller"],
  INVALID_GRANT: [Code.InvalidArgument, "info", "no", "caller"],
  INVALID_SCOPE: [Code.InvalidArgument, "info", "no", "caller"],
  CALLER_UNAUTHENTICATED: [Code.Unauthenticated, "info", "no", "caller"],
  CALLER_FORBIDDEN: [Code.PermissionDenied, "warn", "no", "caller"],
  RIGHTS_EXCEEDED: [Code.PermissionDenied, "warn", "no", "caller"],
  TOKEN_NOT_FOUND: [Code.NotFound, "info", "no", "caller"],
  PRINCIPAL_NOT_FOUND: [Code.NotFound, "info", "no", "caller"],
  TENANT_NOT_FOUND: [Code.NotFound, "info", "no", "caller"],
  ROLE_NOT_FOUND: [Code.NotFound, "info", "no", "caller"],
  RULE_NOT_FOUND: [Code.NotFound, "info", "no", "caller"],
  SERVICE_UNKNOWN: [Code.NotFound, "info", "no", "caller"],
  CROSS_ORIGIN: [Code.PermissionDenied, "warn", "no", "caller"],
  PRINCIPAL_EXISTS: [Code.AlreadyExists, "info", "no", "caller"],
  TENANT_EXISTS: [Code.AlreadyExists, "info", "no", "caller"],
  ROLE_EXISTS: [Code.AlreadyExists, "info", "no", "caller"],
  RULE_EXISTS: [Code.AlreadyExists, "info", "no", "caller"],
  REQUEST_ID_REUSED: [Code.AlreadyExists, "info", "no", "caller"],
  TOKEN_REVOKED: [Code.FailedPrecondition, "info", "no", "caller"],
  TOKEN_ROTATED: [Code.FailedPrecondition, "info", "no", "caller"],
  TOKEN_DISABLED: [Code.FailedPrecondition, "info", "no", "caller"],
  PRINCIPAL_DISABLED: [Code.FailedPrecondition, "info", "no", "caller"],
  TENANT_SUSPENDED: [Code.FailedPrecondition, "info", "no", "caller"],
  ROLE_IN_USE: [Code.FailedPrecondition, "info", "no", "caller"],
  UPGRADE_PENDING: [Code.FailedPrecondition, "warn", "yes", "server"],
  NO_SIGNING_KEY: [Code.FailedPrecondition, "error", "no", "server"],
  ETAG_MISMATCH: [Code.Aborted, "info", "no", "nobody"],
  WRITE_CONFLICT: [Code.Aborted, "info", "yes", "nobody"],
  LIMIT_EXCEEDED: [Code.ResourceExhausted, "info", "yes", "caller"],
  OVERLOADED: [Code.ResourceExhausted, "debug", "yes", "server"],
  NOT_DONE: [Code.Unavailable, "error", "yes", "server"],
  STORE_UNAVAILABLE: [Code.Unavailable, "error", "yes", "server"],
  ISSUER_UNAVAILABLE: [Code.Unavailable, "warn", "yes", "server"],
  OUTCOME_UNKNOWN: [Code.Unavailable, "error", "same id", "server"],
  DEADLINE: [Code.DeadlineExceeded, "warn", "same id", "server"],
  EFFECT_PENDING: [Code.DeadlineExceeded, "info", "yes", "nobody"],
  UNIMPLEMENTED: [Code.Unimplemented, "info", "no", "caller"],
  INTERNAL: [Code.Internal, "error", "no", "server"],
} as const satisfies Record<Reason, readonly [Code, Level, Retry, Fault]>;

/** The rows of the table. A test compares the documentation's error table with them. */
export function errorTable(): { reason: Reason; code: Code; retry: Retry; fault: Fault }[] {
  return (Object.keys(TABLE) as Reason[]).map((reason) => {
    const [code, , retry, fault] = TABLE[reason];
    return { reason, code, retry, fault };
  });
}

const STATUS_NAMES: Readonly<Record<Code, StatusName>> = {
  [Code.Canceled]: "CANCELLED",
  [Code.Unknown]: "UNKNOWN",
  [Code.InvalidArgument]: "INVALID_ARGUMENT",
  [Code.DeadlineExceeded]: "DEADLINE_EXCEEDED",
  [Code.NotFound]: "NOT_FOUND",
  [Code.AlreadyExists]: "ALREADY_EXISTS",
  [Code.PermissionDenied]: "PERMISSION_DENIED",
  [Code.ResourceExhausted]: "RESOURCE_EXHAUSTED",
  [Code.FailedPrecondition]: "FAILED_PRECONDITION",
  [Code.Aborted]: "ABORTED",
  [Code.OutOfRange]: "OUT_OF_RANGE",
  [Code.Unimplemented]: "UNIMPLEMENTED",
  [Code.Internal]: "INTERNAL",
  [Code.Unavailable]: "UNAVAILABLE",
  [Code.DataLoss]: "DATA_LOSS",
  [Code.Unauthenticated]: "UNAUTHENTICATED",
};

/** The name of a failed call's status in logs and metrics. */
export function statusName(error: ConnectError): StatusName {
  return STATUS_NAMES[error.code];
}

export function levelOf(reason: Reason): Level {
  return TABLE[reason][1];
}

/** The address for the log line about a failed authentication. Lines about known callers name the caller instead. */
export function from(reason: Reason, address: string | undefined): { readonly address?: string } {
  return reason === "CALLER_UNAUTHENTICATED" && address ? { address } : {};
}

/**
 * Converts anything thrown to an AppError. Any other error becomes INTERNAL with a fixed text, and stays inside as the
 * cause.
 */
export function asAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  return new AppError("INTERNAL", "internal error", { cause: error });
}

/**
 * An error's details as encoded messages, and the whole error as the google.rpc.Status of `grpc-status-details-bin`.
 */
export function encodedError(error: ConnectError): {
  details: { type: string; value: Uint8Array; debug?: unknown }[];
  status: Uint8Array;
} {
  const details = error.details.map((detail) =>
    "desc" in detail
      ? detailOf(detail.desc, create(detail.desc, detail.value))
      : { type: detail.type, value: detail.value },
  );
  const any = details.map(({ type, value }) => create(AnySchema, { typeUrl: `type.googleapis.com/${type}`, value }));
  const status = create(StatusSchema, { code: error.code, message: error.rawMessage, details: any });
  return { details, status: toBinary(StatusSchema, status) };
}

/** `debug` is for people who read Connect's JSON. */
function detailOf(desc: DescMessage, message: Message): { type: string; value: Uint8Array; debug: unknown } {
  return { type: desc.typeName, value: toBinary(desc, message), debug: toJson(desc, message) };
}

/** The error on the wire (AIP-193): one ErrorInfo of domain `sallyport`, and further details. */
export function toConnectError(thrown: unknown, requestId?: string): ConnectError {
  if (thrown instanceof ConnectError) return thrown;
  const error = asAppError(thrown);
  const wire = new ConnectError(error.reason === "INTERNAL" ? "internal error" : error.message, TABLE[error.reason][0]);
  const metadata = { ...error.metadata, ...(requestId !== undefined && { request_id: requestId }) };
  const details = [{ desc: ErrorInfoSchema, value: { reason: error.reason, domain: "sallyport", metadata } }];
  wire.details.push(...details);
  if (wire.code === Code.InvalidArgument) {
    const fieldViolations = error.violations.map(({ field, description }) => ({ field, description }));
    wire.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  if (error.reason === "LIMIT_EXCEEDED") {
    const violations = [{ subject: "caller", description: error.message }];
    wire.details.push({ desc: QuotaFailureSchema, value: { violations } });
  }
  const [, , retry] = TABLE[error.reason];
  if (error.retryAfterMs !== undefined && retry !== "no")
    wire.details.push({ desc: RetryInfoSchema, value: retryInfo(error.retryAfterMs) });
  if (error.reason === "CALLER_UNAUTHENTICATED") wire.metadata.set("www-authenticate", 'Bearer realm="sallyport"');
  if (requestId !== undefined) wire.metadata.set("x-request-id", requestId);
  return wire;
}

function retryInfo(ms: number): MessageInitShape<typeof RetryInfoSchema> {
  const whole = Math.max(0, Math.ceil(ms));
  return { retryDelay: { seconds: BigInt(Math.floor(whole / 1000)), nanos: (whole % 1000) * 1_000_000 } };
}

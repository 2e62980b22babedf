/**
 * The reason why an RPC fails. The tables from a reason to a gRPC code, an HTTP status and a log level are in
 * `rpc/errors.ts`. Nothing else in the program knows a wire code.
 */
export type Reason =
  | "INVALID_FIELD"
  | "INVALID_PAGE_TOKEN"
  | "UNDECODABLE"
  | "INVALID_GRANT"
  | "INVALID_SCOPE"
  | "CALLER_UNAUTHENTICATED"
  | "CALLER_FORBIDDEN"
  | "RIGHTS_EXCEEDED"
  | "TOKEN_NOT_FOUND"
  | "PRINCIPAL_NOT_FOUND"
  | "TENANT_NOT_FOUND"
  | "ROLE_NOT_FOUND"
  | "RULE_NOT_FOUND"
  | "SERVICE_UNKNOWN"
  | "CROSS_ORIGIN"
  | "PRINCIPAL_EXISTS"
  | "TENANT_EXISTS"
  | "ROLE_EXISTS"
  | "RULE_EXISTS"
  | "REQUEST_ID_REUSED"
  | "TOKEN_REVOKED"
  | "TOKEN_ROTATED"
  | "TOKEN_DISABLED"
  | "PRINCIPAL_DISABLED"
  | "TENANT_SUSPENDED"
  | "ROLE_IN_USE"
  | "UPGRADE_PENDING"
  | "NO_SIGNING_KEY"
  | "ETAG_MISMATCH"
  | "WRITE_CONFLICT"
  | "LIMIT_EXCEEDED"
  | "OVERLOADED"
  | "NOT_DONE"
  | "STORE_UNAVAILABLE"
  | "ISSUER_UNAVAILABLE"
  | "OUTCOME_UNKNOWN"
  | "DEADLINE"
  | "EFFECT_PENDING"
  | "UNIMPLEMENTED"
  | "INTERNAL";

/** One invalid field: its path in the request, and the bound or form that it must have. Never its value. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

interface Details {
  readonly metadata?: Record<string, string>;
  readonly violations?: readonly FieldViolation[];
  /** The earliest time at which a repeat may succeed, in milliseconds from now. */
  readonly retryAfterMs?: number;
  /** The underlying failure. It is logged by class and code, and never sent. */
  readonly cause?: unknown;
}

/**
 * The program's only error class. `message` is written for the caller and holds no secret and no value of the request.
 * `cause` is never sent.
 */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly reason: Reason;
  readonly metadata: Record<string, string>;
  readonly violations: readonly FieldViolation[];
  readonly retryAfterMs: number | undefined;

  constructor(reason: Reason, message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** An INVALID_FIELD for one field. `description` names the bound: "must be more than 0 and at most 315360000s". */
export function invalidField(field: string, description: string): AppError {
  return new AppError("INVALID_FIELD", `${field} ${description}`, { violations: [{ field, description }] });
}

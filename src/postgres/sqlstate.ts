// postgres/: the truth. Nothing here decides whether a token is valid.
import { AppError } from "../domain/errors.ts";

/** The states that this room acts upon (PostgreSQL documentation, appendix A). */
export const SQLSTATE = {
  uniqueViolation: "23505",
  foreignKeyViolation: "23503",
  checkViolation: "23514",
  serializationFailure: "40001",
  deadlockDetected: "40P01",
  lockNotAvailable: "55P03",
  readOnly: "25006",
  undefinedTable: "42P01",
  invalidSchema: "3F000",
} as const;

/** The SQLSTATE of an error that the server sent; undefined for one that it did not (a cut, a timeout). */
export function sqlstate(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) && isServerError(error) ? code : undefined;
}

/** Whether the server refused the statement and lives on; FATAL and PANIC leave open what happened. */
export function isPlainRefusal(error: unknown): boolean {
  return isServerError(error) && (error as { severity?: string }).severity === "ERROR";
}

export function constraintOf(error: unknown): string | undefined {
  return (error as { constraint?: string } | null)?.constraint;
}

/** A driver's error by class, state and constraint: never its message, detail or parameters. */
export function safeCause(error: unknown): Error {
  if (error instanceof AppError) return error;
  const state = sqlstate(error) ?? (error as { code?: unknown } | null)?.code ?? "";
  const kind = error instanceof Error ? error.constructor.name : typeof error;
  const safe = new Error(`${kind} ${String(state)} ${constraintOf(error) ?? ""}`.trim());
  safe.name = "PostgresError";
  return safe;
}

function isServerError(error: unknown): boolean {
  return typeof (error as { severity?: unknown } | null)?.severity === "string";
}

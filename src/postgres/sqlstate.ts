// postgres/: the truth. Nothing here decides if a token is valid.
import { AppError } from "../domain/errors.ts";

/** The states that this folder handles (PostgreSQL documentation, appendix A). */
export const SQLSTATE = {
  uniqueViolation: "23505",
  foreignKeyViolation: "23503",
  checkViolation: "23514",
  serializationFailure: "40001",
  deadlockDetected: "40P01",
  lockNotAvailable: "55P03",
  readOnly: "25006",
  undefinedTable: "42P01",
  undefinedFunction: "42883",
  invalidSchema: "3F000",
} as const;

/** The SQLSTATE of an error from the server; undefined for others (a lost connection, a timeout). */
export function sqlstate(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) && isServerError(error) ? code : undefined;
}

/** The meaning of a state: for the change, for the connection, and in words for the caller. */
export interface Meaning {
  /** `again`: run the transaction again. INTERNAL: the statement is wrong, which is a bug. */
  readonly change: "NOT_DONE" | "INTERNAL" | "again";
  /** `destroy`: the server is the wrong one, is going away, or has lost its prepared statements. */
  readonly connection: "keep" | "destroy";
  readonly words: string;
}

const row = (change: Meaning["change"], connection: Meaning["connection"], words: string): Meaning => ({
  change,
  connection,
  words,
});

const ENDING = "the database is shutting down, or not up yet";
const SCHEMA = "the database's schema is not the one of this program";
const PREPARED =
  "what this program prepared on its database connection is gone: the schema changed, or a pooler does not keep it";

/** The meaning of a state, or of a class by its first characters. The longest match wins. Anything else is a bug. */
export const MEANINGS: Readonly<Record<string, Meaning>> = {
  "08": row("NOT_DONE", "destroy", "the connection to the database failed"),
  "0A000": row("NOT_DONE", "destroy", PREPARED),
  "25006": row("NOT_DONE", "destroy", "the database only reads: it is a standby, or a failover is under way"),
  "25P03": row("NOT_DONE", "destroy", "the database ended a transaction that was idle for too long"),
  "25P04": row("NOT_DONE", "destroy", "the database ended a transaction that took too long"),
  "26": row("NOT_DONE", "destroy", PREPARED),
  "28": row("NOT_DONE", "destroy", "the database does not accept this program's credentials"),
  "3D": row("NOT_DONE", "destroy", "there is no such database"),
  "3F": row("NOT_DONE", "keep", SCHEMA),
  "40001": row("again", "keep", "too many changes at once of the same things"),
  "40P01": row("again", "keep", "too many changes at once of the same things"),
  "42501": row("NOT_DONE", "keep", "the database role of this program lacks a right"),
  "42703": row("NOT_DONE", "keep", SCHEMA),
  "42883": row("NOT_DONE", "keep", SCHEMA),
  "42P01": row("NOT_DONE", "keep", SCHEMA),
  "42P05": row("NOT_DONE", "destroy", PREPARED),
  "53": row("NOT_DONE", "keep", "the database lacks resources"),
  "53100": row("NOT_DONE", "keep", "the database's disk is full"),
  "53200": row("NOT_DONE", "keep", "the database is out of memory"),
  "53300": row("NOT_DONE", "destroy", "the database has no connection left"),
  "55": row("NOT_DONE", "destroy", "the database is not in a state to do this"),
  "55P03": row("NOT_DONE", "keep", "another change held a lock for too long"),
  "57": row("NOT_DONE", "destroy", ENDING),
  "57014": row("NOT_DONE", "keep", "the database gave the statement up"),
  "58": row("NOT_DONE", "destroy", "the database failed by itself"),
  F0: row("NOT_DONE", "destroy", "the database failed by itself"),
  XX: row("NOT_DONE", "destroy", "the database failed by itself"),
};

const LOST = row("NOT_DONE", "destroy", "the database cannot be reached");
const BUG = row("INTERNAL", "keep", "the database refused the statement");

/** The meaning of an error of the driver, also of one that the server did not send. */
export function meaningOf(error: unknown): Meaning {
  const state = sqlstate(error);
  if (state === undefined) return LOST;
  const known = MEANINGS[state] ?? MEANINGS[state.slice(0, 2)];
  if (isPlainRefusal(error)) return known ?? BUG;
  // FATAL and PANIC always end the session.
  return { ...LOST, words: known?.words ?? LOST.words };
}

/** True if the connection can be used after this error. */
export function keepsConnection(error: unknown): boolean {
  return isPlainRefusal(error) && meaningOf(error).connection === "keep";
}

/** The message for a failed read. */
export function unreadable(error: unknown, silent = "the database did not answer"): AppError {
  const words = sqlstate(error) === undefined ? silent : meaningOf(error).words;
  return new AppError("STORE_UNAVAILABLE", words, { retryAfterMs: 1000, cause: safeCause(error) });
}

/** True if the server refused the statement and keeps running. After FATAL and PANIC the outcome is open. */
export function isPlainRefusal(error: unknown): boolean {
  return isServerError(error) && (error as { severity?: string }).severity === "ERROR";
}

function constraintOf(error: unknown): string | undefined {
  return (error as { constraint?: string } | null)?.constraint;
}

/** Reduces a driver's error to its class, state (also as `code`) and constraint. The message, detail and parameters are dropped. */
export function safeCause(error: unknown): Error {
  if (error instanceof AppError) return error;
  const state = sqlstate(error) ?? (error as { code?: unknown } | null)?.code ?? "";
  const kind = error instanceof Error ? error.constructor.name : typeof error;
  const safe = new Error(`${kind} ${String(state)} ${constraintOf(error) ?? ""}`.trim());
  safe.name = "PostgresError";
  return state === "" ? safe : Object.assign(safe, { code: state });
}

function isServerError(error: unknown): boolean {
  return typeof (error as { severity?: unknown } | null)?.severity === "string";
}

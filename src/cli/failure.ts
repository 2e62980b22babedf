import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { formatWait, toMilliseconds } from "./durations.ts";

/** The exit codes of the client commands: 1 refused, 2 usage, 69 a service is unavailable, 70 a bug. */
export const EXIT = { ok: 0, no: 1, usage: 2, unavailable: 69, bug: 70 } as const;
export type Exit = (typeof EXIT)[keyof typeof EXIT];

/** Ends a command with an exit code and one line for stderr: the failure, and the action to take. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly exit: Exit;

  constructor(exit: Exit, message: string) {
    super(message);
    this.exit = exit;
  }
}

/** A usage error: the command line, or a file that it names, is wrong. */
export function usage(message: string): Failure {
  return new Failure(EXIT.usage, message);
}

/** Facts about the run that messages need. The command fills them in as it proceeds. */
export interface Situation {
  /** The listener in use. */
  address?: string;
  /** The source of the caller's credential ("the file ./data/admin-token"); undefined if there is none. */
  credential?: string;
  /** For a change: the way to repeat it without doing it twice. Undefined for a command that only reads. */
  repeat?: string;
}

/**
 * Converts any thrown value to a Failure. Total. A server error is read by its ErrorInfo reason (domain `sallyport`),
 * then by its code. Any other value is a bug, reported without its stack.
 */
export function explain(error: unknown, situation: Situation): Failure {
  if (error instanceof Failure) return error;
  if (!(error instanceof ConnectError)) {
    const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    return new Failure(EXIT.bug, `a bug in this program: ${what}`);
  }
  return fromSocket(error, situation) ?? fromReason(error, situation) ?? fromCode(error, situation);
}

/** An error of our own connection has Node's error, with its code, as its cause. */
function fromSocket(error: ConnectError, { address, repeat }: Situation): Failure | undefined {
  const cause: unknown = error.cause;
  if (!(cause instanceof Error && "code" in cause && typeof cause.code === "string")) return undefined;
  switch (cause.code) {
    case "ECONNREFUSED":
    case "ENOENT":
      return unavailable(`nothing answers at ${address}: is Sallyport running? Start it with: npm start`);
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return unavailable(`the host of ${address} is unknown`);
    case "EACCES":
    case "EPERM":
      return unavailable(`this user may not connect to ${address}`);
    case "ECONNRESET":
    case "EPIPE":
      return unavailable(`the connection to ${address} was lost; ${again(repeat)}`);
    default:
      return /CERT|SIGNATURE/.test(cause.code)
        ? unavailable(
            `the certificate of ${address} is not trusted (${cause.code}): --ca-file or SALLYPORT_CA_FILE names its CA`,
          )
        : unavailable(`no connection to ${address} (${cause.code}); ${again(repeat)}`);
  }
}

function fromReason(error: ConnectError, situation: Situation): Failure | undefined {
  const info = error.findDetails(ErrorInfoSchema).find((detail) => detail.domain === "sallyport");
  switch (info?.reason) {
    case "OUTCOME_UNKNOWN":
      return unavailable(`the outcome is unknown; ${again(situation.repeat)}`);
    case "EFFECT_PENDING": {
      const by = info.metadata["effective_by"];
      const when = by === undefined ? "soon" : `at ${by} at the latest`;
      return unavailable(`the change is made and durable, but not yet confirmed everywhere; it is in force ${when}`);
    }
    case "NOT_DONE":
    case "WRITE_CONFLICT":
    case "STORE_UNAVAILABLE":
    case "OVERLOADED":
      return unavailable(`${error.rawMessage}; nothing was changed, ${tryAgain(error)}`);
    case "CALLER_FORBIDDEN":
    case "RIGHTS_EXCEEDED": {
      const missing = info.metadata["permission"] ?? info.metadata["missing"] ?? info.metadata["scope"];
      const what = missing === undefined || error.rawMessage.includes(missing) ? "" : `; missing: ${missing}`;
      return refused(`permission denied: ${error.rawMessage}${what}`);
    }
    case "ETAG_MISMATCH":
      return refused(`${error.rawMessage}: it was changed in between; get it again and repeat`);
    default:
      return undefined;
  }
}

function fromCode(error: ConnectError, { address, credential, repeat }: Situation): Failure {
  switch (error.code) {
    case Code.Unauthenticated:
      return refused(
        credential === undefined
          ? "no credential: give --token-file, --session-file, SALLYPORT_TOKEN or SALLYPORT_SESSION " +
              "(the embedded first token is in data/admin-token)"
          : `${address} does not accept the credential of ${credential}: it may be revoked, expired, or of another server`,
      );
    case Code.InvalidArgument: {
      const violations = error.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations);
      const fields = violations.map(({ field, description }) =>
        field === "" || description.startsWith(field) ? description : `${field}: ${description}`,
      );
      return refused(`invalid request: ${fields.length > 0 ? fields.join("; ") : error.rawMessage}`);
    }
    case Code.Unavailable:
      return unavailable(`${address} is unavailable: ${error.rawMessage}; ${again(repeat)}`);
    case Code.DeadlineExceeded:
    case Code.Canceled:
    case Code.Aborted:
      return unavailable(`no answer from ${address} in time (${error.rawMessage}); ${again(repeat)}`);
    case Code.ResourceExhausted:
      return refused(`${error.rawMessage}; ${tryAgain(error)}`);
    case Code.Unimplemented:
      return unavailable(`${address} does not serve this command: is it the right listener? (admin 7401, data 7400)`);
    case Code.Internal:
    case Code.Unknown:
    case Code.DataLoss:
      return new Failure(EXIT.bug, `${address} failed: ${error.rawMessage}; ${again(repeat)}`);
    default:
      return refused(error.rawMessage);
  }
}

function again(repeat: string | undefined): string {
  return repeat === undefined ? "try again" : `it may or may not have happened: ${repeat}`;
}

function tryAgain(error: ConnectError): string {
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return delay === undefined ? "try again later" : `try again in ${formatWait(toMilliseconds(delay))}`;
}

function refused(message: string): Failure {
  return new Failure(EXIT.no, message);
}

function unavailable(message: string): Failure {
  return new Failure(EXIT.unavailable, message);
}

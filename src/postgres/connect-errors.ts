import { connect } from "node:net";
import pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { connectionSettings } from "./pool.ts";
import { safeCause, sqlstate } from "./sqlstate.ts";

/** `mend`: the operator must change something; otherwise the failure may be temporary. */
type Words = readonly [mend: boolean, words: string];

/** Refusals of the server at a connect, by SQLSTATE (PostgreSQL documentation, appendix A). */
const REFUSALS: Readonly<Record<string, Words>> = {
  "28P01": [true, "the database refuses the password of this user: check user and password"],
  "28000": [true, "the database does not admit this user from here: check the user, and pg_hba.conf (TLS, address)"],
  "3D000": [true, "there is no such database on this server: create it, or mend its name"],
  "42501": [true, "the user has not the rights that are needed: see the roles in docs/security.md"],
  "3F000": [true, "the database has no Sallyport in it: run sallyport migrate"],
  "42P01": [true, "the database has no Sallyport in it, or only a part of it: run sallyport migrate"],
  "55000": [true, "the database takes no connections"],
  "08P01": [false, "a pooler or the server turned the connection away: check user and database, and the pooler's log"],
  "25006": [false, "the database can only be read: a standby, or one in a failover"],
  "53300": [false, "the database has no connection left"],
  "57P01": [false, "the database is being shut down"],
  "57P02": [false, "the database is recovering from a crash"],
  "57P03": [false, "the database is starting or stopping"],
};

/** Failures of the network and of OpenSSL, by code. */
const FAILURES: Readonly<Record<string, Words>> = {
  ENOTFOUND: [false, "the host is not known: check its name"],
  EAI_AGAIN: [false, "the host cannot be looked up now: name resolution does not answer"],
  ECONNREFUSED: [false, "nothing listens at this host and port: is the database running, and is the port right?"],
  ECONNRESET: [false, "the connection was cut while it was being opened"],
  EPIPE: [false, "the connection was cut while it was being opened"],
  ETIMEDOUT: [false, "the host does not answer"],
  EHOSTUNREACH: [false, "there is no way to this host"],
  ENETUNREACH: [false, "there is no way to the network of this host"],
  ENOENT: [false, "there is no such socket: is the database running?"],
  EACCES: [true, "this user may not connect to the socket"],
  DEPTH_ZERO_SELF_SIGNED_CERT: [true, "the server's certificate is signed by itself: name it by sslrootcert"],
  SELF_SIGNED_CERT_IN_CHAIN: [
    true,
    "the server's certificate comes from a CA that is not trusted: name it by sslrootcert",
  ],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: [true, "the server's certificate is not trusted: name its CA by sslrootcert"],
  UNABLE_TO_GET_ISSUER_CERT: [true, "the server's certificate is not trusted: name its CA by sslrootcert"],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: [true, "the server's certificate is not trusted: name its CA by sslrootcert"],
  CERT_HAS_EXPIRED: [true, "the server's certificate has expired"],
  CERT_NOT_YET_VALID: [true, "the server's certificate is not good yet: check both clocks"],
  ERR_TLS_CERT_ALTNAME_INVALID: [true, "the server's certificate is for another host name"],
};

const NOT_POSTGRES: Words = [true, "what answers there is not PostgreSQL: check host and port"];
export const NO_ANSWER = "the database does not answer in time";
const CUT: Words = [false, "the connection was closed without an answer: a proxy without a database behind it?"];
const NO_TLS: Words = [true, "the server does not offer TLS, which sslmode asks for"];
const CONNECT_MS = 5_000;
const PROBE_MS = 1_000;

/** Finds a fault in a database URL without connecting. Undefined: none. */
export function urlProblem(url: string | undefined): string | undefined {
  if (url === undefined) return undefined;
  try {
    new pg.Client(connectionSettings(url, "sallyport"));
    return undefined;
  } catch (error) {
    // Without the error's own text, which can hold the URL.
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall !== undefined) return `a file of sslrootcert, sslcert or sslkey cannot be read (${code})`;
    return "cannot be parsed as a URL: postgres://user:password@host:port/database, with /, :, @, ?, % and # of a password written %2F, %3A, …";
  }
}

/**
 * Opens a connection, runs `work` on it and closes it. `shared`: through a pooler, where nothing may be set. Rejects
 * with StartError, whose text begins with `key`.
 */
export async function withConnection<T>(
  url: string,
  key: string,
  work: (client: pg.Client) => Promise<T>,
  shared = false,
): Promise<T> {
  const problem = urlProblem(url);
  if (problem !== undefined) throw new StartError("database_unusable", `${key}: ${problem}`);
  const settings = { ...connectionSettings(url, "sallyport-check", shared), connectionTimeoutMillis: CONNECT_MS };
  const client = new pg.Client(settings);
  client.on("error", () => {});
  try {
    await client.connect();
    return await work(client);
  } catch (error) {
    throw await explained(error, key, client);
  } finally {
    await client.end().catch(() => {});
  }
}

/** The error in words. For an error that the driver does not explain, it probes whether the server is PostgreSQL. */
async function explained(error: unknown, key: string, client: pg.Client): Promise<Error> {
  if (error instanceof StartError) return error;
  const { host, port } = client;
  const words =
    inWords(error) ?? (host.startsWith("/") || (await speaksPostgres(host, port)) ? undefined : NOT_POSTGRES);
  return asError(key, words ?? unknown(error), error);
}

/** A failure of a statement or a connection as StartError; undefined if it says nothing about the database. */
export function databaseError(error: unknown, key: string): StartError | undefined {
  const words = inWords(error);
  return words === undefined ? undefined : asError(key, words, error);
}

function asError(key: string, [mend, words]: Words, error: unknown): StartError {
  const code = sqlstate(error) ?? (error as { code?: unknown } | null)?.code;
  return new StartError(
    mend ? "database_unusable" : "database_unavailable",
    `${key}: ${words}${code === undefined ? "" : ` (${String(code)})`}`,
    safeCause(error),
  );
}

function inWords(error: unknown): Words | undefined {
  const state = sqlstate(error);
  if (state !== undefined) return REFUSALS[state];
  const { code, message = "" } = error as { code?: string; message?: string };
  // The driver tried several addresses. Report the failure of the first.
  if (error instanceof AggregateError && error.errors.length > 0) return inWords(error.errors[0]);
  if (code !== undefined && FAILURES[code] !== undefined) return FAILURES[code];
  if (message.includes("does not support SSL")) return NO_TLS;
  return message.includes("invalid response") ? NOT_POSTGRES : undefined;
}

function unknown(error: unknown): Words {
  const { message = "", code } = error as { message?: string; code?: string };
  if (/timeout/i.test(message)) return [false, NO_ANSWER];
  if (/terminated|ended/i.test(message)) return CUT;
  return [code === undefined, `the database cannot be used (${(error as Error).name ?? "error"})`];
}

/** False if the listener answers a TLS request in a way that PostgreSQL never does. */
function speaksPostgres(host: string, port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ host, port });
  socket.setTimeout(PROBE_MS, () => resolve(true));
  socket.on("error", () => resolve(true));
  socket.on("close", () => resolve(true));
  socket.once("data", (data) => resolve(/^(?:[SN]$|E\0)/.test(data.toString("latin1"))));
  socket.write(Buffer.from("0000000804d2162f", "hex"));
  return promise.finally(() => socket.destroy());
}
